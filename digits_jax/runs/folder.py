"""A run's folder: the names of its files, and how they are written and read.

    config.json        the configuration, versions, device, data set
    metrics.jsonl      one object per epoch
    checkpoints/       see checkpoint.py, also for last_checkpoint.json
    predictions.npz    labels int32 [n], logits float32 [n, classes], in test-set order;
                       validation_labels, validation_logits likewise
    results.json       the finished run's numbers
    skipped.json       where training stopped on NaN or infinity: the step and its images
    curves.png         loss and accuracy by epoch

Files are written under another name and renamed, so that a reader sees the old or the new one.
"""

import contextlib
import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.errors import CheckpointError
from digits_jax.files import (
    naming,
    parse_json,
    read_bytes,
    read_json,
    read_npz,
    replace_file,
    try_to_write,
)

if TYPE_CHECKING:  # Importing NumPy takes a tenth of a second, and `--help` comes by here.
    import numpy as np

    from digits_jax.runs.run import Run

try:
    import fcntl
except ImportError:
    fcntl = None  # Windows: two processes aren't kept apart there

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
PREDICTIONS = "predictions.npz"
SKIPPED = "skipped.json"
CHECKPOINTS = "checkpoints"
CURVES = "curves.png"
METRICS_FIELDS = (
    "step",
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "skipped_steps",
    "train_seconds",
)
_LOCK = ".lock"


def new_workdir(name: str, root: Path = Path("runs")) -> Path:
    """Makes a folder that wasn't there: root/name, or root/name-2, root/name-3, ...

    Examples:
      >>> import tempfile
      >>> root = Path(tempfile.mkdtemp())
      >>> [new_workdir("cnn-mnist", root).name for _ in range(2)]
      ['cnn-mnist', 'cnn-mnist-2']
    """
    check_name(root)
    number, path = 1, root / name
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = root / f"{name}-{number}"
        except OSError as error:
            raise _not_writable(path, error) from None


