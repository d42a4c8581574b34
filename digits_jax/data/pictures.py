"""Pictures of one digit each -> 28x28 images, read by several processes."""

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from digits_jax.data.arrays import to_size
from digits_jax.errors import DataError
from digits_jax.files import open_regular
from digits_jax.hardware import cpu_count
from digits_jax.vision.decode import MAX_BYTES, decode_image
from digits_jax.vision.segment import read_digit

# Fewer pictures are read before the processes have started, which takes half a second.
_FEWEST = 100
_MOST_PROCESSES = 16  # of 60 MB each, beside the picture that each decodes
_PART = 10_000  # pictures that are submitted to the threads at once
_SERVE = "from digits_jax.data.pictures import serve; serve()"


def read_picture(path: Path, picture: str) -> np.ndarray | str:
    """Reads a picture file as uint8 [28, 28], or says why it can't be used.

    Args:
      picture: "ink", as `digits_jax.predict` reads it, or "resize".

    Raises:
      DataError: the file can't be read, which says nothing of the picture.
    """
    try:
        with open_regular(path) as file:
            grey = decode_image(file.read(MAX_BYTES + 1), "picture")
        image = read_digit(grey) if picture == "ink" else to_size(grey[None])[0]
        return "holds no ink" if image is None else image
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except DataError as error:
        return str(error).removeprefix("picture: ")


def read_pictures(paths: Sequence[Path], picture: str, title: str) -> list[np.ndarray | str]:
    """Reads pictures as `read_picture` does, with a progress bar or a line, on all cores."""
    if len(paths) > _FEWEST and not sys.stderr.isatty():
        print(f"reading {len(paths):,} pictures of {title}", file=sys.stderr)

    def show(results: Iterable[np.ndarray | str]) -> list[np.ndarray | str]:
        return list(tqdm(results, title, len(paths), leave=False, disable=None))

    count = min(cpu_count(), len(paths) // _FEWEST, _MOST_PROCESSES)
    if getattr(sys, "frozen", False) or not sys.executable:  # Python is a part of another program
        count = 1
    # Not threads, as most of the work holds Python's lock. Not `multiprocessing`, whose processes
    # import the caller's script again: one without `if __name__ == "__main__"` would run twice.
    with contextlib.ExitStack() as stack:
        workers = []
        with contextlib.suppress(OSError):  # a limit of processes: those that started are used
            while len(workers) < count > 1:
                workers.append(stack.enter_context(_worker()))
        if not workers:
            # BLAS's own threads would wait for each other: twice the time.
            with threadpool_limits(1):
                return show(read_picture(path, picture) for path in paths)
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def ask(path: Path) -> np.ndarray | str:
            worker = idle.get()
            try:
                return _ask(worker, path, picture)
            finally:
                idle.put(worker)

        threads = ThreadPoolExecutor(len(workers))
        stack.callback(threads.shutdown, cancel_futures=True)
        # Futures take 2 kB each: 2 GB for a million pictures at once.
        parts = (paths[start : start + _PART] for start in range(0, len(paths), _PART))
        return show(itertools.chain.from_iterable(threads.map(ask, part) for part in parts))


@contextlib.contextmanager
def _worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers questions, see `serve`."""
    # It finds modules where this process does, and none in the current folder.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    worker = subprocess.Popen(
        [sys.executable, "-P", "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        # Ctrl-C is for this process alone, on POSIX and on Windows.
        process_group=0,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield worker
    finally:
        worker.kill()
        with contextlib.suppress(BrokenPipeError):
            worker.communicate()


def _ask(worker: subprocess.Popen[bytes], path: Path, picture: str) -> np.ndarray | str:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        pickle.dump((path, picture), worker.stdin)
        worker.stdin.flush()
        answer = pickle.load(worker.stdout)
    except (OSError, EOFError, pickle.UnpicklingError):
        raise DataError(
            f"{path}: the process that read it ended with status {worker.wait()}; if there was "
            "too little memory, give more, else remove the picture"
        ) from None
    if isinstance(answer, DataError):
        raise answer
    return answer


def serve() -> None:
    """Reads the pictures that standard input names until it ends, and writes the images."""
    # What anything prints goes to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with threadpool_limits(1), contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            path, picture = pickle.load(sys.stdin.buffer)
            try:
                answer = read_picture(path, picture)
            except DataError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
