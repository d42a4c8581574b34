"""The report of a comparison: ten lines, tables, and a folder with a web page and its numbers.

    overlap.json      every number, see `Comparison.to_dict`
    report.html       one self-contained page
    report.md         the same lines and tables; its figures are the PNG files beside it
    examples.csv      the prediction of every run for every test image

The texts are in templates/text.j2. The folder is written aside and renamed: a report is complete
or absent.
"""

import base64
import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from digits_jax import formatting
from digits_jax.errors import DataError
from digits_jax.evaluation import plots
from digits_jax.evaluation.calibration import BINS, negative_log_likelihood
from digits_jax.evaluation.comparison import ALPHA, Comparison
from digits_jax.evaluation.error_analysis import ErrorChange
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.figure_style import save_figure
from digits_jax.files import try_to_write
from digits_jax.formatting import (
    count,
    csv_cell,
    fixed,
    interval,
    p_value,
    percent,
    plain,
    template,
)

OVERLAP = "overlap.json"
_TEMPLATES = Path(__file__).with_name("templates")


def _number(value: float | None) -> str:
    return fixed(value, 3)


# Name in overlap.json, how it is shown, what it says of A and B.
_RATES: tuple[tuple[str, Callable[[Any], str], str], ...] = (
    ("both_right", count, "images that both get right"),
    ("only_a_wrong", count, "images that only {a} gets wrong"),
    ("only_b_wrong", count, "images that only {b} gets wrong"),
    ("both_wrong", count, "images that both get wrong"),
    ("both_wrong_same_label", count, "of these, with the same wrong answer"),
    ("expected_both_wrong", count, "both wrong, if errors were independent"),
    ("both_wrong_ratio", _number, "both wrong, as a multiple of that"),
    ("accuracy_a", percent, "accuracy of {a}"),
    ("accuracy_b", percent, "accuracy of {b}"),
    ("accuracy_gain", percent, "accuracy of {b} minus that of {a}"),
    ("repair_rate", percent, "of {a}'s errors, those that {b} gets right"),
    ("new_error_rate", percent, "of {b}'s errors, those that {a} gets right"),
    ("jaccard", _number, "Jaccard index of the two sets of errors (1: the same images)"),
    ("error_consistency", _number, "error consistency κ (1: the same images, 0: independent)"),
    ("yule_q", _number, "Yule's Q (1: the same images, 0: independent)"),
    ("phi", _number, "phi, the correlation of right and wrong"),
    ("disagreement", percent, "images that exactly one gets right"),
    ("double_fault", percent, "images that both get wrong"),
)


# --- texts --------------------------------------------------------------------------------


def _texts(found: Comparison) -> dict[str, Any]:
    """Returns what text.j2 defines: summary, captions, left_out and notes."""
    calibrated = [*found.calibration[0], *found.calibration[1]]
    changed = [change for change in found.by_confusion if count(change.gain, "+") != "0"]

    def named(changes: Iterable[ErrorChange]) -> str:
        return ", ".join(
            f"{_confusion(found, c, ' classified as ')} ({count(c.gain, '+')})" for c in changes
        )

    module: Any = template(_TEMPLATES / "text.j2").make_module(
        {
            **vars(formatting),
            **{name: getattr(plots, name) for name in ("FEWEST", "MOST_TILES")},
            "ALPHA": ALPHA,
            "BINS": BINS,
            "found": found,
            "gains": named(change for change in changed[:4] if change.gain > 0),
            "losses": named(change for change in changed[:-3:-1] if change.gain < 0),
            "reasons": sorted({run.reason for run in calibrated if run.reason}),
        }
    )
    return {
        "summary": [_collapsed(line) for line in module.summary],
        **{
            name: {key: _collapsed(text) for key, text in getattr(module, name).items()}
            for name in ("captions", "left_out", "notes")
        },
    }


def _collapsed(text: str) -> str:
    return re.sub(r" ([,;:.)])", r"\1", " ".join(text.split()))


