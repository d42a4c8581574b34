"""Networks with parameters by seed give the stored logits; `tests/deploy` has every format."""

import numpy as np
import pytest
from deploy.networks import SETTINGS, random_images, random_network

from digits_jax.deploy.predictor import Predictor


@pytest.mark.parametrize("name", SETTINGS)
def test_logits(golden, name):
    logits = Predictor(random_network(name)).predict(random_images(16)).logits
    np.testing.assert_allclose(logits, golden(name, logits), rtol=0, atol=1e-4)
