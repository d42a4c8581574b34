"""The report of a comparison: ten lines, tables, and a folder with a web page and its numbers.

    overlap.json      every number, see `Comparison.to_dict`
    report.html       one self-contained page, from templates/report.html.j2
    report.md         the same lines and tables; its figures are the PNG files beside it
    examples.csv      the prediction of every run for every test image

The folder is written aside and renamed: a report is complete or absent.
"""

import base64
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from scipy.special import softmax

from digits_jax.errors import DataError
from digits_jax.evaluation.calibration import negative_log_likelihood
from digits_jax.evaluation.comparison import ALPHA, Comparison
from digits_jax.evaluation.error_analysis import ErrorChange
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.evaluation.plots import Drawn, comparison_figures, headline
from digits_jax.formatting import (
    count,
    fixed,
    interval,
    markdown_table,
    mean_sd,
    p_value,
    percent,
    plural,
)

OVERLAP = "overlap.json"
_SHOWN = {"share": percent, "count": count, "number": lambda value: fixed(value, 3)}
# Name in overlap.json, kind of number, what it says of A and B.
_RATES = (
    ("both_right", "count", "images that both get right"),
    ("only_a_wrong", "count", "images that only {a} gets wrong"),
    ("only_b_wrong", "count", "images that only {b} gets wrong"),
    ("both_wrong", "count", "images that both get wrong"),
    ("both_wrong_same_label", "count", "of these, with the same wrong answer"),
    ("expected_both_wrong", "count", "both wrong, if errors were independent"),
    ("both_wrong_ratio", "number", "both wrong, as a multiple of that"),
    ("accuracy_a", "share", "accuracy of {a}"),
    ("accuracy_b", "share", "accuracy of {b}"),
    ("accuracy_gain", "share", "accuracy of {b} minus that of {a}"),
    ("repair_rate", "share", "of {a}'s errors, those that {b} gets right"),
    ("new_error_rate", "share", "of {b}'s errors, those that {a} gets right"),
    ("jaccard", "number", "Jaccard index of the two sets of errors (1: the same images)"),
    ("error_consistency", "number", "error consistency κ (1: the same images, 0: independent)"),
    ("yule_q", "number", "Yule's Q (1: the same images, 0: independent)"),
    ("phi", "number", "phi, the correlation of right and wrong"),
    ("disagreement", "share", "images that exactly one gets right"),
    ("double_fault", "share", "images that both get wrong"),
)


# --- ten lines ----------------------------------------------------------------------------


def summary_lines(found: Comparison, classes: Sequence[str]) -> list[str]:
    """Returns the ten lines that matter, without markup.

    Example:
      >>> from digits_jax.evaluation import Predictions, compare
      >>> labels = np.array([0, 1, 0, 1])
      >>> a, b = (Predictions(n, labels, np.eye(2)[[0, 1, 1, i]]) for n, i in (("A", 0), ("B", 1)))
      >>> lines = summary_lines(compare([a], [b], resamples=100), ["0", "1"])
      >>> len(lines), lines[0]
      (10, 'A: accuracy 50.00% [15.00%, 85.00%], 2 errors in 4 images')
    """
    overlap = found.overlap
    both = f"both wrong: {plural(overlap.both_wrong, 'image')}, "
    both += f"{count(overlap.both_wrong_same_label)} with the same answer; "
    both += f"{count(overlap.expected_both_wrong)} expected if errors were independent; "
    both += f"error consistency κ {_rate(found, 'error_consistency', 'number')}, "
    both += f"Jaccard {_rate(found, 'jaccard', 'number')}"
    return [
        _accuracy_line(found, 0),
        _accuracy_line(found, 1),
        _rate_line(found, "repair_rate", "repair rate", found.names),
        _rate_line(found, "new_error_rate", "new errors", found.names[::-1]),
        both,
        _mcnemar_line(found),
        _between_line(found),
        _confusions_line(found, classes),
        _calibration_line(found),
        _hardest_line(found),
    ]


