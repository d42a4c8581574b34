"""A run's folder: the names of its files, and how they are written and read.

    config.json        the configuration, versions, device, data set
    metrics.jsonl      one object per epoch
    checkpoints/       see checkpoint.py, also for last_checkpoint.json
    predictions.npz    labels int32 [n], logits float32 [n, classes], in test-set order;
                       validation_labels, validation_logits likewise
    results.json       the finished run's numbers
    skipped.json       where training stopped on NaN or infinity: the step and its images
    curves.png         loss and accuracy by epoch

Whole files are written aside and renamed, so that a reader sees the old one or the new one.
"""

import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.errors import CheckpointError, DigitsError, shown

if TYPE_CHECKING:  # Importing NumPy takes a tenth of a second, and `--help` comes by here.
    import numpy as np

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
PREDICTIONS = "predictions.npz"
SKIPPED = "skipped.json"
CHECKPOINTS = "checkpoints"
CURVES = "curves.png"
_LOCK = ".lock"
_MAX_JSON_BYTES = 50_000_000
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


def new_workdir(name: str, root: Path = Path("runs")) -> Path:
    """Makes a folder that wasn't there: root/name, or root/name-2, root/name-3, ...

    Raises:
      CheckpointError: it can't be written.

    Example:
      >>> import tempfile
      >>> root = Path(tempfile.mkdtemp())
      >>> [new_workdir("cnn-mnist", root).name for _ in range(2)]
      ['cnn-mnist', 'cnn-mnist-2']
    """
    for number in itertools.count(1):
        path = root / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise _not_writable(path, error) from None
    raise AssertionError("count() doesn't end")


def _not_writable(path, error, flag="--workdir"):
    return CheckpointError(
        f"{flag}={path} can't be written ({error.strerror}); give a folder that can"
    )


@contextlib.contextmanager
def hold_folder(path: Path, flag: str) -> Iterator[None]:
    """Makes a folder where there is none, and keeps it to this process while it writes there.

    The lock is the operating system's: it goes with the process, however that ends.

    Args:
      path: the folder.
      flag: that gave it, for the errors.

    Raises:
      CheckpointError: it can't be written, or another process has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path / _LOCK, "w"))
        except OSError as error:
            raise _not_writable(path, error, flag) from None
        _lock(lock, path, flag)
        yield


@contextlib.contextmanager
def hold_workdir(path: Path, *, new: bool) -> Iterator[None]:
    """Keeps a run's folder to this process while it writes there.

    Args:
      path: the folder.
      new: make it, for a run that is about to start; else it holds one already.

    Raises:
      CheckpointError: it can't be written, another process has it, or (``new``) it holds a run.
    """
    if not new:
        check_run(path)
    with hold_folder(path, "--workdir"):
        if new and _holds_a_run(path):
            raise _taken(path)
        yield


def check_free(path: Path) -> None:
    """Raises an DigitsError where `hold_workdir` would, for a new run; makes nothing."""
    if _holds_a_run(path):
        raise _taken(path)
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    try:
        # By trying: permissions don't tell all (nor do they bind root).
        with tempfile.TemporaryDirectory(prefix=".digits_jax-", dir=there):
            pass
    except OSError as error:
        raise _not_writable(path, error) from None


def _holds_a_run(path):
    # What is left of a run whose config.json is gone counts: orbax would keep its checkpoints.
    return any((path / name).exists() for name in (CONFIG, METRICS, RESULTS, CHECKPOINTS))


def _taken(path):
    return CheckpointError(
        f"--workdir={path} already holds a run; give another folder, or --resume to go on with it"
    )


def _lock(file, path, flag):
    try:
        import fcntl
    except ImportError:
        return  # Windows has no flock: two processes aren't kept apart there.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(
            f"{flag}={path} is in use by another process; wait for it, or give another folder"
        ) from None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all; NaN and infinity, which JSON hasn't, are an error."""
    replace_files({path: as_json(value)})


def as_json(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
      CheckpointError: it can't be read, or isn't JSON, which has neither NaN nor infinity.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(size) if size <= _MAX_JSON_BYTES else None
        if data is None:
            raise CheckpointError(f"{path}: has more than {_MAX_JSON_BYTES:,} bytes; is it ours?")
        return json.loads(data.decode(), parse_float=_finite, parse_constant=_finite)
    except DigitsError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path}: isn't JSON; was it changed by hand?") from None


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} isn't a finite number")
    return value


def write_predictions(path: Path, **arrays: "np.ndarray") -> None:
    """Writes ``predictions.npz`` into a run's folder, whole or not at all."""
    import numpy as np

    replace_file(path / PREDICTIONS, lambda file: np.savez_compressed(file, **arrays))


def replace_file(path: Path, write: Callable[[Any], object]) -> None:
    """Calls ``write`` with a file aside, and renames it into place when it is whole."""
    with _aside(path) as aside:
        with naming(path), open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)


