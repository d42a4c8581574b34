"""How the cost grows with the batch, the network, the devices and the data.

One factor is changed at a time, around the CNN of the preset "quick". The slope of a straight line
through the logarithms of size and seconds tells how: 1 is in proportion, 0 is no growth at all.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from digits_jax.benchmarks.options import Options, train_config
from digits_jax.benchmarks.processes import in_child
from digits_jax.benchmarks.products import flops
from digits_jax.benchmarks.step import training_steps
from digits_jax.benchmarks.timing import spread, time_in_turn
from digits_jax.data.datasets import Dataset, Split
from digits_jax.hardware import cpu_count, use_compilation_cache
from digits_jax.training.multi_step import MultiStep, lower_step
from digits_jax.training.parallel import start_backend
from digits_jax.training.run_metadata import device_name
from digits_jax.training.setup import TrainSetup, prepare

# The size that the seconds are compared with, for each factor.
SIZE_OF = {"batch": "images", "width": "flops", "devices": "devices", "data": "images"}
BATCH_SIZES, QUICK_SIZES = (32, 64, 128, 256, 512, 1024), (128, 256)
WIDTHS, QUICK_WIDTHS = (0.5, 1.0, 2.0, 4.0), (1.0, 2.0)  # on the channels and the dense layer
COUNTS, QUICK_COUNTS = (2000, 4000, 8000, 16_000), (512, 1024, 2048)  # images in an epoch


def benchmark(options: Options) -> dict[str, Any]:
    """Measures each number of devices in its own process: a CPU is split once in each.

    Returns:
      "device", "dataset"; "rows" for each factor and value: seconds of a step, or, of the factor
      data, of an epoch, each as `benchmarks.step` has them; and "growth", the slope of each factor.
    """
    for size in options.batch_sizes:
        train_config(options, arch="cnn", preset="quick", batch_size=size)
    answer = in_child(measure, options, ("batch", "width", "data", "devices"))
    rows, here = answer.pop("rows"), answer.pop("devices_here")
    done = {row["value"] for row in rows if row["factor"] == "devices"}
    for count in sorted(({2**i for i in range(here.bit_length())} | {here}) - done):
        rows += in_child(measure, dataclasses.replace(options, devices=count), ("devices",))["rows"]
    rows.sort(key=lambda row: (list(SIZE_OF).index(row["factor"]), row["value"]))
    growth = []
    for factor, size in SIZE_OF.items():
        own = [row for row in rows if row["factor"] == factor]
        slope = log_slope([row["size"] for row in own], [row["seconds"]["median"] for row in own])
        growth.append({"factor": factor, "size": size, "log_log_slope": slope})
    return {**answer, "growth": growth, "rows": rows}


def log_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Returns the slope of a least-squares line through logarithms; None where there is one size.

    Examples:
      >>> round(log_slope([1, 10, 100], [2, 20, 200]), 6)
      1.0
    """
    if len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measure(options: Options, factors: Sequence[str]) -> dict[str, Any]:
    """Measures some factors with JAX in this process; the values of each in turn."""
    use_compilation_cache()  # it isn't compilation that is measured here
    base = prepare(*train_config(options, arch="cnn", preset="quick"))
    # A CPU is split again for each number, into no more than it has cores.
    on_cpu = base.platform == "cpu"
    return {
        "device": device_name(base.mesh),
        "dataset": base.dataset.name,
        "devices_here": cpu_count() if on_cpu else len(start_backend(options.platform, 1)),
        "rows": [row for each in factors for row in measure_factor(each, base, options)],
    }


def measure_factor(factor: str, base: TrainSetup, options: Options) -> list[dict[str, Any]]:
    """Measures a step at each value of a factor; of "data" an epoch, with its order and batches."""
    rows, runs, units = [], [], []
    epochs = factor == "data"
    with contextlib.ExitStack() as stack:
        for value, setup in setups_of(factor, base, options):
            multi_step = MultiStep([setup])
            run = stack.enter_context(training_steps(setup, multi_step))
            images, size = multi_step.max_steps * setup.config.batch_size, len(setup.dataset.train)
            calls = math.ceil(size / images) if epochs else 1
            # The last batch of an epoch may be partly of the next one.
            units.append(calls * images / size if epochs else multi_step.max_steps)
            runs.append(lambda count, run=run, calls=calls: run(count * calls))
            count = flops(lower_step(setup))
            rows.append(
                {
                    "factor": factor,
                    "value": value,
                    "size": count or value if factor == "width" else value,
                    "batch_size": setup.config.batch_size,
                    "devices": setup.mesh.size,
                    "train_count": size,
                    "flops": count,
                }
            )
        repeats = min(options.repeats, 3) if epochs else options.repeats
        found = time_in_turn(runs, repeats=repeats, seconds=0.0 if epochs else options.seconds)
    for row, unit, blocks in zip(rows, units, found, strict=True):
        row["seconds"] = spread([seconds / unit for seconds in blocks])
    return rows


def setups_of(
    factor: str, base: TrainSetup, options: Options
) -> Iterator[tuple[float, TrainSetup]]:
    """Yields the values of a factor, and what is trained with each."""

    def changed(dataset: Dataset, **fields: Any) -> TrainSetup:
        return prepare(*train_config(options, arch="cnn", preset="quick", **fields), dataset)

    config, quick = base.config, options.quick
    if factor == "batch":
        for size in options.batch_sizes or (QUICK_SIZES if quick else BATCH_SIZES):
            yield size, changed(base.dataset, batch_size=size)
    elif factor == "width":
        for width in QUICK_WIDTHS if quick else WIDTHS:
            channels = tuple(max(1, round(width * each)) for each in config.channels)
            dense = max(1, round(width * config.dense_size))
            yield width, changed(base.dataset, channels=channels, dense_size=dense)
    elif factor == "devices":
        yield base.mesh.size, base
    else:
        for size in QUICK_COUNTS if quick else COUNTS:
            size = max(size, config.batch_size)
            yield size, changed(resized(base.dataset, size))


def resized(dataset: Dataset, size: int) -> Dataset:
    """Returns a data set with so many training images: its first ones, repeated if need be."""
    train: Any = dataset.train
    rows = np.arange(size) % len(train)
    part = Split(train.images[rows], np.asarray(train.labels)[rows])
    return dataclasses.replace(dataset, train=part)