def _rate(found: Comparison, name: str, kind: str) -> str:
    value, show = getattr(found.overlap, name), _SHOWN[kind]
    if value is None:
        return f"undefined ({found.overlap.undefined[name]})"
    return f"{show(value)} {interval(found.interval(name), show, empty='')}".rstrip()


def _accuracy_line(found: Comparison, side: int) -> str:
    values, letter = found.accuracies[side], "ab"[side]
    shown = percent(float(values.mean()))
    if len(values) > 1:
        shown = f"{mean_sd(values, factor=100)}% (mean ± sd of {len(values)} seeds)"
    bounds = interval(found.interval(f"accuracy_{letter}"))
    errors = plural(getattr(found.overlap, f"errors_{letter}"), "error")
    images = plural(found.labels.size, "image")
    return f"{found.names[side]}: accuracy {shown} {bounds}, {errors} in {images}"


def _rate_line(found: Comparison, name: str, head: str, names: tuple[str, ...]) -> str:
    if getattr(found.overlap, name) is None:
        return f"{head}: undefined, because {names[0]} makes no errors"
    return f"{head}: {names[1]} gets {_rate(found, name, 'share')} of {names[0]}'s errors right"


def _mcnemar_line(found: Comparison) -> str:
    gain, bounds = found.overlap.accuracy_gain, found.interval("accuracy_gain")
    worse, better = found.names if gain >= 0 else found.names[::-1]
    if gain < 0:  # the difference is positive: that of the better one from the other
        gain, bounds = -gain, bounds and (-bounds[1], -bounds[0])
    text = f"{better} is more accurate than {worse}"
    if not found.significant:
        text = f"{found.names[0]} and {found.names[1]} don't differ significantly in accuracy"
        text += f", {better} minus {worse}" if gain else ""
    shown = interval(bounds, lambda end: fixed(100 * end, 2, "+"), empty="")
    text += f": {fixed(100 * gain, 2, '+')} points {shown}".rstrip()
    text += f"; McNemar's exact p = {p_value(found.overlap.mcnemar_p)}"
    if found.grouped:
        pairs = found.mcnemar_p_pairs
        text += f", twice the mean over {pairs.size} pairs, the largest {p_value(pairs.max())}"
    if bounds and not found.significant and not bounds[0] <= 0 <= bounds[1]:
        text += "; resampling makes the interval of few errors too narrow: the test decides"
    return text


def _between_line(found: Comparison) -> str:
    if not found.between_or_within:
        return f"permutation test: {found.between_or_within_reason}"
    (a, b), test = found.names, found.between_or_within["error_consistency"]
    numbers = f"κ within {a} {fixed(test.within_a, 2)}, within {b} {fixed(test.within_b, 2)}, "
    numbers += f"between {fixed(test.between, 2)}; excess {fixed(test.excess, 3)} "
    numbers += interval(test.excess_ci95, _SHOWN["number"])
    numbers += f", p = {p_value(test.p_value)}"
    numbers += f" ({'all' if test.exact else 'random'} {test.labelings} labelings)"
    if test.p_value <= ALPHA and test.excess > 0:
        return f"{a} and {b} fail on different images: {numbers}"
    if test.smallest_p > ALPHA:
        numbers += f": so few runs can't reach below {p_value(test.smallest_p)}"
    return f"no sign that {a} and {b} fail on different images: {numbers}"


def _confusions_line(found: Comparison, classes: Sequence[str]) -> str:
    def name(change: ErrorChange) -> str:
        pair = f"{classes[change.label]} classified as {classes[change.answer or 0]}"
        return f"{pair} ({count(change.gain, '+')})"

    changed = [change for change in found.by_confusion if count(change.gain, "+") != "0"]
    best = ", ".join(name(change) for change in changed[:4] if change.gain > 0)
    worst = ", ".join(name(change) for change in changed[:-3:-1] if change.gain < 0)
    if not changed:
        return "by confusion: no confusion is more frequent in one than in the other"
    gains = f"gains most on: {best}" if best else "gains on no confusion"
    return f"{found.names[1]} {gains}" + (f"; loses on: {worst}" if worst else "")


