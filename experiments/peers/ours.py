"""Our train step as a contender: python -m experiments.peers.ours --arch=cnn --preset=quick

It takes the steps of `digits_jax.train`, with its batches and as far ahead of the devices.
"""

import sys
from collections.abc import Sequence

from digits_jax.benchmarks.step import training_steps
from digits_jax.cli import run_program
from digits_jax.hardware import keep_freed_memory, use_compilation_cache
from digits_jax.train import parse_arguments
from digits_jax.training.multi_step import MultiStep
from digits_jax.training.setup import prepare
from experiments.peers.common import serve


def main(argv: Sequence[str]) -> None:
    """Compiles, then takes steps when asked to."""
    arguments = parse_arguments(argv)
    use_compilation_cache()
    keep_freed_memory()
    setup = prepare(arguments.config, arguments.options)
    if setup.steps_per_call != 1:
        sys.exit("steps_per_call is more than 1: the peers take their steps one by one; use a CPU")
    with training_steps(setup, MultiStep([setup])) as run_steps:
        run_steps(5)
        serve(run_steps, devices=setup.mesh.size, dtype=setup.config.dtype)


if __name__ == "__main__":
    sys.exit(run_program(main))
