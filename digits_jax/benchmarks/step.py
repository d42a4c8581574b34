"""The cost of a training step: compilation, host, transfer, device; and the share of peak speed."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from digits_jax.benchmarks.options import Options, train_config
from digits_jax.benchmarks.processes import measure_networks
from digits_jax.benchmarks.products import flops, product_flops_per_second
from digits_jax.benchmarks.timing import repeated, spread, time_in_turn
from digits_jax.training import parallel
from digits_jax.training.loop import steps_ahead
from digits_jax.training.multi_step import MultiStep, initial_state, lower_step, open_batches
from digits_jax.training.run_metadata import device_name
from digits_jax.training.setup import TrainSetup, prepare

BATCH_SIZES, QUICK_SIZES = (64, 256, 1024), (256,)


def benchmark(options: Options) -> dict[str, Any]:
    """Measures each network in its own process, which splits the CPU as its training does.

    Returns:
      "device", "dataset" and "steps", a row for each network and batch size: see `measure_step`.
    """
    for arch, size in itertools.product(options.arch, options.batch_sizes or QUICK_SIZES):
        train_config(options, arch=arch, batch_size=size)
    return measure_networks(measure, options)


def measure(options: Options, arch: str) -> dict[str, Any]:
    """Measures one network with JAX in this process."""
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    setups: list[TrainSetup] = []
    for size in options.batch_sizes or (QUICK_SIZES if options.quick else BATCH_SIZES):
        dataset = setups[0].dataset if setups else None
        setups.append(prepare(*train_config(options, arch=arch, batch_size=size), dataset))
    mesh, dtype = setups[0].mesh, setups[0].config.dtype
    before = product_flops_per_second(mesh, dtype, quick=options.quick)
    rows = [measure_step(setup, options) for setup in setups]
    after = product_flops_per_second(mesh, dtype, quick=options.quick)
    for row in rows:
        # The larger rate was disturbed less. A batch that not all devices divide runs on fewer.
        limit = max(before, after) * row["devices"] / mesh.size
        rate = row["flops"] and row["flops"] / row["step_seconds"]["median"]
        row |= {"flops_per_second": rate, "matrix_product_flops_per_second": limit}
        row |= {"fraction": rate and rate / limit}
    return {"device": device_name(mesh), "dataset": setups[0].dataset.name, "steps": rows}


def measure_step(setup: TrainSetup, options: Options) -> dict[str, Any]:
    """Compiles and times a step as training takes it.

    Returns:
      "lower_seconds" and "compile_seconds", of the first compilation; "batch_seconds" (the host
      gathers a batch) and "transfer_seconds" (to the devices); "step_seconds" of a step in a row
      of many, which includes what the host does meanwhile; "flops" of one step on all devices.
    """
    times = {"repeats": options.repeats, "seconds": options.seconds}
    started = time.perf_counter()
    lowered_at: list[float] = []
    multi_step = MultiStep([setup], lambda: lowered_at.append(time.perf_counter()))
    compiled_at = time.perf_counter()
    with open_batches(setup) as stream:
        numbers, batch = itertools.count(), stream.batch(0)
        make_batches = repeated(lambda: stream.batch(next(numbers)))
        transfer = repeated(lambda: jax.block_until_ready(parallel.shard(batch, setup.mesh)))
        batches, transfers = time_in_turn([make_batches, transfer], **times)
    with training_steps(setup, multi_step) as run:
        calls, *_ = time_in_turn([run], **times)
    steps = [seconds / multi_step.max_steps for seconds in calls]
    return {
        "arch": setup.config.arch,
        "dtype": setup.config.dtype,
        "convolution": setup.convolution if setup.config.arch == "cnn" else None,
        "batch_size": setup.config.batch_size,
        "devices": setup.mesh.size,
        "steps_per_call": multi_step.max_steps,
        "lower_seconds": lowered_at[0] - started,
        "compile_seconds": compiled_at - lowered_at[0],
        "batch_seconds": spread(batches),
        "transfer_seconds": spread(transfers),
        "step_seconds": spread(steps),
        "images_per_second": setup.config.batch_size / spread(steps)["median"],
        "flops": flops(lower_step(setup)),
        "blocks": steps,
    }


@contextlib.contextmanager
def training_steps(setup: TrainSetup, multi_step: MultiStep) -> Iterator[Callable[[int], None]]:
    """Opens the training of a network without its logging, scoring and saving.

    Args:
      setup: of the training.
      multi_step: compiled for it.

    Yields:
      ``run(count)``, which makes so many calls of ``multi_step``, as far ahead of the devices as
      training does, and waits for the last.
    """
    state, step, size = initial_state([setup]), 0, multi_step.max_steps
    last = max(1, setup.total_steps - size)

    def run(count: int) -> None:
        nonlocal state, step
        pending = []
        for left in range(count, 0, -1):
            state, sums = multi_step(state, step, size)
            pending.append(sums)
            step = (step + size) % last  # behind the last step no batch is made ahead
            if left == 1 or len(pending) * size >= steps_ahead(setup):
                jax.device_get(pending)
                pending = []
        jax.block_until_ready(state)

    with multi_step:
        yield run
