"""A linear softmax model, and what NumPy makes of a step of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special

from digits_jax import MLP, create_train_state

KEY = jax.random.key(7)
SHAPE = (4, 4, 1)
RATE = 0.5


def make_batch(count=6, shape=SHAPE, classes=3, seed=0):
    """Random images and labels; the last two images are masked."""
    random = np.random.default_rng(seed)
    return {
        "image": random.integers(0, 256, (count, *shape), dtype=np.uint8),
        "label": random.integers(0, classes, count, dtype=np.int32),
        "mask": np.array([1] * (count - 2) + [0] * 2, np.float32),
    }


def linear_state(tx=None):
    module = MLP(num_classes=3, hidden_sizes=())
    state = create_train_state(module, tx or optax.sgd(RATE), jax.random.key(0), SHAPE)
    bias = jnp.array([0.1, -0.2, 0.3])  # not zero, so that a lost bias is noticed
    return state.replace(params={"logits": {**state.params["logits"], "bias": bias}})


def numpy_linear(state, batch):
    """Images as rows, logits and probabilities of a linear softmax model, in float64."""
    x = batch["image"].reshape(len(batch["image"]), -1) / 255
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params["logits"])
    logits = x @ params["kernel"] + params["bias"]
    return x, logits, scipy.special.softmax(logits, axis=-1)


def numpy_sums(logits, batch):
    kept = batch["mask"] == 1
    log_probabilities = scipy.special.log_softmax(logits, axis=-1)[kept]
    labels = batch["label"][kept]
    return {
        "loss": -log_probabilities[np.arange(len(labels)), labels].sum(),
        "correct": (logits[kept].argmax(-1) == labels).sum(),
        "count": len(labels),
    }


def numpy_step(state, batch, smoothing=0.0):
    """The kernel and bias after a step of gradient descent, by the textbook's gradient."""
    x, _, probabilities = numpy_linear(state, batch)
    targets = (1 - smoothing) * np.eye(3)[batch["label"]] + smoothing / 3
    error = (probabilities - targets) * batch["mask"][:, None] / batch["mask"].sum()
    return {
        "kernel": state.params["logits"]["kernel"] - RATE * x.T @ error,
        "bias": state.params["logits"]["bias"] - RATE * error.sum(0),
    }
