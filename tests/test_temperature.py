"""Temperature scaling, against scipy and samples whose temperature is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from digits_jax.temperature import fit_temperature

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 5, 800)
LOGITS = (RNG.normal(size=(800, 5)) + 2.5 * np.eye(5)[LABELS]) * 2


def test_the_temperature_is_the_minimum_that_scipy_finds():
    def loss(log_temperature):
        return -log_softmax(LOGITS / np.exp(log_temperature), 1)[np.arange(800), LABELS].mean()

    expected = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10})
    found = fit_temperature(LABELS, LOGITS)
    assert found == pytest.approx(np.exp(expected.x), rel=1e-5)
    assert fit_temperature(LABELS, LOGITS * 3) == pytest.approx(3 * found)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.4, 2.5))
def test_the_temperature_undoes_a_scale(seed, scale):
    """Labels that are drawn from the softmax need the temperature by which it was scaled."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4000, 3)) * 2
    shares = softmax(logits, -1).cumsum(-1)
    labels = np.minimum((rng.uniform(size=(4000, 1)) > shares).sum(-1), 2)
    assert fit_temperature(labels, scale * logits) == pytest.approx(scale, rel=0.15)


@pytest.mark.parametrize(("labels", "expected"), [([0, 1], 0), ([1, 0], math.inf)])
def test_without_a_minimum_it_is_zero_or_infinite(labels, expected):
    assert fit_temperature(np.array(labels), np.array([[5.0, 0.0], [0.0, 5.0]])) == expected
