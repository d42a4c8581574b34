"""Images a second of the training data, from memory and from files."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.options import Options
from digits_jax.benchmarks.processes import timed_process
from digits_jax.benchmarks.timing import spread
from digits_jax.data.datasets import Dataset, load_dataset
from digits_jax.data.pipeline import TrainStream
from digits_jax.errors import ConfigError, DigitsError

BATCH_SIZES, QUICK_SIZES = (128, 256, 1024), (256,)
THREADS = (1, 2, 4)  # that read files
# A larger data set isn't read into memory to be compared.
MEMORY_IMAGES = 1_000_000


def benchmark(options: Options) -> dict[str, Any]:
    """Measures the ways to the training images: order, gathering and, from files, decoding.

    Returns:
      "dataset", "train_count", "bytes" of the files, "streams" (a row for each way and batch size)
      and "cold_starts" (seconds from a new process's first import to its first batch).
    """
    with contextlib.suppress(ImportError):  # said when files are read
        import grain  # noqa: F401 - its half a second belongs to the cold start

    streamed, held = open_datasets(options)
    train: Any = (streamed or held).train  # pyright: ignore[reportOptionalMemberAccess]
    name = (streamed or held).name  # pyright: ignore[reportOptionalMemberAccess]
    sizes = options.batch_sizes or (QUICK_SIZES if options.quick else BATCH_SIZES)
    if max(sizes) > len(train):
        raise ConfigError(
            f"batch_sizes={max(sizes)}: {name} has {len(train):,} training images; "
            "give at most that"
        )
    ways: list[tuple[Dataset, int | None, int]] = []
    for size in sizes:
        ways += [(held, None, size)] if held else []
        ways += [(streamed, threads, size) for threads in THREADS] if streamed else []
    return {
        "dataset": name,
        "train_count": len(train),
        "bytes": sum(path.stat().st_size for path in train.paths) if streamed else 0,
        "streams": [
            _measure(*way, options)
            for way in tqdm(ways, "input", unit="row", leave=False, disable=None)
        ],
        "cold_starts": [
            {"input": way, "seconds": spread(_cold_starts(way, sizes[0], options))}
            for way, there in (("memory", held), ("stream", streamed))
            if there
        ],
    }


def open_datasets(options: Options) -> tuple[Dataset | None, Dataset | None]:
    """Returns the data set with its training images in files, and in memory.

    None stands for what there isn't: files of the digits that scikit-learn brings, or whose files
    can't be read although the data set wasn't named; and more images than fit into memory.
    """
    where = options.dataset, options.data_dir
    try:
        streamed = load_dataset(*where, input="stream")
    except DigitsError:
        if options.dataset not in ("auto", "digits"):
            raise
        return None, load_dataset(*where)
    small = len(streamed.train) <= MEMORY_IMAGES
    return streamed, load_dataset(*where) if small else None


def _measure(
    dataset: Dataset, threads: int | None, batch_size: int, options: Options
) -> dict[str, Any]:
    """Seconds to the first batch, and images a second after it."""
    how: dict[str, Any] = {"threads": threads} if threads else {}
    started = time.perf_counter()
    with TrainStream(dataset.train, seed=0, batch_size=batch_size, **how) as stream:
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


def _cold_starts(way: str, size: int, options: Options) -> list[float]:
    given = [options.dataset, options.data_dir or "", way, str(size)]
    command = [sys.executable, "-c", _COLD, *given]
    return [float(timed_process(command).output.splitlines()[-1]) for _ in range(options.repeats)]
