"""Losses and metrics, not reduced to means: the caller sums over devices and divides once.

logits: float32 [batch, classes]; labels: int32 [batch].
"""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    r"""Computes the softmax cross-entropy against smoothed one-hot targets.

    .. math:: -\sum_k \left((1 - s) [k = y] + s / K\right) \log \mathrm{softmax}(z)_k

    Args:
      logits: :math:`z`.
      labels: :math:`y`.
      label_smoothing: :math:`s` in [0, 1).

    Returns:
      float32 [batch], in nats; NaN for a label that is no class, as compiled code can't raise.

    Examples:
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
    r"""Computes the softmax cross-entropy against a teacher's probabilities.

    .. math:: -T^2 \sum_k \mathrm{softmax}(t / T)_k \log \mathrm{softmax}(z / T)_k

    Args:
      logits: :math:`z`.
      teacher_logits: float32 [batch, classes], :math:`t`.
      temperature: :math:`T`; a higher one gives the wrong classes a larger share.

    Returns:
      float32 [batch], in nats; the factor keeps the gradient's scale at any temperature.

    Examples:
      >>> float(distillation_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2)))[0])  # log(2)
      0.6931...

    Reference:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
    """
    targets = jax.nn.softmax(teacher_logits / temperature, -1)
    return temperature**2 * optax.softmax_cross_entropy(logits / temperature, targets)


def masked_sum(loss: jax.Array, mask: jax.Array) -> jax.Array:
    """Sums a loss over the images whose mask is 1.

    Examples:
      >>> float(masked_sum(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])))
      1.0
    """
    # Not a mere product: padding may have a label that is no class, and 0 * NaN is NaN.
    return jnp.sum(jnp.where(mask > 0, loss, 0) * mask)


def metric_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums the metrics over the images whose mask is 1.

    Returns:
      float32 scalars: "loss" (cross-entropy in nats), "correct" and "count" (images).

    Examples:
      >>> sums = metric_sums(jnp.eye(3), jnp.array([0, 1, 0]), jnp.array([1.0, 1.0, 0.0]))
      >>> float(sums["correct"]), float(sums["count"])
      (2.0, 2.0)
    """
    correct = (jnp.argmax(logits, -1) == labels).astype(mask.dtype)
    return {
        "loss": masked_sum(cross_entropy(logits, labels), mask),
        "correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }
