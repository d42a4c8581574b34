"""Our train step as a contender: python -m experiments.peers.ours --arch=cnn --preset=quick

The step, the batches and how many steps are under way at once are those of `digits_jax.train`.
"""

import itertools
import os
import sys
from collections.abc import Callable
from functools import partial

import jax

from digits_jax.cli import run_program
from digits_jax.data.augment import make_augment
from digits_jax.data.stream import open_stream
from digits_jax.train import parse_config
from digits_jax.training import parallel
from digits_jax.training.loop import MAX_STEPS_AHEAD
from digits_jax.training.plan import Plan, prepare
from digits_jax.training.steps import train_step
from experiments.peers.server import serve


def make_runner(plan: Plan) -> Callable[[int], None]:
    """``run_steps(count)``: goes on training, and returns when the last step has been computed."""
    config = plan.config
    bare = partial(
        train_step,
        label_smoothing=config.label_smoothing,
        augment=make_augment(config.augment),
        ema_decay=config.ema_decay,
    )
    step_fn = parallel.parallelize(bare, plan.mesh, donate_state=True)
    ahead = 1 if plan.mesh.size > 1 and plan.platform == "cpu" else MAX_STEPS_AHEAD
    stream = open_stream(plan.dataset.train, seed=config.seed, batch_size=config.batch_size)
    key, state, numbers = plan.step_key, plan.initial_state(), itertools.count(1)
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
    plan = prepare(config)
    run_steps = make_runner(plan)
    run_steps(5)
    serve(run_steps, devices=plan.mesh.size, pid=os.getpid())


if __name__ == "__main__":
    sys.exit(run_program(main))
