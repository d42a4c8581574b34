"""Changes of images: corruptions in several severities, and preprocessing. All are pure functions.

images: uint8 [n, height, width, 1], 0 for paper and 255 for ink; each is changed by itself.

Reference:
  The corruptions are those of Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision,
  2019 (after Hendrycks and Dietterich, 2019). The implementations and strengths are our own.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.random import Generator, Philox
from scipy import ndimage

from digits_jax import ConfigError

# f(rng, grey, strength) -> grey; grey: float32 [n, height, width] in [0, 1].
Change = Callable[[Generator, np.ndarray, float], np.ndarray]
PREPROCESSING = ("none", "scaling", "standardising", "deskewing", "centring", "binarising")
EYE = np.eye(2, dtype=np.float32)


def corrupt(name: str, images: np.ndarray, severity: int, seed: int = 0) -> np.ndarray:
    """Corrupts images; the same seed gives the same ones.

    Args:
      name: one of `CORRUPTIONS`, or "none".
      images: uint8 [n, height, width, 1].
      severity: from 1.
      seed: of the random amounts.

    Examples:
      >>> corrupt("inversion", np.zeros((1, 2, 2, 1), np.uint8), 1).ravel().tolist()
      [255, 255, 255, 255]
    """
    if name == "none":
        return images
    if (name, severity) not in all_corruptions():
        raise ConfigError(f"{name} {severity}: allowed: {all_corruptions()}")
    change, strengths = CORRUPTIONS[name]
    rng = Generator(Philox(key=[seed, list(CORRUPTIONS).index(name) * 100 + severity]))
    changed = change(rng, images[..., 0].astype(np.float32) / 255, strengths[severity - 1])
    return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)[..., None]


def all_corruptions() -> list[tuple[str, int]]:
    """Returns every (name, severity) of the study, the unchanged images first."""
    severities = {name: len(strengths) for name, (_, strengths) in CORRUPTIONS.items()}
    return [("none", 1), *((name, k + 1) for name, n in severities.items() for k in range(n))]


def affine(images: np.ndarray, matrices: np.ndarray, shifts: np.ndarray | float = 0) -> np.ndarray:
    """Samples each image at ``matrix @ (y, x) + shift`` about its center; outside is 0.

    Args:
      images: float32 [n, height, width].
      matrices: [n, 2, 2] or [2, 2], from the new coordinates (down, right) to the old ones.
      shifts: [n, 2], in pixels.

    Examples:
      >>> image = np.array([[[0, 1], [0, 0]]], np.float32)
      >>> affine(image, EYE, np.array([[0.0, 1.0]]))[0].tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    y, x = grid(images)
    m = np.broadcast_to(matrices, (len(images), 2, 2))[..., None, None]
    s = np.broadcast_to(shifts, (len(images), 2))[..., None, None]
    old_y, old_x = (m[:, i, 0] * y + m[:, i, 1] * x + s[:, i] for i in range(2))
    return _sample(images, old_y, old_x)


def grid(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixel coordinates about the center, float32: [height, 1] down, [width] right."""
    height, width = images.shape[1:]
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    return y.astype(np.float32)[:, None], x.astype(np.float32)


def _sample(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples at coordinates about the center."""
    n, height, width = images.shape
    places = np.empty((3, *images.shape), np.float32)
    places[0] = np.arange(n)[:, None, None]
    places[1], places[2] = y + (height - 1) / 2, x + (width - 1) / 2
    return ndimage.map_coordinates(images, places, order=1, mode="grid-constant")


def preprocess(kind: str, images: np.ndarray) -> np.ndarray:
    r"""Changes images before a network sees them, by one of `PREPROCESSING`.

    "deskewing" shears the ink so that it no longer leans: rows are moved by
    :math:`y\,\sigma_{yx} / \sigma_{yy}`, the slope of the regression of the column on the row.
    "centring" moves the ink's center of mass to the image's center, by whole pixels.

    Examples:
      >>> preprocess("binarising", np.array([[[[127], [128]]]], np.uint8)).ravel().tolist()
      [0, 255]
    """
    if kind == "binarising":
        return np.where(images < 128, 0, 255).astype(np.uint8)
    if kind not in ("deskewing", "centring"):
        return images
    grey = images[..., 0].astype(np.float32)
    y, x = grid(grey)
    total = grey.sum((1, 2), dtype=np.float64)
    share = grey / np.where(total > 0, total, 1)[:, None, None]
    center = np.stack([(share * y).sum((1, 2)), (share * x).sum((1, 2))], -1)
    if kind == "centring":
        changed = affine(grey, EYE, np.rint(center))
    else:
        dy, dx = y - center[:, :1, None], x - center[:, 1:, None]
        yy, yx = (share * dy * dy).sum((1, 2)), (share * dy * dx).sum((1, 2))
        slope = np.where(yy > 0, yx / np.where(yy > 0, yy, 1), 0)
        shifts = np.stack([np.zeros_like(slope), -slope * center[:, 0]], -1)
        changed = affine(grey, _sheared(slope), shifts)
    return np.rint(changed).astype(np.uint8)[..., None]


def scale_and_offset(kind: str, train_images: np.ndarray) -> tuple[float, float]:
    """Returns what pixels in [0, 1] are multiplied by, and what is added.

    "none" leaves the numbers from 0 to 255, "standardising" gives all pixels of all training images
    mean 0 and variance 1.

    Examples:
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


def _sheared(slopes: np.ndarray) -> np.ndarray:
    matrices = np.repeat(np.eye(2, dtype=slopes.dtype)[None], len(slopes), 0)
    matrices[:, 1, 0] = slopes
    return matrices


def _smooth(grey: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(grey, (0, sigma, sigma), mode="constant")


def _signs(rng: Generator, n: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.float32), n)


def _impulse_noise(rng: Generator, grey: np.ndarray, share: float) -> np.ndarray:
    """Makes some pixels black or white."""
    random = rng.random(grey.shape, np.float32)
    return np.where(random < share, (random < share / 2).astype(np.float32), grey)


def _motion_blur(rng: Generator, grey: np.ndarray, length: float) -> np.ndarray:
    """Averages along a straight path, in a random direction."""
    angle = rng.uniform(0, np.pi, (len(grey), 1, 1)).astype(np.float32)
    y, x = grid(grey)
    total = np.zeros_like(grey)
    places = np.linspace(-length / 2, length / 2, 1 + round(length / 1.5))
    for t in places:
        total += _sample(grey, y + t * np.sin(angle), x + t * np.cos(angle))
    return total / len(places)


def _scale(_: Generator, grey: np.ndarray, factor: float) -> np.ndarray:
    """Shrinks the image. Each new pixel covers several old ones, so it is blurred first."""
    spread = 0.35 * np.sqrt(1 / factor**2 - 1)
    return affine(_smooth(grey, spread), EYE / factor)


def _rotation(rng: Generator, grey: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees) * _signs(rng, len(grey))
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return affine(grey, matrices)


def _stripe(rng: Generator, grey: np.ndarray, width: float) -> np.ndarray:
    """Inverts a vertical stripe of the image."""
    x = np.arange(grey.shape[2])
    start = rng.integers(0, grey.shape[2] - int(width) + 1, (len(grey), 1))
    inside = (x >= start) & (x < start + width)
    return np.where(inside[:, None, :], 1 - grey, grey)


def _fog(rng: Generator, grey: np.ndarray, density: float) -> np.ndarray:
    """Adds noise of several scales, the coarse ones stronger."""
    n, height, width = grey.shape
    clouds = np.zeros_like(grey)
    for cells, weight in ((2, 0.5), (4, 0.3), (8, 0.2)):
        noise = rng.random((n, cells + 1, cells + 1), np.float32)
        zoom = (1, height / (cells + 1), width / (cells + 1))
        clouds += weight * ndimage.zoom(noise, zoom, order=1)
    return grey * (1 - density) + density * (0.4 + 0.6 * clouds)


def _spatter(rng: Generator, grey: np.ndarray, share: float) -> np.ndarray:
    """Adds round drops of ink."""
    field = ndimage.gaussian_filter(rng.standard_normal(grey.shape, np.float32), (0, 1.2, 1.2))
    level = np.quantile(field, 1 - share, axis=(1, 2), keepdims=True)
    deviation = field.std((1, 2), keepdims=True)
    return np.maximum(grey, np.clip(0.5 + 3 * (field - level) / deviation, 0, 1))


def _lines(
    rng: Generator, grey: np.ndarray, count: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each of some straight lines through each image: coordinates along and across it."""
    y, x = grid(grey)
    for _ in range(int(count)):
        angle = rng.uniform(0, np.pi, (len(grey), 1, 1)).astype(np.float32)
        aside = rng.uniform(-8, 8, (len(grey), 1, 1)).astype(np.float32)
        cos, sin = np.cos(angle), np.sin(angle)
        yield cos * x + sin * y, cos * y - sin * x - aside


def _dotted_line(rng: Generator, grey: np.ndarray, count: float) -> np.ndarray:
    for along, across in _lines(rng, grey, count):
        from_dot = np.abs((along + 2) % 4 - 2)
        grey = np.maximum(grey, np.clip(1.9 - np.hypot(from_dot, across), 0, 1))
    return grey


def _zigzag(rng: Generator, grey: np.ndarray, count: float) -> np.ndarray:
    for along, across in _lines(rng, grey, count):
        wave = np.abs((along + 4) % 8 - 4) - 2
        # Its sides rise by one for one: the nearest point is nearer by a factor of sqrt(1/2).
        distance = np.abs(across - wave) * np.float32(0.7071)
        grey = np.maximum(grey, np.clip(1.4 - distance, 0, 1))
    return grey


def _canny_edges(_: Generator, grey: np.ndarray, part: float) -> np.ndarray:
    """Edges in place of strokes: thinned, and followed where they are faint.

    Reference:
      Canny, A Computational Approach to Edge Detection, 1986.
    """
    smooth = _smooth(grey, 0.8)
    # Not ndimage.sobel, which would also smooth over neighboring images.
    slope = np.array([[[-1, -2, -1], [0, 0, 0], [1, 2, 1]]], np.float32)
    dy = ndimage.correlate(smooth, slope, mode="constant")
    dx = ndimage.correlate(smooth, slope.swapaxes(1, 2), mode="constant")
    strength = np.hypot(dy, dx)
    safe = np.where(strength > 0, strength, 1)
    y, x = grid(grey)
    before, after = (_sample(strength, y + s * dy / safe, x + s * dx / safe) for s in (-1, 1))
    thin = (strength >= before) & (strength > after)
    strong, faint = thin & (strength > 1.2), thin & (strength > 0.5)
    within_image = np.zeros((3, 3, 3), bool)
    within_image[1] = True
    edges = ndimage.binary_propagation(strong, within_image, mask=faint)
    return (1 - part) * grey + part * edges


def _translation(rng: Generator, grey: np.ndarray, distance: float) -> np.ndarray:
    """Moves the image by a distance, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi, len(grey))
    shifts = distance * np.stack([np.sin(angle), np.cos(angle)], -1)
    return affine(grey, EYE, shifts)


def _off_centre(rng: Generator, grey: np.ndarray, pixels: float) -> np.ndarray:
    """Moves by whole pixels in one of eight directions; MNIST's margin is four pixels wide."""
    directions = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b])
    shifts = pixels * directions[rng.integers(0, 8, len(grey))]
    return affine(grey, EYE, shifts)


