"""One training step and one evaluation step: pure, not yet jitted.

batch: {"image": uint8 in [0, 255] or float32 in [0, 1], [batch, height, width, channels];
"label": int32 [batch]; "mask": float32 [batch], 1 for an image that counts and 0 for
padding}. logits: float32 [batch, classes].

``axis_name`` names the mesh axis that a batch is sharded over, inside ``jax.shard_map`` or
``jax.pmap``. Without one (plain ``jax.jit``) arrays are global, and so are all sums.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from digits_jax.training.state import TrainState


def check_batch(batch: dict) -> None:
    """Raises an AssertionError that names the array of ``batch`` that can't be right."""
    missing = {"image", "label", "mask"} - set(batch if isinstance(batch, dict) else ())
    if missing:
        raise AssertionError(f"batch is a dict with image, label, mask; missing: {sorted(missing)}")
    images, labels, mask = batch["image"], batch["label"], batch["mask"]
    chex.assert_rank(images, 4, custom_message='batch["image"] is [batch, height, width, channels]')
    chex.assert_shape([labels, mask], images.shape[:1], custom_message='"label" and "mask" [batch]')
    chex.assert_type(labels, int, custom_message='batch["label"] holds class numbers')
    chex.assert_type(mask, float, custom_message='batch["mask"] is 0.0 or 1.0')


def to_float(images: jax.Array) -> jax.Array:
    """uint8 in [0, 255] to float32 in [0, 1]; floating-point images stay as they are.

    Example:
      >>> to_float(jnp.array([0, 255], jnp.uint8)).tolist()
      [0.0, 1.0]
    """
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    chex.assert_type(images, float, custom_message="images are uint8, or float in [0, 1]")
    return images


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    r"""Softmax cross-entropy against smoothed one-hot targets, not reduced.

    .. math:: -\sum_k \left((1 - s) [k = y] + s / K\right) \log \mathrm{softmax}(z)_k

    Args:
      logits: float32 [batch, classes], :math:`z`.
      labels: int32 [batch], :math:`y`.
      label_smoothing: :math:`s` in [0, 1).

    Returns:
      float32 [batch], in nats; NaN for a label that is no class, as compiled code can't raise.

    Example:
      >>> round(float(cross_entropy(jnp.zeros((1, 10)), jnp.array([3]))[0]), 4)
      2.3026

    Reference:
      Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016, section 7.
    """
    classes = logits.shape[-1]
    targets = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    loss = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def distillation_loss(
    logits: jax.Array, teacher_logits: jax.Array, temperature: float = 1.0
) -> jax.Array:
    r"""Softmax cross-entropy against what a teacher answers, not reduced.

    .. math:: -T^2 \sum_k \mathrm{softmax}(t / T)_k \log \mathrm{softmax}(z / T)_k

    Args:
      logits: float32 [batch, classes], :math:`z`.
      teacher_logits: float32 [batch, classes], :math:`t`.
      temperature: :math:`T`; a higher one shows more of which wrong classes the teacher thinks of.

    Returns:
      float32 [batch], in nats; its gradient is of one size whatever the temperature.

    Example:
      >>> float(distillation_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)))[0])  # log(2)
      0.6931...

    Reference:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """
    targets = jax.nn.softmax(teacher_logits / temperature, -1)
    return temperature**2 * optax.softmax_cross_entropy(logits / temperature, targets)


