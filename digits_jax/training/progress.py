"""What a person sees of a training: a bar on a terminal, lines elsewhere, TensorBoard."""

import contextlib
import os
import sys
import time
from pathlib import Path

from digits_jax.runs.folder import naming

PLAIN_LINE_EVERY_SECONDS = 10.0


class Progress:
    """Shows a run's progress on standard error; use as a context manager.

    Args:
      total_steps: of the run.
      first_step: where it starts.
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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def update(self, step: int, totals: dict[str, float], batch_size: int) -> None:
        """Shows the state after a step.

        Args:
          step: completed steps.
          totals: "loss", "correct", "count" and "skipped", summed over the epoch so far.
          batch_size: images in a step.
        """
        plain_is_due = time.monotonic() - self._last_line > PLAIN_LINE_EVERY_SECONDS
        if self._bar is None and not plain_is_due:
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


class ScalarLog:
    """TensorBoard event files in a run's folder, where tensorboardX is installed.

    Args:
      path: the folder.
    """

    def __init__(self, path: Path):
        self._path, self._writer = path, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._writer is not None:
            with contextlib.suppress(OSError):  # what matters has been written by others
                self._writer.close()

    def write(self, row: dict[str, float]) -> None:
        """Adds an epoch's numbers, at its step."""
        from digits_jax.training import events

        if not events.installed():
            return
        with naming(self._path / "events.out.tfevents"):
            if self._writer is None:
                self._writer = events.EventFile(self._path / "events")
            self._writer.write(row["step"], {k: v for k, v in row.items() if k != "step"})
