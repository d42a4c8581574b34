"""The benchmarks, what each may be told, and what it does when it is told nothing."""

import argparse
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digits_jax.errors import ConfigError, shown


@dataclass(frozen=True)
class Benchmark:
    """One of the sub-commands.

    Attributes:
      help: what it measures.
      defaults: for each of its options, by the name in ``OPTIONS``, as on the command line.
      quick: what ``--quick`` puts in their place.
    """

    help: str
    defaults: dict[str, Any]
    quick: dict[str, Any] = field(default_factory=dict)


# name: flag, metavar, kind, help. Kinds: how `settings_of` reads the text.
OPTIONS = {
    "dataset": ("--dataset", "NAME", "word", "as in training; auto: mnist if it is here"),
    "data_dir": ("--data-dir", "DIR", "word", "its folder (default: as in training)"),
    "platform": ("--platform", "NAME", "word", "auto, cpu, gpu or tpu"),
    "archs": ("--arch", "NAME,NAME", "words", "networks"),
    "preset": ("--preset", "NAME", "word", "quick, standard, best or tiny"),
    "dtype": ("--dtype", "NAME", "word", "as in training: float32, bfloat16 or auto"),
    "convolution": ("--convolution", "NAME", "word", "as in training: lax, matmul or auto"),
    "devices": ("--devices", "N", "word", "as in training: a number, or auto"),
    "steps_per_call": ("--steps-per-call", "N", "word", "as in training: a number, or auto"),
    "batch_sizes": ("--batch-sizes", "N,N", "numbers", "images in a batch"),
    "widths": ("--widths", "X,X", "factors", "times the channels and the dense layer of quick"),
    "sizes": ("--sizes", "N,N", "numbers", "training images in an epoch"),
    "threads": ("--threads", "N,N", "numbers", "that read files"),
    "at_once": ("--at-once", "N", "number", "images read at once"),
    "repeats": ("--repeats", "N", "number", "of each measurement"),
    "seconds": ("--seconds", "S", "factor", "of each repeat"),
    "calls": ("--calls", "N", "number", "with one image each"),
    "seed": ("--seed", "N", "seed", "of the parameters and the order of images"),
    "seeds": ("--seeds", "N", "number", "trainings of each network, with seeds 0 to N - 1"),
    "target": ("--target", "X", "fraction", "test accuracy to reach, a fraction"),
    "cold": ("--cold", None, "switch", "with nothing compiled before"),
    "evict": ("--evict", None, "switch", "ask the system to forget the files before each row"),
}
# Of the files that a result is written into, side by side.
SUFFIXES = (".json", ".md", ".png")

_DATA = {"dataset": "auto", "data_dir": None}
_WHERE = {**_DATA, "platform": "auto"}
_HOW = {"dtype": "auto", "devices": "auto", "seed": "0"}

BENCHMARKS = {
    "step": Benchmark(
        "what a training step costs, and how near the device's limit it is",
        {
            "archs": "cnn,mlp",
            "preset": "quick",
            "batch_sizes": "64,256,1024",
            "convolution": "auto",
            "steps_per_call": "auto",
            **_HOW,
            "repeats": "11",
            "seconds": "0.5",
            **_WHERE,
        },
        {"batch_sizes": [256], "repeats": 3, "seconds": 0.05},
    ),
    "time-to-accuracy": Benchmark(
        "whole trainings: seconds from the start of the process to its end, and what they reach",
        {
            "archs": "cnn,mlp",
            "preset": "quick",
            "seeds": "3",
            "target": "0.99",
            "cold": False,
            "dtype": "auto",
            "devices": "auto",
            **_WHERE,
        },
        {"seeds": 1, "preset": "quick", "archs": ["cnn"]},
    ),
    "inference": Benchmark(
        "images a second of a whole split, and the time that one image takes",
        {
            "archs": "cnn,mlp",
            "preset": "quick",
            "batch_sizes": "200,500,1000,10000",
            "devices": "auto",
            "seed": "0",
            "calls": "200",
            "repeats": "7",
            "seconds": "0.5",
            **_WHERE,
        },
        {"archs": ["cnn"], "batch_sizes": [1000], "repeats": 3, "seconds": 0.1},
    ),
    "input": Benchmark(
        "images a second of the training data, from memory and from files",
        {
            **_DATA,
            "batch_sizes": "128,256,1024",
            "threads": "1,2,4",
            "at_once": "4096",
            "repeats": "7",
            "seconds": "1",
            "evict": False,
        },
        {"batch_sizes": [256], "threads": [1, 2], "repeats": 3, "seconds": 0.3},
    ),
    "startup": Benchmark(
        "what passes before anything is computed: processes, imports, the data",
        {**_DATA, "repeats": "5"},
        {"repeats": 1},
    ),
    "scaling": Benchmark(
        "how the cost grows with the batch, the network, the devices and the data",
        {
            "batch_sizes": "32,64,128,256,512,1024",
            "widths": "0.5,1,2,4",
            "sizes": "2000,4000,8000,16000",
            "dtype": "auto",
            "seed": "0",
            "repeats": "5",
            "seconds": "0.5",
            **_WHERE,
        },
        {
            "batch_sizes": [128, 256],
            "widths": [1.0, 2.0],
            "sizes": [512, 1024, 2048],
            "repeats": 3,
            "seconds": 0.1,
        },
    ),
}


