"""The ink of a picture, for any light, paper and polarity."""

import itertools

import numpy as np
from PIL import Image
from scipy import ndimage

from digits_jax.errors import DataError
from digits_jax.vision.digit import THRESHOLD, stroke_width
from digits_jax.vision.frames import connected, find_frames
from digits_jax.vision.paper import cover_surroundings
from digits_jax.vision.ruled import find_rules, remove_rules

# Pictures are processed at this size at most: a digit has 20 pixels in the end.
LONGEST = 1000
_FAINTEST = 0.06  # less contrast than this is no ink
_INKED = 0.3  # at least this much ink makes a pixel count as inked in the checks of the result
# Shares of the border that hold ink: more isn't ink, less may be a stroke that runs off the page.
_LITTLE, _MUCH, _MOST = 0.06, 0.08, 0.4
_MAX_AREA = 0.38  # of the picture: 1 of 20,000 of MNIST's images has more, as it is
_SOLID = 0.35  # of the shorter side
# Of the shorter side: ink as wide as this is a smudge where its edges aren't steep (a share of the
# ink's depth in one pixel), if strokes at least so high are beside it.
_SMUDGE, _STEEPNESS, _STROKES = 0.04, 0.1, 0.08
_WINDOW = 0.15  # of the shorter side: wider than strokes, narrower than shadows


