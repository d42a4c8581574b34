"""What a training step costs: compilation, host, transfer, device; and how near the limit it is."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from digits_jax.benchmarks.machine import describe_device
from digits_jax.benchmarks.processes import COLD, in_child
from digits_jax.benchmarks.products import limit, measured_products
from digits_jax.benchmarks.settings import train_config
from digits_jax.benchmarks.timing import as_trained, spread, time_blocks
from digits_jax.data.pipeline import open_stream
from digits_jax.training import parallel
from digits_jax.training.calls import Resident
from digits_jax.training.compiling import bare_step, lower_step, steps_ahead
from digits_jax.training.group import Group
from digits_jax.training.interrupts import StopRequest
from digits_jax.training.plan import Plan, prepare
from digits_jax.training.session import Session
from digits_jax.training.state import TrainState

TYPES = ("float32", "bfloat16")


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures each network in a process of its own, which splits the CPU as its training does.

    Args:
      settings: see `digits_jax.benchmarks.settings`.

    Returns:
      "device", "dataset", "products" (a row for each network and dtype) and "rows" (a row for
      each network and batch size).
    """
    settings = {**settings, "batch_sizes": _divided(settings)}
    for arch, size in itertools.product(settings["archs"], settings["batch_sizes"]):
        train_config(settings, arch=arch, batch_size=size)
    answers = [
        in_child("step", {**settings, "arch": arch}, COLD)
        for arch in tqdm(settings["archs"], "step", unit="network", leave=False, disable=None)
    ]
    return {
        "device": answers[0]["device"],
        "dataset": answers[0]["dataset"],
        "products": [row for answer in answers for row in answer["products"]],
        "rows": [row for answer in answers for row in answer["rows"]],
    }


