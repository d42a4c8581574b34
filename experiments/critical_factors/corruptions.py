"""Changes of test images, in five severities each: pure functions of (rng, images, severity).

images: uint8 [n, height, width, 1] (0 the paper, 255 the ink); so is what comes back. Every image
is changed by random amounts of its own.

Reference:
  The list is that of Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, 2019
  (after Hendrycks and Dietterich, 2019); what each does here, and how strongly, is our own.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from digits_jax.errors import ConfigError
from experiments.critical_factors.geometry import affine, grid, sample

SEVERITIES = (1, 2, 3, 4, 5)
SHIFTS = (1, 2, 3, 4, 5, 6, 7, 8)  # pixels off centre
_EYE = np.eye(2, dtype=np.float32)


def corrupt(name: str, images: np.ndarray, severity: int, seed: int = 0) -> np.ndarray:
    """Changes images in a named way; the same seed gives the same ones.

    Args:
      name: one of `CORRUPTIONS`, or "inversion" (of one severity), or "off_centre", whose severity
        is a number of pixels; "none" leaves them as they are.
      images: uint8 [n, height, width, 1].
      severity: from 1.
      seed: of the random amounts.

    Returns:
      uint8 [n, height, width, 1].

    Raises:
      ConfigError: another name, or another severity.

    Example:
      >>> corrupt("inversion", np.zeros((1, 2, 2, 1), np.uint8), 1).ravel().tolist()
      [255, 255, 255, 255]
    """
    if name == "none":
        return images
    functions = {**CORRUPTIONS, "inversion": _inversion, "off_centre": _off_centre}
    if name not in functions:
        raise ConfigError(f"corruption is {name!r}; allowed: {', '.join(functions)}")
    allowed = {"inversion": (1,), "off_centre": SHIFTS}.get(name, SEVERITIES)
    if severity not in allowed:
        raise ConfigError(f"severity is {severity!r}; allowed: {', '.join(map(str, allowed))}")
    stream = list(functions).index(name) * 100 + severity
    rng = np.random.Generator(np.random.Philox(key=[seed, stream]))
    return functions[name](rng, images, severity)


def _on_grey(change: Callable) -> Callable:
    """From a function of (rng, float32 [n, height, width] in [0, 1], severity)."""

    def corruption(rng: np.random.Generator, images: np.ndarray, severity: int) -> np.ndarray:
        grey = images[..., 0].astype(np.float32) / 255
        changed = change(rng, grey, severity)
        return np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8)[..., None]

    corruption.__doc__ = change.__doc__
    corruption.__name__ = change.__name__.strip("_")
    return corruption


def _at(severity, *strengths):
    return strengths[severity - 1]


def _signs(rng, n):
    return rng.choice(np.array([-1, 1], np.float32), n)


# --- noise ---------------------------------------------------------------------------------


def _shot_noise(rng, grey, severity):
    """Each pixel a count of few photons."""
    photons = _at(severity, 20, 8, 4, 2, 1)
    return rng.poisson((grey + 0.02) * photons) / np.float32(photons)


def _impulse_noise(rng, grey, severity):
    """Some pixels are black or white."""
    share = _at(severity, 0.04, 0.08, 0.15, 0.25, 0.35)
    random = rng.random(grey.shape, np.float32)
    return np.where(random < share, (random < share / 2).astype(np.float32), grey)


# --- blur ----------------------------------------------------------------------------------


def _blur(_, grey, severity):
    """A Gaussian one."""
    sigma = _at(severity, 0.6, 1.0, 1.5, 2.0, 2.7)
    return ndimage.gaussian_filter(grey, (0, sigma, sigma), mode="constant")


def _motion_blur(rng, grey, severity):
    """The mean along a straight path, in any direction."""
    length = _at(severity, 4, 7, 10, 13, 16)
    angle = rng.uniform(0, np.pi, (len(grey), 1, 1)).astype(np.float32)
    y, x = grid(*grey.shape[1:])
    y, x = y + (grey.shape[1] - 1) / 2, x + (grey.shape[2] - 1) / 2
    places = np.linspace(-length / 2, length / 2, 1 + round(length / 1.5))
    along = (sample(grey, y + t * np.sin(angle), x + t * np.cos(angle)) for t in places)
    return sum(along) / len(places)


# --- shape ---------------------------------------------------------------------------------


def _shear(rng, grey, severity):
    """Rows moved in proportion to their height."""
    matrices = np.repeat(_EYE[None], len(grey), 0)
    matrices[:, 1, 0] = _signs(rng, len(grey)) * _at(severity, 0.2, 0.4, 0.6, 0.8, 1.0)
    return affine(grey, matrices, np.zeros((len(grey), 2)))


def _scale(_, grey, severity):
    """Smaller."""
    factor = _at(severity, 0.85, 0.7, 0.6, 0.5, 0.4)
    matrices = np.repeat(_EYE[None] / factor, len(grey), 0)
    # Each new pixel covers more than one old one.
    spread = 0.35 * np.sqrt(1 / factor**2 - 1)
    smooth = ndimage.gaussian_filter(grey, (0, spread, spread), mode="constant")
    return affine(smooth, matrices, np.zeros((len(grey), 2)))


def _rotation(rng, grey, severity):
    """To the left or to the right."""
    angle = np.deg2rad(_at(severity, 12, 24, 36, 48, 60)) * _signs(rng, len(grey))
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return affine(grey, matrices, np.zeros((len(grey), 2)))


def _translation(rng, grey, severity):
    """By a distance, in any direction."""
    distance = _at(severity, 2.0, 3.5, 5.0, 6.5, 8.0)
    angle = rng.uniform(0, 2 * np.pi, len(grey))
    shifts = distance * np.stack([np.sin(angle), np.cos(angle)], -1)
    return affine(grey, np.broadcast_to(_EYE, (len(grey), 2, 2)), shifts)


# --- light ---------------------------------------------------------------------------------


def _brightness(_, grey, severity):
    """All of it lighter; what would be beyond white is white."""
    return grey + _at(severity, 0.15, 0.3, 0.45, 0.6, 0.75)


def _stripe(rng, grey, severity):
    """A vertical stripe of the image is its negative."""
    width = _at(severity, 2, 4, 6, 8, 11)
    x = np.arange(grey.shape[2])
    start = rng.integers(0, grey.shape[2] - width + 1, (len(grey), 1))
    inside = (x >= start) & (x < start + width)
    return np.where(inside[:, None, :], 1 - grey, grey)


def _fog(rng, grey, severity):
    """Clouds in front of it: noise of several sizes, the coarse ones stronger."""
    n, height, width = grey.shape
    clouds = np.zeros_like(grey)
    for cells, weight in ((2, 0.5), (4, 0.3), (8, 0.2)):
        noise = rng.random((n, cells + 1, cells + 1), np.float32)
        rows, columns = _bilinear(cells + 1, height), _bilinear(cells + 1, width)
        clouds += weight * np.einsum("ij,njk,lk->nil", rows, noise, columns, optimize=True)
    density = _at(severity, 0.25, 0.4, 0.55, 0.68, 0.8)
    return grey * (1 - density) + density * (0.4 + 0.6 * clouds)


def _bilinear(old, new):
    """float32 [new, old]: weights that spread ``old`` values evenly over ``new`` places."""
    places = np.linspace(0, old - 1, new)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old))).astype(np.float32)


# --- what is drawn over it -----------------------------------------------------------------


def _spatter(rng, grey, severity):
    """Round drops of ink."""
    share = _at(severity, 0.04, 0.09, 0.15, 0.22, 0.3)
    field = ndimage.gaussian_filter(rng.standard_normal(grey.shape, np.float32), (0, 1.2, 1.2))
    level = np.quantile(field, 1 - share, axis=(1, 2), keepdims=True)
    deviation = field.std((1, 2), keepdims=True)
    return np.maximum(grey, np.clip(0.5 + 3 * (field - level) / deviation, 0, 1))


def _along_lines(rng, grey, count):
    """For ``count`` straight lines through each image: coordinates along and across."""
    y, x = grid(*grey.shape[1:])
    for _ in range(count):
        angle = rng.uniform(0, np.pi, (len(grey), 1, 1)).astype(np.float32)
        aside = rng.uniform(-8, 8, (len(grey), 1, 1)).astype(np.float32)
        cos, sin = np.cos(angle), np.sin(angle)
        yield cos * x + sin * y, cos * y - sin * x - aside


def _dotted_line(rng, grey, severity):
    """Lines of dots, at any angle."""
    for along, across in _along_lines(rng, grey, severity):
        from_dot = np.abs((along + 2) % 4 - 2)
        grey = np.maximum(grey, np.clip(1.9 - np.hypot(from_dot, across), 0, 1))
    return grey


def _zigzag(rng, grey, severity):
    """Zigzag lines, at any angle."""
    for along, across in _along_lines(rng, grey, severity):
        wave = np.abs((along + 4) % 8 - 4) - 2
        # Its sides rise by one for one: the nearest point is by a half of the root of two nearer.
        distance = np.abs(across - wave) * np.float32(0.7071)
        grey = np.maximum(grey, np.clip(1.4 - distance, 0, 1))
    return grey


def _canny_edges(_, grey, severity):
    """Edges in place of strokes, more and more of them: thin, and followed where they are faint.

    Reference:
      Canny, A Computational Approach to Edge Detection, 1986.
    """
    smooth = ndimage.gaussian_filter(grey, (0, 0.8, 0.8), mode="constant")
    # Not ndimage.sobel, which would smooth over neighbouring images, too.
    slope = np.array([[[-1, -2, -1], [0, 0, 0], [1, 2, 1]]], np.float32)
    dy = ndimage.correlate(smooth, slope, mode="constant")
    dx = ndimage.correlate(smooth, slope.swapaxes(1, 2), mode="constant")
    strength = np.hypot(dy, dx)
    safe = np.where(strength > 0, strength, 1)
    y, x = np.arange(grey.shape[1])[:, None], np.arange(grey.shape[2])
    beside = [sample(strength, y + s * dy / safe, x + s * dx / safe) for s in (-1, 1)]
    thin = (strength >= beside[0]) & (strength > beside[1])
    strong, faint = thin & (strength > 1.2), thin & (strength > 0.5)
    neighbours = np.zeros((3, 3, 3), bool)
    neighbours[1] = True  # within an image, not from one to the next
    edges = ndimage.binary_propagation(strong, neighbours, mask=faint)
    part = _at(severity, 0.3, 0.5, 0.7, 0.85, 1.0)
    return (1 - part) * grey + part * edges


def _inversion(_, images, __):
    return 255 - images


def _off_centre(rng, images, pixels):
    """By whole pixels along one of eight directions; no more than to the border of MNIST's margin
    up to four, and beyond it from there on."""
    directions = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b])
    shifts = pixels * directions[rng.integers(0, 8, len(images))]
    matrices = np.broadcast_to(_EYE, (len(images), 2, 2))
    grey = affine(images[..., 0].astype(np.float32), matrices, shifts)
    return np.rint(grey).astype(np.uint8)[..., None]


CORRUPTIONS: dict[str, Callable] = {
    function.__name__.strip("_"): _on_grey(function)
    for function in (
        *(_shot_noise, _impulse_noise, _blur, _motion_blur, _shear, _scale, _rotation),
        *(_brightness, _stripe, _fog, _spatter, _dotted_line, _zigzag, _canny_edges),
        _translation,
    )
}


def all_changes() -> list[tuple[str, int]]:
    """Every change and severity of the study, the untouched images first."""
    changes = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
    return [("none", 1), *changes, ("inversion", 1), *(("off_centre", n) for n in SHIFTS)]
