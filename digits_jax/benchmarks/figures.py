"""A picture of each result."""

import logging
import statistics
from pathlib import Path
from typing import IO, Any

from digits_jax.benchmarks.report import slope_label
from digits_jax.benchmarks.timing import as_trained
from digits_jax.benchmarks.words import duration, where

# Okabe and Ito's, told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def draw(result: dict[str, Any], file: Path | IO[bytes]) -> None:
    """Draws a result of any benchmark, as a PNG.

    Args:
      result: as its JSON file holds it.
      file: to write, or its path.
    """
    # Matplotlib warns at length where there is no home folder to keep its font list in.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl

    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": "agg"}):
        figure = _DRAW[result["benchmark"]](result)
        figure.savefig(file, format="png")


def _figure(result, title, width, height):
    # Not pyplot, which keeps every figure in a global list and chooses a backend for screens.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    data = result.get("dataset", {}).get("name", "")
    text = f"{title}\n{data}; {where(result['machine'])}"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    return figure


def _errors(spreads):
    return [
        [each["median"] - each["p10"] for each in spreads],
        [each["p90"] - each["median"] for each in spreads],
    ]


def _plain_log(axis, values=None):
    """Labels like 1,024 and 0.5 on a logarithmic axis, at the values that were measured."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_formatter(NullFormatter())
    if values is not None:
        axis.set_major_locator(FixedLocator(sorted(set(values))))
        axis.set_minor_locator(NullLocator())


def _short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _stacked(axes, labels, parts, wholes=None):
    """Horizontal bars, each of several parts; parts: name -> a value for each bar.

    At its end stands the bar's length, or what ``wholes`` has instead.
    """
    left = [0.0] * len(labels)
    for (name, values), colour in zip(parts.items(), COLOURS, strict=False):
        axes.barh(range(len(labels)), values, 0.6, left=left, label=name, color=colour)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    for place, (end, value) in enumerate(zip(left, wholes or left, strict=True)):
        axes.text(end, place, f" {_short(value)}", va="center", fontsize=8.5)
    axes.set_xlim(0, 1.18 * max(left))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=len(parts))


def _bars(axes, labels, values, errors, colours, *, texts):
    """Horizontal bars with whiskers, and a text at the end of each."""
    places = range(len(labels))
    whiskers = errors if any(map(any, errors)) else None
    axes.barh(places, values, 0.62, xerr=whiskers, color=colours, error_kw={"lw": 1, "capsize": 2})
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    ends = [value + high for value, high in zip(values, errors[1], strict=True)]
    for place, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.text(end, place, f"  {text}", va="center", fontsize=8.5)
    axes.set_xlim(0, 1.3 * max(ends))


def _step(result):
    rows = result["rows"]
    height = 2.4 + 0.32 * len(rows)
    figure = _figure(result, "One training step", 11, height)
    parts, speeds, limits = figure.subplots(1, 3, width_ratios=(1.4, 1.1, 1))
    labels = [f"{row['arch']}, batch {row['batch_size']}" for row in rows]
    names = {"batch": "host batch", "transfer": "transfer", "step": "step"}
    _stacked(
        parts,
        labels,
        {
            text: [1e3 * row[f"{name}_seconds"]["median"] for row in rows]
            for name, text in names.items()
        },
    )
    alone = ", one step in a call" if any(row.get("in_calls") for row in rows) else ""
    parts.set_xlabel(f"milliseconds, each part by itself{alone}")
    for arch, colour in zip(result["settings"]["archs"], COLOURS, strict=False):
        own = [row for row in rows if row["arch"] == {"ann": "mlp"}.get(arch, arch)]
        own.sort(key=lambda row: row["batch_size"])
        sizes = [row["batch_size"] for row in own]
        rates = [
            {name: row["batch_size"] / value for name, value in as_trained(row).items()}
            for row in own
        ]
        middles = [each["median"] / 1e3 for each in rates]
        spread = [
            [(each["median"] - each["p90"]) / 1e3 for each in rates],
            [(each["p10"] - each["median"]) / 1e3 for each in rates],
        ]
        style = {"marker": "o", "ms": 4, "capsize": 2, "color": colour}
        speeds.errorbar(sizes, middles, spread, label=arch, **style)
    speeds.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    speeds.set_xscale("log", base=2)
    _plain_log(speeds.xaxis, [row["batch_size"] for row in rows])
    speeds.margins(x=0.15)
    speeds.set_ylim(bottom=0)
    speeds.set_xlabel("batch size (images)")
    speeds.set_ylabel("thousand images/s, steps alone")
    fractions = [100 * (row["fraction"] or 0) for row in rows]
    none = [[0] * len(rows)] * 2
    texts = ["-" if row["fraction"] is None else f"{100 * row['fraction']:.1f}" for row in rows]
    _bars(limits, labels, fractions, none, BLUE, texts=texts)
    limits.set_xlabel("% of the matrix product's FLOP/s")
    return figure


def _time_to_accuracy(result):
    rows, target = result["rows"], result["settings"]["target"]
    figure = _figure(
        result,
        "From the start of the process to its end"
        + (", with nothing compiled before" if result["settings"]["cold"] else ""),
        9,
        2.3 + 0.5 * len(rows),
    )
    times, scores = figure.subplots(1, 2, width_ratios=(1.7, 1))
    labels = [row["arch"] for row in rows]
    names = {
        "process": "start, imports, end",
        "compile": "compilation",
        "train": "training",
        "other": "data, scoring, saving",
    }
    middle = {
        text: [statistics.median(run[f"{name}_seconds"] for run in row["runs"]) for row in rows]
        for name, text in names.items()
    }
    # Medians of parts don't add up to the median of wholes, which is what the table has.
    wholes = [statistics.median(run["seconds"] for run in row["runs"]) for row in rows]
    _stacked(times, labels, middle, wholes)
    times.get_legend().remove()
    times.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=2)
    times.set_xlabel("seconds (bars: each part's median; number: median of the whole)")
    for place, row in enumerate(rows):
        found = [100 * run["test_accuracy"] for run in row["runs"]]
        scores.plot(found, [place] * len(found), "o", ms=5, color=BLUE, alpha=0.7)
        scores.plot([100 * row["accuracy_mean"]], [place], "|", ms=18, mew=2, color=ORANGE)
    scores.axvline(100 * target, color=GREEN, lw=1.2, ls="--")
    scores.set_yticks(range(len(rows)), labels)
    scores.set_ylim(len(rows) - 0.5, -0.5)
    scores.margins(x=0.15)
    scores.locator_params(axis="x", nbins=4)
    scores.set_xlabel("test accuracy (%)")
    scores.set_title(f"seeds, their mean (|), target {target:.2%} (dashed)")
    return figure


def _inference(result):
    rows, latencies = result["rows"], result["latencies"]
    bars = max(2 * len(rows), len(latencies))
    figure = _figure(result, "Recognising digits", 11, 1.7 + 0.34 * bars)
    speeds, times = figure.subplots(1, 2)
    names = {"score": ("host to host", BLUE), "forward": ("forward pass", SKY)}
    each = [(row, *names[name], f"{name}_images_per_second") for row in rows for name in names]
    spreads = [row[field] for row, _, _, field in each]
    _bars(
        speeds,
        [f"{row['arch']}, batch {row['batch_size']:,}, {text}" for row, text, _, _ in each],
        [one["median"] / 1e3 for one in spreads],
        [[value / 1e3 for value in side] for side in _errors(spreads)],
        [colour for _, _, colour, _ in each],
        texts=[_short(one["median"] / 1e3) for one in spreads],
    )
    speeds.set_xlabel("thousand images/s (median, 10th to 90th percentile)")
    seconds = [row["seconds"] for row in latencies]
    _bars(
        times,
        [f"{row['arch']}, {row['way']}" for row in latencies],
        [1e3 * one["median"] for one in seconds],
        [[0] * len(seconds), [1e3 * (one["p99"] - one["median"]) for one in seconds]],
        GREEN,
        texts=[f"{duration(one['median'])}, {duration(one['p99'])}" for one in seconds],
    )
    times.set_xlabel("milliseconds for one image (median, 99th percentile)")
    times.set_xlim(right=1.6 * max(1e3 * one["p99"] for one in seconds))
    return figure


def _input(result):
    rows = result["rows"]
    figure = _figure(result, "Training images from memory and from files", 8, 1.7 + 0.3 * len(rows))
    axes = figure.subplots()
    middles = [statistics.median(row["images_per_second"]) / 1e3 for row in rows]
    errors = [
        [m - min(r["images_per_second"]) / 1e3 for m, r in zip(middles, rows, strict=True)],
        [max(r["images_per_second"]) / 1e3 - m for m, r in zip(middles, rows, strict=True)],
    ]
    labels = [
        ", ".join([row["input"], *_threads(row["threads"]), f"batch {row['batch_size']}"])
        for row in rows
    ]
    colours = [BLUE if row["input"] == "memory" else ORANGE for row in rows]
    _bars(axes, labels, middles, errors, colours, texts=[_short(value) for value in middles])
    axes.set_xlabel("thousand images/s (median and range)")
    return figure


def _threads(count):
    return [f"{count} thread{'s' if count > 1 else ''}"] if count else []


def _startup(result):
    rows = result["rows"]
    figure = _figure(result, "New processes", 8, 1.4 + 0.3 * len(rows))
    axes = figure.subplots()
    middles = [row["seconds"]["median"] for row in rows]
    errors = [
        [m - min(row["repeats"]) for m, row in zip(middles, rows, strict=True)],
        [max(row["repeats"]) - m for m, row in zip(middles, rows, strict=True)],
    ]
    colours = [SKY if row["what"].startswith("in it:") else BLUE for row in rows]
    labels = [row["what"] for row in rows]
    _bars(axes, labels, middles, errors, colours, texts=[duration(value) for value in middles])
    axes.set_xlabel("seconds (median and range)")
    return figure


_PANELS = {
    "batch": ("batch size (images)", "milliseconds per step"),
    "width": ("GFLOPs of a step (width)", "milliseconds per step"),
    "devices": ("devices", "milliseconds per step"),
    "data": ("training images", "milliseconds per epoch"),
}


def _scaling(result):
    title = "What the quick CNN's training costs, one factor changed at a time"
    figure = _figure(result, title, 8.5, 6.6)
    for axes, factor in zip(figure.subplots(2, 2).flat, result["factors"], strict=True):
        _panel(axes, factor)
    return figure


def _panel(axes, factor):
    rows = factor["rows"]
    unit = 1e9 if factor["name"] == "width" else 1
    sizes = [row["size"] / unit for row in rows]
    spreads = [{k: 1e3 * v for k, v in row["seconds"].items()} for row in rows]
    middles = [each["median"] for each in spreads]
    style = {"marker": "o", "ms": 4, "capsize": 2, "color": BLUE, "ls": ""}
    axes.errorbar(sizes, middles, _errors(spreads), **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    words = "measured at one size"
    if factor["slope"] is not None:
        x = [statistics.geometric_mean(sizes), statistics.geometric_mean(middles)]
        ends = [min(sizes), max(sizes)]
        line = [x[1] * (end / x[0]) ** factor["slope"] for end in ends]
        axes.plot(ends, line, color=ORANGE, lw=1.2)
        verdict = ": superlinear" if factor["superlinear"] else ""
        words = f"slope {factor['slope']:.2f}{verdict}"
    axes.set_title(f"{slope_label(factor)}: {words}", loc="left")
    if factor["name"] == "width":
        for row, middle in zip(rows, middles, strict=True):
            place = (row["size"] / unit, middle)
            axes.annotate(f"×{row['value']:g}", place, (5, -11), textcoords="offset points")
    _plain_log(axes.xaxis, sizes)
    low, high = min(each["p10"] for each in spreads), max(each["p90"] for each in spreads)
    # Of an axis of less than a factor of ten, the ticks at whole decades may show none at all.
    least = 1.15 if factor["name"] != "width" else 1.4  # the labels lie below the points
    more = max(least, (4 * low / high) ** 0.5)
    low, high = low / more, high * more
    axes.set_ylim(low, high)
    # More of them where the axis is short.
    digits = (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 7)
    round_values = [float(f"{digit}e{power}") for power in range(-6, 9) for digit in digits]
    _plain_log(axes.yaxis, [value for value in round_values if low <= value <= high])
    axes.margins(x=0.12)
    axes.set_xlabel(_PANELS[factor["name"]][0])
    axes.set_ylabel(_PANELS[factor["name"]][1])


_DRAW = {
    "step": _step,
    "time-to-accuracy": _time_to_accuracy,
    "inference": _inference,
    "input": _input,
    "startup": _startup,
    "scaling": _scaling,
}
