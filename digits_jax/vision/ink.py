"""The ink of anybody's picture, whatever its light, paper and polarity. NumPy and SciPy.

grey: uint8 [height, width], 0 black and 255 white, of either polarity.
depth: float32 [h, w], how far a pixel is from the paper, as a share of the light there.
ink: float32 [h, w] in [0, 1], how much ink each pixel holds; 0 is paper.
"""

from dataclasses import dataclass

import numpy as np

from digits_jax.errors import DataError

# Pictures are worked on at this size at most: a digit has 20 pixels in the end.
LONGEST = 1000
_FAINTEST = 0.06  # less contrast than this is no ink
# Shares of the border that hold ink: more isn't ink, less may be a stroke that runs off the page.
_LITTLE, _MUCH, _MOST = 0.06, 0.08, 0.4
_MOST_AREA = 0.38  # of the picture: 1 of 20,000 of MNIST's images has more, as it is
_SOLID = 0.35  # of the shorter side
_WINDOW = 0.15  # of the shorter side: wider than strokes, narrower than shadows


def find_ink(grey: np.ndarray) -> np.ndarray:
    """How much ink each pixel holds, whatever the light, the paper and the polarity.

    1. A picture longer than ``LONGEST`` is averaged down to that.
    2. The paper's light is a quadratic surface, fitted to the border first and then to all
       that lies near it, and what is left of it, smoothed. Where pixels differ more from it
       to the dark side than to the light one, ink is dark.
    3. Rows and columns with a thin line from border to border are ruled: the line is taken
       away, the ink across it stays.
    4. The contrast is divided by that of the ink, and what doesn't rise above the noise is 0.
    5. Where much of the border came out as ink, or a large square did, it isn't: a sheet on a
       desk, the edge of a shadow, a thumb. Then the light is taken from each pixel's
       neighbourhood instead.

    Args:
      grey: uint8 [height, width].

    Returns:
      float32 [h, w] in [0, 1], of the picture's shape or, for a large one, less by one factor;
      all zeros for a blank page.

    Raises:
      DataError: an array of another type or shape.

    Example:
      >>> page = np.full((40, 40), 180, np.uint8)
      >>> page[10:30, 18:22] = 20
      >>> ink = find_ink(page)
      >>> float(ink[20, 20]), float(ink[5, 5])
      (1.0, 0.0)
    """
    small = _shrink(_check(grey))
    if small.max() == small.min():
        return np.zeros(small.shape, np.float32)
    ink = _find_ink(small)
    if not ink.any():
        return _find_cut_closely(small)
    share = _border_share(ink)
    wide = share > _MUCH or float((ink > 0.3).mean()) > _MOST_AREA
    if _is_solid(ink) or share > _MOST or (wide and not _is_cut_closely(ink)):
        for dark in (True, False):
            other = _find_ink(_even_light(small, dark))
            if other.any() and _border_share(other) < _LITTLE and not _is_solid(other):
                return other
    return ink


