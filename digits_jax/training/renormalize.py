"""BatchNorm's statistics, estimated anew when training has ended.

While it trains, they are running averages over images as augmented, and over steps of parameters
that have changed since. What is recognised later are images as they are, by the last parameters or
by their average.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.data.pipeline import share_size
from digits_jax.data.splits import Split
from digits_jax.models.layers import NORM_MOMENTUM
from digits_jax.training import parallel
from digits_jax.training.plan import Plan
from digits_jax.training.state import TrainState
from digits_jax.training.steps import to_float

# So many batches of the first training images, whose order is none.
BATCHES = 40


def renormalize(plan: Plan, state: TrainState) -> TrainState:
    """A state whose statistics are those of training images as they are.

    Args:
      plan: of the run.
      state: after the last step.

    Returns:
      It, with other statistics to recognise with: of the average, where there is one. A state
      without BatchNorm as it is.

    Reference:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018,
      section 3.2; Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
    """
    return make_renormalizer(plan)(state)


def make_renormalizer(plan: Plan) -> Callable[..., TrainState]:
    """`renormalize` for several states of one plan's network, for which it is compiled once.

    Args:
      plan: of one of the runs.

    Returns:
      ``f(state, train=None) -> state``; of a run with other images, ``train`` are those.
    """
    # Without dropout, too, which recognises nothing.
    apply = plan.recogniser.clone(dropout=0.0).apply
    statistics = parallel.parallelize(
        lambda variables, batch: batch_statistics(apply, *variables, batch["image"]), plan.mesh
    )
    size = plan.config.batch_size
    # An epoch's whole batches at most; a set that is smaller than a batch can't be trained on.
    count = min(BATCHES, len(plan.dataset.train) // size)
    own = share_size(size, plan.share)

    def estimate(state, train: Split | None = None):
        train = plan.dataset.train if train is None else train
        if not jax.tree.leaves(state.batch_stats):
            return state
        variables = (state.variables["params"], state.batch_stats)
        total = None
        for number in range(count):
            start = number * size + plan.share[0] * own
            images, _ = train.rows(np.arange(start, start + own))
            found = statistics(variables, parallel.shard({"image": images}, plan.mesh))
            total = found if total is None else jax.tree.map(jnp.add, total, found)
        mean = jax.tree.map(lambda sums: sums / count, total)
        if state.average:
            return state.replace(average={**state.average, "batch_stats": mean})
        return state.replace(batch_stats=mean)

    return estimate


def batch_statistics(apply: Callable, params: Any, batch_stats: Any, images: jax.Array) -> Any:
    """The mean and variance that each BatchNorm finds in a batch.

    Args:
      apply: of a module of ours, without dropout.
      params: its parameters.
      batch_stats: any statistics of it: only their shapes count.
      images: uint8 or float32 [batch, height, width, channels].

    Returns:
      A pytree like ``batch_stats``.
    """
    # What a step adds to running statistics of 0 is the batch's share.
    nothing = jax.tree.map(jnp.zeros_like, batch_stats)
    variables = {"params": params, "batch_stats": nothing}
    _, changed = apply(variables, to_float(images), train=True, mutable=["batch_stats"])
    return jax.tree.map(lambda share: share / (1 - NORM_MOMENTUM), changed["batch_stats"])
