"""Everything that training changes, in one pytree."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

_IMAGE_SHAPE = (28, 28, 1)


class TrainState(flax.struct.PyTreeNode):
    """A training run's state between two steps.

    Attributes:
      step: int32 scalar, completed updates.
      batch_stats: BatchNorm's running statistics; empty for a module without any.
      average: {"params": ..., "batch_stats": ...} averaged over the steps; empty without an
        average.
      apply_fn: the module's ``apply`` (static).
      tx: the optax transformation (static).
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any
    apply_fn: Callable = flax.struct.field(pytree_node=False)
    tx: optax.GradientTransformation = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> dict[str, Any]:
        """The first argument of ``apply_fn`` for evaluation: the average, if there is one."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def create_train_state(
    module: nn.Module,
    tx: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, ...] = _IMAGE_SHAPE,
    *,
    averaged: bool = False,
) -> TrainState:
    """Initializes a module and its optimizer.

    Args:
      module: called as ``module(images, train=bool)``, float32 [batch, *image_shape] in and
        logits [batch, classes] out. One that is to run under ``jax.shard_map`` or
        ``jax.pmap`` takes ``axis_name`` too, for its BatchNorm.
      image_shape: height, width, channels.
      averaged: keep an average over the steps too (see `train_step`).

    Examples:
      >>> from digits_jax import MLP
      >>> state = create_train_state(MLP(), optax.sgd(0.1), jax.random.key(0))
      >>> int(state.step)
      0
    """
    return _compiled(partial(_create, module, tx, image_shape, averaged))(key)


def create_train_states(
    module: nn.Module,
    tx: optax.GradientTransformation,
    keys: jax.Array,
    *,
    averaged: bool = False,
) -> TrainState:
    """Creates the states of several keys, stacked along a member axis, compiled once.

    Args:
      keys: [n] JAX keys; the leaves of the state are [n, ...].

    Examples:
      >>> from digits_jax import MLP
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> states = create_train_states(MLP(hidden_sizes=(8,)), optax.sgd(0.1), keys)
      >>> states.params["hidden_0"]["kernel"].shape
      (3, 784, 8)
    """
    return _compiled(jax.vmap(partial(_create, module, tx, _IMAGE_SHAPE, averaged)))(keys)


def _compiled(create: Callable) -> Callable:
    # Compiling the random numbers of every layer took 2.4 s, running them 3 ms: without the
    # compiler's optimizations it is 0.5 s and 12 ms.
    return jax.jit(create, compiler_options={"xla_backend_optimization_level": 0})


def abstract_train_state(
    module: nn.Module,
    tx: optax.GradientTransformation,
    *,
    averaged: bool = False,
) -> TrainState:
    """Returns the shapes and dtypes of `create_train_state`'s result, without computing it.

    Examples:
      >>> from digits_jax import MLP
      >>> abstract_train_state(MLP(), optax.sgd(0.1)).params["logits"]["kernel"].shape
      (512, 10)
    """
    create = partial(_create, module, tx, _IMAGE_SHAPE, averaged)
    return jax.eval_shape(create, jax.random.key(0))


def _create(
    module: nn.Module,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    averaged: bool,
    key: jax.Array,
) -> TrainState:
    variables = module.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    weights = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **weights,
        opt_state=tx.init(variables["params"]),
        average=weights if averaged else {},
        apply_fn=module.apply,
        tx=tx,
    )


def count_params(params: Any) -> int:
    """Counts the trained values in ``params``.

    Examples:
      >>> count_params({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
      16
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))