# Name -> the change and its strength at severity 1, 2, ... The order is part of each seed.
CORRUPTIONS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "shot_noise": (
        lambda rng, grey, photons: rng.poisson((grey + 0.02) * photons) / np.float32(photons),
        (20, 8, 4, 2, 1),
    ),
    "impulse_noise": (_impulse_noise, (0.04, 0.08, 0.15, 0.25, 0.35)),
    "blur": (lambda _, grey, sigma: _smooth(grey, sigma), (0.6, 1.0, 1.5, 2.0, 2.7)),
    "motion_blur": (_motion_blur, (4, 7, 10, 13, 16)),
    "shear": (
        lambda rng, grey, slope: affine(grey, _sheared(_signs(rng, len(grey)) * slope)),
        (0.2, 0.4, 0.6, 0.8, 1.0),
    ),
    "scale": (_scale, (0.85, 0.7, 0.6, 0.5, 0.4)),
    "rotation": (_rotation, (12, 24, 36, 48, 60)),
    "brightness": (lambda _, grey, added: grey + added, (0.15, 0.3, 0.45, 0.6, 0.75)),
    "stripe": (_stripe, (2, 4, 6, 8, 11)),
    "fog": (_fog, (0.25, 0.4, 0.55, 0.68, 0.8)),
    "spatter": (_spatter, (0.04, 0.09, 0.15, 0.22, 0.3)),
    "dotted_line": (_dotted_line, (1, 2, 3, 4, 5)),
    "zigzag": (_zigzag, (1, 2, 3, 4, 5)),
    "canny_edges": (_canny_edges, (0.3, 0.5, 0.7, 0.85, 1.0)),
    "translation": (_translation, (2.0, 3.5, 5.0, 6.5, 8.0)),
    "inversion": (lambda _, grey, __: 1 - grey, (1,)),
    "off_centre": (_off_centre, (1, 2, 3, 4, 5, 6, 7, 8)),
}