def _divided(settings):
    """The batch sizes, rounded up to what the devices divide."""
    sizes = settings["batch_sizes"]
    devices = int(settings["devices"]) if settings["devices"].isdecimal() else 1
    if not 1 <= devices <= min(sizes):
        return sizes  # training says what is wrong
    return list(dict.fromkeys(-(-size // devices) * devices for size in sizes))


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures one network, settings["arch"], with JAX in this process."""
    arch, sizes = settings["arch"], settings["batch_sizes"]
    config = train_config(settings, arch=arch, batch_size=sizes[0])
    plans = [prepare(config)]
    dataset = plans[0].dataset
    for size in sizes[1:]:
        other = train_config(settings, arch=arch, batch_size=size)
        plans.append(prepare(other, dataset))
    mesh = plans[0].mesh
    # The one that the limit is taken from; the other, where there is time.
    dtypes = (plans[0].config.dtype,) if settings["quick"] else TYPES
    before = measured_products(mesh, dtypes, settings)
    bar = tqdm(plans, f"{arch}: batch sizes", unit="row", leave=False, disable=None)
    rows = [{"arch": plan.config.arch, **measure_step(plan, settings)} for plan in bar]
    after = measured_products(mesh, dtypes, settings)
    products = [
        {"arch": arch, "dtype": dtype, "devices": mesh.size, "before": before[dtype]["rates"]}
        | {"size": before[dtype]["size"], "after": after[dtype]["rates"]}
        for dtype in dtypes
    ]
    of_dtype = next(row for row in products if row["dtype"] == plans[0].config.dtype)
    rate = limit(of_dtype["before"], of_dtype["after"])
    for row in rows:
        # A batch that not all devices divide runs on fewer.
        most = rate * row["devices"] / mesh.size
        flop_rate = row["flops"] and row["flops"] / as_trained(row)["median"]
        row |= {"flops_per_second": flop_rate, "fraction": flop_rate and flop_rate / most}
    named = {"name": dataset.name, "sha256": dataset.sha256, "train_count": len(dataset.train)}
    return {
        "device": describe_device(mesh),
        "dataset": named,
        "products": products,
        "rows": rows,
    }


def measure_step(plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """Compiles and times a plan's step, the very one that trains.

    Args:
      plan: of a training.
      settings: "repeats" and "seconds" of each.

    Returns:
      Durations in seconds, each of one step or one batch; "flops" of one step on all devices;
      "in_calls", where training takes many steps in a call of the devices: see `measure_calls`.
    """
    block = {"repeats": settings["repeats"], "seconds": settings["seconds"]}
    state, lowered, compiled, durations = compile_step(plan)
    order = {"seed": plan.config.seed, "batch_size": plan.config.batch_size}
    with open_stream(plan.dataset.train, **order) as stream:
        numbers = itertools.count()

        def make_batches(count):
            for _ in range(count):
                stream.batch(next(numbers))

        batches = time_blocks(make_batches, **block)
        batch = stream.batch(0)

    def transfer(count):
        for _ in range(count):
            jax.block_until_ready(parallel.shard(batch, plan.mesh))

    transfers = time_blocks(transfer, **block)
    placed = parallel.shard(batch, plan.mesh)
    steps = time_blocks(stepper(plan, compiled, state, lambda: placed), **block)
    row = {"step_seconds": spread(steps), "in_calls": measure_calls(plan, block)}
    return {
        "dtype": plan.config.dtype,
        "convolution": plan.config.convolution if plan.config.arch == "cnn" else None,
        "batch_size": plan.config.batch_size,
        "devices": plan.mesh.size,
        **durations,
        "batch_seconds": spread(batches),
        "transfer_seconds": spread(transfers),
        **row,
        "images_per_second": plan.config.batch_size / as_trained(row)["median"],
        "flops": flops(lowered, compiled, plan.mesh.size),
        "compiled_flops": _analysed(compiled, plan.mesh.size),
        "blocks": {"batch": batches, "transfer": transfers, "step": steps},
    }


def measure_calls(plan: Plan, block: dict[str, Any]) -> dict[str, Any] | None:
    """What a step costs as one of many in a call, with the training images on the devices.

    Args:
      plan: of a training.
      block: "repeats" and "seconds" of each.

    Returns:
      {"steps_per_call", "compile_seconds", "step_seconds", "blocks"}; None where training takes
      its steps one by one.
    """
    most = int(plan.config.steps_per_call)
    if most == 1:
        return None
    started = time.perf_counter()
    calls = Resident(plan, bare_step(plan), most)
    compile_seconds = time.perf_counter() - started
    held = [plan.initial_state()]

    def run(count):
        for _ in range(count):
            held[0], (_, sums) = calls.take(held[0], 0, most, 0)
        jax.block_until_ready((held[0], sums))

    blocks = [seconds / most for seconds in time_blocks(run, **block)]
    return {
        "steps_per_call": most,
        "compile_seconds": compile_seconds,
        "step_seconds": spread(blocks),
        "blocks": blocks,
    }


def compile_step(
    plan: Plan,
) -> tuple[TrainState, jax.stages.Lowered, jax.stages.Compiled, dict[str, float]]:
    """The state at step 0, the step lowered and compiled, and the seconds that both took."""
    state = plan.initial_state()
    session = Session(plan, Path(), Group(), StopRequest(), quiet=True)
    started = time.perf_counter()
    lowered = lower_step(session)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compiled_at = time.perf_counter()
    durations = {"lower_seconds": traced - started, "compile_seconds": compiled_at - traced}
    return state, lowered, compiled, durations


def stepper(
    plan: Plan, compiled: Callable, state: TrainState, next_batch: Callable[[], dict]
) -> Callable[[int], None]:
    """A function that takes so many steps, as far ahead of the device as training does."""
    (key,), ahead = plan.step_inputs, steps_ahead(plan)
    held = [state]

    def run(count):
        for number in range(1, count + 1):
            held[0], sums = compiled(held[0], next_batch(), key)
            if number % ahead == 0:
                jax.device_get(sums)
        jax.block_until_ready(held[0])

    return run


def flops(lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, devices: int) -> float | None:
    """Floating-point operations of one call, as XLA's cost analysis has it, on all devices.

    What was lowered is of whole arrays, and nothing in it has become a call of a library, whose
    operations nobody would count. Where a backend can't analyse that, the compiled code of one
    device is taken, times the devices. The count has every addition and comparison, too, not only
    those of the matrix products.

    Args:
      lowered: before compilation.
      compiled: after it.
      devices: that it runs on.

    Example:
      >>> import jax.numpy as jnp
      >>> lowered = jax.jit(jnp.dot).lower(jnp.ones((2, 3)), jnp.ones((3, 5)))
      >>> flops(lowered, lowered.compile(), 1)
      60.0
    """
    return _analysed(lowered, 1) or _analysed(compiled, devices)


def _analysed(program, times):
    try:
        found = program.cost_analysis()
    except (NotImplementedError, RuntimeError):  # a plug-in may not have it
        return None
    found = found[0] if isinstance(found, list) and found else found
    return times * float((found or {}).get("flops", 0)) or None
