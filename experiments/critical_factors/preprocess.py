"""What may be done to an image before a network sees it.

images: uint8 [n, height, width, 1] (0 the paper, 255 the ink). Each way is a change of the
images, which stay uint8, and then ``pixel * scale + offset`` in float32: two numbers, so that one
compiled step trains with any of them.
"""

from collections.abc import Callable

import numpy as np

from digits_jax.errors import ConfigError
from experiments.critical_factors.geometry import affine, moments

PREPROCESSING = ("none", "scaling", "standardising", "deskewing", "centring", "binarising")
_PART = 5000  # images changed at once


def prepare(name: str, images: np.ndarray) -> np.ndarray:
    """The images changed, each by itself.

    Args:
      name: one of `PREPROCESSING`.
      images: uint8 [n, height, width, 1].

    Returns:
      uint8 [n, height, width, 1].

    Raises:
      ConfigError: another name.

    Example:
      >>> prepare("binarising", np.array([[[[127], [128]]]], np.uint8)).ravel().tolist()
      [0, 255]
    """
    if name not in PREPROCESSING:
        raise ConfigError(f"preprocessing is {name!r}; allowed: {', '.join(PREPROCESSING)}")
    change: dict[str, Callable] = {
        "deskewing": deskew,
        "centring": centre_by_mass,
        "binarising": binarise,
    }
    if name not in change:
        return images
    # In parts: coordinates take many times the bytes of the images.
    parts = (images[start : start + _PART] for start in range(0, len(images), _PART))
    return np.concatenate([change[name](part) for part in parts])


def pixel_numbers(name: str, train_images: np.ndarray) -> tuple[float, float]:
    """The scale and the offset of a way.

    Args:
      name: one of `PREPROCESSING`: "none" leaves the numbers 0 to 255 as they are,
        "standardising" gives all pixels of all training images mean 0 and variance 1, and the
        others divide by 255.
      train_images: uint8; those that are trained on.

    Example:
      >>> pixel_numbers("none", np.zeros((1, 2, 2, 1), np.uint8))
      (1.0, 0.0)
    """
    if name == "none":
        return 1.0, 0.0
    if name != "standardising":
        return 1 / 255, 0.0
    mean = float(train_images.mean(dtype=np.float64))
    deviation = float(train_images.std(dtype=np.float64)) or 1.0
    return 1 / deviation, -mean / deviation


def deskew(images: np.ndarray) -> np.ndarray:
    r"""Shears each image so that its ink no longer leans.

    With the ink's covariance, rows are moved by :math:`y\,\sigma_{yx} / \sigma_{yy}`, the slope of
    the regression of the column on the row; afterwards :math:`\sigma_{yx} = 0`. The ink's centre
    stays where it is.

    Args:
      images: uint8 [n, height, width, 1].

    Returns:
      uint8 [n, height, width, 1].

    Example:
      >>> upright = np.zeros((1, 5, 5, 1), np.uint8)
      >>> upright[0, :, 2] = 255
      >>> bool((deskew(upright) == upright).all())
      True
    """
    grey = images[..., 0].astype(np.float32)
    centre, spread = moments(grey)
    height = spread[:, 0, 0]
    slope = np.where(height > 0, spread[:, 0, 1] / np.where(height > 0, height, 1), 0)
    matrices = np.broadcast_to(np.eye(2), (len(grey), 2, 2)).copy()
    matrices[:, 1, 0] = slope
    shifts = np.stack([np.zeros_like(slope), -slope * centre[:, 0]], -1)
    return _as_bytes(affine(grey, matrices, shifts))


def centre_by_mass(images: np.ndarray) -> np.ndarray:
    """Moves each image, by whole pixels, so that its ink's centre is the image's.

    Args:
      images: uint8 [n, height, width, 1].

    Returns:
      uint8 [n, height, width, 1].

    Example:
      >>> corner = np.zeros((1, 3, 3, 1), np.uint8)
      >>> corner[0, 0, 0] = 9
      >>> centre_by_mass(corner)[0, :, :, 0].tolist()
      [[0, 0, 0], [0, 9, 0], [0, 0, 0]]
    """
    grey = images[..., 0].astype(np.float32)
    matrices = np.broadcast_to(np.eye(2), (len(grey), 2, 2))
    return _as_bytes(affine(grey, matrices, np.rint(moments(grey)[0])))


def binarise(images: np.ndarray) -> np.ndarray:
    """0 below 128, else 255.

    Example:
      >>> binarise(np.array([3, 200], np.uint8)).tolist()
      [0, 255]
    """
    return np.where(images < 128, 0, 255).astype(np.uint8)


def _as_bytes(grey):
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None]
