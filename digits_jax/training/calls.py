"""How the steps of a run reach the devices: one at a time, or many in one call.

On a CPU each batch is made on the host while the device is busy with the one before. An accelerator
would wait for the host: there the training images lie on the device, and one call takes many steps,
gathering each batch by the indices that the host would have gathered it by.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.data.pipeline import BatchOrder
from digits_jax.training import parallel
from digits_jax.training.plan import Plan
from digits_jax.training.session import Session
from digits_jax.training.state import TrainState

# The numbers of some steps, and their sums: of each a scalar, or all in an array.
Sums = tuple[range, dict[str, jax.Array]]


class OneByOne:
    """Calls of one step, each with a batch from the host.

    Args:
      session: of the run.
      step: compiled: ``f(state, batch, key)``.
      stream: of the batches, by step.
    """

    most = 1

    def __init__(self, session: Session, step: Callable, stream: Any):
        self._session, self._step, self._stream = session, step, stream
        self._inputs, self._next = session.plan.step_inputs, None

    def take(self, state: TrainState, done: int, count: int, wish: int) -> tuple[TrainState, Sums]:
        """Takes a step.

        Args:
          state: after ``done`` steps.
          done: how many those are.
          count: 1.
          wish: see `Session.with_wish`.

        Returns:
          The state, and the steps with their sums, which aren't waited for.
        """
        batch = self._next or self._placed(done)
        state, sums = self._step(state, self._session.with_wish(batch, wish), *self._inputs)
        more = done + count < self._session.plan.total_steps
        # Made while the device is busy with this one.
        self._next = self._placed(done + count) if more else None
        return state, (range(done + 1, done + 2), sums)

    def _placed(self, done):
        return parallel.shard(self._stream.batch(done), self._session.plan.mesh)


class Resident:
    """Calls of up to ``most`` steps, with the training images on the devices.

    Args:
      plan: of the run.
      step: bare: ``f(state, batch, key)``.
      most: steps in a call.
    """

    def __init__(self, plan: Plan, step: Callable, most: int):
        self.most, self._plan = most, plan
        train = plan.dataset.train
        self._data = parallel.replicate(
            {"image": np.asarray(train.images), "label": np.asarray(train.labels)}, plan.mesh
        )
        config = plan.config
        self._order = BatchOrder(len(train), seed=config.seed, batch_size=config.batch_size)
        self._indices = np.zeros((most, config.batch_size), np.int32)
        self._inputs = plan.step_inputs
        many = jax.jit(partial(steps_in_a_loop, step), donate_argnums=0)
        self._many = many.lower(
            plan.abstract_state, self._data, self._placed(), np.int32(0), *self._inputs
        ).compile()

    def take(self, state: TrainState, done: int, count: int, wish: int) -> tuple[TrainState, Sums]:
        """As `OneByOne.take`, ``count`` steps; no other process hears of ``wish``."""
        for i in range(count):
            self._indices[i] = self._order.indices(done + i)
        inputs = self._data, self._placed(), np.int32(count), *self._inputs
        state, sums = self._many(state, *inputs)
        return state, (range(done + 1, done + count + 1), sums)

    def _placed(self):
        # A copy: the host fills the array again while the device still reads this one.
        sharding = NamedSharding(self._plan.mesh, P(None, parallel.AXIS))
        return jax.device_put(self._indices.copy(), sharding)


def steps_in_a_loop(
    step: Callable,
    state: TrainState,
    data: dict[str, jax.Array],
    indices: jax.Array,
    count: jax.Array,
    *rest: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Several steps, compiled once for any number of them.

    Args:
      step: bare: ``f(state, batch, key) -> (state, sums)``.
      state: before the first.
      data: {"image": [n, height, width, channels], "label": [n]}, all training images.
      indices: int32 [most, batch], of each step's images.
      count: int32, how many steps; at most ``most``.
      rest: what the step takes after the batch.

    Returns:
      The state after them, and the sums of each, float32 [most]; zeros from ``count`` on.
    """
    mask = jnp.ones(indices.shape[1], jnp.float32)

    def take(i, carried):
        state, all_sums = carried
        batch = {name: values[indices[i]] for name, values in data.items()}
        state, sums = step(state, {**batch, "mask": mask}, *rest)
        return state, {name: all_sums[name].at[i].set(sums[name]) for name in all_sums}

    example = {name: values[indices[0]] for name, values in data.items()}
    shapes = jax.eval_shape(step, state, {**example, "mask": mask}, *rest)[1]
    nothing = {name: jnp.zeros(indices.shape[0], s.dtype) for name, s in shapes.items()}
    return jax.lax.fori_loop(0, count, take, (state, nothing))
