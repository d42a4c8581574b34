"""How a piece of work is timed: blocks of calls, measured in turn, their median and spread."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

_MOST_CALLS = 1_000_000


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the 10th and 90th percentile of some measurements.

    Examples:
      >>> spread([4.0, 1.0, 2.0, 3.0, 5.0])
      {'median': 3.0, 'p10': 1.4, 'p90': 4.6}
    """
    low, median, high = np.percentile(values, [10, 50, 90]).tolist()
    return {"median": median, "p10": low, "p90": high}


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    """Returns ``run(count)``, which makes so many calls."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def time_in_turn(
    runs: Sequence[Callable[[int], object]], *, repeats: int, seconds: float
) -> list[list[float]]:
    """Measures several pieces of work, a block of one after a block of the other: A B C A B C.

    The speed of a machine drifts, as it grows warm or others use it; blocks in turn share the
    drift.

    Args:
      runs: ``run(count)`` makes so many calls and waits for the last one's result.
      repeats: blocks of each that are measured; those before, which find their size, warm up.
      seconds: what a block takes, about.

    Returns:
      For each piece of work, the seconds of one call in each block.

    Examples:
      >>> found = time_in_turn([lambda count: sum(range(count))] * 2, repeats=3, seconds=0.001)
      >>> [len(blocks) for blocks in found]
      [3, 3]
    """
    counts = [_fitting_count(run, seconds) for run in runs]
    rounds = [
        [_timed(run, count) / count for run, count in zip(runs, counts, strict=True)]
        for _ in range(repeats)
    ]
    return [list(blocks) for blocks in zip(*rounds, strict=True)]


def _fitting_count(run: Callable[[int], object], seconds: float) -> int:
    run(1)
    count = 1
    while (passed := _timed(run, count)) < 0.8 * seconds and count < _MOST_CALLS:
        # The first calls are slow: no leap to more than ten times as many.
        count = math.ceil(count * min(10.0, max(1.5, seconds / max(passed, 1e-9))))
    return count


def _timed(run: Callable[[int], object], count: int) -> float:
    started = time.perf_counter()
    run(count)
    return time.perf_counter() - started
