"""Prediction: images per second of the test set, and the latency of one image.

The networks are trained for a few steps: a prediction costs the same after a whole training.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from digits_jax.benchmarks.options import Options, train_config
from digits_jax.benchmarks.processes import measure_networks
from digits_jax.benchmarks.products import flops, product_flops_per_second
from digits_jax.benchmarks.timing import repeated, spread, time_in_turn
from digits_jax.deploy.predictor import Predictor
from digits_jax.training import parallel
from digits_jax.training.loop import run
from digits_jax.training.run_metadata import device_name
from digits_jax.training.scoring import make_scorer
from digits_jax.training.setup import TrainSetup, prepare
from digits_jax.training.state import TrainState
from digits_jax.training.steps import predict_step

BATCH_SIZES, QUICK_SIZES = (200, 500, 1000, 10_000), (1000,)
CALLS = 200  # with one image each


def benchmark(options: Options) -> dict[str, Any]:
    """Measures each network in its own process.

    Returns:
      "device", "dataset", "test_set" (a row for each network and way to score the whole test set),
      "forward_pass" (a row for each network and batch size) and "one_image" (a row for each network
      and way to call it).
    """
    for arch in options.arch:
        train_config(options, arch=arch)
    return measure_networks(measure, options)


def measure(options: Options, arch: str) -> dict[str, Any]:
    """Measures one network with JAX in this process."""
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as folder:
        config = train_config(options, arch=arch, epochs=0.001, workdir=f"{folder}/run")
        setup = prepare(*config)
        state = run(setup, quiet=True).state
        predictor = Predictor.load(f"{folder}/run")
    tables = {
        "test_set": _test_set(setup, state, predictor, options),
        "forward_pass": _forward_pass(setup, state, options),
        "one_image": _one_image(setup, state, predictor),
    }
    rows = {name: [{"arch": arch, **row} for row in found] for name, found in tables.items()}
    return {"device": device_name(setup.mesh), "dataset": setup.dataset.name, **rows}


def _test_set(
    setup: TrainSetup, state: TrainState, predictor: Predictor, options: Options
) -> Iterator[dict[str, Any]]:
    """Everything included, from uint8 images in memory to what a caller gets."""
    score, test = make_scorer([setup]), setup.dataset.test
    ways = {
        "Predictor.predict": repeated(lambda: predictor.predict(test.images)),
        "scoring of training": repeated(lambda: score(state, [test])),
    }
    times = {"repeats": options.repeats, "seconds": options.seconds}
    for way, blocks in zip(ways, time_in_turn([*ways.values()], **times), strict=True):
        rate = spread([len(test) / seconds for seconds in blocks])
        yield {"way": way, "test_count": len(test), "images_per_second": rate}


def _forward_pass(
    setup: TrainSetup, state: TrainState, options: Options
) -> Iterator[dict[str, Any]]:
    """The network alone, its images on the devices; all batch sizes are measured in turn."""
    mesh, test = setup.mesh, setup.dataset.test
    state = setup.for_scoring(state)
    # Sizes that the devices divide, no larger than the images need.
    sizes = options.batch_sizes or (QUICK_SIZES if options.quick else BATCH_SIZES)
    sizes = [-(-min(size, len(test)) // mesh.size) * mesh.size for size in sizes]
    step = parallel.parallelize(predict_step, mesh, outputs=P(parallel.AXIS))
    counts, runs = {}, []
    for size in dict.fromkeys(sizes):
        images = parallel.shard(np.resize(test.images, (size, 28, 28, 1)), mesh)
        lowered = step.lower(state, images)
        counts[size], code = flops(lowered), lowered.compile()
        runs.append(
            repeated(lambda code=code, images=images: jax.block_until_ready(code(state, images)))
        )
    before = product_flops_per_second(mesh, "float32", quick=options.quick)
    found = time_in_turn(runs, repeats=options.repeats, seconds=options.seconds)
    limit = max(before, product_flops_per_second(mesh, "float32", quick=options.quick))
    for (size, count), blocks in zip(counts.items(), found, strict=True):
        rate = spread([size / seconds for seconds in blocks])
        flop_rate = count and count / size * rate["median"]
        yield {
            "batch_size": size,
            "devices": mesh.size,
            "images_per_second": rate,
            "flops": count,
            "flops_per_second": flop_rate,
            "matrix_product_flops_per_second": limit,
            "fraction": flop_rate and flop_rate / limit,
        }


def _one_image(
    setup: TrainSetup, state: TrainState, predictor: Predictor
) -> Iterator[dict[str, Any]]:
    """From a uint8 image in memory to logits in memory."""
    images = itertools.cycle(setup.dataset.test.images[:100])
    variables = jax.device_put(jax.device_get(setup.for_scoring(state)), jax.devices()[0])
    bare = jax.jit(predict_step)
    ways = {
        "Predictor.predict": predictor.predict,
        "jitted step": lambda image: np.asarray(bare(variables, image[None])),
    }
    for way, call in ways.items():
        seconds = []
        for _ in range(CALLS + CALLS // 10):
            image = next(images)
            started = time.perf_counter()
            call(image)
            seconds.append(time.perf_counter() - started)
        first, warm = seconds[0], seconds[-CALLS:]  # those between warm up
        row = {"way": way, "first_call_seconds": first, "call_seconds": spread(warm)}
        yield {**row, "p99_seconds": float(np.percentile(warm, 99))}
