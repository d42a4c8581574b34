"""The curves of a training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from digits_jax.figure_style import BLUE, ORANGE, WIDE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def draw_curves(rows: Sequence[dict[str, Any]], title: str) -> "Figure":
    """Draws loss and error rate, training and validation, against epochs.

    Args:
      rows: what ``metrics.jsonl`` holds; "epoch", "train_loss", "train_accuracy",
        "validation_loss" and "validation_accuracy" are used.
      title: what was trained.
    """
    from matplotlib.ticker import MaxNLocator

    accuracy = rows[-1]["validation_accuracy"]
    figure = new_figure(f"{title}: validation accuracy {accuracy:.2%} at the end", WIDE, 3.3)
    loss, error = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    splits = {"train": ("training", BLUE), "validation": ("validation", ORANGE)}
    errors = 100 * (1 - np.array([[row[f"{split}_accuracy"] for row in rows] for split in splits]))
    for values, (split, (name, color)) in zip(errors, splits.items(), strict=True):
        look: dict[str, Any] = {"color": color, "marker": "o", "markersize": 3}
        loss.plot(epochs, [row[f"{split}_loss"] for row in rows], label=name, **look)
        error.plot(epochs, values, **look)
    loss.set_ylabel("cross-entropy (nats)")
    error.set_ylabel("error rate (%)")
    # A log axis has no place for zero: below the least error, a linear piece down to it.
    least = float(min(errors[errors > 0], default=1.0))
    error.set_yscale("symlog", linthresh=least, linscale=0.4, subs=(2, 5))
    error.set_ylim(bottom=0 if (errors == 0).any() else 0.9 * least)
    # Error rates often span less than a factor of ten: 2 and 5 of a decade get labels, too.
    error.yaxis.set_major_formatter("{x:g}")
    error.yaxis.set_minor_formatter("{x:g}")
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.7)
    loss.legend()
    return figure