def _find_cut_closely(small):
    """The ink of a digit that was cut out along its strokes: there is no border to know paper by.

    Dark on light is supposed, and the picture set on such paper; one without two clear levels,
    like a blank sheet in uneven light, holds none.
    """
    low, high = np.percentile(small, (5, 95))
    between = np.mean((small > low + 0.3 * (high - low)) & (small < high - 0.3 * (high - low)))
    if high - low < 60 or between > 0.25:
        return np.zeros(small.shape, np.float32)
    room = max(max(small.shape) // 3, 2)
    ink = _find_ink(np.pad(small, room, constant_values=round(high)))[room:-room, room:-room]
    return ink if _is_cut_closely(ink) else np.zeros_like(ink)


def _is_cut_closely(ink):
    """Whether ink meets all four sides, as a digit does that was cut out along its strokes."""
    return all(bool((side > 0.3).any()) for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def _is_solid(ink):
    """Whether ink fills a square that no pen fills: a sheet of paper on a desk is no ink."""
    from scipy import ndimage

    size = max(round(_SOLID * min(ink.shape)), 3)
    return bool(ndimage.minimum_filter(ink, size, mode="constant").max() > 0.3)


def _border_share(ink):
    """The share of the outermost pixels that hold ink."""
    edge = np.concatenate([ink[0], ink[-1], ink[1:-1, 0], ink[1:-1, -1]])
    return float((edge > 0.3).mean())


def _even_light(grey, dark):
    """The picture with the same light everywhere: what is wider than any stroke is paper.

    A closing fills what is dark and narrower than its window, and keeps steps as they are; the
    quotient by it has neither desk nor shadow. uint8 [h, w], ink dark.
    """
    from scipy import ndimage

    grey = ndimage.gaussian_filter((grey if dark else 255 - grey).astype(np.float32), 0.8)
    window = max(round(_WINDOW * min(grey.shape)), 3)
    light = ndimage.grey_closing(grey, (window, window), mode="nearest")
    return np.rint(255 * np.clip((grey + 8) / (light + 8), 0, 1)).astype(np.uint8)


def _find_ink(small):
    """Steps 2 to 4 of `find_ink`, for a picture of some contrast."""
    if small.max() == small.min():
        return np.zeros(small.shape, np.float32)
    depth, noise = _flatten(small.astype(np.float32))
    across, down = _find_rules(depth, noise), _find_rules(depth.T, noise)
    ruled = _ruled_pixels(depth.shape, across) | _ruled_pixels(depth.T.shape, down).T
    cleared, full = depth, _full_ink(depth[~ruled], noise)
    if full:
        cleared = _remove_rules(_remove_rules(depth, across, full).T, down, full).T
    elif ruled.any():
        # Nothing but lines from border to border: then it is a 1, cut out closely.
        full = _full_ink(depth.ravel(), noise)
    if not full:
        return np.zeros(small.shape, np.float32)
    ink = np.clip(cleared / full, 0, 1)
    ink[cleared < max(3.5 * noise, 0.08 * full)] = 0
    return _drop_faint(ink.astype(np.float32))


def _check(grey):
    if (
        not isinstance(grey, np.ndarray)
        or grey.dtype != np.uint8
        or grey.ndim != 2
        or not grey.size
    ):
        what = f"{grey.dtype} {list(grey.shape)}" if isinstance(grey, np.ndarray) else type(grey)
        raise DataError(f"a picture is {what}; give a uint8 array [height, width], not empty")
    return grey


def _shrink(grey):
    from PIL import Image

    height, width = grey.shape
    longest = max(height, width)
    if longest <= LONGEST:
        return grey
    size = [max(round(side * LONGEST / longest), 1) for side in (width, height)]
    image = Image.fromarray(np.ascontiguousarray(grey))
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _flatten(grey):
    """The picture's depth below (or above) its paper, float32 [h, w], and the paper's noise.

    The depth is a share: of the paper's light where ink is dark, of what is missing to white
    where it is light.
    """
    from scipy import ndimage

    height, width = grey.shape
    step = max(max(height, width) // 64, 1)
    sample = grey[::step, ::step]
    y, x = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in (height, width))
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
    flat = (~ndimage.binary_dilation(np.abs(rest) > far)).astype(np.float32)
    sigma = max(sample.shape) / 10
    smooth = ndimage.gaussian_filter(np.stack([rest * flat, flat]), (0, sigma, sigma))
    correction = smooth[0] / (smooth[1] + 0.02)
    if step > 1:
        index = [
            np.minimum(np.arange(n) / step, s - 1)
            for n, s in zip(grey.shape, rest.shape, strict=True)
        ]
        correction = _interpolate(correction, *index)
    paper = np.clip(paper + correction, 0, 255)
    rest = grey - paper
    out = np.abs(rest) > far
    dark = -rest[out & (rest < 0)].sum() >= rest[out & (rest > 0)].sum()
    depth = -rest / np.maximum(paper, 20) if dark else rest / np.maximum(255 - paper, 20)
    quiet = np.abs(depth[~out]) if not out.all() else np.zeros(1)
    return depth, max(1.48 * float(np.median(quiet)), 0.004)


def _fit_paper(terms, sample):
    """The surface of the paper's light and the spread about it: from the border inwards.

    The border is paper even where ink is most of the picture. It is left for all of the
    picture where that gives a surface that much more lies on: a ruled line may run there.
    """
    margin = max(round(0.1 * min(sample.shape)), 1)
    ring = np.ones(sample.shape, bool)
    ring[margin:-margin, margin:-margin] = False
    fits = []
    for where in (ring, np.ones(sample.shape, bool)):
        fit = np.zeros(6)
        fit[0] = np.median(sample[where])
        fit, _ = _fit_surface(terms[where], sample[where], fit, 3, rounds=5)
        fit, spread = _fit_surface(terms.reshape(-1, 6), sample.ravel(), fit, 6, rounds=4)
        near = float((np.abs(sample - terms @ fit) < 10).mean())
        fits.append((fit, spread, near))
        if near > 0.6:
            break
    border, whole = fits[0], fits[-1]
    return whole[:2] if whole[2] > 1.4 * border[2] else border[:2]


def _fit_surface(terms, values, fit, order, rounds):
    """Reweighted least squares with the first ``order`` terms: what lies far off has no say.

    Returns the fit and the spread about it of what lies near.
    """
    for _ in range(rounds):
        rest = np.abs(values - terms @ fit)
        # The standard deviation by the 30th percentile: ink may be more than half of a picture.
        spread = max(float(np.quantile(rest, 0.3)) / 0.385, 1.5)
        weights = np.maximum(1 - (rest / (5 * spread)) ** 2, 0) ** 2
        weighted = terms[:, :order] * weights[:, None]
        # A little ridge: where paper is seen in a corner only, the surface stays level.
        ridge = np.diag([0.0] + [1e-3 * weights.sum() + 1e-6] * (order - 1))
        solved = np.linalg.solve(weighted.T @ terms[:, :order] + ridge, weighted.T @ values)
        fit = np.concatenate([solved, np.zeros(len(fit) - order)])
    return fit, spread


def _interpolate(values, rows, columns):
    """Bilinear samples of a coarse grid at every pair of the given rows and columns."""

    def along(array, where):
        low = np.minimum(where.astype(int), max(len(array) - 2, 0))
        part = (where - low)[:, None].astype(np.float32)
        return array[low] * (1 - part) + array[np.minimum(low + 1, len(array) - 1)] * part

    return along(along(values, rows).T, columns).T


@dataclass(frozen=True)
class _Rules:
    """Ruled lines that run across: rows (start, stop) once columns are moved up by ``shifts``."""

    shifts: np.ndarray
    rows: list[tuple[int, int]]


def _find_rules(depth, noise):
    """Lines across the picture, thin and from border to border, tilted by up to 3 degrees.

    The picture is looked at in 24 strips from left to right. At each slope, a row is as deep
    as all but the palest fifth of the strips are there; the slope that shows most is taken.
    """
    height, width = depth.shape
    if min(height, width) < 32:
        return _Rules(np.zeros(width, int), [])
    edges = np.linspace(0, width, 25).astype(int)
    capped = np.minimum(depth, 0.5)
    strips = np.add.reduceat(capped, edges[:-1], axis=1) / np.diff(edges)
    middles = (edges[:-1] + edges[1:]) / 2
    limit = max(noise, 0.025)
    if (strips.max(axis=0) > limit).mean() < 0.8:  # soon said of most pictures
        return _Rules(np.zeros(width, int), [])
    step = max(1.0 / width, 0.002)
    best, shown, found = 0.0, 0.0, []
    for number in range(int(0.055 / step) + 1):
        # Level lines are the rule: they show at once, and nothing else is looked for.
        if number == 2 and best == 0 and shown:
            break
        for slope in {number * step, -number * step}:
            shift, tall = _shifts(slope, middles, height, width)
            level = _row_levels(strips, shift, tall)
            ruled = _thin_runs(level > limit, max(0.05 * height, 4))
            total = sum(float((level[start:stop] ** 2).sum()) for start, stop in ruled)
            if total > 1.1 * shown:
                best, shown, found = slope, total, ruled
    if not shown:
        return _Rules(np.zeros(width, int), [])
    shift, _ = _shifts(best, np.arange(width) + 0.5, height, width)
    return _Rules(shift, [(start - 1, stop + 1) for start, stop in found])


def _shifts(slope, columns, height, width):
    """By how many rows each column is moved down, at least 0, and the height that is needed."""
    shift = np.floor(slope * (columns - width / 2) + abs(slope) * width / 2 + 0.5).astype(int)
    return shift, height + int(np.ceil(abs(slope) * width)) + 1


def _row_levels(strips, shift, tall):
    """The depth that four in five strips have in each row, of those that reach there."""
    moved = np.full((tall, strips.shape[1]), np.inf)
    rows = np.arange(len(strips))[:, None] + shift[None, :]
    moved[rows, np.arange(strips.shape[1])[None, :]] = strips
    there = np.isfinite(moved).sum(axis=1)
    rank = np.maximum((0.2 * (there - 1)).astype(int), 0)
    level = np.take_along_axis(np.sort(moved, axis=1), rank[:, None], 1)[:, 0]
    return np.where(there >= 0.4 * strips.shape[1], level, 0.0)


def _thin_runs(ruled, thickest):
    """(start, stop) of the runs of True that are no longer than ``thickest``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ruled.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a <= thickest]


def _ruled_pixels(shape, rules):
    """bool [h, w]: where the lines run."""
    ruled = np.zeros(shape, bool)
    columns = np.arange(shape[1])
    for start, stop in rules.rows:
        for row in range(start, stop):
            y = row - rules.shifts
            inside = (y >= 0) & (y < shape[0])
            ruled[y[inside], columns[inside]] = True
    return ruled


def _remove_rules(depth, rules, full):
    """Takes lines across away; ``full`` is the depth of ink."""
    from scipy import ndimage

    depth, columns = depth.copy(), np.arange(depth.shape[1])
    # A row of nothing above and below: there lies what is outside of the picture.
    padded = np.pad(depth, ((1, 1), (0, 0)))

    def row_at(row):
        return padded[np.clip(row - rules.shifts + 1, 0, len(padded) - 1), columns]

    for start, stop in rules.rows:
        # A stroke that crosses comes out within about the line's width of where it went in.
        reach = 2 * ((stop - start) // 2) + 1
        above, below = (ndimage.maximum_filter1d(row_at(r), reach) for r in (start - 1, stop))
        across = np.minimum(above, below)
        for row in range(start, stop):
            y = row - rules.shifts
            inside = (y >= 0) & (y < len(depth))
            if not inside.any():
                continue
            values = row_at(row)
            level = max(float(np.quantile(values[inside], 0.5)), 0.0)
            # Ink that is darker than the line shows on it; ink that is not must be guessed.
            trust = np.clip(2.2 - 3 * level / full, 0, 1)
            seen = full * np.clip((values - level) / max(full - level, 0.05 * full), 0, 1)
            new = trust * seen + (1 - trust) * np.minimum(across, values)
            depth[y[inside], columns[inside]] = new[inside]
    return depth


def _full_ink(depth, noise):
    """The depth of a pixel full of ink; 0 where there is none."""
    floor = max(6 * noise, _FAINTEST)
    inked = depth[depth > floor]
    if not inked.size:
        return 0.0
    top = np.quantile(inked, 0.97)
    return float(np.quantile(inked[inked >= 0.5 * top], 0.6))


def _drop_faint(ink):
    """Takes away pieces that are nowhere dark: noise, and the ringing of JPEG."""
    from scipy import ndimage

    labels, count = ndimage.label(ink > 0, np.ones((3, 3)))
    if count:
        dark = np.bincount(labels[ink >= 0.45], minlength=count + 1) > 0
        ink = np.where(dark[labels], ink, np.float32(0))
    return ink
