"""Images a second of a whole split, and the time that one image takes.

The networks are as they are before training: what they answer costs as much as later on.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from digits_jax.benchmarks.machine import describe_device
from digits_jax.benchmarks.processes import COLD, in_child
from digits_jax.benchmarks.products import limit, measured_products
from digits_jax.benchmarks.settings import train_config
from digits_jax.benchmarks.step import flops
from digits_jax.benchmarks.timing import spread, time_in_turn
from digits_jax.deploy.network import Member, Network
from digits_jax.deploy.predictor import Predictor
from digits_jax.training import parallel
from digits_jax.training.plan import Plan, prepare
from digits_jax.training.scoring import make_scorer
from digits_jax.training.state import TrainState
from digits_jax.training.steps import predict_step


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures each network in a process of its own.

    Args:
      settings: see `digits_jax.benchmarks.settings`.

    Returns:
      "device", "dataset", "products" (a row for each network), "rows" (a row for each network and
      batch size) and "latencies" (a row for each network and way to call it).
    """
    for arch in settings["archs"]:
        train_config(settings, arch=arch)
    answers = [
        in_child("inference", {**settings, "arch": arch}, COLD)
        for arch in tqdm(settings["archs"], "inference", unit="network", leave=False, disable=None)
    ]
    return {
        "device": answers[0]["device"],
        "dataset": answers[0]["dataset"],
        "products": [answer["product"] for answer in answers],
        "rows": [row for answer in answers for row in answer["rows"]],
        "latencies": [row for answer in answers for row in answer["latencies"]],
    }


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measures one network, settings["arch"], with JAX in this process."""
    plan = prepare(train_config(settings, arch=settings["arch"]))
    state, test = plan.for_scoring(plan.initial_state()), plan.dataset.test
    named = {"name": plan.dataset.name, "sha256": plan.dataset.sha256, "test_count": len(test)}
    sizes = [fitting(size, len(test), plan.mesh.size) for size in settings["batch_sizes"]]
    before = measured_products(plan.mesh, ("float32",), settings)["float32"]
    rows = _measure_split(plan, state, list(dict.fromkeys(sizes)), settings)
    after = measured_products(plan.mesh, ("float32",), settings)["float32"]
    most = limit(before["rates"], after["rates"])
    for row in rows:
        row["fraction"] = row["flops_per_second"] and row["flops_per_second"] / most
    product = {"arch": settings["arch"], "dtype": "float32", "devices": plan.mesh.size}
    product |= {"size": before["size"], "before": before["rates"], "after": after["rates"]}
    return {
        "device": describe_device(plan.mesh),
        "dataset": named,
        "product": product,
        "rows": rows,
        "latencies": list(_latencies(plan, state, settings["calls"])),
    }


def fitting(size: int, images: int, devices: int) -> int:
    """A batch size that the devices divide, no larger than the images need.

    Example:
      >>> fitting(10_000, images=360, devices=1), fitting(1000, images=10_000, devices=3)
      (360, 1002)
    """
    return -(-min(size, images) // devices) * devices


def _measure_split(plan, state, sizes, settings):
    """A row for each batch size, all of them measured in turn."""
    compiled = [_compile(plan, state, size) for size in sizes]
    runs = [run for each in compiled for run in (each["score"], each["predict"])]
    times = {"repeats": settings["repeats"], "seconds": settings["seconds"]}
    found = time_in_turn(runs, **times)
    rows = []
    for size, each, whole, alone in zip(sizes, compiled, found[::2], found[1::2], strict=True):
        forward_rate = spread([size / seconds for seconds in alone])
        count = each["flops"]
        rows.append(
            {
                "arch": plan.config.arch,
                "batch_size": size,
                "devices": plan.mesh.size,
                "compile_seconds": each["compile_seconds"],
                "score_images_per_second": spread(
                    [len(plan.dataset.test) / seconds for seconds in whole]
                ),
                "forward_images_per_second": forward_rate,
                "flops": count,
                "flops_per_second": count and count / size * forward_rate["median"],
            }
        )
    return rows


def _compile(plan, state, size):
    """What scores the test set, and the forward pass alone: each ``f(count)``."""
    test, mesh = plan.dataset.test, plan.mesh
    started = time.perf_counter()
    score = make_scorer(state, mesh, size)
    compile_seconds = time.perf_counter() - started

    def score_split(count):
        for _ in range(count):
            score(state, test)

    placed = parallel.shard(np.resize(test.images, (size, 28, 28, 1)), mesh)
    step = parallel.parallelize(predict_step, mesh, outputs=P(parallel.AXIS))
    lowered = step.lower(state, placed)
    forward = lowered.compile()

    def predict(count):
        for _ in range(count):
            forward(state, placed).block_until_ready()

    return {
        "score": score_split,
        "predict": predict,
        "compile_seconds": compile_seconds,
        "flops": flops(lowered, forward, mesh.size),
    }


def _latencies(plan: Plan, state: TrainState, calls: int):
    images = itertools.cycle(plan.dataset.test.images[:100])
    predictor = Predictor(fresh_network(plan, state))
    variables = jax.device_put(jax.device_get(state), jax.devices()[0])
    bare = jax.jit(predict_step)
    ways = {
        "Predictor.predict": predictor.predict,
        "jitted step": lambda image: np.asarray(bare(variables, image[None])),
    }
    for way, call in ways.items():
        started = time.perf_counter()
        call(next(images))
        first = time.perf_counter() - started
        seconds = []
        for number in range(calls + max(1, calls // 10)):
            image = next(images)
            started = time.perf_counter()
            call(image)
            if number >= max(1, calls // 10):  # those before warm up
                seconds.append(time.perf_counter() - started)
        found = {**spread(seconds), "p99": float(np.percentile(seconds, 99))}
        yield {"arch": plan.config.arch, "way": way, "first_seconds": first, "seconds": found}


def fresh_network(plan: Plan, state: TrainState) -> Network:
    """A network that nobody has trained, as `Predictor` takes it."""
    config = plan.config
    variables = jax.device_get(state.variables)
    members = (Member(config.to_dict(), variables),)
    return Network(f"{config.arch}-fresh", plan.dataset.class_names, members, 0.5, {})