def metric_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the images whose mask is 1; the caller divides once, at the end.

    Returns:
      float32 scalars: "loss" (cross-entropy in nats, summed), "correct" and "count" (images).

    Example:
      >>> sums = metric_sums(jnp.eye(3), jnp.array([0, 1, 0]), jnp.array([1.0, 1.0, 0.0]))
      >>> float(sums["correct"]), float(sums["count"])
      (2.0, 2.0)
    """
    correct = (jnp.argmax(logits, -1) == labels).astype(mask.dtype)
    return {
        "loss": jnp.sum(_counted(cross_entropy(logits, labels), mask)),
        "correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }


def train_step(
    state: TrainState,
    batch: dict,
    key: jax.Array,
    teacher: Any = None,
    *,
    axis_name: str | None = None,
    label_smoothing: float = 0.0,
    augment: Callable | None = None,
    ema_decay: float = 0.0,
    adversarial: float = 0.0,
    teach: Callable | None = None,
    teacher_weight: float = 0.0,
    teacher_temperature: float = 1.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the parameters, unless the loss or a gradient isn't a finite number.

    Then the parameters, statistics, optimizer and average stay as they were; the step counts, so
    that the next one has the next key.

    The loss is the mean over the images of the whole batch, on all devices, whose mask is 1.
    BatchNorm sees every image, padding too: train on full batches.

    Args:
      state: before the step.
      batch: see the top of this module.
      key: the run's key, the same at every step; the step's own is folded from it, so that a
        resumed run goes on with the keys that it would have had.
      teacher: variables of the network that ``teach`` answers with.
      axis_name: see the top of this module.
      label_smoothing: see `cross_entropy`.
      augment: ``f(key, images) -> images`` on float32 images in [0, 1], or None.
      ema_decay: of the exponential moving average, for a state that keeps one: after t steps
        ``min(ema_decay, (1 + t) / (10 + t))``, so that the first steps don't linger.
      adversarial: see `worsened`, which changes the images after ``augment``; 0 for none.
      teach: ``f(teacher, images) -> logits`` of a network to learn from, which sees the images
        that the step trains on, as augmented; or None.
      teacher_weight: in [0, 1], the share of `distillation_loss` in the loss.
      teacher_temperature: of `distillation_loss`.

    Returns:
      The state after the step, and `metric_sums` of the batch as trained on with "skipped", 1
      for a step that changed nothing (and the other sums 0), else 0.

    Example:
      >>> from digits_jax import MLP, create_train_state
      >>> state = create_train_state(MLP(hidden_sizes=()), optax.sgd(0.1), jax.random.key(0))
      >>> batch = {"image": jnp.ones((2, 28, 28, 1)), "label": jnp.array([3, 3]),
      ...          "mask": jnp.ones(2)}
      >>> state, first = train_step(state, batch, jax.random.key(1))
      >>> state, second = train_step(state, batch, jax.random.key(1))
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

    def forward(params, images):
        return state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
            **axis,
        )

    if adversarial:

        def harm(images):
            logits, _ = forward(state.params, images)
            return jnp.sum(_counted(cross_entropy(logits, labels, label_smoothing), mask))

        images = worsened(
            jax.random.fold_in(augment_key, 1), images, jax.grad(harm)(images), adversarial
        )
    taught = None if teach is None else jax.lax.stop_gradient(teach(teacher, images))
    count = jnp.maximum(_sum_over(jnp.sum(mask), axis_name), 1)

    def loss_fn(params):
        logits, changed = forward(params, images)
        # This device's share of the mean: the shares add up, also where masks differ.
        loss = cross_entropy(logits, labels, label_smoothing)
        if taught is not None:
            own, theirs = 1 - teacher_weight, teacher_weight
            loss = own * loss + theirs * distillation_loss(logits, taught, teacher_temperature)
        share = jnp.sum(_counted(loss, mask)) / count
        return share, (logits, changed.get("batch_stats", {}))

    grads, (logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, sums = _sum_over((grads, metric_sums(logits, labels, mask)), axis_name)
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    after = state.replace(
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=_averaged(state, params, batch_stats, ema_decay),
    )
    # Every device sees the same sums, so all of them skip or none.
    finite = all_finite((grads, sums, batch_stats))
    state = _where(finite, after, state).replace(step=state.step + 1)
    sums = _where(finite, sums, jax.tree.map(jnp.zeros_like, sums))
    return state, {**sums, "skipped": 1 - finite.astype(jnp.float32)}


def worsened(key: jax.Array, images: jax.Array, grads: jax.Array, most: float) -> jax.Array:
    """Images moved to where the loss is larger, each by an amount of its own.

    Every pixel goes by the same amount in its gradient's direction, which for a small change raises
    the loss most. It knows nothing of what lies beside what. The amounts are uniform, so that
    images nearly as they are belong to each batch, as they belong to what is recognised later.

    Args:
      key: a JAX key.
      images: float32 in [0, 1], [batch, height, width, channels].
      grads: of the loss, of the images' shape.
      most: the largest amount; white is 1.

    Returns:
      float32 in [0, 1], of the images' shape.

    Example:
      >>> images = jnp.full((3, 28, 28, 1), 0.5)
      >>> changed = worsened(jax.random.key(0), images, images - 0.75, 0.25)
      >>> bool((changed <= 0.5).all()), bool((changed >= 0.25).all())
      (True, True)

    Reference:
      Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, 2015.
    """
    amounts = jax.random.uniform(key, (len(images), 1, 1, 1), maxval=most)
    return jnp.clip(images + amounts * jnp.sign(grads), 0, 1)


def all_finite(tree: Any) -> jax.Array:
    """Whether every number in a pytree is finite: a bool scalar.

    Example:
      >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])}))
      False
    """
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _where(condition, then, otherwise):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), then, otherwise)


def _averaged(state, params, batch_stats, decay):
    if not state.average:
        return state.average
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, state.average, new)


def predict_step(state: TrainState, images: jax.Array) -> jax.Array:
    """Logits of images in evaluation mode.

    Args:
      state: its ``variables`` are read.
      images: uint8 or float32 in [0, 1], [batch, height, width, channels].

    Returns:
      float32 [batch, classes].
    """
    chex.assert_rank(images, 4)
    return state.apply_fn(state.variables, to_float(images), train=False)


def eval_step(
    state: TrainState, batch: dict, *, axis_name: str | None = None
) -> dict[str, jax.Array]:
    """`metric_sums` of a batch in evaluation mode, over all devices.

    Args:
      state: its ``variables`` are read.
      batch: see the top of this module.
      axis_name: see the top of this module.

    Returns:
      float32 scalars "loss", "correct" and "count".
    """
    check_batch(batch)
    logits = predict_step(state, batch["image"])
    return _sum_over(metric_sums(logits, batch["label"], batch["mask"]), axis_name)


def _counted(loss, mask):
    # Not a mere product: padding may have a label that is no class, and 0 * NaN is NaN.
    return jnp.where(mask > 0, loss, 0) * mask


def _sum_over(tree, axis_name):
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)
