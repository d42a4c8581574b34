"""Scores whole splits with a trained state, and recalibrates BatchNorm before that."""

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from digits_jax.data.augment import warp
from digits_jax.data.datasets import Split
from digits_jax.data.pipeline import eval_batches, share_size
from digits_jax.errors import TrainingDivergedError
from digits_jax.models.mean_probability import mean_log_probabilities
from digits_jax.models.mlp import BATCH_NORM_MOMENTUM
from digits_jax.training import parallel
from digits_jax.training.multi_step import IMAGE_SHAPE, member_mesh, place, split_members
from digits_jax.training.setup import PRNG, TrainSetup
from digits_jax.training.state import TrainState
from digits_jax.training.steps import eval_step, predict_step, to_float

# Batches of the first training images, whose order is random.
RECALIBRATION_BATCHES = 40
# About half as strong as the augmentation of training; chosen on MNIST's validation images.
VIEW_STRENGTHS = {
    "rotation_degrees": 6.0,
    "scale_factor": 1.06,
    "shear_degrees": 4.0,
    "shift_pixels": 1.0,
}
_VIEW_CHUNK = 1000


@dataclass(frozen=True)
class Score:
    """How a split was classified: mean loss in nats, counts, int32 labels, float32 logits."""

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
        """Images that are misclassified."""
        return self.count - self.correct


def score_logits(labels: np.ndarray, logits: ArrayLike) -> Score:
    """Scores logits [n, classes] by labels [n]; a constant added to a row changes nothing.

    Examples:
      >>> score = score_logits(np.array([0, 1]), np.log([[0.75, 0.25], [0.5, 0.5]]))
      >>> score.correct, round(score.loss, 4)  # -(log(3/4) + log(1/2)) / 2
      (1, 0.4904)
    """
    logits = np.asarray(logits)
    exact = logits.astype(np.float64)
    losses = np.logaddexp.reduce(exact, -1) - exact[np.arange(len(labels)), labels]
    correct = int((logits.argmax(-1) == labels).sum())
    return Score(float(losses.mean()), correct, len(labels), labels, logits)


