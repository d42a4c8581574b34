"""Maps of pixels: many small grey images sampled anew, each by a map of its own.

images: float32 [n, height, width], 0 the paper.
"""

import numpy as np


def sample(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples; what lies outside is 0.

    Args:
      images: float32 [n, height, width].
      y, x: where to look, in pixels: [n, height, width], or what spreads to it.

    Returns:
      float32 [n, height, width].

    Example:
      >>> image = np.array([[[0, 4], [0, 0]]], np.float32)
      >>> sample(image, np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.5))[0, 0, 0].item()
      2.0
    """
    n, height, width = images.shape
    # A border of two zeros: every coordinate, once clipped to it, has four neighbours.
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    y = np.clip(np.broadcast_to(y, images.shape).astype(np.float32) + 2, 0, height + 2)
    x = np.clip(np.broadcast_to(x, images.shape).astype(np.float32) + 2, 0, width + 2)
    y0, x0 = y.astype(np.int32), x.astype(np.int32)
    wy, wx = y - y0, x - x0
    stride = width + 4
    index = np.arange(n, dtype=np.int32)[:, None, None] * (stride * (height + 4))
    index = index + y0 * stride + x0
    flat = padded.reshape(-1)
    top = flat[index] * (1 - wx) + flat[index + 1] * wx
    bottom = flat[index + stride] * (1 - wx) + flat[index + stride + 1] * wx
    return top * (1 - wy) + bottom * wy


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates about the centre: float32 [1, height, 1] down and [1, 1, width] to the right.

    Example:
      >>> grid(2, 4)[1].tolist()
      [[[-1.5, -0.5, 0.5, 1.5]]]
    """
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    return y[None, :, None], x[None, None, :]


def affine(images: np.ndarray, matrices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Samples each image at ``matrix @ (y, x) + shift`` about its centre.

    Args:
      images: float32 [n, height, width].
      matrices: [n, 2, 2], from the new image's coordinates (down, right) to the old one's.
      shifts: [n, 2], in pixels.

    Returns:
      float32 [n, height, width].

    Example:
      >>> image = np.array([[[0, 1], [0, 0]]], np.float32)
      >>> affine(image, np.eye(2)[None], np.array([[0.0, 1.0]]))[0].tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    height, width = images.shape[1:]
    y, x = grid(height, width)
    m = np.asarray(matrices, np.float32)[:, :, :, None, None]
    s = np.asarray(shifts, np.float32)[:, :, None, None]
    old_y = m[:, 0, 0] * y + m[:, 0, 1] * x + s[:, 0] + (height - 1) / 2
    old_x = m[:, 1, 0] * y + m[:, 1, 1] * x + s[:, 1] + (width - 1) / 2
    return sample(images, old_y, old_x)


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ink's centre and its spread.

    Args:
      images: float [n, height, width], 0 or more.

    Returns:
      centre [n, 2], (down, right) of the image's centre in pixels; and covariance [n, 2, 2], in
      pixels squared. Both 0 for an image without ink.

    Example:
      >>> centre, spread = moments(np.array([[[1.0, 0.0, 1.0]]]))
      >>> centre.tolist(), spread[0, 1, 1].item()
      ([[0.0, 0.0]], 1.0)
    """
    y, x = grid(*images.shape[1:])
    total = images.sum((1, 2), dtype=np.float64)
    share = images / np.where(total > 0, total, 1)[:, None, None]
    centre = np.stack([(share * y).sum((1, 2)), (share * x).sum((1, 2))], -1)
    dy, dx = y - centre[:, :1, None], x - centre[:, 1:, None]
    yy, yx, xx = ((share * a * b).sum((1, 2)) for a, b in ((dy, dy), (dy, dx), (dx, dx)))
    return centre, np.stack([np.stack([yy, yx], -1), np.stack([yx, xx], -1)], -2)
