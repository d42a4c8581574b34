"""Predictions of a trained network, for programs: images in, digits and probabilities out."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from digits_jax.deploy.archive import read_archive
from digits_jax.deploy.network import (
    Network,
    combine,
    load_network,
    load_pretrained,
    make_logits,
)
from digits_jax.deploy.predictions import Digit, Line, Predictions
from digits_jax.deploy.reading import read_picture
from digits_jax.deploy.rejection import knows_digits
from digits_jax.errors import ConfigError, DataError, shown
from digits_jax.hardware import check_backend, cpu_count
from digits_jax.runs.pretrained import DEFAULT, find_pretrained
from digits_jax.vision.decode import Picture, check_levels, read_grey

# Code is compiled for so many images at once: a few images cost what a few cost, and no more go
# together than a processor's cache holds.
SIZES = (1, 8, 64, 500)
CHUNK = SIZES[-1]
_STARTED: dict[str, int] = {}  # the process that runs JAX


class Predictor:
    """Predicts with a trained network; threads may share it, processes that are forked may not.

    Code is compiled for ``SIZES`` images, each size when it is first needed. Images are padded to
    the next size, or predicted in chunks of the largest.

    Args:
      network: see `load`.
    """

    def __init__(self, network: Network):
        _start()
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

        The name of a pretrained network does for a path that isn't there.

        Raises:
          CheckpointError: a folder isn't a finished run.
          ConfigError: it is no path and no list of them.
          DataError: a file isn't an exported network, or the networks make no ensemble.
        """
        paths = list(path) if isinstance(path, list | tuple) else [path]
        networks = []
        for each in paths:
            if not isinstance(each, str | Path):
                raise ConfigError(
                    f"path={shown(each)}: must be a run's folder, an exported .npz, the name of a "
                    "pretrained network, or a list of them"
                )
            networks.append(open_network(each))
        return cls(combine(networks))

    @classmethod
    def pretrained(cls, name: str = DEFAULT) -> "Predictor":
        """Loads a network that the package carries; `digits-jax models` lists them.

        Raises:
          ConfigError: there is none of that name.
        """
        return cls(load_pretrained(name))

    def read(self, picture: Picture) -> Digit | None:
        """Reads the one digit of a picture of any size, wherever it is; None where there is none.

        Args:
          picture: a file's path or bytes (PNG, JPEG, WebP, BMP or TIFF), a PIL image, or an array
            of levels from 0 to 255 or from 0 to 1, [height, width] or with 1, 3 (RGB) or 4 (RGBA)
            channels; ink on paper or paper on ink.

        Raises:
          DataError: the picture can't be read.
        """
        answers = read_picture(read_grey(picture), [self.predict], "digit").answers
        return answers[0][0].digits[0] if answers[0] else None

    def read_page(self, picture: Picture) -> list[Line]:
        """Reads the lines of digits of a picture, as `read` takes it, from top to bottom."""
        return read_picture(read_grey(picture), [self.predict], "page").answers[0]

    def __repr__(self) -> str:
        return f"Predictor({self.network.name!r}, {self.network.num_params:,} parameters)"

    def predict(self, images: np.ndarray) -> Predictions:
        """Predicts images as MNIST has them (`digits_jax.vision.digit` makes them of others).

        Args:
          images: bool, integers from 0 to 255, or floats from 0 to 255 or, where none is over 1,
            from 0 to 1; 0 is the paper and the largest the ink. [28, 28] or [28, 28, 1] for one,
            [n, 28, 28] or [n, 28, 28, 1].

        Raises:
          DataError: another shape, dtype or range, or NaN.
        """
        _start()
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
        of_digits = knows_digits(self.network)
        return Predictions(classes, logits, probabilities, self.network.threshold, of_digits)

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


def _start() -> None:
    """Starts JAX; raises a ConfigError in a fork of a process that did, where JAX would hang."""
    owner = _STARTED.setdefault("process", os.getpid())
    if owner != os.getpid():
        raise ConfigError(
            f"process {os.getpid()} is a fork of process {owner}, which runs JAX: JAX hangs in a "
            'fork; load the Predictor in the child alone, or start processes by "spawn"'
        )
    check_backend()


def open_network(path: str | Path) -> Network:
    """Opens a run's folder, an exported ``.npz``, or a pretrained network; see `Predictor.load`."""
    _start()  # or an error of JAX would be one of the checkpoint
    if name := find_pretrained(path):
        return load_pretrained(name)
    return read_archive(Path(path)) if Path(path).is_file() else load_network(path)


def check_images(images: Any) -> np.ndarray:
    """Returns images, as `Predictor.predict` takes them, as float32 [n, 28, 28, 1] in [0, 1].

    Examples:
      >>> check_images(np.full((28, 28), 255, np.uint8)).shape
      (1, 28, 28, 1)
    """
    images, white = check_levels(images, "images")
    shape = list(images.shape)
    if images.shape in ((28, 28), (28, 28, 1)):
        images = images[None]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[1:] != (28, 28, 1):
        raise DataError(f"images of shape {shape}: give [28, 28], [n, 28, 28] or [n, 28, 28, 1]")
    return images.astype(np.float32) / white
