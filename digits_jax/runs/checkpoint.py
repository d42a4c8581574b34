"""Checkpoints: arrays by Orbax, and SHA-256 sums that are verified before a restore.

    checkpoints/12/state/              the training state, as Orbax writes it
    checkpoints/12/values.json         what the training loop saves beside them
    checkpoints/12/SHA256SUMS          of these files, as `sha256sum -c 12/SHA256SUMS` checks them
    checkpoints/.14.incomplete/        a save or a removal that is under way or was killed
    checkpoints/damaged-13-9f86d081/   a damaged step that a resumed run passed over
    last_checkpoint.json               the step that was saved last

A step is written under another name and renamed when all of it is on the disk, sums included.
Where several processes train together, all call these functions and Orbax divides the work.

Orbax's CheckpointManager isn't used: one call of its `save` writes the last files, renames the
step without waiting for the disk, and removes the oldest, with no moment in which sums of all
files could be added. It removes a step in place, so that a kill leaves half of one.
"""

import contextlib
import errno
import hashlib
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from digits_jax.errors import CheckpointError, shown
from digits_jax.files import (
    MAX_JSON_BYTES,
    as_json,
    naming,
    open_regular,
    read_bytes,
    read_json,
    write_json,
)

KEEP = 3
_STATE, _VALUES, _SUMS = "state", "values.json", "SHA256SUMS"
# Beside the folder of the checkpoints: an empty folder can't tell that it held any.
LAST = "last_checkpoint.json"
# What the operating system says of a damaged file or disk. Anything else (too many open files, a
# time-out) says nothing about the file, which may be readable in a minute.
_DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
_DAMAGE = (*_DAMAGE, errno.EFBIG, errno.EIO)


@dataclass(frozen=True)
class Restored:
    """A restored step: its arrays, what was saved beside them, and newer steps that are damaged."""

    step: int
    tree: Any
    values: dict[str, Any]
    damaged: dict[int, str]


def list_steps(path: Path) -> list[int]:
    """Lists the steps in a folder of checkpoints, damaged ones too, oldest first."""
    if path.is_symlink():  # damaged steps would be renamed, and old ones removed, where it leads
        raise CheckpointError(f"{path}: is a link; put the folder itself there")
    if not path.is_dir():
        if path.exists():
            raise CheckpointError(f"{path}: is not a folder; move that file away")
        return []
    names = (entry.name for entry in path.iterdir())
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal() and n == str(int(n)))


def save_checkpoint(path: Path, step: int, tree: Any, values: dict[str, Any]) -> None:
    """Saves a step, waits until it is on the disk, and removes the oldest beyond three.

    Raises:
      CheckpointError: the disk is full or can't be written, the run's folder is gone, or a newer
        step is there; the older checkpoints stay.
    """
    steps = list_steps(path)
    if steps and step <= steps[-1]:
        raise CheckpointError(f"{path}: step {step} can't be saved: step {steps[-1]} is there")
    aside = path / f".{step}.incomplete"
    try:
        if jax.process_index() == 0:
            path.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            _check_space(aside, tree)
        with _orbax() as ocp, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            # It waits for all processes before and after, and takes absolute paths only.
            writer.save((aside / _STATE).absolute(), args=ocp.args.StandardSave(tree))
        if jax.process_index() == 0:
            (aside / _VALUES).write_bytes(as_json(values))
            (aside / _SUMS).write_bytes(_sums(aside, step))
            _sync(aside, *aside.rglob("*"))
            aside.rename(path / str(step))
            _sync(path)
            write_json(path.with_name(LAST), {"step": step})
            for old in steps[: -(KEEP - 1)]:  # under another name: a reader sees all or nothing
                removed = path / f".{old}.incomplete"
                shutil.rmtree(removed, ignore_errors=True)
                (path / str(old)).rename(removed)
                shutil.rmtree(removed, ignore_errors=True)
    except Exception as error:  # the operating system's, Orbax's and TensorStore's
        shutil.rmtree(aside, ignore_errors=True)
        why = _why(error)
        full = why in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
        left = f"step {steps[-1]} is kept" if steps else "there is no earlier one"
        raise CheckpointError(
            f"{path}: step {step} could not be saved ({why}); {left}: "
            f"{'free some space, then ' if full else ''}resume the run"
        ) from None
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {step}")


