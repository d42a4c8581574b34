"""What is compared with what: the settings of our presets, and each peer's command."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from digits_jax.config import TrainConfig
from digits_jax.errors import ConfigError
from experiments.peers.measure import python

DATASET = "mnist"
# Peer -> its module and its own flags.
PEERS = {
    "PyTorch, channels_last": ("torch_train", ("--channels-last",)),
    "PyTorch, channels_last, bfloat16": ("torch_train", ("--channels-last", "--dtype=bfloat16")),
    "PyTorch": ("torch_train", ()),
    "PyTorch, bfloat16": ("torch_train", ("--dtype=bfloat16",)),
    "PyTorch, channels_last, compiled": ("torch_train", ("--channels-last", "--compile")),
    "Keras on JAX": ("keras_train", ()),
}
_CNN, _CNN_BF16, _PLAIN, _PLAIN_BF16, _COMPILED, _KERAS = PEERS
PROCESS = "process"


@dataclass(frozen=True)
class Scenario:
    """One thing that is measured.

    Attributes:
      words: what a table calls it.
      arch, preset, batch_size: of our configuration; no batch size is the preset's own.
      peers: each with its goal (of ours to theirs), or None.
      dtype: that ours multiplies in.
    """

    words: str
    arch: str
    preset: str
    peers: Mapping[str, float | None]
    batch_size: int | None = None
    dtype: str = "auto"

    def config(self) -> TrainConfig:
        """The configuration, every field of the recipe filled in."""
        given = TrainConfig(arch=self.arch, preset=self.preset, batch_size=self.batch_size)
        return given.resolve(DATASET)


SCENARIOS = {
    "cnn-quick": Scenario(
        "train step, quick CNN",
        *("cnn", "quick"),
        {_CNN: 1.3, _CNN_BF16: 1.0, _PLAIN: None, _COMPILED: None, _KERAS: None},
    ),
    "cnn-standard": Scenario(
        "train step, standard CNN, augmented",
        *("cnn", "standard"),
        {_CNN: 1.0, _CNN_BF16: None},
    ),
    "mlp-128": Scenario(
        "train step, MLP, batch 128",
        *("mlp", "quick"),
        {_PLAIN: 1.0, _PLAIN_BF16: None, _KERAS: None},
        batch_size=128,
    ),
    "mlp-512": Scenario(
        "train step, MLP, batch 512",
        *("mlp", "quick"),
        {_PLAIN: 1.0, _PLAIN_BF16: None, _KERAS: None},
        batch_size=512,
    ),
    # The same with ours in float32, too, so that types are compared with their like.
    "cnn-quick-float32": Scenario(
        "train step, quick CNN",
        *("cnn", "quick"),
        {_CNN: 1.3},
        dtype="float32",
    ),
    "cnn-standard-float32": Scenario(
        "train step, standard CNN, augmented",
        *("cnn", "standard"),
        {_CNN: 1.0},
        dtype="float32",
    ),
    "mlp-128-float32": Scenario(
        "train step, MLP, batch 128",
        *("mlp", "quick"),
        {_PLAIN: 1.0},
        batch_size=128,
        dtype="float32",
    ),
    "mlp-512-float32": Scenario(
        "train step, MLP, batch 512",
        *("mlp", "quick"),
        {_PLAIN: 1.0},
        batch_size=512,
        dtype="float32",
    ),
    PROCESS: Scenario(
        "whole process, quick CNN",
        *("cnn", "quick"),
        {_CNN: 0.8, _CNN_BF16: None},
    ),
}
# What `--quick` leaves: the peers that have a goal, of these.
QUICK = ("cnn-quick", "mlp-128", PROCESS)


def installed(peer: str) -> bool:
    """Whether a peer's library is here."""
    return importlib.util.find_spec(PEERS[peer][0].split("_")[0]) is not None


def find_data(folder: str | None) -> str:
    """The folder with MNIST's four files, which every contender reads.

    Raises:
      ConfigError: they aren't there.
    """
    folder = folder or os.environ.get("DIGITS_JAX_DATA_DIR")
    if not folder:
        raise ConfigError(
            "no data is given; set DIGITS_JAX_DATA_DIR to the folder of MNIST's four original "
            "files, which every contender reads, or give it with --data-dir"
        )
    found = Path(folder).expanduser().absolute()
    if not (found / "train-images-idx3-ubyte.gz").is_file():
        raise ConfigError(
            f"{found} has no train-images-idx3-ubyte.gz; give the folder of MNIST's four original "
            "files with --data-dir"
        )
    return str(found)


def our_flags(scenario: Scenario, data_dir: str) -> list[str]:
    """Of `digits_jax.train`, and of our worker."""
    flags = [f"--arch={scenario.arch}", f"--preset={scenario.preset}", f"--data-dir={data_dir}"]
    size = [f"--batch-size={scenario.batch_size}"] if scenario.batch_size else []
    return [*flags, *size, f"--dtype={scenario.dtype}", f"--dataset={DATASET}"]


def peer_flags(config: TrainConfig, data_dir: str) -> list[str]:
    """The same settings for a peer.

    Args:
      config: resolved.
      data_dir: folder of the four files.

    Raises:
      ConfigError: the recipe has something that isn't written in the peers.
    """
    only = {"optimizer": "adamw", "schedule": "one_cycle", "ema_decay": 0.0, "adversarial": 0.0}
    only["augment_strength"] = 1.0
    for name, value in only.items():
        if getattr(config, name) != value:
            raise ConfigError(f"{name} is {getattr(config, name)}; the peers know only {value}")
    from digits_jax.data.augment import POLICIES  # and JAX: Ctrl-C is one line without

    strengths = POLICIES[config.augment]
    if "elastic_pixels" in strengths:
        raise ConfigError(f"augment is {config.augment}; the peers know no elastic field")
    numbers = {
        name: getattr(config, name)
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "weight_decay",
            "label_smoothing",
            "dropout",
        )
    }
    if config.arch == "cnn":
        numbers |= {"channels": _joined(config.channels), "dense_size": config.dense_size}
        numbers |= {"convs_per_block": config.convs_per_block}
    else:
        numbers |= {"hidden_sizes": _joined(config.hidden_sizes)}
    if strengths:
        neutral = {"rotation_degrees": 0, "scale_factor": 1, "shear_degrees": 0, "shift_pixels": 0}
        numbers |= {"affine": _joined({**neutral, **strengths}.values())}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
    flags += [] if config.batch_norm else ["--no-batch-norm"]
    return [f"--arch={config.arch}", f"--data-dir={data_dir}", *flags]


def _joined(values):
    return ",".join(map(str, values))


def peer_command(peer: str, scenario: Scenario, data_dir: str, *more: str) -> list[str]:
    """The command line of a peer."""
    module, own = PEERS[peer]
    flags = peer_flags(scenario.config(), data_dir)
    return python(f"experiments.peers.{module}", *flags, *own, *more)


def environment() -> dict[str, str]:
    """Of every contender: Keras on JAX unless told otherwise."""
    return {"KERAS_BACKEND": "jax", **os.environ}
