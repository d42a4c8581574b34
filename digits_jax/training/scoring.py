"""Scores a whole split with a trained state: every image, the last short batch included."""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from digits_jax.data.pipeline import eval_batches, share_size
from digits_jax.errors import ConfigError
from digits_jax.training.parallel import AXIS, parallelize, shard
from digits_jax.training.state import TrainState
from digits_jax.training.steps import eval_step, predict_step


@dataclass(frozen=True)
class Score:
    """How a split was recognised.

    Attributes:
      loss: mean cross-entropy in nats.
      correct: images recognised.
      count: images scored.
      labels: int32 [count].
      logits: float32 [count, classes].
    """

    loss: float
    correct: int
    count: int
    labels: np.ndarray
    logits: np.ndarray

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]."""
        return self.correct / self.count

    @property
    def errors(self) -> int:
        """Images not recognised."""
        return self.count - self.correct


def score_of(labels: np.ndarray, logits: np.ndarray) -> Score:
    """The score of answers that are there already.

    Args:
      labels: int32 [n].
      logits: float32 [n, classes]; only their softmax counts.

    Example:
      >>> found = score_of(np.array([0, 1]), np.log([[0.75, 0.25], [0.5, 0.5]]))
      >>> found.correct, round(found.loss, 4)  # -(log(3/4) + log(1/2)) / 2
      (1, 0.4904)
    """
    exact = np.asarray(logits, np.float64)
    losses = np.logaddexp.reduce(exact, -1) - exact[np.arange(len(labels)), labels]
    correct = int((logits.argmax(-1) == labels).sum())
    return Score(float(losses.mean()), correct, len(labels), labels, logits)


def score_step(state: TrainState, batch: dict[str, Any]) -> tuple[dict[str, jax.Array], jax.Array]:
    """`eval_step` and `predict_step` of a batch."""
    # One forward pass: the compiler sees that the two share it.
    return eval_step(state, batch), predict_step(state, batch["image"])


def make_scorer(
    state: TrainState,
    mesh: Mesh,
    batch_size: int,
    image_shape: tuple[int, ...] = (28, 28, 1),
    *,
    share: tuple[int, int] = (0, 1),
) -> Callable[[TrainState, Any], Score]:
    """Compiles a function that scores the images and labels of a split.

    Args:
      state: whose shapes and sharding it is compiled for.
      mesh: of the devices.
      batch_size: images scored at once; the devices divide it.
      image_shape: of the split's uint8 images.
      share: (index, count) of this process among those that score together; each has all images,
        and gets the whole score.

    Returns:
      ``f(state, split, between) -> Score``, for a split with ``images`` uint8
      [n, *image_shape] and ``labels`` int32 [n]; it calls ``between()``, which may raise, before
      each batch, and raises an DigitsError where the loss isn't finite.
    """
    own_size = share_size(batch_size, share)
    example = {
        "image": np.zeros((own_size, *image_shape), np.uint8),
        "label": np.zeros(own_size, np.int32),
        "mask": np.zeros(own_size, np.float32),
    }
    # What lies on another process's devices couldn't be read here.
    step = parallelize(score_step, mesh, outputs=(P(), P() if share[1] > 1 else P(AXIS)))
    step = step.lower(state, shard(example, mesh)).compile()
    # The next batch is under way while one is fetched; several CPU devices could wait for ever.
    ahead = 0 if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else 1

    def score(state: TrainState, split: Any, between: Callable[[], None] = lambda: None) -> Score:
        totals, logits = {"loss": 0.0, "correct": 0.0, "count": 0.0}, []
        under_way = collections.deque()

        def fetch(most):
            while len(under_way) > most:
                sums, batch_logits = under_way.popleft()
                for name in totals:
                    totals[name] += float(sums[name])
                logits.append(np.asarray(batch_logits))

        for batch in eval_batches(split.images, split.labels, batch_size, share):
            between()
            under_way.append(step(state, shard(batch, mesh)))
            fetch(ahead)
        fetch(0)
        return score_of_sums(totals, split.labels, np.concatenate(logits))

    return score


def score_of_sums(totals: dict[str, float], labels: np.ndarray, logits: np.ndarray) -> Score:
    """The score of a split whose batches were scored.

    Args:
      totals: "loss", "correct" and "count", of all batches.
      labels: of the split, int [n].
      logits: float32 [n or more, classes], of the batches one after another.

    Raises:
      ConfigError: the loss isn't finite.
    """
    if not math.isfinite(totals["loss"]):
        raise ConfigError(
            f"the network's loss is {totals['loss']}: training has diverged (try a smaller "
            "--learning-rate), or its checkpoint is damaged"
        )
    count = int(totals["count"])
    return Score(
        loss=totals["loss"] / count,
        correct=int(totals["correct"]),
        count=count,
        labels=np.asarray(labels, np.int32),
        logits=logits[:count],
    )
