"""What passes before anything is computed: a process's start, imports, the data."""

import sys
from typing import Any

from tqdm import tqdm

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


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Starts processes, each kind in turn, so that a busy moment strikes all alike.

    Args:
      settings: see `digits_jax.benchmarks.settings`.

    Returns:
      "dataset" and "rows", one for each kind of process, and for the parts of the one that loads.
    """
    where = settings["dataset"], settings["data_dir"]
    dataset = load_dataset(*where)  # which may download and prepare: not what is measured here
    python = sys.executable
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import jax": [python, "-c", "import jax"],
        "import jax; jax.devices()": [python, "-c", "import jax; jax.devices()"],
        "import digits_jax": [python, "-c", "import digits_jax"],
        "import flax, optax": [python, "-c", "import flax.linen, optax"],
        "python -m digits_jax.train --help": [python, "-m", "digits_jax.train", "--help"],
        "load_dataset, twice": [python, "-c", _LOAD, where[0], where[1] or ""],
    }
    # Once more than is asked for: the first time reads the files into the system's memory.
    # --quick hasn't the time, and this very program has read most of them.
    rounds = settings["repeats"] + (0 if settings["quick"] else 1)
    seconds: dict[str, list[float]] = {}
    bar = tqdm(total=rounds * len(commands), desc="startup", leave=False, disable=None)
    with bar:
        for _ in range(rounds):
            for what, command in commands.items():
                ended = timed_process(command)
                seconds.setdefault(what, []).append(ended.seconds)
                if command[2] == _LOAD:
                    for part, text in zip(_LOAD_PARTS, ended.said.split(), strict=True):
                        seconds.setdefault(part, []).append(float(text))
                bar.update()
    kept = {what: each[-settings["repeats"] :] for what, each in seconds.items()}
    return {
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "rows": [
            {"what": what, "seconds": spread(each), "repeats": each} for what, each in kept.items()
        ],
    }
