"""Small trainings, several at once.

Trainings that one compiled step can do (see `Recipe.compiled_alike`) and that take equally many
steps are lanes of one ``jax.vmap``: each has its own seed, learning rate, label smoothing,
dropout, preprocessing, labels and choice of images, and nothing is compiled for any of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from digits_jax.data.augment import POLICIES, warp
from digits_jax.data.pipeline import BatchOrder, num_steps
from digits_jax.data.splits import Dataset
from digits_jax.models.build import choose_convolution
from digits_jax.training.optimizers import make_optimizer, make_schedule
from digits_jax.training.state import TrainState, create_train_state
from digits_jax.training.steps import eval_step, train_step
from experiments.critical_factors.networks import build, by_matmul
from experiments.critical_factors.preprocess import pixel_numbers, prepare
from experiments.critical_factors.recipe import Recipe

# One change at a time, each as strong as in the library's policies.
AUGMENTATIONS: dict[str, dict[str, float]] = {
    "none": {},
    "shift": {"shift_pixels": 2.0},
    "rotation": {"rotation_degrees": 10.0},
    "scaling": {"scale_factor": 1.15},
    "shear": {"shear_degrees": 10.0},
    "elastic": {"elastic_pixels": 0.6},
    "all": POLICIES["elastic"],
}
_SCORED_AT_ONCE = 1000
_DRAWN, _NOISE = 2**31, 2**31 + 1  # streams of a seed's random numbers, beside those of its epochs


@dataclass(frozen=True)
class Lane:
    """One training.

    Attributes:
      recipe: what is trained.
      seed: of the initial parameters, the order of the images, dropout and augmentation; of which
        images and labels are drawn.
    """

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Compiled:
    """Functions of lanes: every argument has a first axis, a lane each.

    Attributes:
      init: keys -> states.
      step: states, numbers, images uint8, labels, keys -> states.
      count_correct: states, numbers, images uint8, labels, mask -> float32 [lanes].
    """

    init: Callable
    step: Callable
    count_correct: Callable


def compile_for(recipe: Recipe, total_steps: int, num_classes: int):
    """The functions that train and score any recipe that is compiled alike.

    Args:
      recipe: one of them.
      total_steps: of the training.
      num_classes: of the data set.
    """
    convolution = choose_convolution("auto", jax.default_backend())
    module = build(recipe, num_classes, convolution)
    shape = make_schedule(recipe.schedule, 1.0, total_steps)

    def optimizer(learning_rate):
        return make_optimizer(
            recipe.optimizer, lambda step: learning_rate * shape(step), recipe.weight_decay
        )

    strengths = AUGMENTATIONS[recipe.augment]
    augment = partial(warp, **strengths) if strengths else None
    tx = optimizer(1.0)

    def step(state, numbers, images, labels, key):
        batch = _batch(numbers, images, labels, jnp.ones(labels.shape))
        apply_fn = partial(state.apply_fn, dropout_rate=numbers["dropout"])
        traced = state.replace(tx=optimizer(numbers["learning_rate"]), apply_fn=apply_fn)
        smoothing = numbers["label_smoothing"]
        after, _ = train_step(traced, batch, key, label_smoothing=smoothing, augment=augment)
        return after.replace(tx=state.tx, apply_fn=state.apply_fn)

    def count_correct(state, numbers, images, labels, mask):
        return eval_step(state, _batch(numbers, images, labels, mask))["correct"]

    return Compiled(
        init=jax.vmap(partial(create_train_state, module, tx)),
        step=jax.jit(jax.vmap(step), donate_argnums=0),
        count_correct=jax.jit(jax.vmap(count_correct)),
    )


def _batch(numbers, images, labels, mask):
    images = images.astype(jnp.float32) * numbers["pixel_scale"] + numbers["pixel_offset"]
    return {"image": images, "label": labels, "mask": mask}


def steps_of(recipe: Recipe, size: int) -> int:
    """Steps of a training: its epochs over all the images, however few of them it is given.

    Args:
      recipe: of the training.
      size: training images that there are.
    """
    return num_steps(recipe.epochs, size, recipe.batch_size)


def draw_images(recipe: Recipe, seed: int, size: int) -> np.ndarray:
    """Which images a training has: int64 [train_images], sorted; fewer are part of more.

    Example:
      >>> draw_images(Recipe("mlp", train_images=3), seed=0, size=5).shape
      (3,)
    """
    if not recipe.train_images or recipe.train_images >= size:
        return np.arange(size)
    words = np.random.Philox(key=[seed, _DRAWN]).random_raw(size)
    return np.sort(np.argsort(words, kind="stable")[: recipe.train_images])


def noisy_labels(labels: np.ndarray, share: float, seed: int, num_classes: int) -> np.ndarray:
    """Labels of which a share is another class, each other class as often.

    Args:
      labels: int32 [n].
      share: in [0, 1]; so many are changed, rounded.
      seed: those changed with a smaller share are changed alike with a larger one.
      num_classes: at least 2.

    Example:
      >>> labels = np.zeros(10, np.int32)
      >>> int((noisy_labels(labels, 0.4, seed=0, num_classes=10) != labels).sum())
      4
    """
    words = np.random.Philox(key=[seed, _NOISE]).random_raw(2 * len(labels))
    order = np.argsort(words[: len(labels)], kind="stable")
    changed = order[: round(share * len(labels))]
    by = 1 + (words[len(labels) :] % np.uint64(num_classes - 1)).astype(np.int32)
    noisy = labels.copy()
    noisy[changed] = (labels[changed] + by[changed]) % num_classes
    return noisy


class LaneData:
    """What a lane trains on: its images, its labels, its order.

    Args:
      lane: the training.
      dataset: all the data.
      images: uint8, the training images as the lane's preprocessing leaves them.
      scale_and_offset: of its pixels.
    """

    def __init__(self, lane, dataset, images, scale_and_offset):
        recipe, labels = lane.recipe, np.asarray(dataset.train.labels, np.int32)
        self._images = images
        self._rows = draw_images(recipe, lane.seed, len(labels))
        self._labels = noisy_labels(labels, recipe.label_noise, lane.seed, dataset.num_classes)
        self._order = BatchOrder(len(self._rows), seed=lane.seed, batch_size=recipe.batch_size)
        scale, offset = scale_and_offset
        self.numbers = {
            "learning_rate": recipe.learning_rate,
            "label_smoothing": recipe.label_smoothing,
            "dropout": recipe.dropout,
            "pixel_scale": scale,
            "pixel_offset": offset,
        }

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of a step."""
        rows = self._rows[self._order.indices(step)]
        return self._images[rows], self._labels[rows]


