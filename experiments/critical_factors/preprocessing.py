"""Preprocessing of images before a network sees them.

images: uint8 [n, height, width, 1], 0 for paper and 255 for ink. Each kind is a change of the
images, which stay uint8, and then ``pixel / 255 * scale + offset`` in float32.
"""

import numpy as np

from experiments.critical_factors.corruptions import affine, grid

PREPROCESSING = ("none", "scaling", "standardising", "deskewing", "centring", "binarising")


def preprocess(kind: str, images: np.ndarray) -> np.ndarray:
    """Changes each image by itself.

    Args:
      kind: one of `PREPROCESSING`.
      images: uint8 [n, height, width, 1].

    Example:
      >>> preprocess("binarising", np.array([[[[127], [128]]]], np.uint8)).ravel().tolist()
      [0, 255]
    """
    if kind == "deskewing":
        return deskew(images)
    if kind == "centring":
        return center_mass(images)
    if kind == "binarising":
        return np.where(images < 128, 0, 255).astype(np.uint8)
    return images


def scale_and_offset(kind: str, train_images: np.ndarray) -> tuple[float, float]:
    """Returns what pixels in [0, 1] are multiplied by, and what is added.

    "none" leaves the numbers from 0 to 255, "standardising" gives all pixels of all training images
    mean 0 and variance 1.

    Example:
      >>> scale_and_offset("none", np.zeros((1, 2, 2, 1), np.uint8))
      (255.0, 0.0)
    """
    if kind == "none":
        return 255.0, 0.0
    if kind != "standardising":
        return 1.0, 0.0
    mean = float(train_images.mean(dtype=np.float64)) / 255
    deviation = float(train_images.std(dtype=np.float64)) / 255 or 1.0
    return 1 / deviation, -mean / deviation


def deskew(images: np.ndarray) -> np.ndarray:
    r"""Shears each image so that its ink no longer leans; the center of mass stays.

    With the ink's covariance, rows are moved by :math:`y\,\sigma_{yx} / \sigma_{yy}`, the slope of
    the regression of the column on the row; afterwards :math:`\sigma_{yx} = 0`.

    Example:
      >>> upright = np.zeros((1, 5, 5, 1), np.uint8)
      >>> upright[0, :, 2] = 255
      >>> bool((deskew(upright) == upright).all())
      True
    """
    grey = images[..., 0].astype(np.float32)
    y, x = grid(grey)
    share, center = _mass(grey)
    dy, dx = y - center[:, :1, None], x - center[:, 1:, None]
    yy, yx = (share * dy * dy).sum((1, 2)), (share * dy * dx).sum((1, 2))
    slope = np.where(yy > 0, yx / np.where(yy > 0, yy, 1), 0)
    matrices = np.broadcast_to(np.eye(2), (len(grey), 2, 2)).copy()
    matrices[:, 1, 0] = slope
    shifts = np.stack([np.zeros_like(slope), -slope * center[:, 0]], -1)
    return np.rint(affine(grey, matrices, shifts)).astype(np.uint8)[..., None]


def center_mass(images: np.ndarray) -> np.ndarray:
    """Moves each image, by whole pixels, so that its center of mass is the image's center.

    Example:
      >>> corner = np.zeros((1, 3, 3, 1), np.uint8)
      >>> corner[0, 0, 0] = 9
      >>> center_mass(corner)[0, :, :, 0].tolist()
      [[0, 0, 0], [0, 9, 0], [0, 0, 0]]
    """
    grey = images[..., 0].astype(np.float32)
    matrices = np.broadcast_to(np.eye(2), (len(grey), 2, 2))
    return np.rint(affine(grey, matrices, np.rint(_mass(grey)[1]))).astype(np.uint8)[..., None]


def _mass(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's share of the image's ink, and the ink's center: [n, 2], (down, right)."""
    y, x = grid(grey)
    total = grey.sum((1, 2), dtype=np.float64)
    share = grey / np.where(total > 0, total, 1)[:, None, None]
    return share, np.stack([(share * y).sum((1, 2)), (share * x).sum((1, 2))], -1)
