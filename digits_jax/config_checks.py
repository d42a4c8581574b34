"""What a configuration may hold: each field's type, choices and bounds, each fault one line."""

import contextlib
import dataclasses
import difflib
import math
import os
import types
import typing
from typing import Annotated, Any

from digits_jax.errors import ConfigError, quoted, shown

ARCHS = ("cnn", "mlp", "ann")
PRESET_NAMES = ("quick", "standard", "best", "tiny")
DTYPES = ("auto", "float32", "bfloat16")
# As the rooms have them that do the work: a test holds them together.
OPTIMIZERS = ("adam", "adamw", "sgd", "lion")
SCHEDULES = ("one_cycle", "cosine", "constant")
AUGMENTS = ("none", "shift", "affine", "elastic", "centred", "cutout", "noise")
PLATFORMS = ("auto", "cpu", "gpu", "tpu")
PATHS = ("workdir", "data_dir", "config", "teacher")
# 28x28, folded to 14x14, is halved to 7x7, 3x3 and 1x1.
MAX_BLOCKS = 3
# Each layer is traced, and compiled, by itself.
MAX_LAYERS = 64
_MAX_INT = 2**31 - 1  # what XLA has for a size
# For each architecture, the fields that belong to the other alone.
ARCH_ONLY = {
    "mlp": ("channels", "convs_per_block", "dense_size", "space_to_depth"),
    "cnn": ("hidden_sizes",),
}


def _choice(name, value, allowed):
    if value not in allowed:
        close = difflib.get_close_matches(shown(value).lower(), allowed, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"--{_flag(name)}={shown(value)}: allowed are {', '.join(allowed)}{hint}")


def _choice_if_given(config):
    allowed = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "augment": AUGMENTS}
    for name, words in {**allowed, "platform": PLATFORMS}.items():
        if getattr(config, name) is not None:
            _choice(name, getattr(config, name), words)


def _number(name, value, low, high=math.inf, *, low_allowed=True, high_allowed=True):
    fits = -math.inf < value < math.inf and (low <= value if low_allowed else low < value)
    fits = fits and (value <= high if high_allowed else value < high)
    if not fits:
        bound = f"{'at least' if low_allowed else 'more than'} {low}"
        if high < math.inf:
            bound += f" and {'at most' if high_allowed else 'less than'} {high}"
        kind = "number" if -math.inf < value < math.inf else "finite number"
        raise ConfigError(f"--{_flag(name)}={shown(value)}: give a {kind} that is {bound}")


def _can_be_a_path(path):
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _flag(name):
    return name.replace("_", "-")