class Prepared:
    """The data set under each preprocessing; the last few are kept.

    Args:
      dataset: to prepare.
    """

    _MOST = 3

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self._kept: dict[tuple[str, str], np.ndarray] = {}

    def images(self, part: str, name: str) -> np.ndarray:
        """uint8 [n, 28, 28, 1]: a part ("train", "validation") as a preprocessing leaves it."""
        if (part, name) not in self._kept:
            images = prepare(name, np.asarray(getattr(self.dataset, part).images))
            self._kept = dict(list(self._kept.items())[1 - 2 * self._MOST :])
            self._kept[part, name] = images
        return self._kept[part, name]

    def lane(self, lane: Lane) -> LaneData:
        """What a lane trains on."""
        name = lane.recipe.preprocessing
        images = self.images("train", name)
        return LaneData(lane, self.dataset, images, pixel_numbers(name, images))


def train(
    compiled: Compiled,
    lanes: Sequence[Lane],
    prepared: Prepared,
    between: Callable[[], None] = lambda: None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains lanes side by side.

    Args:
      compiled: for all of them.
      lanes: the trainings.
      prepared: the data.
      between: called before each step; it may raise.

    Returns:
      Their states after the last step, and their numbers, both with a first axis for the lanes.
    """
    data = [prepared.lane(lane) for lane in lanes]
    numbers = {
        name: jnp.array([each.numbers[name] for each in data], jnp.float32)
        for name in data[0].numbers
    }
    seeds = [jax.random.key(lane.seed) for lane in lanes]
    init_keys, step_keys = (
        jnp.stack([jax.random.fold_in(key, use) for key in seeds]) for use in (0, 1)
    )
    states = compiled.init(init_keys)
    for step in range(steps_of(lanes[0].recipe, len(prepared.dataset.train))):
        between()
        images, labels = zip(*(each.batch(step) for each in data), strict=True)
        states = compiled.step(states, numbers, np.stack(images), np.stack(labels), step_keys)
    return states, numbers


def count_correct(
    compiled: Compiled,
    states: TrainState,
    numbers: dict[str, jax.Array],
    images: Sequence[np.ndarray],
    labels: np.ndarray,
) -> list[int]:
    """How many images of a split each lane recognises.

    Args:
      compiled, states, numbers: as `train` took and returned them.
      images: of each lane, uint8 [n, 28, 28, 1].
      labels: int32 [n].
    """
    total = np.zeros(len(images))
    for rows, mask in _parts(len(labels)):
        part = np.stack([each[rows] for each in images])
        given = [
            np.broadcast_to(array, (len(images), *array.shape)) for array in (labels[rows], mask)
        ]
        total += np.asarray(compiled.count_correct(states, numbers, part, *given))
    return [int(value) for value in total]


def _parts(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of equally many images, and which of them count: the last are filled up."""
    size = min(count, _SCORED_AT_ONCE)
    for start in range(0, count, size):
        places = np.arange(start, start + size)
        yield np.minimum(places, count - 1), (places < count).astype(np.float32)


def lanes_at_once(recipe: Recipe, platform: str, seeds: int) -> int:
    """How many trainings a device is given at once, where nobody says.

    On two CPU cores three lanes took 0.6 of the processor's time of three trainings one by one
    (the MLP), or 0.7 (the CNN), and six no less: so a level's seeds together, and no more. XLA's
    own convolutions of several lanes are grouped ones, though, which its CPU backend computes
    many times more slowly: there one after another.

    Example:
      >>> [lanes_at_once(Recipe("cnn", kernel=side), "cpu", seeds=3) for side in (3, 5)]
      [3, 1]
    """
    if platform != "cpu":
        return 24
    return min(seeds, 6) if recipe.arch == "mlp" or by_matmul(recipe) else 1
