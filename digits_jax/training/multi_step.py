"""Several training steps in one call of the devices, for one network or several side by side.

On a CPU a call takes one step, and the host prepares the next batch meanwhile. An accelerator would
wait for the host: there the training images lie on the device, and a call takes many steps, each of
which gathers its batch by the same indices.

Several networks (an ensemble's members) are one state with a leading member axis, stepped by
``jax.vmap``; each device then has some of the members instead of a part of each batch.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.data.augment import make_augment
from digits_jax.data.pipeline import TrainStream, share_size
from digits_jax.training import parallel
from digits_jax.training.parallel import AXIS
from digits_jax.training.setup import TrainSetup
from digits_jax.training.state import TrainState, create_train_states
from digits_jax.training.steps import train_step

IMAGE_SHAPE = (28, 28, 1)


def make_step(setup: TrainSetup) -> Callable:
    """Binds `train_step` to a setup: ``f(state, batch, key, *teacher) -> (state, sums)``."""
    config = setup.config
    distillation = {}
    if setup.teacher:
        distillation = {
            "teacher_apply": setup.teacher.logits,
            "teacher_weight": config.teacher_weight,
            "teacher_temperature": config.teacher_temperature,
        }
    return partial(
        train_step,
        loss=setup.loss,
        label_smoothing=config.label_smoothing or 0.0,
        augment=make_augment(config.augment, config.augment_strength),
        ema_decay=config.ema_decay,
        adversarial=config.adversarial,
        **distillation,
    )


def lower_step(setup: TrainSetup) -> jax.stages.Lowered:
    """Traces one training step of one network for its devices; it donates the old state."""
    size = share_size(setup.config.batch_size, setup.share)
    batch = {
        "image": np.zeros((size, *IMAGE_SHAPE), np.uint8),
        "label": np.zeros(size, np.int32),
        "mask": np.ones(size, np.float32),
    }
    step = parallel.parallelize(make_step(setup), setup.mesh, donate_state=True)
    inputs = step_inputs([setup])
    return step.lower(setup.abstract_state, parallel.shard(batch, setup.mesh), *inputs)


def step_inputs(setups: Sequence[TrainSetup]) -> tuple[Any, ...]:
    """Returns what each step takes after the batch: the key, and the teacher's variables."""
    teacher = setups[0].teacher
    rest = parallel.replicate((teacher.variables,), member_mesh(setups)) if teacher else ()
    return place([setup.step_key for setup in setups], setups), *rest


def member_mesh(setups: Sequence[TrainSetup]) -> Mesh:
    """Returns the mesh of one network, or one of as many devices as divide the members."""
    if len(setups) == 1:
        return setups[0].mesh
    devices = list(setups[0].mesh.devices.flat)
    count = max(n for n in range(1, len(devices) + 1) if len(setups) % n == 0)
    return parallel.make_mesh(devices[:count])


def place(trees: Sequence[Any], setups: Sequence[TrainSetup]) -> Any:
    """Puts a pytree for each network on the devices; several with a leading member axis."""
    if len(setups) == 1:
        return parallel.replicate(trees[0], setups[0].mesh)
    return parallel.shard(jax.tree.map(lambda *x: jnp.stack(x), *trees), member_mesh(setups))


def initial_state(setups: Sequence[TrainSetup]) -> TrainState:
    """Creates the state at step 0; of several setups with a leading member axis."""
    first = setups[0]
    if len(setups) == 1:
        return first.initial_state()
    if first.config.init_from is not None:
        return place([setup.initial_state() for setup in setups], setups)
    keys = jnp.stack([setup.initial_key for setup in setups])
    states = create_train_states(first.module, first.tx, keys, averaged=first.averaged)
    return parallel.shard(states, member_mesh(setups))


def split_members(state: TrainState, setups: Sequence[TrainSetup]) -> list[TrainState]:
    """Returns each member's state, placed as if it were trained alone."""
    if len(setups) == 1:
        return [state]
    # By way of the host: indexing arrays that are spread over CPU devices is a collective, and
    # those have aborted on busy cores.
    host = jax.device_get(state)
    return [
        parallel.replicate(jax.tree.map(lambda leaf: leaf[index], host), setup.mesh)  # noqa: B023
        for index, setup in enumerate(setups)
    ]


