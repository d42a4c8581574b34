"""The time before anything is computed: a process's start, imports, the data."""

import sys
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.options import Options
from digits_jax.benchmarks.processes import timed_process
from digits_jax.benchmarks.timing import spread
from digits_jax.data.datasets import load_dataset

_LOAD = """
import sys, time
started = time.perf_counter()
from digits_jax.data.datasets import load_dataset
times = [time.perf_counter() - started]
for _ in range(2):
    started = time.perf_counter()
    load_dataset(sys.argv[1], sys.argv[2] or None)
    times.append(time.perf_counter() - started)
print(*times)
"""
_LOAD_PARTS = (
    "in it: import of digits_jax.data.datasets",
    "in it: first load_dataset",
    "in it: second load_dataset",
)


def benchmark(options: Options) -> dict[str, Any]:
    """Starts processes, each kind in turn, so that a disturbance affects all of them.

    Returns:
      "dataset" and "processes", a row for each kind of process, and for the parts of the one that
      loads: seconds from its start to its end, all imports from the system's memory.
    """
    dataset = load_dataset(options.dataset, options.data_dir)  # may download: isn't measured
    commands = {
        "python -c pass": ["-c", "pass"],
        "import jax": ["-c", "import jax"],
        "import jax; jax.devices()": ["-c", "import jax; jax.devices()"],
        "import digits_jax": ["-c", "import digits_jax"],
        "import flax, optax": ["-c", "import flax.linen, optax"],
        "python -m digits_jax.train --help": ["-m", "digits_jax.train", "--help"],
        "load_dataset, twice": ["-c", _LOAD, options.dataset, options.data_dir or ""],
    }
    # Once more than is asked for: the first time reads the files into the system's memory.
    # --quick hasn't the time, and this very program has read most of them.
    rounds = options.repeats + (not options.quick)
    seconds: dict[str, list[float]] = {}
    for _ in tqdm(range(rounds), "startup", unit="round", leave=False, disable=None):
        for what, command in commands.items():
            finished = timed_process([sys.executable, *command])
            seconds.setdefault(what, []).append(finished.seconds)
            if command[1] == _LOAD:
                for part, text in zip(_LOAD_PARTS, finished.output.split(), strict=True):
                    seconds.setdefault(part, []).append(float(text))
    return {
        "dataset": dataset.name,
        "processes": [
            {"process": what, "seconds": spread(each[-options.repeats :])}
            for what, each in seconds.items()
        ],
    }
