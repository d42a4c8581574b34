"""The search itself: what comes next, train it, write it down; until the budget is used."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits_jax.config import TrainConfig
from experiments.search.halving import Row, next_job, rung_epochs
from experiments.search.records import append_row
from experiments.search.space import PRESET, sample


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
      arch: "mlp" or "cnn".
      dataset: its name, never "auto".
      seed: of the values, and of every training: trials differ in their values alone.
      epochs: of the last rung.
      rungs: how many there are.
    """

    arch: str
    dataset: str
    seed: int
    epochs: float
    rungs: int

    def config(self, trial: int, rung: int) -> TrainConfig:
        """What a trial trains on a rung.

        A rung trains anew, and doesn't go on where the one below ended: there the learning rate
        has come down already, as the schedules know their length.
        """
        return TrainConfig(
            arch=self.arch,
            dataset=self.dataset,
            preset=PRESET,
            seed=self.seed,
            epochs=rung_epochs(self.epochs, self.rungs)[rung],
            **sample(self.arch, self.dataset, self.seed, trial),
        )


def run_search(
    search: Search,
    rows: list[Row],
    workdir: Path,
    *,
    budget: float,
    train: Callable[[TrainConfig], dict[str, Any]],
    clock: Callable[[], float],
    tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Goes on with a search until its budget is used.

    Args:
      search: what is searched.
      rows: of the trials that have ended, in their order.
      workdir: the search's folder.
      budget: seconds of the whole search, of earlier calls, too.
      train: trains a trial; see `train_trial`.
      clock: seconds that this call has taken so far.
      tell: called with each new row, when it is written.

    Returns:
      All rows.
    """
    rows = list(rows)
    earlier = max((row["elapsed_seconds"] for row in rows), default=0.0)
    while job := next_job(rows, rungs=search.rungs, budget=budget, used=earlier + clock()):
        config = search.config(job.trial, job.rung)
        began = clock()
        outcome = train(config)
        ended = clock()
        row = {
            "trial": job.trial,
            "rung": job.rung,
            "epochs": config.epochs,
            **outcome,
            "seconds": round(ended - began, 3),
            "elapsed_seconds": round(earlier + ended, 3),
            "values": sample(search.arch, search.dataset, search.seed, job.trial),
        }
        append_row(workdir, row)
        rows.append(row)
        tell(row)
    return rows
