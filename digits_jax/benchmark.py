"""How fast is it, here: python -m digits_jax.benchmark input"""

import argparse
import itertools
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.cli import Parser, run_program
from digits_jax.errors import InputError

# NumPy and what needs it are imported by the functions: Ctrl-C is then one line from the start.
if TYPE_CHECKING:
    from digits_jax.data.splits import Dataset

# A larger data set isn't read into memory to be compared.
MEMORY_IMAGES = 1_000_000
_PACKAGES = ("digits_jax", "numpy", "tensorflow-datasets", "array_record", "grain")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m digits_jax.benchmark", description=__doc__)
    commands = made.add_subparsers(dest="what", metavar="WHAT", required=True)
    text = "images a second of the training data, from memory and from files"
    one = commands.add_parser("input", help=text, description=text)
    add = one.add_argument
    add("--dataset", default="mnist", help="mnist, tfds/NAME, ... (default: %(default)s)")
    add("--data-dir", metavar="DIR", help="its folder (default: as in training)")
    add("--batch-sizes", metavar="N,N", default="128,256,1024", help="(default: %(default)s)")
    add("--threads", metavar="N,N", default="1,2,4", help="that read files (default: %(default)s)")
    add("--at-once", metavar="N", default="4096", help="images read at once (default: %(default)s)")
    add("--repeats", metavar="N", default="7", help="of each measurement (default: %(default)s)")
    add("--seconds", metavar="S", default="1", help="of each repeat (default: %(default)s)")
    add("--evict", action="store_true", help="ask the system to forget the files before each row")
    add("--quick", action="store_true", help="fewer and shorter: half a minute at most")
    add("-o", "--output", metavar="FILE", help="write everything as JSON, too")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        args = parser().parse_args(arguments)
        command = shlex.join(["python", "-m", "digits_jax.benchmark", *arguments])
        result = {"command": command, **benchmark_input(settings_of(args))}
        print(markdown(result), end="")
        if args.output:
            _write(Path(args.output), result)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings as plain values; ``--quick`` has its own for what takes time.

    Raises:
      InputError: a number that isn't one, or is out of bounds.
    """
    folder = Path(args.output or ".").expanduser().absolute().parent
    if args.output and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"-o {args.output}: {folder} can't be written; give another file")
    made = {
        "dataset": args.dataset,
        "data_dir": args.data_dir,
        "batch_sizes": _numbers("--batch-sizes", args.batch_sizes),
        "threads": _numbers("--threads", args.threads),
        "at_once": _number("--at-once", args.at_once),
        "repeats": _number("--repeats", args.repeats),
        "seconds": _number("--seconds", args.seconds, float),
        "evict": args.evict,
        "quick": args.quick,
    }
    short = {"batch_sizes": [256], "threads": [1, 2], "repeats": 3, "seconds": 0.3}
    return {**made, **short} if args.quick else made


def _numbers(flag, text):
    return [_number(flag, word) for word in text.split(",")]


def _number(flag, text, kind=int):
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1_000_000:
        wanted = "numbers like 1,2" if flag in ("--batch-sizes", "--threads") else "a number"
        raise InputError(f"{flag}={text}: give {wanted}, more than 0 and at most 1,000,000")
    return value


def benchmark_input(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures the ways to the training images.

    Args:
      settings: see `settings_of`.

    Returns:
      What the JSON file holds: settings, machine, versions, data set, and a row for each way and
      batch size.
    """
    import grain  # noqa: F401 - its half a second belongs to the cold start, not to the first row
    from tqdm import tqdm

    from digits_jax.data.datasets import load_dataset

    where = settings["dataset"], settings["data_dir"]
    streamed = load_dataset(*where, input="stream")
    held = load_dataset(*where) if len(streamed.train) <= MEMORY_IMAGES else None
    if max(settings["batch_sizes"]) > len(streamed.train):
        raise InputError(
            f"--batch-sizes={max(settings['batch_sizes'])}: {streamed.name} has "
            f"{len(streamed.train):,} training images; give at most that"
        )
    ways = list(_ways(streamed, held, settings))
    rows = []
    for way in tqdm(ways, desc="input", unit="row", leave=False, disable=None):
        dataset = held if way["input"] == "memory" else streamed
        rows.append({**way, **_measure(dataset, way, settings)})
    inputs = ["stream"] if held is None else ["memory", "stream"]
    starts = [
        {"input": way, "seconds": [_cold_start(way, settings) for _ in range(settings["repeats"])]}
        for way in tqdm(inputs, desc="cold starts", leave=False, disable=None)
    ]
    return {
        "benchmark": "input",
        "settings": settings,
        "machine": _machine(),
        "versions": _versions(),
        "dataset": {
            "name": streamed.name,
            "sha256": streamed.sha256,
            "train_count": len(streamed.train),
            "bytes": sum(path.stat().st_size for path in streamed.train.paths),
        },
        "rows": rows,
        "cold_starts": starts,
    }


def _ways(streamed: "Dataset", held: "Dataset | None", settings) -> Iterator[dict[str, Any]]:
    for batch_size in settings["batch_sizes"]:
        if held is not None:
            yield {"input": "memory", "threads": None, "batch_size": batch_size}
        for threads in settings["threads"]:
            yield {"input": "stream", "threads": threads, "batch_size": batch_size}


def _measure(dataset, way, settings):
    """Seconds to the first batch, and images a second of each repeat after it."""
    from digits_jax.data.stream import PrefetchedStream, open_stream

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
        raise InputError("--evict: this system can't be asked to forget files; leave it out")
    for path in paths:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())  # only what is on the disk can be forgotten
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_COLD = """
import sys, time
started = time.perf_counter()
from digits_jax.data.datasets import load_dataset
from digits_jax.data.stream import open_stream
name, folder, way, size = sys.argv[1:]
train = load_dataset(name, folder or None, input=way).train
with open_stream(train, seed=0, batch_size=int(size)) as stream:
    stream.batch(0)
    print(time.perf_counter() - started)
"""


def _cold_start(way, settings):
    """Seconds from a new process's first import to its first batch."""
    given = settings["dataset"], settings["data_dir"] or "", way, settings["batch_sizes"][0]
    command = [sys.executable, "-c", _COLD, *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"a process that reads {settings['dataset']} failed: {last}")
    return float(done.stdout)


def _machine():
    return {
        "device": "cpu",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions():
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # as where the project's folder is on the path
            found[name] = None
    return found


def _write(path, result):
    from digits_jax.runs.folder import write_json

    write_json(path.expanduser().absolute(), result)


def markdown(result: dict[str, Any]) -> str:
    """The result as a table for a README.

    Args:
      result: of `benchmark_input`.
    """
    data, machine, settings = result["dataset"], result["machine"], result["settings"]
    lines = [
        f"{data['name']}: {data['train_count']:,} training images, {data['bytes'] / 1e9:.2f} GB "
        f"of files; {machine['processor']}, {machine['cores']} cores; median and range of "
        f"{settings['repeats']} times {settings['seconds']:g} s",
        "",
        "| input | threads | batch | images/s | range | first batch |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        rates = row["images_per_second"]
        lines.append(
            f"| {row['input']} | {row['threads'] or '-'} | {row['batch_size']} "
            f"| {statistics.median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} "
            f"| {row['first_batch_seconds']:.2f} s |"
        )
    lines += ["", "| new process | first batch after | range |", "|---|--:|--:|"]
    for start in result["cold_starts"]:
        seconds = start["seconds"]
        lines.append(
            f"| {start['input']} | {statistics.median(seconds):.2f} s "
            f"| {min(seconds):.2f} to {max(seconds):.2f} s |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