def check_name(path: Path) -> None:
    """Raises a CheckpointError for a folder that Orbax can't name, or a link to one that is gone.

    Examples:
      >>> check_name(Path("runs/caf\\udce9"))
      Traceback (most recent call last):
      digits_jax.errors.CheckpointError: runs/caf\\udce9: the name isn't UTF-8; rename that folder
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path}: the name isn't UTF-8; rename that folder") from None
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            raise CheckpointError(
                f"{link}: is a link to {os.readlink(link)}, which isn't there; make that folder, "
                "or give another"
            )


def _not_writable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path}: can't be written ({error.strerror}); give another folder")


@contextlib.contextmanager
def hold_folder(path: Path) -> Iterator[None]:
    """Makes a folder where there is none, and locks it against other processes.

    The lock is the operating system's: it goes with the process, however that ends.
    """
    check_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _open_own(path / _LOCK, os.O_RDWR)
    except OSError as error:
        raise _not_writable(path, error) from None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise CheckpointError(
            f"{path}: is in use by another process; wait for it, or give another folder"
        ) from None
    except OSError as error:  # as of some network file systems
        print(
            f"warning: {path}: can't be locked ({error.strerror}); let no other process write "
            "there",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        os.close(lock)


def _open_own(path: Path, flags: int) -> int:
    """Opens or makes a file for writing; a link, a pipe or a device isn't opened."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            what = "is a link" if path.is_symlink() else "isn't a regular file"
            raise CheckpointError(f"{path}: {what}; move it away")
    for name in ("O_CREAT", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # not all of them everywhere
        flags |= getattr(os, name, 0)
    return os.open(path, flags, 0o666)


@contextlib.contextmanager
def hold_workdir(path: Path, *, new: bool) -> Iterator[None]:
    """Locks the folder of a new run, which must hold none yet, or of one that is resumed."""
    if not new:
        check_run(path)
    with hold_folder(path):
        if new:
            _check_empty(path)
        yield


def check_free(path: Path) -> None:
    """Raises the CheckpointError that `hold_workdir` would for a new run; makes nothing."""
    check_name(path)
    _check_empty(path)
    try:
        try_to_write(path)
    except OSError as error:
        raise _not_writable(path, error) from None


def _check_empty(path: Path) -> None:
    # Also a run whose config.json is gone: its checkpoints would be resumed.
    if any(os.path.lexists(path / name) for name in (CONFIG, METRICS, RESULTS, CHECKPOINTS)):
        raise CheckpointError(f"{path}: already holds a run; give another folder, or resume it")


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Adds one epoch's line to ``metrics.jsonl``, in one write."""
    with naming(path / METRICS):
        number = _open_own(path / METRICS, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(number, "ab", buffering=0) as file:
            file.write((json.dumps(row) + "\n").encode())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads the epochs' numbers, oldest first; lines that aren't an epoch's are left out.

    A crash may cut the last line short. Of two lines of one step the later one counts.

    Raises:
      CheckpointError: the file is there and can't be read.
    """
    try:
        lines = read_bytes(path / METRICS).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path / METRICS}: can't be read ({error.strerror})") from None
    rows = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            row = parse_json(line)
            if isinstance(row, dict) and all(is_number(row.get(key)) for key in METRICS_FIELDS):
                rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a number that a float can hold."""
    # Not `isfinite`: it raises for an integer beyond all floats.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def keep_metrics(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Drops the epochs after a step, which a resumed run trains again; returns the rest."""
    rows = [row for row in read_metrics(path) if row["step"] <= last_step]
    replace_file(path / METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows


def write_predictions(path: Path, **arrays: "np.ndarray") -> None:
    """Writes ``predictions.npz`` into a run's folder, all or nothing."""
    import numpy as np

    named: dict[str, Any] = arrays  # or pyright takes one for `allow_pickle`
    replace_file(path / PREDICTIONS, lambda file: np.savez_compressed(file, **named))


def identity(path: Path) -> tuple[int, int] | None:
    """Returns what tells a folder from another one that has taken its name; None for none."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def check_run(path: Path) -> None:
    """Raises a CheckpointError where a folder holds no run."""
    check_name(path)
    if not (path / CONFIG).is_file():
        what = f"holds no run (no {CONFIG})" if path.is_dir() else "no such folder"
        raise CheckpointError(f"{path}: {what}; give the folder of a run")


def read_results(path: Path) -> dict[str, Any]:
    """Reads ``results.json`` of a run's folder.

    Raises:
      CheckpointError: no run is there, it isn't finished, or the file isn't a JSON object.
    """
    check_run(path)
    if not (path / RESULTS).exists():
        raise CheckpointError(
            f"{path}: the run isn't finished (no {RESULTS}); finish it with {resume_command(path)}"
        )
    results = read_json(path / RESULTS)
    if not isinstance(results, dict):
        raise CheckpointError(
            f"{path / RESULTS}: isn't a JSON object; finish it with {resume_command(path)}"
        )
    return results


def resume_command(path: Path) -> str:
    """Returns the command that resumes a run, or writes the missing files of a finished one."""
    return f"python -m digits_jax.train --resume --workdir={shlex.quote(str(path))}"


def read_run(path: Path) -> "Run":
    """Reads a finished run's numbers and predictions.

    Raises:
      CheckpointError: as `read_results`, or the predictions are missing or damaged.
    """
    from digits_jax.runs.run import Run

    results = read_results(path)
    try:
        found = read_npz(path / PREDICTIONS)
        names = ("labels", "logits", "validation_labels", "validation_logits")
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"it holds no {missing[0]}")
        arrays = [found[name] for name in names]
        return Run(path.resolve().name, *arrays, results=results, source=str(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(
            f"{path / PREDICTIONS}: can't be read ({str(why).removeprefix(f'{path}: ')}); "
            f"finish it with {resume_command(path)}"
        ) from None