def find_ink(grey: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """Finds how much ink each pixel holds, whatever the light, the paper and the polarity.

    1. A picture longer than ``longest`` is averaged down to that, and what is around the paper
       is covered; see `cover_surroundings`.
    2. The paper's light is a quadratic surface, fitted to the border first and then to all
       that lies near it, and the rest of it, smoothed. Where pixels differ more from it
       to the dark side than to the light one, ink is dark.
    3. Frames about other ink are taken away; see `find_frames`.
    4. Rows and columns with a thin line from border to border are ruled: the line is taken
       away, the ink across it stays.
    5. The contrast is divided by that of the ink, and what doesn't rise above the noise is 0.
    6. Where much of the border came out as ink, or a large square did, it isn't: a sheet on a
       desk, the edge of a shadow, a thumb. Then the light is taken from each pixel's
       neighbourhood instead.

    Args:
      grey: uint8 [height, width].

    Returns:
      float32 [h, w] in [0, 1], of the picture's shape or, for a large one, less by one factor;
      all zeros for a blank page.

    Raises:
      DataError: an array of another type or shape.

    Examples:
      >>> page = np.full((40, 40), 180, np.uint8)
      >>> page[10:30, 18:22] = 20
      >>> ink = find_ink(page)
      >>> float(ink[20, 20]), float(ink[5, 5])
      (1.0, 0.0)
    """
    array = isinstance(grey, np.ndarray)
    if not (array and grey.dtype == np.uint8 and grey.ndim == 2 and grey.size):
        what = f"{grey.dtype} {list(grey.shape)}" if array else type(grey).__name__
        raise DataError(f"a picture is {what}; give a uint8 array [height, width], not empty")
    small = cover_surroundings(_shrink(grey, longest))
    ink = _flat_ink(small)
    if not ink.any():
        return _close_cut_ink(small)
    share = _border_share(ink)
    wide = share > _MUCH or float((ink > _INKED).mean()) > _MAX_AREA
    if _is_solid(ink) or share > _MOST or (wide and not _meets_all_sides(ink)):
        for dark in (True, False):
            other = _flat_ink(_even_light(small, dark))
            if other.any() and _border_share(other) < _LITTLE and not _is_solid(other):
                return other
    return _without_smudges(small, ink)


def _without_smudges(grey: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Ink as before, or from light that follows smudges: wide, soft ink beside sharp strokes."""
    size = max(round(_SMUDGE * min(ink.shape)), 5)
    wide = ndimage.minimum_filter(ink, size, mode="constant") > _INKED
    if not wide.any():
        return ink
    labels = connected(ink > THRESHOLD)
    is_wide = np.zeros(labels.max() + 1, bool)
    is_wide[labels[wide]] = True
    boxes = itertools.compress(ndimage.find_objects(labels), ~is_wide[1:])
    high = max((box[0].stop - box[0].start for box in boxes), default=0)
    if high < _STROKES * min(ink.shape):
        return ink
    of_wide = is_wide[labels]
    steep = ndimage.gaussian_gradient_magnitude(ink, 2.0) > _STEEPNESS
    # An edge is where ink is half as deep; those of strokes are steep.
    edges = np.abs(ndimage.gaussian_filter(ink, 1.0) - 0.5) < 0.2
    if steep[edges & of_wide].mean() > 0.5:
        return ink
    window = 2 * int(np.ceil(1.5 * stroke_width(np.where(of_wide, 0, ink)))) + 1
    other = _flat_ink(_even_light(grey, True, window))
    return other if other.any() else ink


def _shrink(grey: np.ndarray, longest: int) -> np.ndarray:
    side = max(grey.shape)
    if side <= longest:
        return grey
    height, width = (max(round(each * longest / side), 1) for each in grey.shape)
    image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _flat_ink(grey: np.ndarray) -> np.ndarray:
    """Steps 2 to 5 of `find_ink`."""
    blank = np.zeros(grey.shape, np.float32)
    if grey.max() == grey.min():
        return blank
    depth, noise = _depth_and_noise(grey.astype(np.float32))
    inked = depth > max(6 * noise, _FAINTEST)
    depth[find_frames(inked)] = 0
    across, down = find_rules(depth, noise), find_rules(depth.T, noise)
    ruled = across.mask(depth.shape[0]) | down.mask(depth.shape[1]).T
    full = _full_depth(depth[~ruled], noise)
    if full:
        depth = remove_rules(remove_rules(depth, across, full).T, down, full).T
    elif ruled.any():
        # Nothing but lines from border to border: then it is a 1, cut out closely.
        full = _full_depth(depth.ravel(), noise)
    if not full:
        return blank
    ink = np.clip(depth / full, 0, 1)
    ink[depth < max(3.5 * noise, 0.08 * full)] = 0
    ink = ink.astype(np.float32)
    # Pieces that are nowhere dark are noise, or the ringing of JPEG.
    labels = connected(ink > 0)
    dark = np.bincount(labels[ink >= 0.45], minlength=labels.max() + 1) > 0
    return np.where(dark[labels], ink, np.float32(0))


def _close_cut_ink(grey: np.ndarray) -> np.ndarray:
    """The ink of a digit that was cut out along its strokes: no border shows the paper."""
    # Dark ink is assumed, and the picture is placed on light paper. A picture without two clear
    # levels, like a blank sheet in uneven light, holds no ink.
    low, high = np.percentile(grey, (5, 95))
    between = np.mean((grey > low + 0.3 * (high - low)) & (grey < high - 0.3 * (high - low)))
    if high - low < 60 or between > 0.25:
        return np.zeros(grey.shape, np.float32)
    room = max(max(grey.shape) // 3, 2)
    ink = _flat_ink(np.pad(grey, room, constant_values=round(high)))[room:-room, room:-room]
    return ink if _meets_all_sides(ink) else np.zeros_like(ink)


def _meets_all_sides(ink: np.ndarray) -> bool:
    """Whether ink meets all four sides, as a digit does that was cut out along its strokes."""
    return all(bool((side > _INKED).any()) for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def _is_solid(ink: np.ndarray) -> bool:
    """Whether ink fills a square that no pen fills: a sheet of paper on a desk is no ink."""
    size = max(round(_SOLID * min(ink.shape)), 3)
    inked = ink > _INKED
    if inked.sum() < size * size:  # most pictures
        return False
    return bool(ndimage.minimum_filter(ink, size, mode="constant").max() > _INKED)


def _border_share(ink: np.ndarray) -> float:
    """The share of the outermost pixels that hold ink."""
    edge = np.concatenate([ink[0], ink[-1], ink[1:-1, 0], ink[1:-1, -1]])
    return float((edge > _INKED).mean())


def _even_light(grey: np.ndarray, dark: bool, window: int = 0) -> np.ndarray:
    """The picture with the same light everywhere, uint8 [h, w] with dark ink."""
    # A closing fills what is dark and narrower than its window, and keeps steps as they are: the
    # quotient by it has neither desk nor shadow.
    smooth = ndimage.gaussian_filter((grey if dark else 255 - grey).astype(np.float32), 0.8)
    window = window or max(round(_WINDOW * min(grey.shape)), 3)
    light = ndimage.grey_closing(smooth, (window, window), mode="nearest")
    return np.rint(255 * np.clip((smooth + 8) / (light + 8), 0, 1)).astype(np.uint8)


# --- the paper's light ---------------------------------------------------------------------


def _depth_and_noise(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """How far each pixel is from the paper, float32 [h, w], and the paper's noise."""
    step = max(max(grey.shape) // 64, 1)
    sample = grey[::step, ::step]
    y, x = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in grey.shape)
    ys, xs = np.meshgrid(y[::step], x[::step], indexing="ij")
    terms = np.stack([np.ones_like(xs), xs, ys, xs * xs, xs * ys, ys * ys], -1)
    fit, spread = _fit_paper(terms, sample)
    far = max(4 * spread, 6)
    paper = (
        (fit[0] + fit[1] * x + fit[3] * x * x)[None, :]
        + (fit[2] * y + fit[5] * y * y)[:, None]
        + fit[4] * y[:, None] * x[None, :]
    ).astype(np.float32)
    # What the surface missed, from the paper alone: smooth over a good part of the picture.
    rest = (grey - paper)[::step, ::step]
    flat = np.logical_not(ndimage.binary_dilation(np.abs(rest) > far)).astype(np.float32)
    sigma = max(sample.shape) / 10
    smooth = ndimage.gaussian_filter(np.stack([rest * flat, flat]), (0, sigma, sigma))
    correction = smooth[0] / (smooth[1] + 0.02)
    if step > 1:
        tall = _interpolate(correction, grey.shape[0], step)
        correction = _interpolate(tall.T, grey.shape[1], step).T
    paper = np.clip(paper + correction, 0, 255)
    rest = grey - paper
    out = np.abs(rest) > far
    # A share: of the paper's light where ink is dark, of what is missing to white elsewhere.
    dark = -rest[out & (rest < 0)].sum() >= rest[out & (rest > 0)].sum()
    depth = -rest / np.maximum(paper, 20) if dark else rest / np.maximum(255 - paper, 20)
    quiet = np.abs(depth[~out]) if not out.all() else np.zeros(1)
    return depth, max(1.48 * float(np.median(quiet)), 0.004)


def _fit_paper(terms: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, float]:
    """The surface of the paper's light and the spread about it: from the border inwards."""
    # The border is paper even where ink is most of the picture. It is left for all of the picture
    # where that gives a surface that much more lies on: a ruled line may run there.
    margin = max(round(0.1 * min(sample.shape)), 1)
    border = np.ones(sample.shape, bool)
    border[margin:-margin, margin:-margin] = False
    fits = []
    for where in (border, np.ones(sample.shape, bool)):
        fit = np.zeros(6)
        fit[0] = np.median(sample[where])
        fit, _ = _fit_surface(terms[where], sample[where], fit, 3, rounds=5)
        fit, spread = _fit_surface(terms.reshape(-1, 6), sample.ravel(), fit, 6, rounds=4)
        near = float((np.abs(sample - terms @ fit) < 10).mean())
        fits.append((fit, spread, near))
        if near > 0.6:
            break
    first, last = fits[0], fits[-1]
    return last[:2] if last[2] > 1.4 * first[2] else first[:2]


def _fit_surface(
    terms: np.ndarray, values: np.ndarray, fit: np.ndarray, order: int, rounds: int
) -> tuple[np.ndarray, float]:
    """Reweighted least squares with the first ``order`` terms, and the spread about the fit."""
    spread = 0.0
    for _ in range(rounds):
        rest = np.abs(values - terms @ fit)
        # The standard deviation by the 30th percentile: ink may be more than half of a picture.
        spread = max(_quantile(rest, 0.3) / 0.385, 1.5)
        weights = np.maximum(1 - (rest / (5 * spread)) ** 2, 0) ** 2
        weighted = terms[:, :order] * weights[:, None]
        # A little ridge: where paper is seen in a corner only, the surface stays level.
        ridge = np.diag([0.0] + [1e-3 * weights.sum() + 1e-6] * (order - 1))
        solved = np.linalg.solve(weighted.T @ terms[:, :order] + ridge, weighted.T @ values)
        fit = np.concatenate([solved, np.zeros(len(fit) - order)])
    return fit, spread


def _interpolate(values: np.ndarray, count: int, step: int) -> np.ndarray:
    """``count`` rows, linearly between those given, which are ``step`` apart."""
    where = np.minimum(np.arange(count) / step, len(values) - 1)
    low = np.minimum(where.astype(int), max(len(values) - 2, 0))
    part = (where - low)[:, None].astype(np.float32)
    return values[low] * (1 - part) + values[np.minimum(low + 1, len(values) - 1)] * part


def _quantile(values: np.ndarray, share: float) -> float:
    """As `np.quantile`, which takes four times as long for a few thousand values."""
    where = share * (values.size - 1)
    low = int(where)
    high = min(low + 1, values.size - 1)
    ordered = np.partition(values, (low, high))
    return float(ordered[low] + (ordered[high] - ordered[low]) * (where - low))


def _full_depth(depth: np.ndarray, noise: float) -> float:
    """The depth of a pixel full of ink; 0 where there is none."""
    inked = depth[depth > max(6 * noise, _FAINTEST)]
    if not inked.size:
        return 0.0
    top = _quantile(inked, 0.97)
    return _quantile(inked[inked >= 0.5 * top], 0.6)