def summary_lines(found: Comparison) -> list[str]:
    """Returns the ten lines that matter, without markup.

    Examples:
      >>> from digits_jax.evaluation import Run, compare
      >>> labels = np.array([0, 1, 0, 1])
      >>> a = Run("A", labels, np.eye(2)[[0, 1, 1, 0]])
      >>> b = Run("B", labels, np.eye(2)[[0, 1, 1, 1]])
      >>> lines = summary_lines(compare([a], [b], resamples=100))
      >>> len(lines), lines[0]
      (10, 'A: accuracy 50.00% [15.00%, 85.00%], 2 errors in 4 images')
    """
    return _texts(found)["summary"]


# --- tables -------------------------------------------------------------------------------


class Table(NamedTuple):
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(found: Comparison) -> list[Table]:
    """Returns the report's tables, in reading order."""
    notes, classes = _texts(found)["notes"], found.class_names
    a, b = found.names
    overlap = []
    for name, show, what in _RATES:
        reason, value = found.overlap.undefined.get(name), getattr(found.overlap, name)
        label = what.format(a=a, b=b) + (f" ({reason})" if reason else "")
        bounds = interval(found.interval(name), show, empty="")
        overlap.append((label, "undefined" if value is None else show(value), bounds))
    overlap.append(("McNemar's exact p", p_value(found.overlap.mcnemar_p), ""))
    runs, images = [], found.labels.size
    for run in (*found.calibration[0], *found.calibration[1]):
        before, after = run.before, run.after
        right = round(before.accuracy * images)
        runs.append(
            (
                run.name,
                percent(before.accuracy),
                interval(wilson_interval(right, images)),
                count(images - right),
                fixed(before.nll, 4),
                fixed(before.brier, 4),
                percent(before.ece_equal_width),
                percent(before.ece_equal_mass),
                _number(run.temperature and run.temperature.temperature),
                fixed(after and after.nll, 4),
                percent(after and after.ece_equal_width),
            )
        )
    pairs = [
        (run.name, *map(p_value, row))
        for run, row in zip(found.runs[0], found.mcnemar_p_pairs, strict=True)
    ]
    hardest = [
        (
            f"{image.index}{' (published)' if image.known else ''}",
            classes[image.label],
            classes[image.wrong_label],
            percent(image.confidence),
            f"{image.votes} of {image.runs}",
        )
        for image in found.hardest[:30]
    ]
    measures = ("accuracy", "95% interval", "errors", "NLL", "Brier", "ECE, equal width")
    measures += ("ECE, equal mass", "temperature", "NLL after", "ECE after")
    changes = (f"errors of {a}", f"errors of {b}", "repaired", "new", "gain")
    by_class = [(classes[c.label], *_change(c)) for c in found.by_class]
    by_confusion = [(_confusion(found, c, " → "), *_change(c)) for c in found.by_confusion[:20]]
    hard = ("test image", "label", "prediction", "mean confidence", "runs that predict it")
    made = {
        "Error overlap": (("", "value", "95% interval"), overlap),
        "The runs": (("run", *measures), runs),
        "McNemar's exact p of each pair of runs": (("", *(r.name for r in found.runs[1])), pairs),
        "By class": (("class", *changes), by_class),
        "By confusion (label → prediction)": (("confusion", *changes), by_confusion),
        "Hardest images": (hard, hardest),
    }
    if not found.grouped:
        del made["McNemar's exact p of each pair of runs"]
    return [Table(title, head, rows, notes.get(title, "")) for title, (head, rows) in made.items()]


def tables_html(found: Comparison) -> str:
    """Returns the tables as the report's page has them."""
    return template(_TEMPLATES / "tables.html.j2").render(tables=tables(found))


def _confusion(found: Comparison, change: ErrorChange, arrow: str) -> str:
    return f"{found.class_names[change.label]}{arrow}{found.class_names[change.answer or 0]}"


def _change(change: ErrorChange) -> tuple[str, ...]:
    counts = (change.errors_a, change.errors_b, change.repaired, change.new_errors)
    return (*map(count, counts), count(change.gain, "+"))


# --- files --------------------------------------------------------------------------------


def overlap_json(found: Comparison) -> str:
    """Returns the text of overlap.json; undefined numbers are null, with a reason beside them."""
    return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"


