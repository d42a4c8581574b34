"""Results as Markdown tables."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from digits_jax.benchmarks.words import (
    between,
    duration,
    percent,
    range_of,
    rate,
    some,
    table,
    thousands,
    where,
)

# Rates that differ by more are of a device that others use.
_STEADY = 0.15


def markdown(result: dict[str, Any]) -> str:
    """A result as tables, with a line above them that says what was measured, and on what.

    Args:
      result: of a benchmark, as its JSON file holds it.
    """
    head, *lines = _TABLES[result["benchmark"]](result)
    asked, found = result["settings"].get("dataset"), result.get("dataset", {}).get("name")
    if (asked, found) == ("auto", "digits"):
        # What `train` says with more words, and before it begins.
        head += (
            "\n\nNot MNIST, which could not be had, but the 1,797 small digits of scikit-learn: "
            "--data-dir, or DIGITS_JAX_DATA_DIR, names a folder of MNIST's four files."
        )
    return "\n".join([head, *lines]) + "\n"


def page(result: dict[str, Any], stem: str) -> str:
    """The tables, the picture and the command, as a Markdown file.

    Args:
      result: of a benchmark.
      stem: of the files beside it.
    """
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    return (
        f"# {result['benchmark']}\n\n`{result['command']}`\n\n{markdown(result)}\n"
        f"![{result['benchmark']}]({stem}.png)\n\n{versions}; all numbers and every setting: "
        f"[{stem}.json]({stem}.json)\n"
    )


def _head(result, what):
    data = result.get("dataset", {}).get("name", "")
    return f"{data}; {where(result['machine'])}; {what}"


def _how(found):
    """What "auto" came to; files of before they said so don't have it."""
    if not found.get("dtype"):
        return ""
    way = f"convolutions by {found['convolution']}, " if found.get("convolution") else ""
    return f"{found['dtype']}, {way}"


def _step(result):
    settings = result["settings"]
    yield _head(
        result,
        f"preset {settings['preset']}; median and 10th to 90th percentile "
        f"of {some(settings['repeats'], 'block')} of {settings['seconds']:g} s",
    )
    yield ""
    heads = [
        "network",
        "type",
        "convolutions",
        "batch",
        "devices",
        "lower + compile",
        "host batch",
        "transfer",
        "step",
    ]
    heads.append("range")
    in_calls = any(row.get("in_calls") for row in result["rows"])
    heads += ["in a call of", "a step of it", "range"] * in_calls
    heads += ["images/s", "FLOPs a step", "FLOP/s", "of the matrix product"]
    rows = []
    for row in result["rows"]:
        compiling = f"{duration(row['lower_seconds'])} + {duration(row['compile_seconds'])}"
        parts = [duration(row[f"{n}_seconds"]["median"]) for n in ("batch", "transfer", "step")]
        flops = "-" if row["flops"] is None else f"{row['flops']:.3g}"
        rows.append(
            [
                row["arch"],
                row["dtype"],
                row["convolution"] or "-",
                row["batch_size"],
                row["devices"],
                compiling,
                *parts,
                range_of(row["step_seconds"]),
                *(_of_calls(row["in_calls"]) if in_calls else ()),
                thousands(row["images_per_second"]),
                flops,
                rate(row["flops_per_second"]),
                percent(row["fraction"]),
            ]
        )
    yield from table(heads, rows, words=3)
    if in_calls:
        yield ""
        yield (
            "Training takes many steps in a call of the device, which holds all training images: "
            "images/s and what follows are of those steps."
        )
    yield from _products(result["products"])


def _of_calls(calls):
    if not calls:
        return "-", "-", "-"
    step = calls["step_seconds"]
    return some(calls["steps_per_call"], "step"), duration(step["median"]), range_of(step)


