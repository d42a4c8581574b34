"""Images a second of the training data, from memory and from files."""

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.options import InputOptions
from digits_jax.benchmarks.processes import timed_process
from digits_jax.benchmarks.timing import spread
from digits_jax.data import datasets
from digits_jax.data.datasets import Dataset
from digits_jax.data.pipeline import TrainStream
from digits_jax.errors import ConfigError, DigitsError

# A larger data set isn't read into memory to be compared.
MEMORY_IMAGES = 1_000_000


def benchmark(options: InputOptions) -> dict[str, Any]:
    """Measures the ways to the training images: order, gathering and, from files, decoding.

    Returns:
      "dataset", "train_count", "bytes" of the files, "streams" (a row for each way and batch size)
      and "cold_starts" (seconds from a new process's first import to its first batch).
    """
    import grain  # noqa: F401 - its half a second belongs to the cold start, not to the first row

    streamed, held = open_datasets(options)
    if options.evict and streamed is None:
        raise ConfigError("evict: there are no files of these images to forget; leave it out")
    dataset = streamed or held
    assert dataset
    largest = max(options.batch_sizes)
    if largest > len(dataset.train):
        raise ConfigError(
            f"batch_sizes={largest}: {dataset.name} has {len(dataset.train):,} training images; "
            "give at most that"
        )
    ways: list[tuple[Dataset, int | None, int]] = []
    for size in options.batch_sizes:
        ways += [(held, None, size)] if held else []
        ways += [(streamed, threads, size) for threads in options.threads] if streamed else []
    inputs = [name for name, there in (("memory", held), ("stream", streamed)) if there]
    paths: Sequence[Path] = streamed.train.paths if streamed else []  # type: ignore[union-attr]
    return {
        "dataset": dataset.name,
        "train_count": len(dataset.train),
        "bytes": sum(path.stat().st_size for path in paths),
        "streams": [
            _measure(*way, options)
            for way in tqdm(ways, "input", unit="row", leave=False, disable=None)
        ],
        "cold_starts": [
            {"input": name, "seconds": spread(_cold_starts(name, options))} for name in inputs
        ],
    }


def open_datasets(options: InputOptions) -> tuple[Dataset | None, Dataset | None]:
    """Returns the data set with its training images in files, and in memory.

    None stands for what there isn't: files of the digits that scikit-learn brings, or whose files
    can't be read although the data set wasn't named; and more images than fit into memory.
    """
    where = options.dataset, options.data_dir
    try:
        streamed = datasets.load_dataset(*where, input="stream")
    except DigitsError:
        if options.dataset not in ("auto", "digits"):
            raise
        return None, datasets.load_dataset(*where)
    small = len(streamed.train) <= MEMORY_IMAGES
    return streamed, datasets.load_dataset(*where) if small else None


def _measure(
    dataset: Dataset, threads: int | None, batch_size: int, options: InputOptions
) -> dict[str, Any]:
    """Seconds to the first batch, and images a second after it."""
    order: dict[str, Any] = {"seed": options.seed, "batch_size": batch_size}
    train: Any = dataset.train
    if threads and options.evict:
        _evict(train.paths)
    started = time.perf_counter()
    if threads:
        order |= {"threads": threads, "at_once": options.at_once}
    with TrainStream(train, **order) as stream:
        stream.batch(0)
        first = time.perf_counter() - started
        steps = itertools.count(1)
        _batches_per_second(stream, steps, options.seconds / 2)  # what was read ahead isn't counted
        rates = [
            _batches_per_second(stream, steps, options.seconds) for _ in range(options.repeats)
        ]
    return {
        "input": "stream" if threads else "memory",
        "threads": threads,
        "batch_size": batch_size,
        "first_batch_seconds": first,
        "images_per_second": spread([rate * batch_size for rate in rates]),
    }


def _batches_per_second(stream: TrainStream, steps: Iterator[int], seconds: float) -> float:
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds or not count:
        stream.batch(next(steps))
        count += 1
    return count / passed


def _evict(paths: Sequence[Path]) -> None:
    """Files that are gone from the system's memory are read from the disk again."""
    if not hasattr(os, "posix_fadvise"):
        raise ConfigError("evict: this system can't be asked to forget files; leave it out")
    for path in paths:
        with path.open("rb") as stream:
            with contextlib.suppress(OSError):
                os.fsync(stream.fileno())  # only what is on the disk can be forgotten
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_COLD = """
import sys, time
started = time.perf_counter()
from digits_jax.data.datasets import load_dataset
from digits_jax.data.pipeline import TrainStream
name, folder, way, size = sys.argv[1:]
train = load_dataset(name, folder or None, input=way).train
with TrainStream(train, seed=0, batch_size=int(size)) as stream:
    stream.batch(0)
    print(time.perf_counter() - started)
"""


def _cold_starts(name: str, options: InputOptions) -> list[float]:
    size = str(options.batch_sizes[0])
    given = [options.dataset, options.data_dir or "", name, size]
    command = [sys.executable, "-c", _COLD, *given]
    return [float(timed_process(command).output.splitlines()[-1]) for _ in range(options.repeats)]
