"""Our train step as a contender: python -m experiments.peers.ours --arch=cnn --preset=quick

The step, the batches and how many steps are under way at once are those of `digits_jax.train`.
"""

import itertools
import os
import sys
from collections.abc import Callable

import jax

from digits_jax.cli import run_program
from digits_jax.data.pipeline import open_stream
from digits_jax.train import parse_config
from digits_jax.training import parallel
from digits_jax.training.compiling import bare_step, steps_ahead
from digits_jax.training.plan import Plan, prepare
from experiments.peers.server import serve


def make_runner(plan: Plan) -> Callable[[int], None]:
    """``run_steps(count)``: goes on training, and returns when the last step has been computed."""
    config = plan.config
    step_fn = parallel.parallelize(bare_step(plan), plan.mesh, donate_state=True)
    ahead = steps_ahead(plan)
    stream = open_stream(plan.dataset.train, seed=config.seed, batch_size=config.batch_size)
    (key,), state, numbers = plan.step_inputs, plan.initial_state(), itertools.count(1)
    batch = parallel.shard(stream.batch(0), plan.mesh)

    def run_steps(count):
        nonlocal state, batch
        pending = []
        for left in range(count, 0, -1):
            state, sums = step_fn(state, batch, key)
            pending.append(sums)
            # The next batch is made while the device is busy with this one.
            batch = parallel.shard(stream.batch(next(numbers)), plan.mesh)
            if left == 1 or len(pending) >= ahead:
                jax.device_get(pending)
                pending = []
        jax.block_until_ready(state)

    return run_steps


def main(argv: list[str]) -> None:
    """Compiles, then runs steps as it is told."""
    config = parse_config(argv)
    parallel.use_compilation_cache()
    parallel.keep_freed_memory()
    plan = prepare(config)
    run_steps = make_runner(plan)
    run_steps(5)
    serve(run_steps, devices=plan.mesh.size, dtype=plan.config.dtype, pid=os.getpid())


if __name__ == "__main__":
    sys.exit(run_program(main))