def replace_files(files: dict[Path, bytes]) -> None:
    """Writes files that belong together: none is renamed into place before all are whole."""
    with contextlib.ExitStack() as stack:
        asides = {path: stack.enter_context(_aside(path)) for path in files}
        for path, data in files.items():
            with naming(path), open(asides[path], "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, aside in asides.items():
            os.replace(aside, path)


@contextlib.contextmanager
def _aside(path):
    """The name of a file beside another, which is gone in the end."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def append_metrics(path: Path, row: dict[str, Any]) -> None:
    """Adds one epoch's line to ``metrics.jsonl``; in one write, so that it is there or it isn't."""
    with naming(path / METRICS), open(path / METRICS, "ab", buffering=0) as file:
        file.write((json.dumps(row) + "\n").encode())


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts a file's name into the operating system's error: a write doesn't say where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The epochs' numbers, oldest first; lines that are none are left out.

    The last line may be cut short by a crash, and a hand may have been in the file. Of two lines
    of one step the later one counts.

    Raises:
      CheckpointError: the file is there and can't be read.
    """
    try:
        with open(path / METRICS, "rb") as file:
            rows = {row["step"]: row for row in _metrics_rows(file)}
            return [rows[step] for step in sorted(rows)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path / METRICS}: can't be read ({error.strerror})") from None


def _metrics_rows(file):
    # No line is longer than this, not even in a disk's gigabytes of zeros.
    for line in iter(lambda: file.readline(_MAX_JSON_BYTES), b""):
        try:
            row = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            continue
        if _is_metrics_row(row):
            yield row


def _is_metrics_row(row):
    # Exactly these: whoever reads on counts on them.
    return (
        isinstance(row, dict)
        and all(type(row.get(name)) in (int, float) for name in METRICS_FIELDS)
        # Not `isfinite`: it raises for an integer beyond all floats.
        and all(abs(row[name]) <= sys.float_info.max for name in METRICS_FIELDS)
    )


def keep_metrics(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Drops the epochs after a step, which a resumed run will do again; returns the rest."""
    rows = [row for row in read_metrics(path) if row["step"] <= last_step]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    replace_file(path / METRICS, lambda file: file.write(text.encode()))
    return rows


@dataclass(frozen=True)
class Run:
    """A finished run, as others read it.

    Attributes:
      path: its folder.
      results: what is in ``results.json``.
      labels: int32 [n], of the test set.
      logits: float32 [n, classes].
      validation_labels, validation_logits: likewise, of the validation split.
    """

    path: Path
    results: dict[str, Any]
    labels: "np.ndarray"
    logits: "np.ndarray"
    validation_labels: "np.ndarray"
    validation_logits: "np.ndarray"


def read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a run's folder.

    Raises:
      CheckpointError: no such folder, no run in it, one that isn't finished, or no object in it.
    """
    check_run(path)
    if not (path / RESULTS).exists():
        raise CheckpointError(
            f"{path}: the run isn't finished (no {RESULTS}); "
            f"finish it with python -m digits_jax.train --resume --workdir={path}"
        )
    results = read_json(path / RESULTS)
    if not isinstance(results, dict):
        raise CheckpointError(
            f"{path / RESULTS}: isn't an object with a run's numbers; train it again"
        )
    return results


def read_run(path: Path) -> Run:
    """A finished run's numbers and predictions.

    Raises:
      CheckpointError: as `read_results`, or predictions that are missing or damaged.
    """
    from digits_jax.runs.arrays import read_npz

    results = read_results(path)
    names = ("labels", "logits", "validation_labels", "validation_logits")
    try:
        found = read_npz(path / PREDICTIONS)
        arrays = {name: found[name] for name in names}
        for part in ("", "validation_"):
            _check_predictions(arrays[f"{part}labels"], arrays[f"{part}logits"])
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: has no {PREDICTIONS}; "
            f"write it with python -m digits_jax.train --resume --workdir={path}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path / PREDICTIONS}: can't be read ({error.strerror})") from None
    except KeyError as error:
        raise CheckpointError(
            f"{path / PREDICTIONS}: can't be read (no {error}); is it whole?"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path / PREDICTIONS}: can't be read ({shown(str(error))}); is it whole?"
        ) from None
    return Run(path, results, **arrays)


def _check_predictions(labels, logits):
    """Raises a ValueError where they aren't as `Run` has them."""
    import numpy as np

    if (labels.dtype, logits.dtype, labels.ndim, logits.ndim) != (np.int32, np.float32, 1, 2):
        raise ValueError("labels aren't int32 [n], or logits not float32 [n, classes]")
    if len(labels) != len(logits) or not np.isfinite(logits).all():
        raise ValueError("logits aren't finite numbers, a row for each label")
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"labels are from {labels.min()} to {labels.max()}")


def check_run(path: Path) -> None:
    """Raises an DigitsError where a folder holds no run."""
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise CheckpointError(f"{path}: {what}; give the folder of a run")
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path}: holds no run (no {CONFIG}); give the folder of a run")
