"""The comparison as a Markdown table and a picture."""

import io
from collections.abc import Sequence
from typing import Any

from digits_jax.benchmarks.words import some
from digits_jax.evaluation.plots import GREEN, MUTED, PINK, TEXT, new_figure, styled

_TICKS = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 12, 20)
UNITS = {"step": "images/s", "process": "s"}


def markdown(result: dict[str, Any]) -> str:
    """The table for a README.

    Args:
      result: what the JSON file holds.
    """
    machine, settings, versions = result["machine"], result["settings"], result["versions"]
    lines = [
        "| what | against | ours | theirs | ours / theirs | range | goal |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(_line(row) for row in result["rows"]),
        "",
        f"Medians of {' and of '.join(_measured(result['rows'], settings))}, ours and the other in "
        "turn; ours / theirs is the median of the rounds' ratios, and need not be that of the two "
        f"medians beside it; {machine['processor']}, {some(machine['cores'], 'core')}; "
        f"{_named(versions)}.",
        *(f"\nNote: {note}." for note in result["notes"]),
    ]
    return "\n".join(lines) + "\n"


def _measured(rows, settings):
    kinds = {row["kind"] for row in rows}
    if "step" in kinds or not kinds:
        rounds = some(settings["rounds"], "round")
        yield (
            f"{rounds} of {settings['seconds']:g} s for steps (images per second: more is better)"
        )
    if "process" in kinds:
        yield (
            f"{settings['processes']} for whole processes (seconds from start to exit: less is "
            "better)"
        )


def _named(versions):
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _line(row):
    ratio, goal = row["ratio"], row["goal"]
    said = "" if goal is None else f"{_sign(row)} {goal:g}: {_verdict(row)}"
    # Nobody should quote a ratio that says nothing.
    median = f"{ratio['median']:.2f}" if row["disturbed"] else f"**{ratio['median']:.2f}**"
    ours, theirs = (_amount(row, row[side]) for side in ("ours", "theirs"))
    return (
        f"| {_what(row)} | {row['peer']} | {ours} | {theirs} | {median} "
        f"| {ratio['low']:.2f} to {ratio['high']:.2f} | {said} |"
    )


def _verdict(row):
    # A ratio measured beside others' work is shown, but nothing follows from it.
    if row["disturbed"]:
        return "not told, see the note"
    return "yes" if row["reached"] else "no"


def _what(row):
    """With the type that ours multiplied in."""
    dtype = row.get("processes", {}).get("ours", {}).get("dtype")
    return f"{row['words']}, in {dtype}" if dtype else row["words"]


def _sign(row):
    return "≥" if row["kind"] == "step" else "≤"


def _amount(row, side):
    accuracy = f" ({side['accuracy']:.2%})" if side.get("accuracy") else ""
    digits = ",.0f" if row["kind"] == "step" else ".1f"
    return f"{side['median']:{digits}} {UNITS[row['kind']]}{accuracy}"


def picture(result: dict[str, Any]) -> bytes:
    """Each ratio with its range, and its goal.

    Args:
      result: what the JSON file holds.

    Returns:
      A PNG.
    """
    file = io.BytesIO()
    machine = result["machine"]
    where = f"{machine['processor']}, {some(machine['cores'], 'core')}"
    versions = {name: result["versions"].get(name) for name in ("jax", "torch", "keras")}
    _figure(result["rows"], f"{where}; {_named(versions)}").savefig(file, format="png")
    return file.getvalue()


@styled
def _figure(rows: Sequence[dict], where: str):
    kinds = [kind for kind in UNITS if any(row["kind"] == kind for row in rows)]
    groups = [[row for row in rows if row["kind"] == kind] for kind in kinds]
    heights = [0.36 * len(group) + 0.75 for group in groups]
    figure = new_figure("Ours to the peers, side by side", 7.5, sum(heights))
    figure.supxlabel(where, x=0.012, ha="left", fontsize=7.5, color=MUTED)
    plots = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=heights)[:, 0]
    for kind, group, axes in zip(kinds, groups, plots, strict=True):
        _panel(axes, kind, group)
    return figure


def _panel(axes, kind, rows):
    for place, row in enumerate(rows):
        ratio = row["ratio"]
        reached = None if row["disturbed"] else row["reached"]
        colour = {None: MUTED, True: GREEN, False: PINK}[reached]
        axes.plot([ratio["low"], ratio["high"]], [place] * 2, color=colour, lw=2)
        # Shape says what the colour does: whether the goal is reached.
        shape = {None: "s", True: "o", False: "X"}[reached]
        axes.plot(ratio["median"], place, shape, color=colour, ms=7)
        goal = row["goal"]
        # Behind the goal's bar, where that would stand in the number.
        end = goal if goal and ratio["high"] < goal < 1.5 * ratio["high"] else ratio["high"]
        axes.annotate(
            f"{ratio['median']:.2f}",
            (end, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
        )
        if goal is not None:
            axes.plot([goal] * 2, [place - 0.35, place + 0.35], color=TEXT, lw=2)
    axes.axvline(1, color=MUTED, ls=":")
    labels = [
        f"{_what(row)}\n{row['peer']}" + ("; disturbed by other work" if row["disturbed"] else "")
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    low = min(row["ratio"]["low"] for row in rows)
    high = max(row["ratio"]["high"] for row in rows)
    axes.set_xscale("log", base=2)  # twice as fast is as far from 1 as half
    axes.set_xlim(min(0.7, 0.9 * low), max(1.5, 1.5 * high))
    left, right = axes.get_xlim()
    axes.set_xticks([tick for tick in _TICKS if left <= tick <= right])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()
    axes.grid(axis="x")
    words = {"step": "images a second, more is better", "process": "seconds, less is better"}
    axes.set_xlabel(
        f"ours / theirs: {words[kind]}\n(bar: goal; o reached, x missed, square: none)",
        fontsize=8.5,
    )
