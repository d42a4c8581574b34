"""A contender's side of the measurement: it waits for its turn on stdin.

A line with a number is "run so many steps"; the answer is a line of JSON with the seconds. In
between it sleeps, so that only one contender uses the cores at a time.
"""

import json
import sys
import time
from collections.abc import Callable


def serve(run_steps: Callable[[int], object], **facts: object) -> None:
    """Answers until stdin ends.

    Args:
      run_steps: takes the number of steps, and returns when the last has been computed.
      facts: about this process, sent when it is ready.
    """
    _say({"ready": True, **facts})
    for line in sys.stdin:
        started = time.perf_counter()
        run_steps(int(line))
        _say({"seconds": time.perf_counter() - started})


def _say(value):
    print(json.dumps(value), flush=True)
