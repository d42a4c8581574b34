"""A training's loss and accuracy by epoch, as a picture."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's, told apart by the colour-blind too


def plot_curves(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draws loss and error rate, training and validation, against epochs.

    Args:
      rows: what ``metrics.jsonl`` holds; "epoch", "train_loss", "train_accuracy",
        "validation_loss" and "validation_accuracy" are read.
      path: of the PNG.
      title: what was trained.

    Example:
      >>> import tempfile
      >>> row = {"epoch": 1, "train_loss": 0.3, "train_accuracy": 0.9, "validation_loss": 0.2,
      ...        "validation_accuracy": 0.95}
      >>> path = Path(tempfile.mkdtemp()) / "curves.png"
      >>> plot_curves([row], path, title="mlp")
      >>> path.stat().st_size > 1000
      True
    """
    # Matplotlib warns at length where there is no home folder to keep its font list in.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # Not pyplot, which keeps every figure in a global list and chooses a backend for screens.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss, error = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for split, colour in (("train", BLUE), ("validation", ORANGE)):
        name = "training" if split == "train" else split
        style = {"color": colour, "label": name, "marker": "o", "markersize": 3}
        loss.plot(epochs, [row[f"{split}_loss"] for row in rows], **style)
        errors = np.array([100 * (1 - row[f"{split}_accuracy"]) for row in rows])
        error.plot(epochs, errors, **style)
    loss.set_ylabel("cross-entropy (nats)")
    error.set_ylabel("error rate (%)")
    errors = np.ravel([[row["train_accuracy"], row["validation_accuracy"]] for row in rows])
    positive = 100 * (1 - errors[errors < 1])
    least = positive.min() if len(positive) else 1.0
    if (errors == 1).any():
        # A log axis has no place for zero: below the least error, a linear piece down to it.
        error.set_yscale("symlog", linthresh=least, linscale=0.4)
        error.set_ylim(bottom=0)
    else:
        error.set_yscale("log")
    # Sub-decade ticks get labels: error rates often span less than a factor of ten.
    error.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: "" if 0 < value < 0.9 * least else f"{value:g}")
    )
    error.yaxis.set_minor_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        if any(e > 0 for e in np.ravel([100 * (1 - r["validation_accuracy"]) for r in rows]))
        else NullFormatter()
    )
    for axes in (loss, error):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False)
    last = rows[-1]["validation_accuracy"]
    figure.suptitle(f"{title}: {last:.2%} right on the validation split at the end")
    figure.savefig(path)
