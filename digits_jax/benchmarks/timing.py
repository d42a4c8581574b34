"""How a piece of work is timed: warm-up, blocks of calls, their median and spread."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_MOST_CALLS = 1_000_000


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median and the 10th and 90th percentile of some measurements.

    Args:
      values: one for each repeat.

    Returns:
      {"median", "p10", "p90"}.

    Example:
      >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
      {'median': 3.0, 'p10': 1.4, 'p90': 4.6}
    """
    low, median, high = np.percentile(values, [10, 50, 90]).tolist()
    return {"median": median, "p10": low, "p90": high}


def as_trained(row: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a step in the way in which training takes it, of a row of `benchmarks.step`.

    Example:
      >>> as_trained({"step_seconds": {"median": 2.0}, "in_calls": None})
      {'median': 2.0}
    """
    calls = row.get("in_calls")  # which files of before don't have
    return calls["step_seconds"] if calls else row["step_seconds"]


def time_blocks(run: Callable[[int], object], *, repeats: int, seconds: float) -> list[float]:
    """Seconds of one call, measured in blocks of so many calls that a block takes a while.

    Args:
      run: ``run(count)`` makes so many calls and waits for the last one's result.
      repeats: blocks that are measured; those before, which find their size, warm up.
      seconds: that a block takes, about.

    Returns:
      For each block, its seconds divided by its calls.

    Example:
      >>> len(time_blocks(lambda count: sum(range(1000 * count)), repeats=3, seconds=0.001))
      3
    """
    (found,) = time_in_turn([run], repeats=repeats, seconds=seconds)
    return found


def time_in_turn(
    runs: Sequence[Callable[[int], object]], *, repeats: int, seconds: float
) -> list[list[float]]:
    """As `time_blocks` of each, a block of one after a block of the other, A B C A B C.

    A machine that others use, too, or that grows warm, is slower now than then: what is to be
    compared has to share that.

    Args:
      runs: each as `time_blocks` takes it.
      repeats: blocks of each.
      seconds: that a block takes, about.

    Returns:
      For each run what `time_blocks` returns.
    """
    counts = [_fitting_count(run, seconds) for run in runs]
    rounds = [
        [_timed(run, count) / count for run, count in zip(runs, counts, strict=True)]
        for _ in range(repeats)
    ]
    return [list(found) for found in zip(*rounds, strict=True)]


def _fitting_count(run, seconds):
    run(1)
    count = 1
    while (passed := _timed(run, count)) < 0.8 * seconds and count < _MOST_CALLS:
        # The first calls are slow: no leap to more than ten times as many.
        count = math.ceil(count * min(10.0, max(1.5, seconds / max(passed, 1e-9))))
    return count


def _timed(run, count):
    started = time.perf_counter()
    run(count)
    return time.perf_counter() - started