def _check_space(folder: Path, tree: Any) -> None:
    """Fills as much of the disk as a step needs, for a moment."""
    # Where Orbax runs out of space itself, its threads print a page of tracebacks.
    leaves = jax.tree.leaves(tree)
    # Measured: up to 700 bytes for an array's metadata, and 53 kB for the files.
    size = sum(leaf.nbytes for leaf in leaves) + 1000 * len(leaves) + 100_000
    (folder / "space").write_bytes(bytes(size))
    (folder / "space").unlink()


def restore_newest(
    path: Path, abstract_tree: Any, check: Callable[[int, dict], object] = lambda step, values: None
) -> Restored | None:
    """Restores the newest step that isn't damaged.

    Args:
      abstract_tree: of arrays or `jax.ShapeDtypeStruct`, with the shardings that are wanted.
      check: called with an intact step and its values before its arrays are read; raises a
        CheckpointError where it must not be restored.

    Returns:
      The step; None where none was ever saved.

    Raises:
      CheckpointError: all checkpoints are damaged, or one is intact and can't be read or restored.
    """

    def restore(folder: Path) -> Any:
        _check_arrays(_stored(folder), abstract_tree)
        with _orbax() as ocp, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            return reader.restore(folder, args=ocp.args.StandardRestore(abstract_tree))

    return _newest(path, restore, check)


def _stored(folder: Path) -> dict[str, Any]:
    """What Orbax knows of the arrays of a step, without reading them."""
    for file in (*folder.glob("_*"), *folder.glob("array_metadatas/*")):  # JSON, which it reads
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{file.name} has more than {MAX_JSON_BYTES:,} bytes")
    with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(folder).item_metadata.tree


def _check_arrays(stored: Any, abstract_tree: Any) -> None:
    """Raises a ValueError unless the stored arrays have the shapes and dtypes of a tree."""
    # Orbax would read arrays of any size; and its own errors leave threads that print tracebacks.
    found, wanted = _named(stored), _named(abstract_tree)
    shapes = [
        {name: f"{np.dtype(x.dtype)}{list(x.shape)}" for name, x in named.items()}
        for named in (found, wanted)
    ]
    for name in sorted(found.keys() | wanted.keys()):
        own, other = (each.get(name) for each in shapes)
        if own != other:
            raise ValueError(f"{name} is {own}, not {other}")
        # A chunk is decoded as a whole.
        if math.prod(found[name].storage.chunk_shape) > max(1, math.prod(found[name].shape)):
            raise ValueError(f"{name} is stored in chunks that are larger than the array")


def verify_step(path: Path, step: int, abstract_tree: Any) -> str | None:
    """Says why a step can't be restored as a tree, if one is known; None where it seems to be.

    Raises:
      CheckpointError: it can't be read at the moment.
    """
    if (damage := find_damage(path, step)) or abstract_tree is None:
        return damage
    try:
        _check_arrays(_stored((path / str(step) / _STATE).absolute()), abstract_tree)
    except Exception as error:  # TensorStore's and Orbax's
        return _why(error)
    return None


def read_weights(path: Path, wanted: Any) -> tuple[int, dict[str, Any], dict[int, str]]:
    """Reads the parameters and statistics to classify with: the averages, where a run keeps them.

    Args:
      wanted: {"params": ..., "batch_stats": ...}, the shapes and dtypes of the network's arrays.

    Returns:
      The newest step that isn't damaged; {"params": ..., "batch_stats": ...} of NumPy arrays,
      whatever devices they were saved from; and `Restored.damaged`.

    Raises:
      CheckpointError: there is no checkpoint, or as `restore_newest`.
    """

    def restore(folder: Path) -> Any:
        tree = _stored(folder)
        names = ("average",) if tree.get("average") else ("params", "batch_stats")
        stored = {name: tree[name] for name in names if name in tree}
        _check_arrays(stored.get("average", stored), wanted)
        with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            item = jax.tree.map(lambda _: 0, stored)
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            args = ocp.args.PyTreeRestore(item, restore_args=as_numpy, partial_restore=True)
            weights = reader.restore(folder, args=args)
            return {"batch_stats": {}, **weights.get("average", weights)}

    found = _newest(path, restore, check=lambda step, values: None)
    if found is None:
        raise CheckpointError(f"{path}: holds no checkpoint; train the run first")
    weights = {name: found.tree[name] for name in ("params", "batch_stats")}
    return found.step, weights, found.damaged