def settings_of(args: argparse.Namespace, name: str | None = None) -> dict[str, Any]:
    """The settings of a benchmark as plain values.

    Args:
      args: of the parser, with the options that were given; of others ``--quick`` has its own for
        what takes time.
      name: of the benchmark; the one that ``args`` has, if it isn't given.

    Raises:
      ConfigError: a number that isn't one, or is out of bounds.
    """
    benchmark = BENCHMARKS[name or args.what]
    made = {"quick": args.quick}
    for option, default in benchmark.defaults.items():
        flag, _, kind, _ = OPTIONS[option]
        if args.quick and option in benchmark.quick and not hasattr(args, option):
            made[option] = benchmark.quick[option]
        else:
            made[option] = _READ[kind](flag, getattr(args, option, default))
    return made


def _word(_, text):
    return text


def _words(flag, text):
    words = [word for word in text.split(",") if word]
    if not words:
        raise ConfigError(f"{flag}={shown(text)}: give a name, or several like cnn,mlp")
    return list(dict.fromkeys(words))


def _numbers(flag, text):
    return [_number(flag, word, several=text) for word in text.split(",")]


def _factors(flag, text):
    return [_number(flag, word, float, several=text) for word in text.split(",")]


def _number(flag, text, kind=int, *, several="", least=1e-9):
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not least <= value <= 1_000_000:
        kinds = {int: ("a whole number", "whole numbers like 1,2")}
        wanted = kinds.get(kind, ("a number", "numbers like 0.5,1"))[bool(several)]
        bound = "more than 0" if least else "at least 0"
        given = shown(several or text)
        raise ConfigError(f"{flag}={given}: give {wanted}, {bound} and at most 1,000,000")
    return value


def _fraction(flag, text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ConfigError(f"{flag}={shown(text)}: give a fraction, like 0.99")
    return value


_READ = {
    "word": _word,
    "switch": _word,
    "words": _words,
    "numbers": _numbers,
    "factors": _factors,
    "number": _number,
    "factor": lambda flag, text: _number(flag, text, float),
    "fraction": _fraction,
    "seed": lambda flag, text: _number(flag, text, least=0),
}


def output_paths(output: str | None, names: list[str]) -> dict[str, Path]:
    """Where each benchmark's JSON file goes; empty where nothing is written.

    Args:
      output: a file whose name ends in ``.json``, or a folder, which may be new; or None.
      names: of the benchmarks.

    Raises:
      ConfigError: it can't be written.

    Example:
      >>> output_paths("step.json", ["step"])["step"].name, output_paths(None, ["step"])
      ('step.json', {})
    """
    if output is None:
        return {}
    if not output:
        raise ConfigError("-o is empty; give a folder, or a FILE.json")
    path = Path(output).expanduser().absolute()
    is_file = path.suffix == ".json" and not path.is_dir()
    if path.suffix in (".md", ".png", ".csv", ".txt", ".html") and not path.is_dir():
        raise ConfigError(f"-o {shown(output)}: give a folder, or a FILE.json")
    if is_file and len(names) > 1:
        raise ConfigError(
            f"-o {shown(output)}: {len(names)} results don't fit a file; give a folder"
        )
    folder = path.parent if is_file else path
    found = {name: path if is_file else folder / f"{name}.json" for name in names}
    for file in (made.with_suffix(end) for made in found.values() for end in SUFFIXES):
        if file.is_dir():
            raise ConfigError(f"-o {shown(output)}: {file} is a folder; give another place")
    # Folders are made when there is something to write: what ends before then leaves nothing.
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise ConfigError(f"-o {shown(output)}: {there} is a file; give a folder, or a FILE.json")
    try:
        # As the superuser may write everywhere, and yet nothing can be made in /proc.
        Path(tempfile.mkdtemp(dir=there)).rmdir()
    except OSError:
        raise ConfigError(
            f"-o {shown(output)}: {there} can't be written; give another place"
        ) from None
    return found


def train_config(settings: dict[str, Any], **fields: Any) -> Any:
    """The training configuration that a benchmark's settings ask for, checked.

    Args:
      settings: of a benchmark.
      fields: of the configuration, beside what the settings have.

    Raises:
      ConfigError: a field that can't be used.

    Example:
      >>> train_config({"dataset": "digits", "platform": "cpu"}, arch="mlp").dataset
      'digits'
    """
    from digits_jax.config import TrainConfig
    from digits_jax.config_checks import check

    names = ("dataset", "data_dir", "platform", "preset", "dtype", "devices", "seed")
    names += ("steps_per_call",)
    given = {name: settings[name] for name in names if name in settings}
    if fields.get("arch") == "cnn" and "convolution" in settings:
        given["convolution"] = settings["convolution"]
    config = TrainConfig(**{**given, **fields})
    check(config)
    return config
