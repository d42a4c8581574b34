"""The ANN against the CNN: python -m experiments.ann_vs_cnn

Trains both on several seeds with one preset, compares the two groups, and writes the report
(see ``digits_jax.compare``). Runs that are there already are taken as they are.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax import compare
from digits_jax.cli import parse, run_program
from digits_jax.data.datasets import DATASETS
from digits_jax.errors import ConfigError
from digits_jax.evaluation.report import check_output
from digits_jax.train import parse_config
from experiments.running import train_once

# Two models as weak as those of the small Keras study that this library started from: an ANN
# near 97%, a CNN near 98%.
WEAK = {
    "mlp": (
        "--hidden-sizes=64",
        "--no-batch-norm",
        "--label-smoothing=0",
        "--augment=none",
        "--epochs=5",
        "--learning-rate=0.005",
    ),
    "cnn": (
        "--channels=8,16",
        "--dense-size=32",
        "--no-batch-norm",
        "--label-smoothing=0",
        "--augment=none",
        "--epochs=3",
        "--learning-rate=0.006",
    ),
}


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    dataset: str = "auto"
    """Data set, as for training."""
    preset: str = "standard"
    """quick, standard or best."""
    weak: bool = False
    """Instead of a preset's: models as weak as the study's that asked the question."""
    seeds: int = 5
    """Seeds 0, 1, ... of each architecture."""
    runs: Path = Path("runs/ann_vs_cnn")
    """Folder of the runs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the report (default: RUNS/DATASET-PRESET)."""


def _flags(arguments: Arguments, arch: str, seed: int) -> list[str]:
    flags = [f"--arch={arch}", f"--dataset={arguments.dataset}", f"--seed={seed}"]
    return [*flags, *WEAK[arch]] if arguments.weak else [*flags, f"--preset={arguments.preset}"]


def _check(arguments: Arguments, output: Path) -> None:
    """What would fail after hours of training fails now."""
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, to tell seeds from models")
    if arguments.dataset not in DATASETS:
        raise ConfigError(
            f"--dataset={arguments.dataset}: no such data set; give one of {', '.join(DATASETS)}"
        )
    for arch in WEAK:
        parse_config(_flags(arguments, arch, 0))
    check_output(output, overwrite=True)


def main(argv: Sequence[str]) -> int:
    """Trains what is missing, then compares."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    groups = {"mlp": [], "cnn": []}
    recipe = "weak" if arguments.weak else arguments.preset
    name = f"{arguments.dataset.replace('/', '-')}-{recipe}"
    output = arguments.output or arguments.runs / name
    _check(arguments, output)
    for arch, group in groups.items():
        for seed in range(arguments.seeds):
            workdir = arguments.runs / f"{arch}-{name}-seed{seed}"
            train_once(_flags(arguments, arch, seed), workdir)
            group.append(str(workdir))
    return compare.main(
        ["--a", *groups["mlp"], "--b", *groups["cnn"], "-o", str(output), "--overwrite"]
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
