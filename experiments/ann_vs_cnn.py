"""Compares the ANN with the CNN over several seeds: python -m experiments.ann_vs_cnn

Trains both with one preset, and writes the report of ``digits_jax.compare`` on the two groups. A
run that is there already isn't repeated.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax import compare
from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.fields import Switch
from experiments.study import train_run

# As weak as the networks of the Keras study that this library started from: an ANN of about 97%, a
# CNN of about 98%.
WEAK = {
    "mlp": "--hidden-sizes=64 --no-batch-norm --label-smoothing=0 --augment=none --epochs=5 "
    "--learning-rate=0.005",
    "cnn": "--channels=8,16 --dense-size=32 --no-batch-norm --label-smoothing=0 --augment=none "
    "--epochs=3 --learning-rate=0.006",
}


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    dataset: str = "mnist"
    """Data set, as for training."""
    preset: str = "standard"
    """quick, standard or best."""
    weak: Switch = False
    """Networks as weak as those of the study that asked the question, instead of a preset's."""
    seeds: int = 5
    """Seeds 0, 1, ... of each architecture."""
    runs: Path = Path("runs/ann_vs_cnn")
    """Folder of the runs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the report (default: RUNS/DATASET-PRESET)."""


def main(argv: Sequence[str]) -> int:
    """Trains the missing runs, then compares."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, to tell seeds from models")
    recipe = "weak" if arguments.weak else arguments.preset
    name = f"{arguments.dataset.replace('/', '-')}-{recipe}"
    groups: dict[str, list[str]] = {"mlp": [], "cnn": []}
    for arch, group in groups.items():
        own = WEAK[arch] if arguments.weak else f"--preset={arguments.preset}"
        for seed in range(arguments.seeds):
            workdir = arguments.runs / f"{arch}-{name}-seed{seed}"
            flags = [f"--arch={arch}", f"--dataset={arguments.dataset}", f"--seed={seed}"]
            train_run([*flags, *own.split()], workdir)
            group.append(str(workdir))
    output = arguments.output or arguments.runs / name
    flags = ["--a", *groups["mlp"], "--b", *groups["cnn"], f"--output={output}", "--overwrite"]
    return compare.main(flags)


if __name__ == "__main__":
    sys.exit(run_program(main))
