"""Checkpoints: orbax, waited for and closed.

A checkpoint holds a pytree (the training state) and a small dictionary of JSON values (what the
loop needs to go on in the middle of an epoch), with the SHA-256 of the pytree's bytes: orbax
restores a flipped bit without a word.
"""

import contextlib
import hashlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.errors import InputError

KEEP = 3


class Checkpoints:
    """The checkpoints of one run; use `open_checkpoints`."""

    def __init__(self, manager: Any, path: Path):
        self._manager, self._path = manager, path

    @property
    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any, progress: dict[str, float]) -> None:
        """Saves and waits until the checkpoint is whole on disk.

        Args:
          step: after all that are there.
          tree: of arrays.
          progress: JSON values.

        Raises:
          InputError: the disk is full or can't be written, or a step that is not the newest;
            older checkpoints stay.
        """
        latest = self.latest_step
        if latest is not None and step <= latest:
            # Orbax would say nothing, and save nothing.
            raise InputError(
                f"{self._path}: step {step} can't be saved, as step {latest} is there already"
            )
        try:
            with _without_leftovers():
                saved = self._save(step, tree, progress)
        except (OSError, ValueError) as error:
            raise InputError(self._not_saved(step, _first_line(error))) from None
        if not saved:
            raise InputError(self._not_saved(step, "orbax declined it"))

    def _not_saved(self, step, why):
        latest = self.latest_step
        left = "no earlier one is there" if latest is None else f"step {latest} is kept"
        return (
            f"{self._path}: step {step} could not be saved ({why}); {left}: "
            "free some space, then go on with --resume"
        )

    def _save(self, step, tree, progress):
        import orbax.checkpoint as ocp

        noted = {"values": progress, "sha256": tree_sha256(tree)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(noted)
            ),
        )
        # A save that isn't waited for is lost at exit, with status 0.
        self._manager.wait_until_finished()
        return saved

    def progress(self, step: int) -> dict[str, Any]:
        """What was noted beside the pytree of a step.

        Raises:
          InputError: it is damaged.
        """
        return self._noted(step)["values"]

    def _noted(self, step):
        import orbax.checkpoint as ocp

        try:
            with _without_leftovers():
                args = ocp.args.Composite(progress=ocp.args.JsonRestore())
                noted = self._manager.restore(step, args=args).progress
            if set(noted) == {"values", "sha256"} and isinstance(noted["values"], dict):
                return noted
            why = "its progress is damaged"
        except Exception as error:  # orbax's and json's, by what is damaged
            why = _first_line(error)
        raise InputError(self._damaged(step, why)) from None

    def _damaged(self, step, why):
        others = [other for other in self._manager.all_steps() if other != step]
        advice = (
            f"delete that folder to go back to step {max(others)}"
            if others
            else "there is no other: train the run anew, in another folder"
        )
        return f"{self._path / str(step)}: the checkpoint can't be restored ({why}); {advice}"

    def restore(self, step: int, abstract_tree: Any) -> tuple[Any, dict[str, float]]:
        """Restores a step into the shapes, dtypes and shardings of a tree.

        Args:
          step: one that is there.
          abstract_tree: of arrays or `jax.ShapeDtypeStruct`.

        Raises:
          InputError: the checkpoint is damaged or holds another tree.
        """
        import orbax.checkpoint as ocp

        noted = self._noted(step)
        try:
            with _without_leftovers():
                args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_tree))
                tree = self._manager.restore(step, args=args).state
        except Exception as error:  # tensorstore's, orbax's and json's, by what is damaged
            raise InputError(self._damaged(step, _first_line(error))) from None
        if tree_sha256(tree) != noted["sha256"]:
            raise InputError(self._damaged(step, "its SHA-256 isn't the one that was noted"))
        return tree, noted["values"]


@contextlib.contextmanager
def _without_leftovers():
    """Keeps quiet about the reads and writes that orbax leaves behind where one of them failed.

    Their event loop is closed, and Python would print a traceback for each, whenever it notices:
    so after a failure the hook stays.
    """
    hook = sys.unraisablehook

    def quiet(unraisable):
        text = str(unraisable.exc_value)
        if "Event loop is closed" not in text and "error while reading array" not in text:
            hook(unraisable)

    sys.unraisablehook = quiet
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it logs the same once more
    yield
    sys.unraisablehook = hook


def _first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def open_checkpoints(path: Path, *, read_only: bool = False) -> Iterator[Checkpoints]:
    """The checkpoints in a folder; closed at the end.

    Args:
      path: the folder; made where it isn't there.
      read_only: never write, nor clean up what a crash left.

    Example:
      >>> import tempfile
      >>> with open_checkpoints(Path(tempfile.mkdtemp())) as checkpoints:
      ...     checkpoints.latest_step is None
      True
    """
    import orbax.checkpoint as ocp

    # Orbax logs each save at INFO, warns of what has no effect on one process, and logs as
    # errors what it raises too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP,
        create=not read_only,
        read_only=read_only,
        # A save takes milliseconds here: a thread would cost more than it hides.
        enable_async_checkpointing=False,
    )
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is not a folder; move that file away")
    # Orbax takes absolute paths only, and says so late.
    manager = ocp.CheckpointManager(path.absolute(), options=options)
    try:
        yield Checkpoints(manager, path)
    finally:
        manager.close()


def abstract(tree: Any, sharding: Any = None) -> Any:
    """Shapes and dtypes of a pytree's arrays, with a sharding where one is given."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def read_weights(path: Path) -> tuple[int, dict[str, Any]]:
    """The newest checkpoint's parameters and statistics, without the optimizer's state.

    Args:
      path: the folder of the checkpoints.

    Returns:
      The step, and {"params": ..., "batch_stats": ...} of NumPy arrays, whatever devices they
      were saved from.

    Raises:
      InputError: there is no checkpoint, or it is damaged.
    """
    import orbax.checkpoint as ocp

    with open_checkpoints(path, read_only=True) as checkpoints:
        step = checkpoints.latest_step
    if step is None:
        raise InputError(f"{path}: holds no checkpoint; train the run first")
    folder = (path / str(step) / "state").absolute()
    try:
        with _without_leftovers(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = reader.metadata(folder).item_metadata
            if found is None:
                raise ValueError("its metadata is gone")
            tree = found.tree
            wanted = {name: jax.tree.map(lambda _: 0, tree[name]) for name in tree}
            wanted = {name: wanted[name] for name in ("params", "batch_stats") if name in wanted}
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
            weights = reader.restore(folder, args=args)
            return step, {
                "params": weights["params"],
                "batch_stats": weights.get("batch_stats", {}),
            }
    except Exception as error:  # tensorstore's, orbax's and json's, by what is damaged
        raise InputError(
            f"{folder.parent}: the checkpoint can't be restored ({_first_line(error)}); "
            "delete that folder to go back to the one before"
        ) from None


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
