"""Schedules at known steps, and optimizers worked out by hand."""

import jax
import numpy as np
import optax
import pytest

from digits_jax.errors import DigitsError
from digits_jax.training.optimizers import make_optimizer, make_schedule

# --- schedules -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A 25th of the peak; cosines half-way are means; the end is the start over 10,000.
        (
            "one_cycle",
            {0: 0.04, 5: 0.52, 10: 1.0, 55: (1 + 0.04e-4) / 2, 100: 0.04e-4, 120: 0.04e-4},
        ),
        ("cosine", {0: 0, 5: 0.5, 10: 1, 55: 0.5, 100: 0, 120: 0}),
        ("constant", {0: 0, 5: 0.5, 10: 1, 55: 1, 100: 1}),
    ],
)
def test_schedules_at_known_steps(name, expected):
    schedule = make_schedule(name, 2.0, total_steps=100)
    for step, share in expected.items():
        np.testing.assert_allclose(schedule(step), 2 * share, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["one_cycle", "cosine", "constant"])
def test_short_runs_have_a_schedule(name, total_steps):
    schedule = make_schedule(name, 0.1, total_steps)
    rates = np.array([schedule(step) for step in range(total_steps)])
    assert np.isfinite(rates).all()
    assert rates.max() <= 0.1 + 1e-6
    assert rates.max() > 0  # something is learned


def test_unknown_schedule():
    with pytest.raises(DigitsError, match="schedule='linear': allowed"):
        make_schedule("linear", 0.1, 100)


# --- optimizers ----------------------------------------------------------------------------

PARAMS = {"kernel": np.array([[2.0, -4.0]]), "bias": np.array([3.0, 5.0])}
GRADS = [
    {"kernel": np.array([[0.5, -1.0]]), "bias": np.array([2.0, -0.25])},
    {"kernel": np.array([[-1.5, 1.0]]), "bias": np.array([1.0, 0.5])},
    {"kernel": np.array([[1.0, 2.0]]), "bias": np.array([-3.0, 0.125])},
]
RATE, DECAY = 0.1, 0.01


def sgd(name, decay):
    params, momentum = PARAMS[name], 0.0
    for grads in GRADS:
        grad = grads[name] + decay * params
        momentum = 0.9 * momentum + grad
        params = params - RATE * (grad + 0.9 * momentum)  # Nesterov: it looks one step ahead
    return params


def adam(name, decay):
    params, mean, square = PARAMS[name], 0.0, 0.0
    for t, grads in enumerate(GRADS, 1):
        mean = 0.9 * mean + 0.1 * grads[name]
        square = 0.999 * square + 0.001 * grads[name] ** 2
        ratio = (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        params = params - RATE * (ratio + decay * params)
    return params


def lion(name, decay):
    params, mean = PARAMS[name], 0.0
    for grads in GRADS:
        sign = np.sign(0.9 * mean + 0.1 * grads[name])
        mean = 0.99 * mean + 0.01 * grads[name]
        params = params - RATE * (sign + decay * params)
    return params


@pytest.mark.parametrize(
    ("name", "by_hand", "decay"),
    [
        ("sgd", sgd, 0.0),
        ("sgd", sgd, DECAY),
        ("adam", adam, 0.0),
        ("adamw", adam, 0.0),
        ("adamw", adam, DECAY),
        ("lion", lion, 0.0),
        ("lion", lion, DECAY),
    ],
)
def test_optimizers_by_hand(name, by_hand, decay):
    """Three steps; weight decay is for the kernel and skips the bias."""
    tx = make_optimizer(name, RATE, decay)
    update = jax.jit(tx.update)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), PARAMS)
    state = tx.init(params)
    for grads in GRADS:
        grads = jax.tree.map(lambda leaf: leaf.astype(np.float32), grads)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], by_hand("kernel", decay), rtol=1e-5)
    np.testing.assert_allclose(params["bias"], by_hand("bias", 0.0), rtol=1e-5)


def test_the_learning_rate_follows_the_schedule():
    tx = make_optimizer("sgd", lambda step: 1.0 + step)
    params = {"w": np.float32(0)}
    state = tx.init(params)
    sizes = []
    for _ in range(2):
        updates, state = tx.update({"w": np.float32(1)}, state, params)
        sizes.append(float(updates["w"]))
    np.testing.assert_allclose(sizes, [-1 * 1.9, -2 * (1 + 0.9 * 1.9)], rtol=1e-6)


def test_bad_optimizers():
    with pytest.raises(DigitsError, match="optimizer='rmsprop': allowed"):
        make_optimizer("rmsprop", 0.1)
    with pytest.raises(DigitsError, match="adam has none; use adamw"):
        make_optimizer("adam", 0.1, weight_decay=0.1)