def _calibration_line(found: Comparison) -> str:
    parts, reasons = [], set()
    for name, runs in zip(found.names, found.calibration, strict=True):
        part = f"{name} {percent(mean(run.before.ece_equal_width for run in runs))}"
        after = [run.after.ece_equal_width for run in runs if run.after]
        fitted = [run.temperature.temperature for run in runs if run.temperature and run.after]
        if len(after) == len(runs):
            part += f" ({percent(mean(after))} after temperature scaling, "
            part += f"T {np.mean(np.array(fitted, float)):.2f})"
        parts.append(part)
        reasons |= {run.reason for run in runs if run.reason}
    return "; ".join([f"calibration error (ECE): {', '.join(parts)}", *sorted(reasons)])


def _hardest_line(found: Comparison) -> str:
    number, listed = len(found.hardest), len(found.published_label_errors)
    line = f"{number} {'image is' if number == 1 else 'images are'} wrong in every run"
    cleaned = found.without_published_label_errors
    if cleaned:
        known = sum(image.known for image in found.hardest)
        line += f", among them {known} of the {listed} published doubtful labels; without these "
        line += f"{listed}: {found.names[0]} {percent(cleaned.accuracy_a)}, "
        line += f"{found.names[1]} {percent(cleaned.accuracy_b)}"
    return line


# --- tables -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def tables(found: Comparison, classes: Sequence[str]) -> list[Table]:
    """Returns the report's tables, in reading order."""
    a, b = found.names
    made = [_overlap_table(found), _runs_table(found)]
    if found.grouped:
        q = found.cochrans_q
        note = q.reason or (
            f"Cochran's Q over all runs: {fixed(q.statistic, 1)}, {q.degrees_of_freedom} degrees "
            f"of freedom, p = {p_value(q.p_value or 0)}."
        )
        rows = [
            (run.name, *map(p_value, row))
            for run, row in zip(found.runs[0], found.mcnemar_p_pairs, strict=True)
        ]
        columns = ("", *(run.name for run in found.runs[1]))
        made.append(Table("McNemar's exact p of each pair of runs", columns, rows, note))
    head = (f"errors of {a}", f"errors of {b}", "repaired", "new", "gain")
    rows = [(classes[change.label], *_change(change)) for change in found.by_class]
    made.append(Table("By class", ("class", *head), rows))
    rows = [
        (f"{classes[change.label]} → {classes[change.answer or 0]}", *_change(change))
        for change in found.by_confusion[:20]
    ]
    note = f"The first {len(rows)} of {len(found.by_confusion)}; {OVERLAP} holds all."
    made.append(Table("By confusion (label → prediction)", ("confusion", *head), rows, note))
    return [*made, _hardest_table(found, classes)]


def _change(change: ErrorChange) -> tuple[str, ...]:
    counts = (change.errors_a, change.errors_b, change.repaired, change.new_errors)
    return (*map(count, counts), count(change.gain, "+"))


def _overlap_table(found: Comparison) -> Table:
    a, b = found.names
    rows = []
    for name, kind, what in _RATES:
        reason = found.overlap.undefined.get(name)
        value, show = getattr(found.overlap, name), _SHOWN[kind]
        rows.append(
            (
                what.format(a=a, b=b) + (f" ({reason})" if reason else ""),
                "undefined" if value is None else show(value),
                interval(found.interval(name), show, empty=""),
            )
        )
    rows.append(("McNemar's exact p", p_value(found.overlap.mcnemar_p), ""))
    note = "Means over all pairs of runs. " if found.grouped else ""
    note += f"Intervals: percentile bootstrap over {found.bootstrap.over}, "
    note += f"{found.bootstrap.resamples:,} resamples; Wilson for the accuracy of a single run."
    note += "".join(f" {name}: {reason}." for name, reason in found.bootstrap.notes.items())
    return Table("Error overlap", ("", "value", "95% interval"), rows, note)


