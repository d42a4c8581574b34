"""Progress of a training: a bar on a terminal, lines elsewhere, TensorBoard on request."""

import os
import sys
import time
from pathlib import Path
from typing import Any, Self

from digits_jax.errors import ConfigError

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Shows a run's progress on standard error; use it as a context manager.

    Args:
      total_steps: of the run.
      first_step: completed steps when it starts.
      quiet: show nothing at all.
    """

    def __init__(self, total_steps: int, first_step: int = 0, *, quiet: bool = False):
        self._total, self._first, self._quiet = total_steps, first_step, quiet
        self._bar = None
        self._started = self._last_line = time.monotonic()
        if not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from tqdm import tqdm

            self._bar = tqdm(
                total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, leave=False
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, step: int, totals: dict[str, float], batch_size: int) -> None:
        """Shows the state after a step.

        Args:
          step: completed steps.
          totals: "loss", "correct", "count" and "skipped", summed over the epoch so far.
          batch_size: images in a step.
        """
        if self._bar is None and time.monotonic() - self._last_line < LINE_EVERY_SECONDS:
            return
        speed = (step - self._first) * batch_size / (time.monotonic() - self._started)
        count = max(totals["count"], 1)
        text = (
            f"loss {totals['loss'] / count:.4f}, "
            f"accuracy {totals['correct'] / count:.2%}, {speed:,.0f} images/s"
        )
        if totals["skipped"]:
            text += f", {totals['skipped']:.0f} steps skipped"
        if self._bar is None:
            self.line(f"step {step}/{self._total}: {text}")
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def line(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self._last_line = time.monotonic()
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.clear()
        print(text, flush=True)
        if self._bar is not None:
            self._bar.refresh()


def open_tensorboard(path: Path) -> Any:
    """Opens a TensorBoard writer for a run's folder.

    Raises:
      ConfigError: tensorboardX isn't installed.
    """
    # Not imported unless it is asked for: it imports PyTorch wherever that is installed, which
    # takes 2 seconds and 500 MB.
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError(
            'tensorboard: tensorboardX is not installed; pip install "digits_jax[tensorboard]"'
        ) from None
    return SummaryWriter(str(path))


def write_scalars(writer: Any, row: dict[str, float]) -> None:
    """Adds an epoch's numbers, at its step."""
    for name, value in row.items():
        if name != "step":
            writer.add_scalar(name, value, row["step"])
    writer.flush()