def check(config: Any) -> None:
    """Raises an DigitsError that names the first field of a configuration that can't be used."""
    for field in dataclasses.fields(config):
        typed(field.name, getattr(config, field.name), field.type, "TrainConfig")
    _choice("arch", config.arch, ARCHS)
    _choice("preset", config.preset, PRESET_NAMES)
    _choice("dtype", config.dtype, DTYPES)
    _choice("convolution", config.convolution, ("auto", "lax", "matmul"))
    given = {k: v for k, v in config.to_dict().items() if v is not None}
    arch = "mlp" if config.arch == "ann" else config.arch
    for name in ARCH_ONLY[arch]:
        if name in given:
            raise ConfigError(f"--{_flag(name)} isn't for --arch={arch}; leave it out")
    if arch == "mlp" and config.convolution != "auto":
        raise ConfigError(f"--convolution isn't for --arch={arch}; leave it out")
    _choice_if_given(config)
    for name, minimum in {"batch_size": 1, "dense_size": 0}.items():
        if name in given:
            _number(name, given[name], minimum, _MAX_INT)
    if "convs_per_block" in given:  # each is traced, and compiled, by itself
        _number("convs_per_block", given["convs_per_block"], 1, 16)
    # Philox, which orders the data, and JAX's keys both take 64 bits at most; JAX warns at 32.
    for name, low in {"num_processes": 1, "process_id": 0}.items():
        if name in given:
            _number(name, given[name], low, _MAX_INT)
    _number("ensemble", config.ensemble, 1, 1000)
    for name, low in {"seed": 0, "checkpoint_every_steps": 0, "max_skipped_steps": 1}.items():
        _number(name, getattr(config, name), low, _MAX_INT)
    if config.seed + config.ensemble - 1 > _MAX_INT:
        raise ConfigError(
            f"--seed={config.seed} with --ensemble={config.ensemble}: the last network's seed is "
            f"more than {_MAX_INT}; give a smaller one"
        )
    for name, high in {"epochs": 1e6, "learning_rate": math.inf}.items():
        if name in given:
            _number(name, given[name], 0, high, low_allowed=False)
    if "weight_decay" in given:
        _number("weight_decay", given["weight_decay"], 0)
    if "augment_strength" in given:
        _number("augment_strength", given["augment_strength"], 0, 10)
        if config.augment == "none" and config.augment_strength != 1:
            raise ConfigError(
                f"--augment-strength={config.augment_strength}: nothing is augmented here "
                "(augment is none); give --augment=NAME too, or leave it out"
            )
    if config.renormalize and config.batch_norm is False:
        raise ConfigError(
            "--renormalize: without BatchNorm (--no-batch-norm) there is nothing to estimate; give "
            "--no-renormalize, or leave --no-batch-norm out"
        )
    if "adversarial" in given:
        _number("adversarial", given["adversarial"], 0, 1)
    for name in ("teacher_weight", "teacher_temperature"):
        if name in given and config.teacher is None:
            raise ConfigError(f"--{_flag(name)} goes with --teacher=RUN; give both")
    if "teacher_weight" in given:
        _number("teacher_weight", given["teacher_weight"], 0, 1)
    if "teacher_temperature" in given:
        # Below, quotients of float32 logits are so large that their differences are rounded away.
        _number("teacher_temperature", given["teacher_temperature"], 0.01, 1000)
    for name in ("label_smoothing", "dropout", "ema_decay"):
        if name in given:
            _number(name, given[name], 0, 1, high_allowed=False)
    for name in ("hidden_sizes", "channels"):
        for size in given.get(name, ()):
            _number(name, size, 1, _MAX_INT)
    if len(given.get("channels", ())) > MAX_BLOCKS:
        sizes = ",".join(map(str, config.channels))
        raise ConfigError(
            f"--channels={shown(sizes)}: each block halves the image; "
            f"give at most {MAX_BLOCKS} numbers"
        )
    if len(given.get("hidden_sizes", ())) > MAX_LAYERS:
        raise ConfigError(
            f"--hidden-sizes has {len(config.hidden_sizes)} numbers; give at most {MAX_LAYERS}"
        )
    for name, high in {"devices": math.inf, "steps_per_call": 10_000}.items():
        if (digits := getattr(config, name)) != "auto":
            if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
                raise ConfigError(f"--{_flag(name)}={shown(digits)}: give a number, or auto")
            _number(name, int(digits), 1, high)
    for name in PATHS:
        if name in given and not _can_be_a_path(given[name]):
            raise ConfigError(f"--{_flag(name)}={shown(given[name])}: no path can be so named")
    if config.teacher == "":
        raise ConfigError("--teacher is empty; give the folder of a run, or leave the flag out")
    if config.workdir == "":
        raise ConfigError("--workdir is empty; give a folder, or leave the flag out")
    if (config.resume or config.eval_only) and not config.workdir:
        flag = "--resume" if config.resume else "--eval-only"
        raise ConfigError(f"{flag} needs --workdir=RUN, the folder of the run")
    together = (config.coordinator, config.num_processes, config.process_id)
    if config.together is not None and config.ensemble == 1:
        flag = "--together" if config.together else "--no-together"
        raise ConfigError(f"{flag} goes with --ensemble=N; give both")
    if config.ensemble > 1 and any(value is not None for value in together):
        raise ConfigError("--ensemble trains in one process; leave --coordinator and its like out")
    if config.eval_only and any(value is not None for value in together):
        raise ConfigError("--eval-only scores in one process; leave --coordinator and its like out")
    if config.config is not None and (config.resume or config.eval_only):
        flag = "--resume" if config.resume else "--eval-only"
        raise ConfigError(f"--config starts a run anew; {flag} takes a run as it is: give one")
    if config.resume + config.eval_only + (config.dry_run and config.eval_only) > 1:
        other = "--resume" if config.resume else "--dry-run"
        raise ConfigError(f"{other} and --eval-only exclude each other; give one")


def typed(name: str, value: Any, annotation: Any, source: str) -> Any:
    """A field's value, where it is of the type that the field has.

    Args:
      name: of the field.
      value: a list does for a tuple, as JSON has no other, and an int for a float.
      annotation: the field's type.
      source: where the value came from, for the message.

    Raises:
      ConfigError: it is of another type.

    Example:
      >>> typed("channels", [8, 16], tuple[int, ...] | None, "here")
      (8, 16)
    """
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    kinds = typing.get_args(annotation) or (annotation,)
    if value is None and types.NoneType in kinds:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list | tuple) and all(type(v) is int for v in value):
            return tuple(value)
    # bool is a kind of int to Python; and JSON writes 2.0 as 2 in some hands.
    elif type(value) is kind or (kind is float and type(value) is int):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            return kind(value)
    if typing.get_origin(kind) is tuple:
        wanted = "a tuple of int"
    else:
        wanted = {"int": "an int"}.get(kind.__name__, f"a {kind.__name__}")
    raise ConfigError(f"{source}: field {name!r} is {quoted(value)}; give {wanted}")
