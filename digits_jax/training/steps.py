"""One training step and one evaluation step: pure functions, not yet compiled.

batch: {"image": uint8 in [0, 255] or float32 in [0, 1], [batch, height, width, channels];
"label": int32 [batch]; "mask": float32 [batch], 1 for an image that counts and 0 for
padding}. logits: float32 [batch, classes].

``axis_name`` is the mesh axis that a batch is sharded over, inside ``jax.shard_map`` or
``jax.pmap``. Without one (plain ``jax.jit``) arrays are global, and so are all sums.
`digits_jax.training.parallel.parallelize` compiles a step in each of these ways.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from digits_jax.training.losses import cross_entropy, distillation_loss, masked_sum, metric_sums
from digits_jax.training.state import TrainState


def check_batch(batch: dict[str, Any]) -> None:
    """Raises an AssertionError that names the array of ``batch`` that has a wrong shape or type."""
    missing = {"image", "label", "mask"} - set(batch if isinstance(batch, dict) else ())
    if missing:
        raise AssertionError(f"batch is a dict with image, label, mask; missing: {sorted(missing)}")
    images, labels, mask = batch["image"], batch["label"], batch["mask"]
    chex.assert_rank(images, 4, custom_message='batch["image"] is [batch, height, width, channels]')
    chex.assert_shape([labels, mask], images.shape[:1], custom_message='"label" and "mask" [batch]')
    chex.assert_type(labels, int, custom_message='batch["label"] holds class numbers')
    chex.assert_type(mask, float, custom_message='batch["mask"] is 0.0 or 1.0')


def to_float(images: jax.Array) -> jax.Array:
    """Converts uint8 in [0, 255] to float32 in [0, 1]; floating-point images stay as they are.

    Examples:
      >>> to_float(jnp.array([0, 255], jnp.uint8)).tolist()
      [0.0, 1.0]
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    chex.assert_type(images, float, custom_message="images are uint8, or float in [0, 1]")
    return images


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    teacher: Any = None,
    *,
    axis_name: str | None = None,
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    label_smoothing: float = 0.0,
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    ema_decay: float = 0.0,
    adversarial: float = 0.0,
    teacher_apply: Callable[[Any, jax.Array], jax.Array] | None = None,
    teacher_weight: float = 0.0,
    teacher_temperature: float = 1.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the parameters once, unless the loss or a gradient isn't finite.

    A step that isn't finite leaves the parameters, statistics, optimizer and average unchanged; it
    is counted, so that the next one has the next key. The loss is the mean over the images of the
    whole batch, on all devices, whose mask is 1. BatchNorm sees every image, padding too: train on
    full batches.

    Args:
      batch, axis_name: see the top of this module.
      key: the run's key, the same at every step; the step's own is folded from it, so that a
        resumed run has the keys of an uninterrupted one.
      teacher: the first argument of ``teacher_apply``.
      loss: ``f(logits, labels) -> float32 [batch]``; None for `cross_entropy`.
      augment: ``f(key, images) -> images`` on float32 images in [0, 1], or None.
      ema_decay: decay of the exponential moving average, for a state that keeps one; after t
        steps it is ``min(ema_decay, (1 + t) / (10 + t))``, so that the first steps fade quickly.
      adversarial: the largest perturbation of `fgsm_perturb`, applied after ``augment``; 0 for
        none.
      teacher_apply: ``f(teacher, images) -> logits`` of a network to distil, computed on the
        augmented images; or None.
      teacher_weight: in [0, 1], the share of `distillation_loss` in the loss.

    Returns:
      The state after the step, and `metric_sums` of the batch as trained on with "skipped": 1
      for a step that changed nothing (the other sums are 0 then), else 0.

    Examples:
      >>> from digits_jax import MLP, create_train_state
      >>> state = create_train_state(MLP(hidden_sizes=()), optax.sgd(0.1), jax.random.key(0))
      >>> batch = {"image": jnp.ones((2, 28, 28, 1)), "label": jnp.array([3, 3]),
      ...          "mask": jnp.ones(2)}
      >>> step = jax.jit(train_step)
      >>> state, first = step(state, batch, jax.random.key(1))
      >>> state, second = step(state, batch, jax.random.key(1))
      >>> bool(second["loss"] < first["loss"]), int(state.step)
      (True, 2)

    Reference:
      Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    """
    check_batch(batch)
    labels, mask = batch["label"], batch["mask"]
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    augment_key, dropout_key = jax.random.split(key)
    images = to_float(batch["image"])
    if augment is not None:
        images = augment(augment_key, images)
    axis = {} if axis_name is None else {"axis_name": axis_name}
    loss = loss or partial(cross_entropy, label_smoothing=label_smoothing)

    def forward(params: Any, images: jax.Array) -> tuple[jax.Array, Any]:
        return state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
            **axis,
        )

    if adversarial:

        def image_loss(images: jax.Array) -> jax.Array:
            logits, _ = forward(state.params, images)
            return masked_sum(loss(logits, labels), mask)

        perturb_key = jax.random.fold_in(augment_key, 1)
        images = fgsm_perturb(perturb_key, images, jax.grad(image_loss)(images), adversarial)
    teacher_logits = None
    if teacher_apply is not None:
        teacher_logits = jax.lax.stop_gradient(teacher_apply(teacher, images))
    count = jnp.maximum(_sum_over(jnp.sum(mask), axis_name), 1)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, updated = forward(params, images)
        losses = loss(logits, labels)
        chex.assert_shape(losses, labels.shape, custom_message="loss(logits, labels) is [batch]")
        if teacher_logits is not None:
            distilled = distillation_loss(logits, teacher_logits, teacher_temperature)
            losses = (1 - teacher_weight) * losses + teacher_weight * distilled
        # This device's share of the mean: the shares add up, also where masks differ.
        return masked_sum(losses, mask) / count, (logits, updated.get("batch_stats", {}))

    grads, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, sums = _sum_over((grads, metric_sums(logits, labels, mask)), axis_name)

    def update(state: TrainState) -> TrainState:
        updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = _update_average(state, params, batch_stats, ema_decay)
        return state.replace(
            params=params, batch_stats=batch_stats, opt_state=opt_state, average=average
        )

    # Every device sees the same sums, so either all skip the step or none does. The squares of the
    # gradients must be finite, too, because Adam's second moment adds them up.
    finite = all_finite((jax.tree.map(jnp.square, grads), sums, batch_stats))
    new_state = _update_if(finite, update, state)
    sums = {name: jnp.where(finite, value, 0) for name, value in sums.items()}
    new_state = new_state.replace(step=state.step + 1)
    return new_state, {**sums, "skipped": 1 - finite.astype(jnp.float32)}


def _update_if(
    finite: jax.Array, update: Callable[[TrainState], TrainState], state: TrainState
) -> TrainState:
    if not isinstance(finite, Tracer):  # without jit: a branch would be compiled
        return update(state) if finite else state
    # On a CPU XLA updates the moments of a branch in place, and copies them for a selection: a
    # tenth of the MLP's step. An accelerator would wait for the host to choose the branch.
    return jax.lax.platform_dependent(
        state,
        cpu=lambda state: jax.lax.cond(finite, update, lambda state: state, state),
        default=lambda state: optax.tree.where(finite, update(state), state),
    )


def fgsm_perturb(
    key: jax.Array, images: jax.Array, grads: jax.Array, max_epsilon: float
) -> jax.Array:
    """Perturbs each image by the fast gradient sign method, with its own epsilon.

    The epsilons are uniform in [0, max_epsilon), so that each batch also holds images that are
    nearly unchanged, like those that the network is evaluated on. The method makes no assumption
    about which pixels are neighbours, which is why it helps an MLP.

    Args:
      images: float32 in [0, 1], [batch, height, width, channels].
      grads: gradient of the loss by the images, of their shape.
      max_epsilon: the largest change of a pixel; white is 1.

    Returns:
      float32 in [0, 1], of the images' shape.

    Examples:
      >>> images = jnp.full((3, 28, 28, 1), 0.5)
      >>> changed = fgsm_perturb(jax.random.key(0), images, images - 0.75, 0.25)
      >>> bool((changed <= 0.5).all()), bool((changed >= 0.25).all())
      (True, True)

    Reference:
      Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, 2015.
    """
    epsilons = jax.random.uniform(key, (len(images), 1, 1, 1), maxval=max_epsilon)
    return jnp.clip(images + epsilons * jnp.sign(grads), 0, 1)


def all_finite(tree: Any) -> jax.Array:
    """Returns a bool scalar: whether every number in a pytree is finite.

    Examples:
      >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])}))
      False
    """
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def predict_step(state: TrainState, images: jax.Array) -> jax.Array:
    """Computes the logits of images in evaluation mode, with ``state.variables``.

    Args:
      images: uint8, or float32 in [0, 1], [batch, height, width, channels].

    Returns:
      float32 [batch, classes].
    """
    chex.assert_rank(images, 4)
    return state.apply_fn(state.variables, to_float(images), train=False)


def eval_step(
    state: TrainState, batch: dict[str, jax.Array], *, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """Computes `metric_sums` of a batch in evaluation mode, with ``state.variables``."""
    check_batch(batch)
    logits = predict_step(state, batch["image"])
    return _sum_over(metric_sums(logits, batch["label"], batch["mask"]), axis_name)


def _update_average(state: TrainState, params: Any, batch_stats: Any, decay: float) -> Any:
    if not state.average:
        return state.average
    now = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, value: now * old + (1 - now) * value, state.average, new)


def _sum_over(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