def _runs_table(found: Comparison) -> Table:
    columns = (
        *("run", "accuracy", "95% interval", "errors", "NLL", "Brier"),
        *("ECE, equal width", "ECE, equal mass", "temperature", "NLL after", "ECE after"),
    )
    rows, reasons = [], {}
    for run in (*found.calibration[0], *found.calibration[1]):
        before, after = run.before, run.after
        right = round(before.accuracy * found.labels.size)
        fitted = run.temperature and run.temperature.temperature
        rows.append(
            (
                run.name,
                percent(before.accuracy),
                interval(wilson_interval(right, found.labels.size)),
                count(found.labels.size - right),
                fixed(before.nll, 4),
                fixed(before.brier, 4),
                percent(before.ece_equal_width),
                percent(before.ece_equal_mass),
                fixed(fitted, 3),
                fixed(after and after.nll, 4),
                percent(after and after.ece_equal_width),
            )
        )
        reasons |= {f" {run.reason}.": None} if run.reason else {}
    note = "NLL in nats, Brier from 0 to 2, ECE with 15 bins; temperature fitted on validation."
    return Table("The runs", columns, rows, note + "".join(reasons))


def _hardest_table(found: Comparison, classes: Sequence[str]) -> Table:
    rows = [
        (
            f"{image.index}{' (published)' if image.known else ''}",
            classes[image.label],
            classes[image.wrong_label],
            percent(image.confidence),
            f"{image.votes} of {image.runs}",
        )
        for image in found.hardest[:30]
    ]
    note = f"The first {len(rows)} of {len(found.hardest)}. " if rows else "None. "
    note += "Every run gets these wrong, so the label may be wrong: look at them."
    known = found.published_label_errors
    if known:
        missed = sorted(set(known) - {image.index for image in found.hardest})
        note += f" {len(known) - len(missed)} of the {len(known)} published doubtful labels are "
        note += "among them" + (f"; not: {', '.join(map(str, missed))}." if missed else ".")
    columns = ("test image", "label", "prediction", "mean confidence", "runs that predict it")
    return Table("Hardest images", columns, rows, note)


# --- files --------------------------------------------------------------------------------


def overlap_json(found: Comparison) -> str:
    """Returns the text of overlap.json; undefined numbers are null, with a reason beside them."""
    return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"


def examples_csv(found: Comparison) -> str:
    """Returns a CSV table with a row per test image.

    Its columns are index, label, and for every run ``NAME prediction``, ``NAME confidence`` (a
    fraction), ``NAME loss`` (nats), ``NAME right`` (1 or 0).
    """
    columns = {"index": np.arange(found.labels.size), "label": found.labels}
    for run in (*found.runs[0], *found.runs[1]):
        predictions = run.logits.argmax(axis=1)
        losses = negative_log_likelihood(found.labels, run.logits)
        columns |= {
            f"{run.name} prediction": predictions,
            f"{run.name} confidence": [f"{p:.6f}" for p in softmax(run.logits, axis=1).max(axis=1)],
            f"{run.name} loss": [f"{loss:.6f}" for loss in losses],
            f"{run.name} right": (predictions == found.labels).astype(int),
        }
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
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
    if not str(directory):
        raise DataError("the output folder has no name: give an empty or new folder")
    if path.is_dir() and any(path.iterdir()):
        if not (path / OVERLAP).is_file():
            raise DataError(f"{path} holds other files: give an empty or new output folder")
        if not overwrite:
            raise DataError(f"{path} already holds a comparison: give another folder, or overwrite")
    elif path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file: give an empty or new output folder")
    parent = next(p for p in path.absolute().parents if p.exists())
    try:
        # Tried, not asked: to root every folder seems writable, those of /proc too.
        Path(tempfile.mkdtemp(dir=parent)).rmdir()
    except OSError as error:
        raise DataError(
            f"{parent} isn't writable ({error.strerror}): give another folder"
        ) from None
    return path