def _products(products):
    yield ""
    heads = ["matrix product", "for", "devices", "size", "before", "after"]
    rows = [
        [row["dtype"], row["arch"], row["devices"], row["size"]]
        + [rate(statistics.median(row[when])) for when in ("before", "after")]
        for row in products
    ]
    yield from table(heads, rows, words=2)
    drift = max(unsteadiness(row["before"], row["after"]) for row in products)
    if drift > _STEADY:
        yield ""
        yield (
            f"Before and after differ by up to {drift:.0%}: the device had something else to do, "
            "or changed its clock; measure again when it is idle."
        )


def unsteadiness(before: Sequence[float], after: Sequence[float]) -> float:
    """By how much the slower of two medians falls short of the other: a fraction.

    Example:
      >>> unsteadiness([4.0], [3.0, 3.0, 9.0])
      0.25
    """
    low, high = sorted([statistics.median(before), statistics.median(after)])
    return 1 - low / high


def _time_to_accuracy(result):
    settings = result["settings"]
    compiled = "nothing compiled before" if settings["cold"] else "what was compiled before is used"
    # Files of before they said so have none of these.
    new = sum(run.get("compiled", False) for row in result["rows"] for run in row["runs"])
    if new and not settings["cold"]:
        compiled += f", but by {some(new, 'process')} something was compiled for the first time"
    yield _head(
        result,
        f"{_how(result['rows'][0]['runs'][0])}preset {settings['preset']}; "
        f"{some(settings['seeds'], 'seed')}; whole processes, median and range; {compiled}",
    )
    yield ""
    heads = ["network", "whole process", "range", "start, imports, end", "compilation"]
    heads += ["training", "data, scoring, saving", "test accuracy", f"{settings['target']:.2%}"]
    rows = []
    for row in result["rows"]:
        runs = row["runs"]
        medians = {
            name: duration(statistics.median(run[f"{name}seconds"] for run in runs))
            for name in ("", "process_", "compile_", "train_", "other_")
        }
        whole = [run["seconds"] for run in runs]
        sd = "" if row["accuracy_sd"] is None else f" ± {row['accuracy_sd']:.2%}"
        rows.append(
            [row["arch"], medians[""], between(min(whole), max(whole))]
            + [medians[name] for name in ("process_", "compile_", "train_", "other_")]
            + [f"{row['accuracy_mean']:.2%}{sd}", "reached" if row["reached"] else "not reached"]
        )
    yield from table(heads, rows)
    if (most := result["peak_memory_bytes"]) is not None:
        yield ""
        yield f"No process had more than {most / 1e6:,.0f} MB of memory."


def _inference(result):
    settings = result["settings"]
    count = result["dataset"]["test_count"]
    yield _head(
        result,
        f"float32; {count:,} test images; median and 10th to 90th percentile of "
        f"{some(settings['repeats'], 'block')} of {settings['seconds']:g} s, or of one call where "
        "that takes longer",
    )
    yield ""
    heads = ["network", "batch", "devices", "compilation", "images/s, host to host", "range"]
    heads += ["images/s, forward pass alone", "range", "FLOP/s", "of the matrix product"]
    rows = [
        [row["arch"], row["batch_size"], row["devices"], duration(row["compile_seconds"])]
        + [
            text
            for name in ("score", "forward")
            for text in (
                thousands(row[f"{name}_images_per_second"]["median"]),
                range_of(row[f"{name}_images_per_second"], thousands),
            )
        ]
        + [rate(row["flops_per_second"]), percent(row["fraction"])]
        for row in result["rows"]
    ]
    yield from table(heads, rows)
    yield ""
    yield (
        "Host to host a call is the whole split, its batches one after the other; of the forward "
        "pass alone a call is one batch, and each is waited for."
    )
    if max(settings["batch_sizes"]) > count:
        yield f"No batch is larger than the {count:,} images that there are."
    yield from _products(result["products"])
    yield ""
    heads = ["one image", "network", "first call", f"median of {settings['calls']}", "99th perc."]
    rows = [
        [row["way"], row["arch"], duration(row["first_seconds"])]
        + [duration(row["seconds"][name]) for name in ("median", "p99")]
        for row in result["latencies"]
    ]
    yield from table(heads, rows, words=2)


