"""Trains networks by settings, in the library's loop; see `factors` for the settings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from digits_jax import (
    Dataset,
    FitResult,
    RunOptions,
    Split,
    TrainConfig,
    TrainState,
    predict_step,
    prepare,
    train_members,
    warp,
)
from experiments.critical_factors.factors import CONFIG_FIELDS, WARPS, Settings
from experiments.critical_factors.images import preprocess, scale_and_offset
from experiments.study import without_test

ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "gelu": nn.gelu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "linear": lambda x: x,
}
_DRAWN, _NOISE = 2**31, 2**31 + 1  # streams of a seed's random numbers, beside those of its epochs


class ChangedInput(nn.Module):
    """A network that sees other pixels; it has the parameters of the network alone.

    Attributes:
      network: an `MLP` or a `CNN`.
      scale, offset: of the pixels.
      warp: arguments of `digits_jax.warp`, in training.
    """

    network: nn.Module
    scale: float = 1.0
    offset: float = 0.0
    warp: Sequence[tuple[str, float]] = ()

    def setup(self) -> None:
        """Gives the parameters the network's own names."""
        nn.share_scope(self, self.network)

    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """Computes the logits, float32 [batch, classes]."""
        if train and self.warp:
            images = warp(self.make_rng("dropout"), images, **dict(self.warp))
        images = images * self.scale + self.offset
        return self.network(images, train=train, axis_name=axis_name)


def train(settings: Settings, seeds: Sequence[int], dataset: Dataset) -> list[FitResult]:
    """Trains what some settings describe with several seeds, and scores the validation split.

    A seed decides on the initial parameters, the order of the images, dropout, augmentation, and
    which images and labels are drawn. The test split has no part in it.
    """
    arch = settings["arch"]
    names = ("arch", *CONFIG_FIELDS[arch], *CONFIG_FIELDS["both"])
    config = TrainConfig(
        preset="quick", dtype="float32", **{name: settings[name] for name in names}
    )
    scale, offset = scale_and_offset(settings["preprocessing"], _rows(dataset.train)[0])
    dataset = preprocess_dataset(dataset, settings["preprocessing"])
    datasets = [change_dataset(dataset, settings, seed) for seed in seeds]
    setup = prepare(config, RunOptions(devices=1), datasets[0])
    changes = {name: settings[name] for name in ("norm", "pool", "kernel_size") if name in settings}
    changes["activation"] = ACTIVATIONS[settings["activation"]]
    warped = tuple(WARPS[settings["warp"]].items())
    modules = {
        name: ChangedInput(getattr(setup, name).clone(**changes), scale, offset, warped)
        for name in ("module", "eval_module")
    }
    setup = dataclasses.replace(setup, **modules)
    # On two CPU cores three networks side by side took 0.6 of the processor's time of three
    # trainings one by one (the MLP), or 0.7 (the CNN). But XLA's own convolutions of several
    # networks are grouped ones, which its CPU backend computes many times more slowly.
    matmul = settings.get("kernel_size", 3) == 3 and settings.get("pool", "max") == "max"
    matmul = matmul and settings["norm"] in ("batch", "none")
    together = setup.platform != "cpu" or arch == "mlp" or matmul
    setups = [setup.with_seed(s, own) for s, own in zip(seeds, datasets, strict=True)]
    if together:
        return train_members(setups)
    return [result for each in setups for result in train_members([each])]


def preprocess_dataset(dataset: Dataset, kind: str) -> Dataset:
    """Preprocesses the images to train on and to validate with; leaves out the test split."""
    splits = {}
    for name in ("train", "validation"):
        images, labels = _rows(getattr(dataset, name))
        # In parts: coordinates take many times the bytes of the images.
        parts = np.array_split(images, -(-len(images) // 5000))
        splits[name] = Split(np.concatenate([preprocess(kind, part) for part in parts]), labels)
    return without_test(dataclasses.replace(dataset, **splits))


def _rows(split: Any) -> tuple[np.ndarray, np.ndarray]:
    return split.rows(np.arange(len(split)))


def change_dataset(dataset: Dataset, settings: Settings, seed: int) -> Dataset:
    """Draws fewer training images and wrong labels, as settings say.

    Fewer images are repeated, so that all trainings have equally many steps.
    """
    images, labels = _rows(dataset.train)
    if settings["label_noise"]:
        labels = noisy_labels(labels, settings["label_noise"], seed, dataset.num_classes)
    if settings["train_images"]:
        rows = draw_images(settings["train_images"], seed, len(labels))
        images, labels = images[rows], labels[rows]
    return dataclasses.replace(dataset, train=Split(images, labels))


def draw_images(count: int, seed: int, size: int) -> np.ndarray:
    """Draws images: int64 [size], ``count`` different ones, repeated; fewer are part of more.

    Examples:
      >>> len(set(draw_images(2, seed=0, size=5).tolist()))
      2
    """
    words = np.random.Philox(key=[seed, _DRAWN]).random_raw(size)
    return np.resize(np.argsort(words, kind="stable")[:count], size)


def noisy_labels(labels: np.ndarray, share: float, seed: int, num_classes: int) -> np.ndarray:
    """Replaces a share of the labels by another class, each other class as often.

    A larger share changes the same labels, in the same way, and more.

    Examples:
      >>> labels = np.zeros(10, np.int32)
      >>> int((noisy_labels(labels, 0.4, seed=0, num_classes=10) != labels).sum())
      4
    """
    words = np.random.Philox(key=[seed, _NOISE]).random_raw(2 * len(labels))
    changed = np.argsort(words[: len(labels)], kind="stable")[: round(share * len(labels))]
    by = 1 + (words[len(labels) :] % np.uint64(num_classes - 1)).astype(np.int32)
    noisy = np.array(labels, np.int32)
    noisy[changed] = (noisy[changed] + by[changed]) % num_classes
    return noisy


def count_correct(result: FitResult, images: np.ndarray, labels: np.ndarray) -> int:
    """Counts the images that a trained network classifies correctly."""
    parts = [_predict(result.state, images[i : i + 1000]) for i in range(0, len(images), 1000)]
    return int((np.concatenate(parts) == labels).sum())


@jax.jit
def _predict(state: TrainState, images: jax.Array) -> jax.Array:
    return predict_step(state, images).argmax(-1)
