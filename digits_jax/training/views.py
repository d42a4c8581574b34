"""Several views of each image, whose answers are averaged: slower, and more often right."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from digits_jax.data.augment import warp
from digits_jax.data.splits import Split
from digits_jax.runs.ensemble import mean_log_probabilities
from digits_jax.training.scoring import Score, score_of
from digits_jax.training.steps import to_float

# About half of what training changes. Chosen on MNIST's validation split.
STRENGTHS = {
    "rotation_degrees": 6.0,
    "scale_factor": 1.06,
    "shear_degrees": 4.0,
    "shift_pixels": 1.0,
}
_CHUNK = 1000


def view(images: np.ndarray, number: int) -> np.ndarray:
    """One view of each image.

    Args:
      images: uint8 [n, height, width, channels].
      number: 0 for the images as they are; each other number turns, scales, slants and shifts each
        image by amounts of its own, always the same.

    Returns:
      uint8, of the same shape.

    Example:
      >>> images = np.zeros((2, 28, 28, 1), np.uint8)
      >>> view(images, 0) is images, view(images, 1).shape
      (True, (2, 28, 28, 1))
    """
    if number == 0:
        return images
    key = jax.random.key(number)
    made = np.empty_like(images)
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        whole = np.zeros((_CHUNK, *images.shape[1:]), np.uint8)  # so that one shape is compiled
        whole[: len(part)] = part
        changed = _changed(jax.random.fold_in(key, start), whole)
        made[start : start + _CHUNK] = np.asarray(changed)[: len(part)]
    return made


@jax.jit
def _changed(key, images):
    return (255 * warp(key, to_float(images), **STRENGTHS) + 0.5).astype(np.uint8)


def score_views(score: Callable[[Any, Any], Score], state: Any, split: Split, count: int) -> Score:
    """How a split is recognised by the mean probability over several views of each image.

    Args:
      score: of `make_scorer`.
      state: to recognise with.
      split: of uint8 images.
      count: of views, the first of which is the image as it is.
    """
    scores = [
        score(state, Split(view(split.images, number), split.labels)) for number in range(count)
    ]
    if count == 1:
        return scores[0]
    logits = mean_log_probabilities([each.logits for each in scores])
    return score_of(scores[0].labels, logits)
