"""Which trial comes next: successive halving, by what trials have cost so far.

Every trial is trained for a few epochs, the best third of them for three times as many, the best
third of those for three times as many again: each rung of this ladder costs about the same.
How many trials there are follows from the budget: another one is sampled as long as it, and what
the rungs above are still to train because of it, fit what is left.

What learns slowly and well is lost on the first rung: with fewer rungs less is, of fewer trials.

A row is a trial on a rung: {"trial", "rung", "status", "correct", "count", "loss", "seconds",
"train_seconds"}; the last are a part of the seconds, in proportion to the epochs.

Reference:
  Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
  2016; Li et al., Hyperband, 2018.
"""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Of so many trials one goes on, for so many times the epochs.
REDUCTION = 3
TRAINED, DIVERGED, FAILED = "trained", "diverged", "failed"

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What to train next.

    Attributes:
      trial: its number, which says its values.
      rung: from 0, which says for how many epochs.
    """

    trial: int
    rung: int


def rung_epochs(most: float, rungs: int) -> list[float]:
    """The epochs of each rung.

    Args:
      most: epochs of the last one.
      rungs: how many there are.

    Example:
      >>> rung_epochs(60, 3)
      [6.67, 20.0, 60]
    """
    lower = [float(f"{most / REDUCTION ** (rungs - 1 - k):.3g}") for k in range(rungs - 1)]
    return [*lower, most]


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The trials of a rung that were trained to the end, best first.

    Of as many images recognised the smaller loss is better, then the earlier trial.
    """
    trained = [row for row in rows if row["status"] == TRAINED]
    return sorted(trained, key=lambda row: (-row["correct"], row["loss"], row["trial"]))


def on_rung(rows: Sequence[Row], rung: int) -> list[Row]:
    """The rows of a rung."""
    return [row for row in rows if row["rung"] == rung]


def ladder(rows: Sequence[Row]) -> list[Row]:
    """Each trial where it got to: the highest rung first, on each the best first.

    A trial that diverged on its way up counts there: it can't be had with so many epochs.
    """
    last = {row["trial"]: row for row in sorted(rows, key=lambda row: row["rung"])}
    top = max((row["rung"] for row in rows), default=-1)
    trained = [row for k in range(top, -1, -1) for row in ranked(on_rung(list(last.values()), k))]
    rest = [row for row in last.values() if row["status"] != TRAINED]
    return trained + sorted(rest, key=lambda row: (-row["rung"], row["trial"]))


def expected_seconds(rows: Sequence[Row], rungs: int) -> list[float]:
    """What a trial of each rung costs, on average.

    Args:
      rows: so far; one of rung 0 at least.
      rungs: how many there are.

    Returns:
      Seconds. Of a rung where nobody has been yet, training takes three times as long as on the
      one below, and the rest (compilation) as long.

    Example:
      >>> rows = [{"rung": 0, "seconds": 4.0, "train_seconds": 2.0}]
      >>> expected_seconds([*rows, {"rung": 1, "seconds": 9.0, "train_seconds": 7.0}], 3)
      [4.0, 9.0, 23.0]
    """
    found = []
    for rung in range(rungs):
        if own := on_rung(rows, rung):
            training = statistics.fmean(row["train_seconds"] for row in own)
            rest = statistics.fmean(row["seconds"] for row in own) - training
        else:
            training *= REDUCTION
        found.append(training + rest)
    return found


def finishing_seconds(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """What the rungs above the first are still to cost.

    Args:
      counts: of the trials that each rung has had.
      seconds: of a trial on each.

    Example:
      >>> finishing_seconds([9, 1, 0], [1.0, 2.0, 5.0])  # two more, and the best of three
      9.0
    """
    total, below = 0.0, counts[0]
    for count, cost in zip(counts[1:], seconds[1:], strict=True):
        below = max(count, below // REDUCTION)
        total += (below - count) * cost
    return total


def next_job(rows: Sequence[Row], *, rungs: int, budget: float, used: float) -> Job | None:
    """The trial to train now.

    Args:
      rows: of all that were trained.
      rungs: how many there are.
      budget: seconds.
      used: seconds of it; more than the rows', as between trials there is some work, too.

    Returns:
      The job; the first one comes whatever it costs, as that isn't known. None where nothing more
      fits the budget.
    """
    if not rows:
        return Job(0, 0)
    left, there = budget - used, {row["trial"] for row in on_rung(rows, 0)}
    number = next(n for n in itertools.count() if n not in there)
    seconds = expected_seconds(rows, rungs)
    counts = [len(on_rung(rows, rung)) for rung in range(rungs)]

    def room_for_one_more(top):
        more = [counts[0] + 1, *counts[1:top]]
        return seconds[0] + finishing_seconds(more, seconds[:top]) <= left

    if room_for_one_more(rungs):
        return Job(number, 0)
    promoted = _promotion(rows, seconds, left)
    if promoted:
        return promoted
    # The budget is too small for the rungs above: a rung that nobody gets to costs nothing.
    reached = 1 + max(row["rung"] for row in rows)
    tops = range(rungs - 1, reached - 1, -1)
    return Job(number, 0) if any(room_for_one_more(top) for top in tops) else None


def _promotion(rows, seconds, left):
    """The best trial that is among the best third of its rung, and fits; low rungs first.

    But where trials turned out dearer than they seemed, the highest rung that somebody may go to
    comes before more of the lower ones: the winner is from there.
    """
    rungs = range(1, len(seconds))
    counts = [len(on_rung(rows, rung)) for rung in (0, *rungs)]
    due = [rung for rung in rungs if counts[rung - 1] // REDUCTION > counts[rung]]
    for kept in (True, False):
        for rung in rungs:
            above = sum(seconds[higher] for higher in due if kept and higher > rung)
            if job := _promotion_to(rung, rows, left - above):
                return job
    return None


def _promotion_to(rung, rows, left):
    below, there = on_rung(rows, rung - 1), {row["trial"] for row in on_rung(rows, rung)}
    for row in ranked(below)[: len(below) // REDUCTION]:
        # Its own cost: a wide network stays a slow one.
        own = row["seconds"] + (REDUCTION - 1) * row["train_seconds"]
        if row["trial"] not in there and own <= left:
            return Job(row["trial"], rung)
    return None