def _newest(
    path: Path, restore: Callable[[Path], Any], check: Callable[[int, dict], object]
) -> Restored | None:
    damaged: dict[int, str] = {}
    for step in reversed(list_steps(path)):
        folder = (path / str(step)).absolute()
        if damage := find_damage(path, step):
            damaged[step] = damage
            continue
        values = read_values(path, step)
        check(step, values)
        try:
            tree = restore(folder / _STATE)
        except Exception as error:  # TensorStore's, Orbax's and json's
            raise CheckpointError(
                f"{folder}: can't be restored though its files are intact ({_why(error)}); "
                "nothing was changed: check the configuration, or try again"
            ) from None
        not_finite = [
            name for name, x in _named(tree).items() if not np.isfinite(np.asarray(x)).all()
        ]
        if not not_finite:
            return Restored(step, tree, values, damaged)
        damaged[step] = f"{not_finite[0]} holds NaN or infinity"
    if damaged:
        all_of_them = "; ".join(f"step {step}: {damage}" for step, damage in damaged.items())
        raise CheckpointError(
            f"{path}: no checkpoint can be restored ({all_of_them}); "
            "put back a copy of one, or train the run again in another folder"
        )
    return None


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def last_saved(path: Path) -> int | None:
    """Reads which step was saved last, even if it is gone; None for none."""
    try:
        step = read_json(path.with_name(LAST))["step"]
    except (CheckpointError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def find_damage(path: Path, step: int) -> str | None:
    """Names the first file of a step that is damaged; None where all match their SHA-256 sums.

    Raises:
      CheckpointError: a file can't be read at the moment, which isn't damage.
    """
    folder = path / str(step)
    try:
        written = read_bytes(folder / _SUMS)
        found = _sums(folder, step)
    except OSError as error:
        if error.errno not in _DAMAGE:
            why = f"{error.filename}: can't be read ({error.strerror})"
            raise CheckpointError(f"{why}; nothing was changed: try again") from None
        if not (folder / _SUMS).exists():
            return f"has no {_SUMS}: the save wasn't finished"
        return f"{shown(error.filename)}: can't be read ({error.strerror})"
    if written == found:
        return None
    lines = set(written.decode(errors="replace").splitlines()) ^ set(found.decode().splitlines())
    name = min((line.partition("  ")[2] for line in lines), default="") or _SUMS
    return f"{shown(name)}: doesn't match {_SUMS}"


def read_values(path: Path, step: int) -> dict[str, Any]:
    """Reads what was saved beside the arrays of a step."""
    values = read_json(path / str(step) / _VALUES)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path / str(step) / _VALUES}: isn't a JSON object; train again")
    return values


def newest_good(path: Path) -> int | None:
    """Finds the newest step whose files are intact; None where there is none."""
    return next((n for n in reversed(list_steps(path)) if find_damage(path, n) is None), None)


def clear_up(path: Path, damaged: dict[int, str]) -> None:
    """Prepares for the next save: renames `Restored.damaged` steps, removes incomplete ones."""
    if jax.process_index() == 0 and path.is_dir():
        for step in damaged:
            (path / str(step)).rename(path / f"damaged-{step}-{secrets.token_hex(4)}")
        for entry in path.glob(".*.incomplete"):
            shutil.rmtree(entry, ignore_errors=True)


def _sums(folder: Path, step: int) -> bytes:
    """What is in ``SHA256SUMS``, with names as seen from the folder of the checkpoints."""
    lines = []
    for path in sorted(folder.rglob("*")):
        # Hidden files aren't ours: file managers and network file systems leave some.
        if path.is_file() and path.name != _SUMS and not path.name.startswith("."):
            with naming(path), open_regular(path) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  {step}/{path.relative_to(folder).as_posix()}\n")
    return "".join(lines).encode()


def _sync(*paths: Path) -> None:
    """Waits until files, and folders' lists of files, are on the disk."""
    for path in paths if os.name == "posix" else ():  # Windows can't sync a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Imports Orbax, which takes 0.2 s, and silences what it logs of each save."""
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield ocp
    finally:
        logger.setLevel(level)


def _why(error: Exception) -> str:
    """What the operating system says in three words, within what TensorStore says in many."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE)
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    known = (os.strerror(number) for number in numbers)
    return next((words for words in known if words in text), text.splitlines()[0][:200])


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Returns shapes and dtypes of a pytree's arrays, with a sharding where one is given."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def tree_sha256(tree: Any) -> str:
    """Computes SHA-256 over the bytes of a pytree's arrays, in the order of their path names.

    Examples:
      >>> tree_sha256({"b": np.zeros(2), "a": np.ones(2)}) == tree_sha256(
      ...     {"a": np.ones(2), "b": np.zeros(2)})
      True
    """
    digest = hashlib.sha256()
    for _, leaf in sorted(_named(tree).items()):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
