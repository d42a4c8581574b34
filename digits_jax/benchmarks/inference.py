"""Images a second of the test set, and the time that one image takes.

The networks are trained for a moment: what they answer costs as much as later on.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from digits_jax.benchmarks.options import InferenceOptions, train_config
from digits_jax.benchmarks.processes import in_child
from digits_jax.benchmarks.products import flops, product_flops_per_second
from digits_jax.benchmarks.timing import spread, time_in_turn
from digits_jax.deploy.predictor import Predictor
from digits_jax.training import parallel
from digits_jax.training.loop import run
from digits_jax.training.run_metadata import device_name
from digits_jax.training.scoring import make_scorer
from digits_jax.training.setup import TrainSetup, prepare
from digits_jax.training.state import TrainState
from digits_jax.training.steps import predict_step


def benchmark(options: InferenceOptions) -> dict[str, Any]:
    """Measures each network in its own process.

    Returns:
      "device", "dataset", "test_set" (a row for each network and way to score the whole test set),
      "forward_pass" (a row for each network and batch size) and "one_image" (a row for each network
      and way to call it).
    """
    for arch in options.arch:
        train_config(options, arch=arch)
    answers = [
        in_child(measure, options, arch)
        for arch in tqdm(options.arch, "inference", unit="network", leave=False, disable=None)
    ]
    tables = ("test_set", "forward_pass", "one_image")
    return {
        **answers[0],
        **{name: [row for answer in answers for row in answer[name]] for name in tables},
    }


def measure(options: InferenceOptions, arch: str) -> dict[str, Any]:
    """Measures one network with JAX in this process."""
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as folder:
        config = train_config(options, arch=arch, epochs=0.001, workdir=f"{folder}/run")
        setup = prepare(*config)
        state = run(setup, quiet=True).state
        predictor = Predictor.load(f"{folder}/run")
    return {
        "device": device_name(setup.mesh),
        "dataset": setup.dataset.name,
        "test_set": list(_test_set(setup, state, predictor, options)),
        "forward_pass": list(_forward_pass(setup, state, options)),
        "one_image": list(_one_image(setup, state, predictor, options.calls)),
    }


def _test_set(
    setup: TrainSetup, state: TrainState, predictor: Predictor, options: InferenceOptions
) -> Iterator[dict[str, Any]]:
    """Everything included, from uint8 images in memory to what a caller gets."""
    score, test = make_scorer([setup]), setup.dataset.test
    ways = {
        "Predictor.predict": lambda: predictor.predict(test.images),
        "scoring of training": lambda: score(state, [test]),
    }
    found = time_in_turn(
        [_repeated(call) for call in ways.values()],
        repeats=options.repeats,
        seconds=options.seconds,
    )
    for way, seconds in zip(ways, found, strict=True):
        rate = spread([len(test) / each for each in seconds])
        row = {"arch": setup.config.arch, "way": way, "test_count": len(test)}
        yield {**row, "images_per_second": rate}


def _repeated(call: Callable[[], object]) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def _forward_pass(
    setup: TrainSetup, state: TrainState, options: InferenceOptions
) -> Iterator[dict[str, Any]]:
    """The network alone, its images on the devices; all batch sizes are measured in turn."""
    mesh, test = setup.mesh, setup.dataset.test
    state = setup.for_scoring(state)
    # Sizes that the devices divide, no larger than the images need.
    sizes = [-(-min(size, len(test)) // mesh.size) * mesh.size for size in options.batch_sizes]
    sizes = list(dict.fromkeys(sizes))
    step = parallel.parallelize(predict_step, mesh, outputs=P(parallel.AXIS))
    placed = [parallel.shard(np.resize(test.images, (size, 28, 28, 1)), mesh) for size in sizes]
    lowered = [step.lower(state, images) for images in placed]
    compiled = [each.compile() for each in lowered]
    runs = [
        _repeated(lambda code=code, x=images: jax.block_until_ready(code(state, x)))
        for code, images in zip(compiled, placed, strict=True)
    ]
    before = product_flops_per_second(mesh, "float32", quick=options.quick)
    found = time_in_turn(runs, repeats=options.repeats, seconds=options.seconds)
    limit = max(before, product_flops_per_second(mesh, "float32", quick=options.quick))
    for size, each, seconds in zip(sizes, lowered, found, strict=True):
        count, rate = flops(each), spread([size / block for block in seconds])
        flop_rate = count and count / size * rate["median"]
        yield {
            "arch": setup.config.arch,
            "batch_size": size,
            "devices": mesh.size,
            "images_per_second": rate,
            "flops": count,
            "flops_per_second": flop_rate,
            "matrix_product_flops_per_second": limit,
            "fraction": flop_rate and flop_rate / limit,
        }


def _one_image(
    setup: TrainSetup, state: TrainState, predictor: Predictor, calls: int
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
        for _ in range(calls + max(1, calls // 10)):
            image = next(images)
            started = time.perf_counter()
            call(image)
            seconds.append(time.perf_counter() - started)
        first, warm = seconds[0], seconds[-calls:]  # those between warm up
        row = {"arch": setup.config.arch, "way": way, "first_call_seconds": first}
        yield {**row, "call_seconds": spread(warm), "p99_seconds": float(np.percentile(warm, 99))}