def _input(result):
    data, machine, settings = result["dataset"], result["machine"], result["settings"]
    size = f"{data['bytes'] / 1e9:.2f} GB of files" if data["bytes"] else "no files"
    repeats = settings["repeats"]
    often = f"median and range of {repeats} times" if repeats > 1 else "once"
    yield (
        f"{data['name']}: {data['train_count']:,} training images, {size}"
        f"{', forgotten by the system before each row' if settings['evict'] else ''}; "
        f"{where(machine)}; {often} {settings['seconds']:g} s"
    )
    yield ""
    rows = []
    for row in result["rows"]:
        rates = row["images_per_second"]
        rows.append(
            [
                row["input"],
                row["threads"] or "-",
                row["batch_size"],
                thousands(statistics.median(rates)),
                between(min(rates), max(rates), thousands),
                f"{row['first_batch_seconds']:.2f} s",
            ]
        )
    yield from table(["input", "threads", "batch", "images/s", "range", "first batch"], rows)
    yield ""
    rows = []
    for start in result["cold_starts"]:
        seconds = start["seconds"]
        spread = between(min(seconds), max(seconds))
        rows.append([start["input"], duration(statistics.median(seconds)), spread])
    yield from table(["new process", "first batch after", "range"], rows)


def _startup(result):
    count = result["settings"]["repeats"]
    often = f"median and range of {some(count, 'new process')}" if count > 1 else "one new process"
    yield _head(result, often)
    yield ""
    rows = [
        [
            row["what"],
            duration(row["seconds"]["median"]),
            between(min(row["repeats"]), max(row["repeats"])),
        ]
        for row in result["rows"]
    ]
    yield from table(["new process", "seconds", "range"], rows)


_FACTORS = {
    "batch": ("batch size", "a step"),
    "width": ("width", "a step"),
    "devices": ("devices", "a step"),
    "data": ("training images", "an epoch"),
}


def _scaling(result):
    settings = result["settings"]
    yield _head(
        result,
        f"{_how(result)}around cnn, preset quick; median of "
        f"{settings['repeats']} blocks of {settings['seconds']:g} s (of an epoch: of at most 3)",
    )
    yield ""
    heads = ["factor", "of", "seconds", "range", "images/s"]
    rows = []
    for factor in result["factors"]:
        label, unit = _FACTORS[factor["name"]]
        for row in factor["rows"]:
            images = row["train_count"] if factor["name"] == "data" else row["batch_size"]
            rows.append(
                [
                    f"{label} {row['value']:,g}",
                    unit,
                    duration(row["seconds"]["median"]),
                    range_of(row["seconds"]),
                    thousands(images / row["seconds"]["median"]),
                ]
            )
    yield from table(heads, rows, words=2)
    yield ""
    heads = [
        "seconds against",
        "log-log slope",
        f"above {result['superlinear_above']:g}: more than in proportion",
    ]
    rows = [
        [
            slope_label(factor),
            "-" if factor["slope"] is None else f"{factor['slope']:.2f}",
            {None: "-", True: "superlinear", False: "no"}[factor["superlinear"]],
        ]
        for factor in result["factors"]
    ]
    yield from table(heads, rows)
    yield ""
    yield (
        "The rows of a factor are measured in turn, and with one another they compare; between "
        "factors the machine may change its pace, and each number of devices has a process and "
        "a time of its own."
    )
    there = result["dataset"].get("train_count", math.inf)
    if max(settings["sizes"]) > there:
        yield f"Of more than {there:,} training images the further ones are the first ones again."


def slope_label(factor: dict[str, Any]) -> str:
    """What a factor's seconds are held against.

    Example:
      >>> slope_label({"name": "width", "size": "flops"})
      'FLOPs of a step (width)'
    """
    if factor["size"] == "flops":
        return f"FLOPs of a step ({factor['name']})"
    return _FACTORS[factor["name"]][0]


_TABLES = {
    "step": _step,
    "time-to-accuracy": _time_to_accuracy,
    "inference": _inference,
    "input": _input,
    "startup": _startup,
    "scaling": _scaling,
}
