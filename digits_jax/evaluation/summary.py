"""A comparison in words and tables: what is printed, and what the report's pages hold."""

from dataclasses import dataclass

import numpy as np

from digits_jax.evaluation.comparison import Comparison, RunCalibration
from digits_jax.evaluation.metrics import accuracy
from digits_jax.evaluation.repairs import Repair
from digits_jax.evaluation.style import count_text, fixed, plural, signed_count

ALPHA = 0.05


@dataclass(frozen=True)
class Table:
    """A table of text: cells as they are printed, `note` below it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


# name in overlap.json, kind of number, what it says of A and B
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


def headline(found: Comparison) -> str:
    """The answer in one sentence.

    Args:
      found: of `compare`.

    Returns:
      "CNN gets 67% [63%, 71%] of MLP's errors right", or what there is to say without errors.
    """
    overlap, a, b = found.overlap, found.a.name, found.b.name
    if overlap.repair_rate is None:
        return f"{a} makes no errors, so there is nothing for {b} to repair"
    interval = found.interval("repair_rate")
    bounds = f" [{interval[0]:.0%}, {interval[1]:.0%}]" if interval else ""
    return f"{b} gets {overlap.repair_rate:.0%}{bounds} of {a}'s errors right"


def summary_lines(found: Comparison, classes) -> list[str]:
    """The ten lines that matter.

    Args:
      found: of `compare`.
      classes: the classes' names.

    Returns:
      Ten lines of text without markup.

    Example:
      >>> from digits_jax.evaluation.comparison import Group, Run, compare
      >>> a, b = np.eye(2)[[0, 1, 1, 0]], np.eye(2)[[0, 1, 1, 1]]
      >>> found = compare([0, 1, 0, 1], Group("A", (Run("a", a),)), Group("B", (Run("b", b),)),
      ...                 resamples=100)
      >>> lines = summary_lines(found, ["0", "1"])
      >>> len(lines), lines[0]
      (10, 'A: 50.00% right [15.00%, 85.00%], 2 errors in 4 images')
    """
    overlap = found.overlap
    same = count_text(overlap.both_wrong_same_label)
    both = f"both wrong: {plural(overlap.both_wrong, 'image')}, {same} with the same answer"
    both += f"; {count_text(overlap.expected_both_wrong)} expected if errors were independent"
    alike = f"error consistency κ {_rate(found, 'error_consistency', 'number')}"
    alike += f", Jaccard {_rate(found, 'jaccard', 'number')}"
    return [
        _accuracy_line(found, "a"),
        _accuracy_line(found, "b"),
        _rate_line(found, "repair_rate"),
        _rate_line(found, "new_error_rate"),
        f"{both}; {alike}",
        _mcnemar_line(found),
        between_line(found),
        _repairs_line(found, classes),
        _calibration_line(found),
        _hardest_line(found),
    ]


def between_line(found: Comparison) -> str:
    """Whether the kinds fail on different images, in one sentence.

    Args:
      found: of `compare`.

    Returns:
      The finding with its numbers, or why there is none.
    """
    if not found.overlap_of_runs:
        return f"between or within: {found.overlap_of_runs_reason}"
    a, b = found.a.name, found.b.name
    test = found.overlap_of_runs["error_consistency"]
    numbers = f"κ within {a} {fixed(test.within_a, 2)}, within {b} {fixed(test.within_b, 2)}, "
    numbers += f"between {fixed(test.between, 2)}; excess {fixed(test.excess, 3)} "
    numbers += _bounds(test.excess_ci95, "number")
    p = f"p = {_p(test.p_value)}"
    p += f" ({'all' if test.exact else 'random'} {test.labelings} labelings)"
    if test.p_value <= ALPHA and test.excess > 0:
        return f"{a} and {b} fail on different images: {numbers}, {p}"
    if test.smallest_p > ALPHA:
        p += f": so few runs can't reach below {_p(test.smallest_p)}"
    return f"no sign that {a} and {b} fail on different images: {numbers}, {p}"


def tables(found: Comparison, classes) -> list[Table]:
    """The report's tables, in reading order.

    Args:
      found: of `compare`.
      classes: the classes' names.

    Returns:
      The overlap, the runs, McNemar's p of each pair (for groups), the classes, the
      confusions and the hardest images.
    """
    made = [_overlap_table(found), _runs_table(found)]
    if found.groups:
        header = ("", *(run.name for run in found.b.runs))
        rows = [
            (run.name, *(_p(p) for p in row))
            for run, row in zip(found.a.runs, found.pair_p_values, strict=True)
        ]
        q = found.cochran
        note = q.reason or (
            f"Cochran's Q over all runs: {q.statistic:.1f}, {q.degrees_of_freedom} degrees of "
            f"freedom, p = {_p(q.p_value)}."
        )
        made.append(Table("McNemar's exact p of each pair of runs", header, rows, note))
    head = (f"errors of {found.a.name}", f"errors of {found.b.name}", "repaired", "new", "gain")
    by_class = [(str(classes[r.label]), *_repair(r)) for r in found.by_class]
    made.append(Table("By class", ("class", *head), by_class))
    shown = found.by_confusion[:20]
    pairs = [(f"{classes[r.label]} read as {classes[r.answer]}", *_repair(r)) for r in shown]
    note = f"The first {len(shown)} of {len(found.by_confusion)}; overlap.json holds all."
    made.append(Table("By confusion", ("confusion", *head), pairs, note))
    made.append(_hardest_table(found, classes))
    return made


def _overlap_table(found: Comparison) -> Table:
    names = {"a": found.a.name, "b": found.b.name}
    rows = []
    for name, kind, what in _RATES:
        interval = found.interval(name)
        value = getattr(found.overlap, name)
        shown = "undefined" if value is None else _number(value, kind)
        bounds = "" if interval is None else f"{_bounds(interval, kind)}"
        reason = found.overlap.undefined.get(name)
        rows.append((what.format(**names) + (f" ({reason})" if reason else ""), shown, bounds))
    rows.append(("McNemar's exact p", _p(found.overlap.mcnemar_p), ""))
    means = "Means over all pairs of runs. " if found.groups else ""
    note = f"{means}Intervals: percentile bootstrap over {found.intervals.over}, "
    note += f"{found.intervals.resamples:,} resamples; Wilson for the accuracy of a single run."
    for name, reason in found.intervals.notes.items():
        note += f" {name}: {reason}."
    return Table("Error overlap", ("", "value", "95% interval"), rows, note)


def _runs_table(found: Comparison) -> Table:
    header = (
        *("run", "accuracy", "95% interval", "errors", "NLL", "Brier"),
        *("ECE, equal width", "ECE, equal mass", "temperature", "NLL after", "ECE after"),
    )
    rows, reasons = [], {}
    for group, made in ((found.a, found.calibration_a), (found.b, found.calibration_b)):
        for predictions, run in zip(group.predictions, made, strict=True):
            score = accuracy(found.labels, predictions)
            first = run.before
            shares = _share(first.ece_equal_width), _share(first.ece_equal_mass)
            after = ("–", "–", "–")
            if run.after is not None:
                fitted, then = run.temperature.temperature, run.after
                after = (f"{fitted:.3f}", f"{then.nll:.4f}", _share(then.ece_equal_width))
            else:
                reasons[run.reason] = None
            interval = _bounds(score.accuracy_ci95, "share")
            losses = f"{first.nll:.4f}", f"{first.brier:.4f}"
            right = _share(score.accuracy), interval, f"{score.errors:g}"
            rows.append((run.name, *right, *losses, *shares, *after))
    note = "NLL in nats, Brier from 0 to 2, ECE with 15 bins; temperature fitted on validation."
    return Table("The runs", header, rows, " ".join([note, *(f"{r}." for r in reasons)]))


def _hardest_table(found: Comparison, classes) -> Table:
    header = ("test image", "label", "answer", "mean confidence", "runs that say so")
    rows = []
    for image in found.hardest[:30]:
        known = " (published)" if image.known else ""
        votes = f"{image.votes} of {image.runs}"
        answers = str(classes[image.label]), str(classes[image.wrong_label])
        rows.append((f"{image.index}{known}", *answers, _share(image.confidence), votes))
    note = f"The first {len(rows)} of {len(found.hardest)}; " if found.hardest else "None; "
    note += "every run gets these wrong, so the label may be: look at them."
    if found.known:
        missed = sorted(set(found.known) - {image.index for image in found.hardest})
        note += f" {len(found.known) - len(missed)} of the {len(found.known)} published doubtful "
        note += "labels are among them"
        note += f"; not: {', '.join(map(str, missed))}." if missed else "."
    return Table("Hardest images", header, rows, note)


def _accuracy_line(found: Comparison, side: str) -> str:
    group, values = getattr(found, side), found.accuracies(side)
    errors = plural(getattr(found.overlap, f"errors_{side}"), "error")
    spread = ""
    if len(values) > 1:
        spread = f" ± {100 * values.std(ddof=1):.2f} (mean ± sd of {len(values)} seeds)"
    interval = _bounds(found.interval(f"accuracy_{side}"), "share")
    shown = f"{_share(values.mean())}{spread} right {interval}"
    return f"{group.name}: {shown}, {errors} in {plural(found.labels.size, 'image')}"


def _mcnemar_line(found: Comparison) -> str:
    overlap, a, b = found.overlap, found.a.name, found.b.name
    sure = overlap.mcnemar_p <= ALPHA
    # The difference is positive: that of the better one from the other.
    turned = overlap.accuracy_gain < 0
    better, other = (a, b) if turned else (b, a)
    verdict = f"{better} is more accurate than {other}"
    if not sure:
        verdict = f"{a} and {b} can't be told apart"
        verdict += f", {better} minus {other}" if overlap.accuracy_gain else ""
    how = ""
    if found.groups:
        most = _p(found.pair_p_values.max())
        how = f", twice the mean over {found.pair_p_values.size} pairs, the largest {most}"
    interval = found.interval("accuracy_gain")
    gain = f"{fixed(100 * abs(overlap.accuracy_gain), 2, '+')} points"
    if interval is not None:
        ends = [-end for end in interval[::-1]] if turned else interval
        gain += " [{}, {}]".format(*(fixed(100 * end, 2, "+") for end in ends))
    text = f"{verdict}: {gain}"
    text += f"; McNemar's exact p = {_p(overlap.mcnemar_p)}{how}"
    if interval is not None and not sure and not interval[0] <= 0 <= interval[1]:
        text += "; the interval is by resampling, which is too sure of few errors: the test decides"
    return text


def _repairs_line(found: Comparison, classes) -> str:
    some = [r for r in found.by_confusion if signed_count(r.gain) != "0"]
    best = [r for r in some if r.gain > 0][:4]
    worst = [r for r in some[::-1] if r.gain < 0][:2]
    if not best + worst:
        return "by confusion: no confusion is more frequent in one than in the other"

    def name(repair: Repair) -> str:
        pair = f"{classes[repair.label]} read as {classes[repair.answer]}"
        return f"{pair} ({signed_count(repair.gain)})"

    text = (
        f"{found.b.name} gains most on: {', '.join(map(name, best))}"
        if best
        else f"{found.b.name} gains on no confusion"
    )
    return text + (f"; loses on: {', '.join(map(name, worst))}" if worst else "")


def _calibration_line(found: Comparison) -> str:
    def mean(values) -> str:
        return _share(np.mean(list(values)))

    def text(name: str, runs: list[RunCalibration]) -> str:
        line = f"{name} {mean(run.before.ece_equal_width for run in runs)}"
        if all(run.after is not None for run in runs):
            line += f" ({mean(run.after.ece_equal_width for run in runs)} after temperature scaling"
            fitted = np.mean([run.temperature.temperature for run in runs])
            return f"{line}, T {fitted:.2f})"
        return line

    line = "calibration error (ECE): " + ", ".join(
        text(*side)
        for side in ((found.a.name, found.calibration_a), (found.b.name, found.calibration_b))
    )
    reasons = {r.reason for r in (*found.calibration_a, *found.calibration_b) if r.reason}
    return "; ".join([line, *sorted(reasons)])


def _hardest_line(found: Comparison) -> str:
    line = f"{len(found.hardest)} images are wrong in every run"
    if len(found.hardest) == 1:
        line = "1 image is wrong in every run"
    if found.known and found.cleaned is not None:
        known = sum(image.known for image in found.hardest)
        clean_a, clean_b = _share(found.cleaned.accuracy_a), _share(found.cleaned.accuracy_b)
        line += f", among them {known} of the {len(found.known)} published doubtful labels; "
        line += f"without these {len(found.known)}: {found.a.name} {clean_a}, "
        line += f"{found.b.name} {clean_b}"
    return line


def _rate_line(found: Comparison, name: str) -> str:
    one, other = found.a.name, found.b.name
    head, what = "repair rate", "is nothing to repair"
    if name == "new_error_rate":
        one, other = other, one
        head, what = "new errors", "is no new-error rate"
    if getattr(found.overlap, name) is None:
        return f"{head}: {one} makes no errors, so there {what}"
    return f"{head}: {other} gets {_rate(found, name, 'share')} of {one}'s errors right"


def _rate(found: Comparison, name: str, kind: str) -> str:
    value, interval = getattr(found.overlap, name), found.interval(name)
    if value is None:
        return f"undefined ({found.overlap.undefined[name]})"
    return _number(value, kind) + ("" if interval is None else f" {_bounds(interval, kind)}")


def _repair(repair: Repair) -> tuple[str, ...]:
    counts = (repair.errors_a, repair.errors_b, repair.repaired, repair.new_errors)
    return (*map(count_text, counts), signed_count(repair.gain))


def _number(value: float, kind: str) -> str:
    if kind == "share":
        return _share(value)
    return count_text(value) if kind == "count" else fixed(value, 3)


def _bounds(interval, kind: str) -> str:
    return "[" + ", ".join(_number(end, kind) for end in interval) + "]"


def _share(value: float) -> str:
    return f"{fixed(100 * value, 2)}%"


def _p(value: float) -> str:
    return "below 1e-300" if value < 1e-300 else f"{value:.2g}"
