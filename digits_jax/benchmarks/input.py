"""Images a second of the training data, from memory and from files."""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.processes import timed_process
from digits_jax.data import datasets
from digits_jax.data.pipeline import PrefetchedStream, open_stream
from digits_jax.data.splits import Dataset
from digits_jax.errors import ConfigError, DigitsError

# A larger data set isn't read into memory to be compared.
MEMORY_IMAGES = 1_000_000


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures the ways to the training images.

    Args:
      settings: see `digits_jax.benchmarks.settings`; with "all", files that can't be read are no
        error.

    Returns:
      "dataset", "rows" (a row for each way and batch size) and "cold_starts".
    """
    import grain  # noqa: F401 - its half a second belongs to the cold start, not to the first row

    streamed, held = _opened(settings)
    if settings["evict"] and streamed is None:
        raise ConfigError("--evict: there are no files of these images to forget; leave it out")
    dataset = streamed or held
    if max(settings["batch_sizes"]) > len(dataset.train):
        raise ConfigError(
            f"--batch-sizes={max(settings['batch_sizes'])}: {dataset.name} has "
            f"{len(dataset.train):,} training images; give at most that"
        )
    ways = list(_ways(streamed, held, settings))
    rows = []
    for way in tqdm(ways, desc="input", unit="row", leave=False, disable=None):
        way_in = held if way["input"] == "memory" else streamed
        rows.append({**way, **_measure(way_in, way, settings)})
    inputs = list(dict.fromkeys(way["input"] for way in ways))
    starts = [
        {"input": way, "seconds": [_cold_start(way, settings) for _ in range(settings["repeats"])]}
        for way in tqdm(inputs, desc="cold starts", leave=False, disable=None)
    ]
    paths = streamed.train.paths if streamed else []
    return {
        "dataset": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "train_count": len(dataset.train),
            "bytes": sum(path.stat().st_size for path in paths),
        },
        "rows": rows,
        "cold_starts": starts,
    }


def _opened(settings):
    """The data set with its training images in files, and in memory; None where that can't be."""
    where = settings["dataset"], settings["data_dir"]
    try:
        streamed = datasets.load_dataset(*where, input="stream")
    except DigitsError:
        # Who named the data set wants to know why its files can't be read; one has none.
        if settings["dataset"] not in ("auto", "digits") and not settings.get("all"):
            raise
        return None, datasets.load_dataset(*where)
    small = len(streamed.train) <= MEMORY_IMAGES
    return streamed, datasets.load_dataset(*where) if small else None


def _ways(
    streamed: Dataset | None, held: Dataset | None, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for batch_size in settings["batch_sizes"]:
        if held is not None:
            yield {"input": "memory", "threads": None, "batch_size": batch_size}
        if streamed is not None:
            for threads in settings["threads"]:
                yield {"input": "stream", "threads": threads, "batch_size": batch_size}


def _measure(dataset, way, settings):
    """Seconds to the first batch, and images a second of each repeat after it."""
    order = {"seed": 0, "batch_size": way["batch_size"]}
    if way["input"] == "stream" and settings["evict"]:
        _evict(dataset.train.paths)
    started = time.perf_counter()
    if way["input"] == "memory":
        opened = open_stream(dataset.train, **order)
    else:
        more = {"threads": way["threads"], "at_once": settings["at_once"]}
        opened = PrefetchedStream(dataset.train, **order, **more)
    with opened as stream:
        stream.batch(0)
        first = time.perf_counter() - started
        steps = itertools.count(1)
        _consume(stream, steps, settings["seconds"] / 2)  # what is ready already isn't counted
        rates = [
            _consume(stream, steps, settings["seconds"]) * way["batch_size"]
            for _ in range(settings["repeats"])
        ]
    return {"first_batch_seconds": first, "images_per_second": rates}


def _consume(stream, steps, seconds):
    """Batches a second."""
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds or not count:
        stream.batch(next(steps))
        count += 1
    return count / passed


def _evict(paths):
    """Files that are gone from the system's memory are read from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        raise ConfigError("--evict: this system can't be asked to forget files; leave it out")
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # only what is on the disk can be forgotten
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_COLD = """
import sys, time
started = time.perf_counter()
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import open_stream
name, folder, way, size = sys.argv[1:]
train = load_dataset(name, folder or None, input=way).train
with open_stream(train, seed=0, batch_size=int(size)) as stream:
    stream.batch(0)
    print(time.perf_counter() - started)
"""


def _cold_start(way, settings):
    """Seconds from a new process's first import to its first batch."""
    given = settings["dataset"], settings["data_dir"] or "", way, settings["batch_sizes"][0]
    ended = timed_process([sys.executable, "-c", _COLD, *map(str, given)])
    return float(ended.said.splitlines()[-1])