def write_report(
    found: Comparison,
    directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    images: np.ndarray | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Writes the report into a folder.

    Args:
      found: of `compare`.
      directory: the folder; its parents are made.
      class_names: by default the classes' numbers.
      images: uint8 [n, height, width, 1], the test set; without it the sheets are left out.
      notes: sentences for the end of the report, such as the command that made it.
      overwrite: replace an older report.

    Returns:
      The folder.

    Raises:
      DataError: as `check_output`; or images or class names that don't match.
    """
    path = check_output(directory, overwrite)
    classes = [str(name) for name in class_names or range(found.num_classes)]
    if len(classes) != found.num_classes:
        raise DataError(f"{len(classes)} class names: give {found.num_classes}, one per class")
    if images is not None and len(images) != found.labels.size:
        raise DataError(f"{len(images)} images: give the {found.labels.size} of the test set")
    short = classes
    if max(map(len, classes)) > 3:
        short = [str(i) for i in range(len(classes))]
        named = ", ".join(f"{i} {name}" for i, name in enumerate(classes))
        notes = [f"The classes in the figures: {named}.", *notes]
    figures, left_out = comparison_figures(found, short, images)
    page = {
        "headline": headline(found),
        "summary": summary_lines(found, classes),
        "tables": tables(found, classes),
        "notes": [*(f"Left out: {reason}." for reason in left_out), *notes],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        aside.chmod(0o755)  # mkdtemp makes it ours alone; a report is for others
        for figure in figures:
            figure.figure.savefig(aside / f"{figure.name}.png")
        for name, text in (
            (OVERLAP, overlap_json(found)),
            ("examples.csv", examples_csv(found)),
            ("report.md", _markdown(page, figures)),
            ("report.html", _html(page, figures, aside)),
        ):
            (aside / name).write_text(text, encoding="utf-8", newline="\n")
        _replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def _html(page: dict, figures: list[Drawn], folder: Path) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    images = [
        {
            "title": " ".join(drawn.figure.get_suptitle().split()),
            "base64": base64.b64encode((folder / f"{drawn.name}.png").read_bytes()).decode(),
            **{name: getattr(drawn, name) for name in ("name", "caption", "wide")},
        }
        for drawn in figures
    ]
    return template.render(page, figures=images)


def _markdown(page: dict, figures: list[Drawn]) -> str:
    parts = [f"# {_escaped(page['headline'])}"]
    parts.append("\n".join(f"- {_escaped(line)}" for line in page["summary"]))
    for drawn in figures:
        title = _escaped(" ".join(drawn.figure.get_suptitle().split()))
        parts.append(f"![{title}]({drawn.name}.png)\n\n{_escaped(drawn.caption)}")
    for table in page["tables"]:
        rows = [[_escaped(cell) for cell in row] for row in table.rows]
        text = markdown_table(rows, [_escaped(cell) for cell in table.columns])
        parts += [f"## {_escaped(table.title)}", text, _escaped(table.note)]
    parts += [_escaped(note) for note in page["notes"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is; `markdown_table` escapes the bars."""
    for sign in "\\`*_<>[]":
        text = text.replace(sign, "\\" + sign)
    return text


def _replace_folder(aside: Path, path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        old = aside.with_name(f"{aside.name}.old")
        path.rename(old)
        try:
            aside.rename(path)
        except BaseException:  # Ctrl-C too: the older report goes back to its place
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return
    if path.is_dir():
        path.rmdir()
    aside.rename(path)
