"""Checkpoints: arrays by orbax, each step whole or not there, each noticed when it is damaged.

    checkpoints/12/state/           the training state, as orbax writes it
    checkpoints/12/manifest.json    see manifest.py
    checkpoints/.14.saving/         a save under way, or what is left of one that was killed
    checkpoints/damaged-13/         what a resumed run found damaged, and went behind
    last_checkpoint.json            the step that was saved last

A step is saved aside and renamed when all of it, manifest included, is on the disk. Where several
processes train together, each calls these functions, and orbax divides the work.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from digits_jax.errors import CheckpointError, DigitsError
from digits_jax.runs.folder import read_json, replace_file
from digits_jax.runs.manifest import (
    DamagedError,
    Manifest,
    read_manifest,
    sync_folder,
    write_manifest,
)

KEEP = 3
_STATE = "state"
# Beside the folder of the checkpoints: a folder that was emptied can't tell that it held any.
LAST = "last_checkpoint.json"


@dataclass(frozen=True)
class Restored:
    """A step that was whole.

    Attributes:
      step: completed updates.
      tree: its arrays.
      values: what was noted beside them.
      damaged: newer steps that weren't, and what is wrong with each, in words.
    """

    step: int
    tree: Any
    values: dict[str, Any]
    damaged: dict[int, str]


def list_steps(path: Path) -> list[int]:
    """The steps in a folder of checkpoints, whole or not, oldest first.

    Example:
      >>> list_steps(Path("no such folder"))
      []
    """
    if not path.is_dir():
        if path.exists():
            raise CheckpointError(f"{path} is not a folder; move that file away")
        return []
    names = (entry.name for entry in path.iterdir())
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal() and n == str(int(n)))


def save_checkpoint(path: Path, step: int, tree: Any, values: dict[str, Any]) -> None:
    """Saves a step, waits until it is whole on disk, and drops the oldest beyond three.

    Args:
      path: the folder of the checkpoints; made where it isn't there.
      step: after all that are there.
      tree: of arrays.
      values: JSON values, finite.

    Raises:
      CheckpointError: the disk is full or can't be written, or a step that is not the newest; older
        checkpoints stay.
    """
    steps = list_steps(path)
    if steps and step <= steps[-1]:
        raise CheckpointError(
            f"{path}: step {step} can't be saved, as step {steps[-1]} is there already"
        )
    aside = path / f".{step}.saving"
    try:
        if jax.process_index() == 0:
            _remove(aside)
            aside.mkdir(parents=True)
        _wait_for_all(f"save {step}")
        with _orbax() as ocp, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            # Orbax takes absolute paths only, and says so late.
            writer.save((aside / _STATE).absolute(), args=ocp.args.StandardSave(tree))
        if jax.process_index() == 0:
            write_manifest(aside, step, values)
            aside.rename(path / str(step))
            sync_folder(path)
            noted = json.dumps({"step": step}) + "\n"
            replace_file(path.with_name(LAST), lambda file: file.write(noted.encode()))
            # Only now: the newest is whole, so the last good one is never dropped.
            for old in steps[: -(KEEP - 1)]:
                _remove(path / str(old))
    except Exception as error:  # the operating system's, orbax's and tensorstore's
        with contextlib.suppress(OSError):
            _remove(aside)
        left = f"step {steps[-1]} is kept" if steps else "no earlier one is there"
        raise CheckpointError(
            f"{path}: step {step} could not be saved ({_why(error)}); {left}: "
            "free some space, then go on with --resume"
        ) from None
    _wait_for_all(f"saved {step}")


def _remove(path):
    """Removes a folder, under another name first: a reader sees all of it or nothing."""
    gone = path.with_name(f".{path.name.strip('.')}.removing")
    shutil.rmtree(gone, ignore_errors=True)
    if path.exists():
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _wait_for_all(name):
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def restore_newest(
    path: Path, abstract_tree: Any, check: Callable[[int, dict], None] = lambda step, values: None
) -> Restored | None:
    """Restores the newest step that is whole.

    Args:
      path: the folder of the checkpoints.
      abstract_tree: of arrays or `jax.ShapeDtypeStruct`, with the shardings that are wanted.
      check: called with the step and its values before anything is restored; raises an
        DigitsError where it isn't to be.

    Returns:
      The step; None where none was ever saved.

    Raises:
      CheckpointError: there are checkpoints and none is whole, or ``check``'s.
    """

    def restore(step):
        with _orbax() as ocp, ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            args = ocp.args.StandardRestore(abstract_tree)
            return reader.restore((path / str(step) / _STATE).absolute(), args=args)

    return _newest(path, restore, check)


def read_weights(path: Path) -> tuple[int, dict[str, Any], dict[int, str]]:
    """The newest whole step's parameters and statistics to recognise with.

    Those are the averages, where the run keeps them; the optimizer's state isn't read.

    Args:
      path: the folder of the checkpoints.

    Returns:
      The step; {"params": ..., "batch_stats": ...} of NumPy arrays, whatever devices they were
      saved from; and newer steps that are damaged, as in `Restored`.

    Raises:
      CheckpointError: there is no checkpoint, or none is whole.
    """

    def restore(step):
        folder = (path / str(step) / _STATE).absolute()
        with _orbax() as ocp, ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(folder).item_metadata.tree
            names = ("average",) if tree.get("average") else ("params", "batch_stats")
            wanted = jax.tree.map(lambda _: 0, {name: tree[name] for name in names if name in tree})
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
            weights = reader.restore(folder, args=args)
            return {"batch_stats": {}, **weights.get("average", weights)}

    found = _newest(path, restore)
    if found is None:
        raise CheckpointError(f"{path}: holds no checkpoint; train the run first")
    weights = {name: found.tree[name] for name in ("params", "batch_stats")}
    return found.step, weights, found.damaged


def _newest(path, restore, check=lambda step, values: None):
    damaged = {}
    for step in reversed(list_steps(path)):
        try:
            manifest = inspect_step(path, step)
            check(step, manifest.values)
            tree = _restored(step, restore)
            return Restored(step, tree, manifest.values, damaged)
        except DamagedError as error:
            damaged[step] = str(error)
    if damaged:
        all_of_them = "; ".join(f"step {step}: {why}" for step, why in damaged.items())
        raise CheckpointError(
            f"{path}: no checkpoint can be restored ({all_of_them}); "
            "put back a copy of one, or train the run anew, in another folder"
        )
    return None


def _restored(step, restore):
    try:
        tree = restore(step)
    except Exception as error:  # tensorstore's, orbax's and json's
        raise DamagedError(f"can't be restored ({_first_line(error)})") from None
    for place, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(place, simple=True, separator="/")
            raise DamagedError(f"{name} holds NaN or infinity")
    return tree


def last_saved(path: Path) -> int | None:
    """The step that was saved last, whether or not it is still there; None for none.

    Args:
      path: the folder of the checkpoints.
    """
    try:
        step = read_json(path.with_name(LAST))["step"]
    except (DigitsError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def inspect_step(path: Path, step: int) -> Manifest:
    """What a step's manifest says, each of its files checked.

    Raises:
      DamagedError: the step isn't whole.
    """
    manifest = read_manifest(path / str(step))
    if manifest.step != step:
        raise DamagedError(f"is step {manifest.step} under another name")
    return manifest


def newest_good(path: Path) -> int | None:
    """The newest step whose files are what its manifest says; None where there is none."""
    for step in reversed(list_steps(path)):
        with contextlib.suppress(DamagedError):
            return inspect_step(path, step).step
    return None


def clear_up(path: Path, damaged: dict[int, str]) -> None:
    """Makes a folder ready to be saved to: steps that are damaged step aside, leftovers go.

    Args:
      path: the folder of the checkpoints.
      damaged: as in `Restored`.
    """
    if jax.process_index() == 0 and path.is_dir():
        for step in damaged:
            aside, number = path / f"damaged-{step}", 1
            while aside.exists():
                number += 1
                aside = path / f"damaged-{step}-{number}"
            (path / str(step)).rename(aside)
        for entry in path.glob(".*.saving"):
            _remove(entry)
        for entry in path.glob(".*.removing"):
            shutil.rmtree(entry, ignore_errors=True)
    _wait_for_all("cleared up")


@contextlib.contextmanager
def _orbax():
    """Orbax, quiet: it logs each save, warns of what has no effect, and logs what it raises too.

    The reads and writes that it leaves behind where one of them failed are left to an event loop
    that is closed; Python would print a traceback for each, whenever it notices: so after a
    failure the hook stays.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def quiet(unraisable):
        text = str(unraisable.exc_value)
        if "Event loop is closed" not in text and "error while reading array" not in text:
            hook(unraisable)

    sys.unraisablehook = quiet
    try:
        yield ocp
    except BaseException:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    sys.unraisablehook = hook


def _why(error):
    """Orbax and tensorstore say at length what the operating system says in three words."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(number) in str(error):
            return os.strerror(number)
    return _first_line(error)


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Shapes and dtypes of a pytree's arrays, with a sharding where one is given."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def tree_sha256(tree: Any) -> str:
    """SHA-256 over the bytes of a pytree's arrays, in the order of their sorted path names.

    Example:
      >>> tree_sha256({"b": np.zeros(2), "a": np.ones(2)}) == tree_sha256(
      ...     {"a": np.ones(2), "b": np.zeros(2)})
      True
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    digest = hashlib.sha256()
    for name in sorted(named):
        digest.update(np.ascontiguousarray(named[name]).tobytes())
    return digest.hexdigest()