def make_scorer(setups: Sequence[TrainSetup]) -> Callable[..., list[Score]]:
    """Compiles a function that scores every image of a split, also in the last, short batch.

    Returns:
      ``f(state, splits, check=...) -> [Score]``, one split for each setup; it calls ``check()``,
      which may raise, before each batch, and raises a TrainingDivergedError where a loss isn't
      finite. Each of several processes has all images and gets the complete score.
    """
    first, members = setups[0], len(setups)
    share, size = first.share, first.eval_batch_size
    mesh = member_mesh(setups)
    on_cpu = first.platform == "cpu"
    if members > 1 and on_cpu:  # together as large as one network's: five took 3 times the memory
        size = -(-size * mesh.size // members)
    own_size = share_size(size, share)
    shape = (own_size,) if members == 1 else (members, own_size)
    example = {
        "image": np.zeros((*shape, *IMAGE_SHAPE), np.uint8),
        "label": np.zeros(shape, np.int32),
        "mask": np.zeros(shape, np.float32),
    }
    state = first.for_scoring(first.abstract_state)
    if members == 1:
        # A process can't read what lies on another process's devices.
        logits_spec = P() if share[1] > 1 else P(parallel.AXIS)
        step = parallel.parallelize(_score_step, mesh, outputs=(P(), logits_spec))
        step = step.lower(state, parallel.shard(example, mesh)).compile()
    else:
        step = jax.jit(jax.vmap(_score_step))
    # The next batch is under way while one is fetched. Several CPU devices could wait forever.
    ahead = 0 if mesh.size > 1 and on_cpu else 1

    def score(
        state: TrainState, splits: Sequence[Any], check: Callable[[], object] = lambda: None
    ) -> list[Score]:
        state = first.for_scoring(state)
        under_way: collections.deque = collections.deque()
        fetched: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        each = [eval_batches(split, size, share) for split in splits]
        for batches in zip(*each, strict=True):
            check()
            batch = batches[0]
            if members > 1:
                batch = {name: np.stack([b[name] for b in batches]) for name in batch}
            under_way.append(step(state, parallel.shard(batch, mesh)))
            if len(under_way) > ahead:
                fetched.append(jax.device_get(under_way.popleft()))
        fetched += [jax.device_get(result) for result in under_way]
        sums = [sums for sums, _ in fetched]
        logits = np.concatenate([np.reshape(x, (members, -1, x.shape[-1])) for _, x in fetched], 1)
        totals = {
            name: np.sum([np.reshape(x[name], members).astype(float) for x in sums], 0)
            for name in ("loss", "correct", "count")
        }
        if not np.isfinite(totals["loss"]).all():
            raise TrainingDivergedError(
                f"the network's loss is {totals['loss'].max()}: training has diverged (try a "
                "smaller learning_rate), or its checkpoint is damaged"
            )
        scores = []
        for index, split in enumerate(splits):
            loss, correct, count = (float(each[index]) for each in totals.values())
            labels = np.asarray(split.labels, np.int32)
            own = logits[index, : int(count)]
            scores.append(Score(loss / count, int(correct), int(count), labels, own))
        return scores

    return score


def _score_step(state: TrainState, batch: Any) -> tuple[dict[str, jax.Array], jax.Array]:
    # One forward pass: the compiler sees that the two share it.
    return eval_step(state, batch), predict_step(state, batch["image"])


def recalibrate_batch_norm(state: TrainState, setups: Sequence[TrainSetup]) -> TrainState:
    """Estimates BatchNorm's statistics from training images without augmentation.

    In training they are running averages over augmented images and over past parameters. The
    statistics are estimated for the evaluated parameters: of the average, where there is one. A
    state without BatchNorm is returned as it is.

    Reference:
      Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3 (precise BatchNorm); Izmailov
      et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, section 3.2.
    """
    if not jax.tree.leaves(state.batch_stats):
        return state
    first = setups[0]
    apply = first.eval_module.clone(dropout=0.0).apply
    statistics = parallel.parallelize(
        lambda variables, batch: batch_statistics(
            apply, variables[0], variables[1], batch["image"]
        ),
        first.mesh,
    )
    states = [
        _recalibrate(each, setup, statistics)
        for each, setup in zip(split_members(state, setups), setups, strict=True)
    ]
    return states[0] if len(states) == 1 else place(states, setups)


def _recalibrate(state: TrainState, setup: TrainSetup, statistics: Callable) -> TrainState:
    train, size = setup.dataset.train, setup.config.batch_size
    count = min(RECALIBRATION_BATCHES, len(train) // size)
    own = share_size(size, setup.share)
    variables = (state.variables["params"], state.batch_stats)
    total = None
    for number in range(count):
        start = number * size + setup.share[0] * own
        images, _ = train.rows(np.arange(start, start + own))
        batch = statistics(variables, parallel.shard({"image": images}, setup.mesh))
        jax.block_until_ready(batch)  # many collectives ahead hang on CPU devices
        total = batch if total is None else jax.tree.map(jnp.add, total, batch)
    mean = jax.tree.map(lambda sums: sums / count, total)
    if state.average:
        return state.replace(average={**state.average, "batch_stats": mean})
    return state.replace(batch_stats=mean)


def batch_statistics(apply: Callable, params: Any, batch_stats: Any, images: jax.Array) -> Any:
    """Computes the mean and variance of a batch at each BatchNorm of an `MLP` or a `CNN`."""
    # A training step adds the batch's share to running statistics of 0.
    zeros = jax.tree.map(jnp.zeros_like, batch_stats)
    variables = {"params": params, "batch_stats": zeros}
    _, updated = apply(variables, to_float(images), train=True, mutable=["batch_stats"])
    return jax.tree.map(lambda share: share / (1 - BATCH_NORM_MOMENTUM), updated["batch_stats"])


def augmented_view(images: np.ndarray, number: int) -> np.ndarray:
    """Returns one view of each image, for test-time augmentation: uint8, as the images.

    Number 0 is the images as they are; each other number rotates, scales, shears and shifts each
    image by its own random amounts, always the same ones.
    """
    if number == 0:
        return images
    key = jax.random.key(number, impl=PRNG)
    views = np.empty_like(images)
    for start in range(0, len(images), _VIEW_CHUNK):
        part = images[start : start + _VIEW_CHUNK]
        padded = np.zeros((_VIEW_CHUNK, *images.shape[1:]), np.uint8)  # one shape to compile
        padded[: len(part)] = part
        warped = np.asarray(_warp_view(jax.random.fold_in(key, start), padded))
        views[start : start + _VIEW_CHUNK] = warped[: len(part)]
    return views


@jax.jit
def _warp_view(key: jax.Array, images: jax.Array) -> jax.Array:
    return (255 * warp(key, to_float(images), **VIEW_STRENGTHS) + 0.5).astype(np.uint8)


def score_views(
    score: Callable[..., list[Score]], state: TrainState, split: Split, count: int
) -> Score:
    """Scores a split by the mean probability over ``count`` views of each image."""
    scores = [
        score(state, [Split(augmented_view(split.images, number), split.labels)])[0]
        for number in range(count)
    ]
    if count == 1:
        return scores[0]
    logits = mean_log_probabilities([each.logits for each in scores])
    return score_logits(scores[0].labels, logits)
