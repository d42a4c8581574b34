"""Progress of a training: a bar on a terminal, lines elsewhere, TensorBoard on request."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from digits_jax.training.scoring import Score
from digits_jax.training.setup import TrainSetup

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Shows a run's progress on standard error; use it as a context manager.

    Args:
      first_step: completed steps when it starts.
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
        """Shows a step and the sums over its epoch so far."""
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
        if self._bar is not None:
            self._bar.write(text)
        elif not self._quiet:
            print(text, flush=True)


def open_tensorboard(path: Path) -> Any:
    """Opens a TensorBoard writer for a run's folder."""
    # Not imported unless it is asked for: it imports PyTorch wherever that is installed, which
    # takes 2 seconds and 500 MB.
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(path))


def write_scalars(writer: Any, row: dict[str, float]) -> None:
    """Adds an epoch's numbers, at its step."""
    for name, value in row.items():
        if name != "step":
            writer.add_scalar(name, value, row["step"])
    writer.flush()


def epoch_row(
    setup: TrainSetup, step: int, totals: dict[str, float], validation: Score
) -> dict[str, Any]:
    """Returns what ``metrics.jsonl`` says about an epoch that ends with a step."""
    # Means over the steps that weren't skipped; 0 if all were.
    count = max(totals["count"], 1)
    return {
        "step": step,
        "epoch": step * setup.config.batch_size / len(setup.dataset.train),
        "train_loss": totals["loss"] / count,
        "train_accuracy": totals["correct"] / count,
        "validation_loss": validation.loss,
        "validation_accuracy": validation.accuracy,
        "learning_rate": float(setup.schedule(step - 1)),
        "skipped_steps": int(totals["skipped"]),
        "train_seconds": totals["train_seconds"],
    }


def epoch_line(rows: Sequence[dict[str, Any]], epoch: float, epochs: float) -> str:
    """Describes an epoch for a person; of several networks their means, and the range."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    skipped = sum(row["skipped_steps"] for row in rows)
    accuracies = [row["validation_accuracy"] for row in rows]
    spread = f" ({min(accuracies):.2%} to {max(accuracies):.2%})" if len(rows) > 1 else ""
    return (
        f"epoch {epoch:g}/{epochs:g}: loss {mean['train_loss']:.4f}, "
        f"accuracy {mean['train_accuracy']:.2%}; "
        f"validation accuracy {mean['validation_accuracy']:.2%}, {mean['train_seconds']:.1f} s"
        + (f"; {skipped} steps skipped" if skipped else "")
        + spread
    )
