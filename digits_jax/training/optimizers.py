"""Learning-rate schedules and optax chains, from plain numbers."""

from typing import Any

import jax
import optax

from digits_jax.errors import ConfigError


def make_schedule(
    name: str, learning_rate: float, total_steps: int, warmup_fraction: float = 0.1
) -> optax.Schedule:
    """Makes a learning-rate schedule by name.

    Args:
      name: "one_cycle" (cosine up from a 25th of the peak, cosine down to nearly 0), "cosine"
        (linear warm-up from 0, cosine down to 0) or "constant" (after the same warm-up).
      learning_rate: the peak.
      total_steps: length of the run.
      warmup_fraction: of ``total_steps``, before the peak.

    Raises:
      ConfigError: an unknown name.

    Examples:
      >>> schedule = make_schedule("cosine", 0.1, total_steps=100)
      >>> [round(float(schedule(step)), 3) for step in (0, 10, 55, 100)]
      [0.0, 0.1, 0.05, 0.0]

    Reference:
      Smith and Topin, Super-Convergence, 2018 (one cycle); Loshchilov and Hutter, SGDR, 2017
      (cosine).
    """
    warmup_steps = min(round(warmup_fraction * total_steps), total_steps - 1)
    if name == "one_cycle":
        # optax divides by the length of the warm-up.
        start = max(warmup_fraction, 1 / max(total_steps, 2))
        return optax.cosine_onecycle_schedule(max(total_steps, 2), learning_rate, pct_start=start)
    if name == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, total_steps)
    if name == "constant":
        if not warmup_steps:  # optax's would stay at 0
            return optax.constant_schedule(learning_rate)
        return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    raise ConfigError(f"schedule={name!r}: allowed: one_cycle, cosine, constant")


def _is_kernel(params: Any) -> Any:
    """Selects matrices and filters for weight decay, not biases and normalization parameters."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(
    name: str, schedule: optax.ScalarOrSchedule, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Makes an optimizer by name.

    Args:
      name: "adam", "adamw" (decoupled weight decay), "sgd" (Nesterov momentum 0.9, weight
        decay added to the gradient) or "lion".
      schedule: a learning rate, or a function of the step.
      weight_decay: of kernels; biases and normalization parameters have none.

    Raises:
      ConfigError: an unknown name, or Adam with weight decay.

    Examples:
      >>> tx = make_optimizer("sgd", 0.1)
      >>> updates, _ = tx.update({"w": 1.0}, tx.init({"w": 0.0}))
      >>> round(float(updates["w"]), 3)  # -0.1 * (1 + 0.9)
      -0.19

    Reference:
      Kingma and Ba, Adam, 2015; Loshchilov and Hutter, Decoupled Weight Decay Regularization,
      2019; Sutskever et al., On the importance of initialization and momentum, 2013; Chen et
      al., Symbolic Discovery of Optimization Algorithms, 2023 (Lion).
    """
    if name == "adam":
        if weight_decay:
            raise ConfigError(
                f"weight_decay={weight_decay}: adam has none; use adamw, or weight_decay=0"
            )
        return optax.adam(schedule)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=_is_kernel)
    if name == "lion":
        return optax.lion(schedule, weight_decay=weight_decay, mask=_is_kernel)
    if name == "sgd":
        decay = optax.add_decayed_weights(weight_decay, _is_kernel) if weight_decay else None
        sgd = optax.sgd(schedule, momentum=0.9, nesterov=True)
        return optax.chain(decay, sgd) if decay else sgd
    raise ConfigError(f"optimizer={name!r}: allowed: adam, adamw, sgd, lion")
