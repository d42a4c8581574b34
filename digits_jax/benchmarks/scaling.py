"""How the cost grows with the batch, the network, the devices and the data.

One factor is changed at a time, around the CNN of the preset "quick". The slope of a straight line
through the logarithms of size and seconds tells how: 1 is in proportion, 0 is no growth at all.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from digits_jax.benchmarks.machine import describe_device
from digits_jax.benchmarks.processes import in_child
from digits_jax.benchmarks.settings import train_config
from digits_jax.benchmarks.step import compile_step, flops, stepper
from digits_jax.benchmarks.timing import spread, time_in_turn
from digits_jax.data.pipeline import open_stream
from digits_jax.data.splits import Dataset, Split
from digits_jax.training import parallel
from digits_jax.training.plan import Plan, prepare

SUPERLINEAR = 1.15
_KEPT = ("device", "dataset", "dtype", "convolution")
# What the factor is, and whose growth its seconds are held against.
SIZE_OF = {"batch": "images", "width": "flops", "devices": "devices", "data": "images"}


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures the devices in processes of their own: a CPU is split once in each.

    Args:
      settings: see `digits_jax.benchmarks.settings`.

    Returns:
      "device", "dataset", "dtype", "convolution", "superlinear_above" and "factors": for each its
      rows, the slope of its seconds and whether that is more than in proportion.
    """
    for size in settings["batch_sizes"]:
        train_config(settings, arch="cnn", preset="quick", batch_size=size)
    base = in_child("scaling", {**settings, "factors": ["batch", "width", "data", "devices"]})
    rows = list(base["rows"])
    done = {row["value"] for row in rows if row["factor"] == "devices"}
    counts = [count for count in device_counts(base["devices_here"]) if count not in done]
    for count in tqdm(counts, "devices", leave=False, disable=None):
        answer = in_child("scaling", {**settings, "factors": ["devices"], "devices": str(count)})
        rows += answer["rows"]
    found = [describe_factor(name, [r for r in rows if r["factor"] == name]) for name in SIZE_OF]
    return {name: base[name] for name in _KEPT} | {
        "superlinear_above": SUPERLINEAR,
        "factors": found,
    }


def device_counts(most: int) -> list[int]:
    """Powers of two up to the devices that there are, and these.

    Example:
      >>> device_counts(1), device_counts(6)
      ([1], [1, 2, 4, 6])
    """
    return sorted({2**i for i in range(most.bit_length())} | {most})


def describe_factor(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of one factor, and how its seconds grow.

    Args:
      name: one of ``SIZE_OF``.
      rows: each with "value", "size" and "seconds".

    Returns:
      "slope" and "superlinear" are None where all have one size.

    Example:
      >>> rows = [{"value": n, "size": n, "seconds": {"median": 3 * n**2}} for n in (1, 2, 4)]
      >>> found = describe_factor("width", rows)
      >>> round(found["slope"], 6), found["superlinear"], found["size"]
      (2.0, True, 'flops')
    """
    rows = sorted(rows, key=lambda row: row["value"])
    slope = log_slope([row["size"] for row in rows], [row["seconds"]["median"] for row in rows])
    return {
        "name": name,
        "size": SIZE_OF[name],
        "slope": slope,
        "superlinear": None if slope is None else slope > SUPERLINEAR,
        "rows": rows,
    }


def log_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float | None:
    """The slope of a least-squares line through logarithms; None where there is one size.

    Args:
      sizes: more than 0.
      seconds: more than 0.

    Example:
      >>> round(log_slope([1, 10, 100], [2, 20, 200]), 6)
      1.0
    """
    x = np.array([math.log(size) for size in sizes])
    y = np.array([math.log(each) for each in seconds])
    x = x - x.mean()
    return float((x * y).sum() / (x**2).sum()) if len(set(sizes)) > 1 else None


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures some factors, settings["factors"], with JAX in this process."""
    parallel.use_compilation_cache()  # It isn't compilation that is measured here.
    base = prepare(_config(settings))
    made = []
    for factor in settings["factors"]:
        made += [(factor, *each) for each in _PLANS[factor](base, settings)]
    compiled = _compile_all([plan for _, _, plan in made])
    rows = []
    for factor in tqdm(settings["factors"], "scaling", unit="factor", leave=False, disable=None):
        rows += _rows(factor, [each[1:] for each in made if each[0] == factor], settings, compiled)
    here = parallel.start_backend(base.config.platform, 1)
    return {
        "device": describe_device(base.mesh),
        # A CPU is split anew for each number, into no more than it has cores.
        "devices_here": parallel.cpu_count() if here[0].platform == "cpu" else len(here),
        "dataset": {
            "name": base.dataset.name,
            "sha256": base.dataset.sha256,
            "train_count": len(base.dataset.train),
        },
        "dtype": base.config.dtype,
        "convolution": base.config.convolution,
        "rows": rows,
    }


def _config(settings, **fields):
    return train_config(settings, arch="cnn", preset="quick", **fields)


def _batches(base, settings):
    for size in settings["batch_sizes"]:
        yield size, prepare(_config(settings, batch_size=size), base.dataset)


def _widths(base, settings):
    config = base.config
    for width in settings["widths"]:
        channels = tuple(max(1, round(width * each)) for each in config.channels)
        dense = max(1, round(width * config.dense_size))
        yield width, prepare(_config(settings, channels=channels, dense_size=dense), base.dataset)


def _devices(base, settings):
    yield base.mesh.size, base


def _data_sizes(base, settings):
    for size in settings["sizes"]:
        size = max(size, base.config.batch_size)
        yield size, prepare(_config(settings), resized(base.dataset, size))


_PLANS = {"batch": _batches, "width": _widths, "devices": _devices, "data": _data_sizes}


def resized(dataset: Dataset, size: int) -> Dataset:
    """A data set with so many training images: its first ones, again and again if need be."""
    train = dataset.train
    rows = np.arange(size) % len(train)
    part = Split(train.images[rows], np.asarray(train.labels)[rows])
    return dataclasses.replace(dataset, train=part)


def _shape(plan):
    return plan.config.batch_size, plan.config.channels, plan.config.dense_size


def _compile_all(plans):
    """Each different step once, several at a time: one keeps little more than one core busy.

    Rows of several factors have the same step, as it stands in quick.
    """
    owners = {_shape(plan): plan for plan in reversed(plans)}
    with ThreadPoolExecutor(parallel.cpu_count()) as pool:
        made = pool.map(compile_step, owners.values())
        bar = tqdm(made, "compiling", len(owners), unit="step", leave=False, disable=None)
        return {
            shape: (plan, code, flops(lowered, code, plan.mesh.size))
            for (shape, plan), (_, lowered, code, _) in zip(owners.items(), bar, strict=True)
        }


def _rows(factor, values, settings, compiled):
    """A row for each value of a factor, measured in turn."""
    times = {"repeats": settings["repeats"], "seconds": settings["seconds"]}
    if factor == "data":
        times = {"repeats": min(settings["repeats"], 3), "seconds": 0.0}
    with contextlib.ExitStack() as streams:
        runs = [_run(factor, plan, compiled, streams) for _, plan in values]
        found = time_in_turn(runs, **times)
    return [
        _row(factor, value, plan, compiled, seconds)
        for (value, plan), seconds in zip(values, found, strict=True)
    ]


def _run(factor, plan, compiled, streams):
    """``f(count)``, which takes so many steps, or with the factor "data" epochs."""
    owner, code, _ = compiled[_shape(plan)]
    state = owner.initial_state()  # Which holds functions of its own plan's, as the code does.
    order = {"seed": plan.config.seed, "batch_size": plan.config.batch_size}
    stream = streams.enter_context(open_stream(plan.dataset.train, **order))
    if factor != "data":
        placed = parallel.shard(stream.batch(0), plan.mesh)
        return stepper(plan, code, state, lambda: placed)
    # The order, the batches, their way to the devices, the steps.
    numbers = itertools.count()
    run = stepper(plan, code, state, lambda: parallel.shard(stream.batch(next(numbers)), plan.mesh))
    return lambda count: run(count * _steps_of_an_epoch(plan))


def _steps_of_an_epoch(plan):
    return math.ceil(len(plan.dataset.train) / plan.config.batch_size)


def _row(factor, value, plan: Plan, compiled, seconds):
    _, _, count = compiled[_shape(plan)]
    if factor == "data":
        # An epoch's last batch may be of the next one: its seconds are those of its images.
        steps = _steps_of_an_epoch(plan)
        share = len(plan.dataset.train) / (steps * plan.config.batch_size)
        seconds = [each * share for each in seconds]
    return {
        "factor": factor,
        "value": value,
        "size": count or value if factor == "width" else value,
        "batch_size": plan.config.batch_size,
        "devices": plan.mesh.size,
        "train_count": len(plan.dataset.train),
        "flops": count,
        "seconds": spread(seconds),
    }
