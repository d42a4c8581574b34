"""What influences recognition, and how much: python -m experiments.critical_factors

Trains the MLP and the CNN with one factor changed at a time, several seeds each, and scores them on
the validation split; then the baselines on changed test images. Writes factors.csv, robustness.csv,
report.md and pictures. Started again, it does what is missing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError

PROGRAM = "python -m experiments.critical_factors"


@dataclass(frozen=True)
class Arguments:
    """What to study."""

    dataset: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: mnist; with --quick digits)")
    ] = None
    """Data set, as for training."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: as for training)")
    ] = None
    """Folder of the data set."""
    archs: tuple[str, ...] = ("mlp", "cnn")
    """mlp, cnn or both."""
    factors: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Only these factors."""
    seeds: int = 3
    """Seeds 0, 1, ... of each training."""
    quick: bool = False
    """Try it in two minutes: small networks, and one other level of each factor."""
    robustness: bool = True
    """Score the baselines on changed test images, too."""
    lanes: str = "auto"
    """Trainings at once."""
    platform: str = "auto"
    """Kind of device: auto, cpu, gpu or tpu."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            aliases=["-o"],
            help_behavior_hint="(default: experiments/results/critical_factors; with --quick "
            "runs/critical_factors_quick)",
        ),
    ] = None
    """Folder of the results."""

    @property
    def folder(self) -> Path:
        """Where the results go."""
        quick = Path("runs/critical_factors_quick")
        full = Path(__file__).parent.parent / "results" / "critical_factors"
        return self.output or (quick if self.quick else full)


def main(argv: Sequence[str]) -> int:
    """Trains what is missing, then reports."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    _check(arguments)
    from experiments.critical_factors.running import run

    return run(arguments, f"{PROGRAM} {' '.join(argv)}".rstrip())


def _check(arguments):
    archs = ("mlp", "cnn")
    if not arguments.archs or not set(arguments.archs) <= set(archs):
        given = ",".join(arguments.archs)
        raise ConfigError(f"--archs={given}: give mlp, cnn, or both with a comma between")
    if not 1 <= arguments.seeds <= 1000:
        raise ConfigError(f"--seeds={arguments.seeds}: give 1 to 1000; intervals need 2 or more")
    lanes = arguments.lanes
    if lanes != "auto" and not (lanes.isdecimal() and 1 <= int(lanes) <= 1000):
        raise ConfigError(f"--lanes={lanes}: give auto, or 1 to 1000")
    folder = arguments.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output={folder} is a file; give a folder")


if __name__ == "__main__":
    sys.exit(run_program(main))
