"""Checkpoints: orbax, waited for and closed.

A checkpoint holds a pytree (the training state) and a small dictionary of numbers (what the
loop needs to go on in the middle of an epoch).
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

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

        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree), progress=ocp.args.JsonSave(progress)
            ),
        )
        # A save that isn't waited for is lost at exit, with status 0.
        self._manager.wait_until_finished()
        return saved

    def restore(self, step: int, abstract_tree: Any) -> tuple[Any, dict[str, float]]:
        """Restores a step into the shapes, dtypes and shardings of a tree.

        Args:
          step: one that is there.
          abstract_tree: of arrays or `jax.ShapeDtypeStruct`.

        Raises:
          InputError: the checkpoint is damaged or holds another tree.
        """
        import orbax.checkpoint as ocp

        try:
            with _without_leftovers():
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract_tree),
                        progress=ocp.args.JsonRestore(),
                    ),
                )
        except Exception as error:  # tensorstore's, orbax's and json's, by what is damaged
            raise InputError(
                f"{self._path / str(step)}: the checkpoint can't be restored "
                f"({_first_line(error)}); delete that folder to go back to the one before"
            ) from None
        return restored.state, restored.progress


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
