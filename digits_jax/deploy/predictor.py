"""Predictions of a trained network, for programs: images in, digits and probabilities out."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from scipy.special import softmax

from digits_jax.deploy.archive import read_archive
from digits_jax.deploy.network import Network, combine, load_network, make_logits
from digits_jax.errors import DataError
from digits_jax.hardware import cpu_count

# Code is compiled for so many images at once: a few images cost what a few cost, and no more go
# together than a processor's cache holds.
SIZES = (1, 8, 64, 500)
CHUNK = SIZES[-1]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network predicts for some images.

    Attributes:
      class_names: a name for each label.
      logits: float32 [n, classes].
      probabilities: float32 [n, classes].
      threshold: the least probability of a confident prediction.

    Example:
      >>> found = Predictions(("0", "1", "2"), np.log([[0.2, 0.7, 0.1]]),
      ...                     np.array([[0.2, 0.7, 0.1]]), threshold=0.5)
      >>> found.labels.tolist(), found.confidence.tolist(), found.names
      ([1], [0.7], ['1'])
      >>> found.runners_up.tolist(), found.confident.tolist()
      ([0], [True])
    """

    class_names: tuple[str, ...]
    logits: np.ndarray
    probabilities: np.ndarray
    threshold: float

    def __len__(self) -> int:
        return len(self.probabilities)

    @cached_property
    def _order(self) -> np.ndarray:
        """Classes by descending probability: int32 [n, classes]."""
        return np.argsort(-self.probabilities, -1, kind="stable").astype(np.int32)

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each image: int32 [n]."""
        return self._order[:, 0]

    @property
    def runners_up(self) -> np.ndarray:
        """The second most probable class of each image: int32 [n]."""
        return self._order[:, 1]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of each label: [n]."""
        return self.probabilities[np.arange(len(self)), self.labels]

    @property
    def runner_up_confidence(self) -> np.ndarray:
        """The probability of each runner-up: [n]."""
        return self.probabilities[np.arange(len(self)), self.runners_up]

    @property
    def confident(self) -> np.ndarray:
        """Whether the probability of the label reaches the threshold: bool [n]."""
        return self.confidence >= self.threshold

    @property
    def names(self) -> list[str]:
        """The name of each label."""
        return [self.class_names[label] for label in self.labels]


class Predictor:
    """Predicts with a trained network; threads may share it.

    Code is compiled for ``SIZES`` images, each size when it is first needed. Images are padded to
    the next size, or predicted in chunks of the largest.

    Args:
      network: see `load`.
    """

    def __init__(self, network: Network):
        self.network = network
        # One device, whatever the process has: the chunks are spread over threads instead.
        self._device = jax.devices()[0]
        self._variables = jax.device_put([m.variables for m in network.members], self._device)
        self._logits = make_logits(network)
        self._compiled: dict[int, jax.stages.Compiled] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path | Sequence[str | Path]) -> "Predictor":
        """Loads a run's folder, an exported ``.npz``, or several of them as one ensemble.

        Raises:
          CheckpointError: a folder isn't a finished run.
          DataError: a file isn't an exported network, or the networks make no ensemble.
        """
        paths = [path] if isinstance(path, str | Path) else path
        return cls(combine([open_network(each) for each in paths]))

    def predict(self, images: np.ndarray) -> Predictions:
        """Predicts images as MNIST has them (`digits_jax.vision.digit` makes them of others).

        Args:
          images: uint8 in [0, 255] or floating point in [0, 1], 0 the paper and the largest value
            the ink; [28, 28] or [28, 28, 1] for one, [n, 28, 28] or [n, 28, 28, 1].

        Raises:
          DataError: another shape, dtype or range, or NaN.
        """
        images = check_images(images)
        chunks = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
        if len(chunks) > 1:
            with ThreadPoolExecutor(cpu_count()) as pool:
                parts = list(pool.map(self._predict_chunk, chunks))
        else:
            parts = [self._predict_chunk(chunk) for chunk in chunks]
        classes = self.network.class_names
        logits = np.concatenate([np.zeros((0, len(classes)), np.float32), *parts])
        probabilities = softmax(logits / np.float32(self.network.temperature), -1)
        return Predictions(classes, logits, probabilities, self.network.threshold)

    def _predict_chunk(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        size = next(size for size in SIZES if size >= count)
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, 28, 28, 1), np.float32)])
        return np.asarray(self._code(size)(self._variables, images))[:count]

    def _code(self, size: int) -> jax.stages.Compiled:
        with self._lock:
            if size not in self._compiled:
                images = jax.ShapeDtypeStruct((size, 28, 28, 1), np.float32)
                with jax.default_device(self._device):
                    lowered = jax.jit(self._logits).lower(self._variables, images)
                    self._compiled[size] = lowered.compile()
            return self._compiled[size]


def open_network(path: str | Path) -> Network:
    """Opens the network in a run's folder or in an exported ``.npz``; see `Predictor.load`."""
    path = Path(path)
    return read_archive(path) if path.is_file() else load_network(path)


def check_images(images: np.ndarray | Sequence) -> np.ndarray:
    """Returns images, as `Predictor.predict` takes them, as float32 [n, 28, 28, 1] in [0, 1].

    Example:
      >>> check_images(np.full((28, 28), 255, np.uint8)).shape
      (1, 28, 28, 1)
    """
    try:
        images = np.asarray(images)
    except ValueError as error:
        raise DataError(f"images aren't an array ({error})") from None
    if images.shape in ((28, 28), (28, 28, 1)):
        images = images[None]
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != (28, 28, 1):
        raise DataError(
            f"images are of shape {list(shape)}; give [28, 28], [n, 28, 28] or [n, 28, 28, 1]"
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"images are {images.dtype}; give uint8 or floating point in [0, 1]")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):  # NaN is neither
        raise DataError(
            f"images hold values from {images.min():g} to {images.max():g}; "
            "floating-point images are in [0, 1], 0 the paper"
        )
    return images.astype(np.float32)