class MultiStep:
    """Compiled training steps; use it as a context manager, which closes the streams of batches.

    Args:
      setups: as of `train_members`.
      on_lowered: called when the step is traced, before XLA compiles it.
    """

    def __init__(
        self, setups: Sequence[TrainSetup], on_lowered: Callable[[], object] = lambda: None
    ):
        first = setups[0]
        self.max_steps = first.steps_per_call
        self._setups = setups
        self._total_steps = first.total_steps
        self._mesh = member_mesh(setups)
        self._inputs = step_inputs(setups)
        self._streams = [open_batches(setup) for setup in setups]
        self._next_batch: tuple[int, Any] = (-1, None)
        if self.max_steps > 1:
            lowered = self._lower_many_steps()
        elif len(setups) == 1:
            lowered = lower_step(first)
        else:
            step = jax.jit(jax.vmap(make_step(first), self._axes(0)), donate_argnums=0)
            lowered = step.lower(self._abstract(), self._batch(0), *self._inputs)
        on_lowered()
        self._compiled = lowered.compile()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()

    def __call__(
        self, state: TrainState, first: int, count: int
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes some steps, without waiting for them.

        Args:
          state: after ``first`` steps; its memory is reused.
          count: steps to take, at most ``max_steps``.

        Returns:
          The state, and the sums of each step: [], [max_steps], [members] or
          [members, max_steps].
        """
        if self.max_steps > 1:
            for index, stream in enumerate(self._streams):
                for i in range(count):
                    self._indices[index, i] = stream.indices(first + i)
            return self._compiled(
                state, self._data, self._placed_indices(), np.int32(count), *self._inputs
            )
        step, batch = self._next_batch
        if step != first:
            batch = self._batch(first)
        state, sums = self._compiled(state, batch, *self._inputs)
        if first + 1 < self._total_steps:  # made while the device is busy with this one
            self._next_batch = first + 1, self._batch(first + 1)
        return state, sums

    def _batch(self, step: int) -> Any:
        """The batch of a step, on the devices; of several members along the member axis."""
        return parallel.shard(_stack([s.batch(step) for s in self._streams]), self._mesh)

    def _axes(self, *batch: int | None) -> tuple[int | None, ...]:
        """What `jax.vmap` maps over: the states, the batches and the keys, not the teacher."""
        return (0, *batch, 0, *[None] * (len(self._inputs) - 1))

    def _abstract(self) -> TrainState:
        state = self._setups[0].abstract_state
        if len(self._setups) == 1:
            return state
        sharding = NamedSharding(self._mesh, P(AXIS))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (len(self._setups), *x.shape), x.dtype, sharding=sharding
            ),
            state,
        )

    def _lower_many_steps(self) -> jax.stages.Lowered:
        first, members = self._setups[0], len(self._setups)
        self._indices = np.zeros((members, self.max_steps, first.config.batch_size), np.int32)
        shared = all(setup.dataset is first.dataset for setup in self._setups)
        splits: list[Any] = [setup.dataset.train for setup in self._setups]
        data = _stack(
            [
                {"image": np.asarray(train.images), "label": np.asarray(train.labels)}
                for train in (splits[:1] if shared else splits)
            ]
        )
        self._data = (parallel.replicate if shared else parallel.shard)(data, self._mesh)
        many = partial(take_steps, make_step(first))
        if members > 1:
            many = jax.vmap(many, self._axes(None if shared else 0, 0, None))
        inputs = self._data, self._placed_indices(), np.int32(0), *self._inputs
        return jax.jit(many, donate_argnums=0).lower(self._abstract(), *inputs)

    def _placed_indices(self) -> jax.Array:
        # A copy: the host fills the array again while the devices still read this one.
        if len(self._setups) == 1:
            sharding = NamedSharding(self._mesh, P(None, AXIS))
            return jax.device_put(self._indices[0].copy(), sharding)
        return jax.device_put(self._indices.copy(), NamedSharding(self._mesh, P(AXIS)))


def _stack(trees: Sequence[Any]) -> Any:
    """Stacks pytrees of NumPy arrays along a member axis; a single one stays as it is."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *x: np.stack(x), *trees)


def take_steps(
    step: Callable,
    state: TrainState,
    data: dict[str, jax.Array],
    indices: jax.Array,
    count: jax.Array,
    *rest: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes ``count`` steps in a loop on the device, compiled once for any number of them.

    Args:
      data: {"image": [n, height, width, channels], "label": [n]}, all training images.
      indices: int32 [max_steps, batch], of each step's images.

    Returns:
      The state after them, and the sums of each, float32 [max_steps]; zeros from ``count`` on.
    """
    mask = jnp.ones(indices.shape[1], jnp.float32)

    def batch_of(i: Any) -> dict[str, jax.Array]:
        return {**{name: values[indices[i]] for name, values in data.items()}, "mask": mask}

    def body(i: Any, carried: Any) -> Any:
        state, all_sums = carried
        state, sums = step(state, batch_of(i), *rest)
        return state, {name: all_sums[name].at[i].set(sums[name]) for name in all_sums}

    shapes = jax.eval_shape(step, state, batch_of(0), *rest)[1]
    zeros = {name: jnp.zeros(indices.shape[0], s.dtype) for name, s in shapes.items()}
    return jax.lax.fori_loop(0, count, body, (state, zeros))


def open_batches(setup: TrainSetup) -> TrainStream:
    """Opens the batches of a setup, by step: from memory, or streamed from files."""
    config = setup.config
    return TrainStream(
        setup.dataset.train, seed=config.seed, batch_size=config.batch_size, share=setup.share
    )


def import_ahead(modules: Sequence[str]) -> threading.Thread:
    """Imports modules in a thread while the devices are busy, as far as they are installed."""

    def load() -> None:
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    thread = threading.Thread(target=load, name="imports", daemon=True)
    thread.start()
    return thread
