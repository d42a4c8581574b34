"""Searches hyperparameters on the validation split: python -m experiments.search --arch=mlp

Random search with successive halving (see halving.py), seeded, until --budget-seconds are used. A
folder that holds the same search is gone on with: what is trained stays, and the budget is that of
all calls together, so that a larger one continues and a smaller one only writes the table anew.
At least one trial is trained, whatever it takes.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.benchmarks.words import some
from digits_jax.cli import parse, run_program
from digits_jax.config import TrainConfig
from digits_jax.config_checks import check
from digits_jax.errors import ConfigError
from digits_jax.runs.folder import replace_file
from digits_jax.train import print_notice
from experiments.search import records, space
from experiments.search.halving import TRAINED, Row, ladder
from experiments.search.loop import Search, run_search

MOST_SECONDS = 1e7
MOST_RUNGS = 5


@dataclass(frozen=True)
class Arguments:
    """What to search, and for how long."""

    arch: str = "cnn"
    """Network: cnn, or mlp (ann is another word for it)."""
    dataset: str = "auto"
    """Data set, as for training."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: as for training)")
    ] = None
    """Its folder."""
    budget_seconds: float = 600.0
    """Wall time of the whole search, earlier calls included."""
    seed: int = 0
    """Of what is sampled, and of every training."""
    epochs: Annotated[
        float | None, tyro.conf.arg(help_behavior_hint="(default: of the preset standard)")
    ] = None
    """Of the last rung; each rung below has a third."""
    rungs: int = 3
    """1 for a plain random search."""
    workdir: Annotated[
        str | None,
        tyro.conf.arg(
            aliases=["-o", "--output"],
            help_behavior_hint="(default: runs/search-ARCH-DATASET-seedSEED)",
        ),
    ] = None
    """Folder of the search; one that holds the same search is gone on with."""


def check_arguments(arguments: Arguments) -> TrainConfig:
    """What training would refuse, and what a search can't be.

    Returns:
      The configuration that all trials share.

    Raises:
      ConfigError: with the first fault.
    """
    if not 0 < arguments.budget_seconds <= MOST_SECONDS:
        raise ConfigError(
            f"--budget-seconds={arguments.budget_seconds:g}: give a number that is more than 0 and "
            f"at most {MOST_SECONDS:,.0f}, like 600"
        )
    if not 1 <= arguments.rungs <= MOST_RUNGS:
        raise ConfigError(f"--rungs={arguments.rungs}: give a number from 1 to {MOST_RUNGS}")
    config = TrainConfig(
        arch=arguments.arch,
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        seed=arguments.seed,
        epochs=arguments.epochs,
        preset=space.PRESET,
        workdir=arguments.workdir,
    )
    check(config)
    return config


def main(argv: Sequence[str]) -> int:
    """Parses, searches, prints."""
    started = time.monotonic()
    arguments = parse(Arguments, argv, doc=__doc__)
    config = check_arguments(arguments)

    from digits_jax.benchmarks import machine
    from digits_jax.data.datasets import load_dataset
    from digits_jax.training.interrupts import Interrupted, stop_on_signals
    from digits_jax.training.parallel import keep_freed_memory
    from experiments.search.trial import without_test

    keep_freed_memory()
    dataset = without_test(load_dataset(config.dataset, config.data_dir))
    print_notice(dataset.notice)
    config = config.resolve(dataset.name)
    search = Search(config.arch, dataset.name, config.seed, config.epochs, arguments.rungs)
    workdir = Path(config.workdir or f"runs/{default_name(search)}")
    facts = {
        "command": shlex.join(["python", "-m", "experiments.search", *argv]),
        "machine": machine.describe_machine(_device()),
        "versions": machine.versions(),
    }
    with (
        stop_on_signals("not waiting; the same command goes on") as stop,
        records.hold(workdir, settings_of(search, dataset), facts) as rows,
    ):
        progress = _Progress(arguments.budget_seconds, rows, lambda: time.monotonic() - started)
        try:
            with progress:
                rows = run_search(
                    search,
                    rows,
                    workdir,
                    budget=arguments.budget_seconds,
                    train=_trainer(dataset, stop, progress.show),
                    clock=lambda: time.monotonic() - started,
                    tell=progress.tell,
                )
        except Interrupted as interrupted:
            print(_last_words(workdir, facts["command"]), file=sys.stderr)
            return 128 + interrupted.signal_number
        write_report(search, rows, facts, workdir)
    return 128 + stop.signal_number if stop.signal_number else 0


def default_name(search: Search) -> str:
    """Of the folder of a search that was given none.

    Example:
      >>> default_name(Search("mlp", "emnist/letters", 1, 8.0, 3))
      'search-mlp-emnist-letters-seed1'
    """
    dataset = search.dataset.replace("/", "-").replace(":", "-")
    return f"search-{search.arch}-{dataset}-seed{search.seed}"


def settings_of(search: Search, dataset: Any) -> dict[str, Any]:
    """What a search that goes on must have, too."""
    return {
        **vars(search),
        "dataset_sha256": dataset.sha256,
        "space": space.describe(search.arch),
    }


def _device():
    import jax

    from digits_jax.benchmarks.machine import describe_device

    return describe_device(jax.sharding.Mesh(jax.devices()[:1], ("data",)))


def _trainer(dataset, stop, between):
    from experiments.search.trial import train_trial

    return lambda config: train_trial(config, dataset, stop, between)


def _last_words(workdir, command):
    done = len(records.read_rows(workdir))
    return f"stopped; {done} trainings are kept in {workdir}; go on with\n  {command}"


def write_report(search: Search, rows: list[Row], facts: dict[str, Any], workdir: Path) -> None:
    """Writes the page and the picture, and prints the top of the one and where they are."""
    from experiments.search import picture, report

    text = report.markdown(search, rows, facts)
    replace_file(workdir / records.TABLE, lambda file: file.write(text.encode()))
    replace_file(workdir / records.PICTURE, lambda file: picture.draw(search, rows, file))
    print("\n".join(["", *report.table(search, ladder(rows)[:5], values=False), ""]))
    best = report.winner(rows)
    if best is not None:
        print(f"{report.winning_command(search, best)}\n")
    print(f"{report.caution(search, rows)}\n\n{workdir / records.TABLE}, {records.PICTURE}")


class _Progress:
    """A bar of the budget's seconds on a terminal, and a line for each trial."""

    def __init__(self, budget, rows, clock):
        self._budget, self._clock, self._bar = budget, clock, None
        self._earlier = max((row["elapsed_seconds"] for row in rows), default=0.0)
        self._rows = list(rows)

    def __enter__(self):
        from tqdm import tqdm

        words = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}"
        self._bar = tqdm(total=self._budget, bar_format=words, leave=False, disable=None)
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self):
        used = min(self._earlier + self._clock(), self._budget)
        self._bar.update(max(0.0, used - self._bar.n))

    def tell(self, row):
        self._rows.append(row)
        said = row["status"]
        if said == TRAINED:
            said = f"validation accuracy {row['correct'] / row['count']:.2%}"
        elif row["note"]:
            said = f"{said} ({row['note']})"
        self._bar.write(
            f"trial {row['trial']}, {some(row['epochs'], 'epoch')}: {said}, "
            f"{row['seconds']:.1f} s; {row['elapsed_seconds']:.0f} of {self._budget:g} s",
            file=sys.stdout,
        )
        self.show()


if __name__ == "__main__":
    sys.exit(run_program(main))