def example_columns(found: Comparison) -> dict[str, np.ndarray]:
    """Returns the columns of a table with a row per test image.

    They are index, label, and for every run ``NAME prediction``, ``NAME confidence`` (a fraction),
    ``NAME loss`` (nats), ``NAME right`` (1 or 0).
    """
    columns = {"index": np.arange(found.labels.size), "label": found.labels}
    for run in (*found.runs[0], *found.runs[1]):
        predictions = run.logits.argmax(axis=1)
        losses = negative_log_likelihood(found.labels, run.logits)
        columns |= {
            f"{run.name} prediction": predictions,
            f"{run.name} confidence": softmax(run.logits, axis=1).max(axis=1),
            f"{run.name} loss": losses,
            f"{run.name} right": (predictions == found.labels).astype(int),
        }
    return columns


def examples_csv(found: Comparison) -> str:
    """Returns `example_columns` as CSV."""
    columns = example_columns(found)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        writer.writerow(f"{value:.6f}" if isinstance(value, float) else value for value in row)
    return text.getvalue()


def check_output(directory: str | Path, overwrite: bool = False) -> Path:
    """Refuses a folder that a report can't go to, before the work is done.

    Args:
      directory: where the report is wanted.
      overwrite: an older report there may be replaced; nothing else ever is.

    Raises:
      DataError: it holds something, is a file, or can't be made.
    """
    path = Path(directory)
    if path.is_dir() and any(path.iterdir()):
        if not (path / OVERLAP).is_file():
            raise DataError(f"{path} holds other files: give an empty or new output folder")
        if not overwrite:
            raise DataError(f"{path} already holds a comparison: give another folder, or overwrite")
    elif path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: give an empty or new output folder")
    try:
        try_to_write(path.absolute().parent)  # where the folder is written aside
    except OSError as error:
        raise DataError(f"{path} isn't writable ({error.strerror}): give another") from None
    return path


def write_report(
    found: Comparison,
    directory: str | Path,
    *,
    images: np.ndarray | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Writes the report into a folder.

    Args:
      found: of `compare`.
      directory: the folder; its parents are made.
      images: uint8 [n, height, width, 1], the test set; without it the sheets are left out.
      notes: sentences for the end of the report, such as the command that made it.
      overwrite: replace an older report.

    Raises:
      DataError: as `check_output`; or images that don't match.
    """
    path = check_output(directory, overwrite).absolute()
    if images is not None and len(images) != found.labels.size:
        raise DataError(f"{len(images)} images: give the {found.labels.size} of the test set")
    if plots.short_names(found.class_names) != found.class_names:
        named = ", ".join(f"{i} {name}" for i, name in enumerate(found.class_names))
        notes = [f"The classes in the figures: {named}.", *notes]
    texts, figures = _texts(found), plots.comparison_figures(found, images)
    left_out = [text for name, text in texts["left_out"].items() if name not in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
        new = Path(aside, "new")
        new.mkdir()
        shown = []
        for name, draw in figures.items():
            try:
                figure = draw()
                save_figure(figure, new / f"{name}.png")
            except Exception as error:  # matplotlib's own; the numbers are worth more
                left_out.append(f"Left out: the figure {name}, which failed ({plain(error)}).")
                print(f"warning: {left_out[-1]}", file=sys.stderr)
                continue
            shown.append(
                {
                    "name": name,
                    "title": " ".join(figure.get_suptitle().split()),
                    "caption": texts["captions"][name],
                    "base64": base64.b64encode((new / f"{name}.png").read_bytes()).decode(),
                }
            )
        page = {
            "headline": plots.headline(found),
            "summary": texts["summary"],
            "figures": shown,
            "tables": tables(found),
            "notes": [*left_out, *map(plain, notes)],
        }
        files = {OVERLAP: overlap_json(found), "examples.csv": examples_csv(found)}
        for name in ("report.md", "report.html"):
            files[name] = template(_TEMPLATES / f"{name}.j2").render(page)
        for name, text in files.items():
            (new / name).write_text(text, encoding="utf-8", newline="\n")
        if path.exists():
            path.rename(Path(aside, "old"))
        new.rename(path)
    return path
