"""Ruled lines of a picture: where they run, and the ink without them.

Lines run across the picture from border to border; those that run down are found and removed
in the transposed picture.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True, eq=False)
class Rules:
    """Ruled lines that run across.

    Attributes:
      shifts: int [w], by how many rows a line lies higher in each column than in its own row.
      rows: (start, stop) of each line, in the rows of a picture whose columns are moved so.
    """

    shifts: np.ndarray
    rows: list[tuple[int, int]]

    def pixels(self, row: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of the picture's pixels that lie in one row of a line."""
        y = row - self.shifts
        inside = (y >= 0) & (y < height)
        return y[inside], np.flatnonzero(inside)

    def mask(self, height: int) -> np.ndarray:
        """bool [height, w]: where the lines run."""
        ruled = np.zeros((height, len(self.shifts)), bool)
        for start, stop in self.rows:
            for row in range(start, stop):
                ruled[self.pixels(row, height)] = True
        return ruled


def find_rules(depth: np.ndarray, noise: float) -> Rules:
    """Finds lines across the picture, thin and from border to border, tilted by up to 3 degrees.

    The picture is divided into 24 strips from left to right. At each slope, the depth of a row is
    the one that four in five strips have there; the slope with the deepest rows is taken.
    """
    height, width = depth.shape
    none = Rules(np.zeros(width, int), [])
    if min(height, width) < 32:
        return none
    edges = np.linspace(0, width, 25).astype(int)
    capped = np.minimum(depth, 0.5)
    strips = np.add.reduceat(capped, edges[:-1], axis=1) / np.diff(edges)
    middles = (edges[:-1] + edges[1:]) / 2
    limit = max(noise, 0.025)
    if (strips.max(axis=0) > limit).mean() < 0.8:  # most pictures end here, quickly
        return none
    step = max(1.0 / width, 0.002)
    best, shown, found = 0.0, 0.0, []
    for number in range(int(0.055 / step) + 1):
        # Most lines are level: they show at once, and other slopes need not be tried.
        if number == 2 and best == 0 and shown:
            break
        for slope in {number * step, -number * step}:
            shifts, tall = _shifts(slope, middles, height, width)
            level = _row_levels(strips, shifts, tall)
            ruled = _thin_runs(level > limit, max(0.05 * height, 4))
            total = sum(float((level[start:stop] ** 2).sum()) for start, stop in ruled)
            if total > 1.1 * shown:
                best, shown, found = slope, total, ruled
    if not shown:
        return none
    shifts, _ = _shifts(best, np.arange(width) + 0.5, height, width)
    return Rules(shifts, [(start - 1, stop + 1) for start, stop in found])


def remove_rules(depth: np.ndarray, rules: Rules, full: float) -> np.ndarray:
    """Removes lines; ink that crosses them stays. ``full`` is the depth of ink."""
    if not rules.rows:
        return depth
    depth, height, columns = depth.copy(), len(depth), np.arange(depth.shape[1])
    # A row of nothing above and below stands for what is outside of the picture.
    padded = np.pad(depth, ((1, 1), (0, 0)))

    def row_at(row: int) -> np.ndarray:
        return padded[np.clip(row - rules.shifts + 1, 0, height + 1), columns]

    for start, stop in rules.rows:
        # A stroke that crosses comes out within about the line's width of where it went in.
        reach = 2 * ((stop - start) // 2) + 1
        above, below = (ndimage.maximum_filter1d(row_at(r), reach) for r in (start - 1, stop))
        for row in range(start, stop):
            y, x = rules.pixels(row, height)
            if not y.size:
                continue
            values = row_at(row)[x]
            level = max(float(np.quantile(values, 0.5)), 0.0)
            # Ink that is darker than the line shows on it; ink that is not must be guessed.
            trust = np.clip(2.2 - 3 * level / full, 0, 1)
            seen = full * np.clip((values - level) / max(full - level, 0.05 * full), 0, 1)
            guess = np.minimum(np.minimum(above, below)[x], values)
            depth[y, x] = trust * seen + (1 - trust) * guess
    return depth


def _shifts(slope: float, columns: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """By how many rows each column is moved down, at least 0, and the height that is needed."""
    shifts = np.floor(slope * (columns - width / 2) + abs(slope) * width / 2 + 0.5).astype(int)
    return shifts, height + int(np.ceil(abs(slope) * width)) + 1


def _row_levels(strips: np.ndarray, shifts: np.ndarray, tall: int) -> np.ndarray:
    """The depth that four in five strips have in each row, of those that reach there."""
    moved = np.full((tall, strips.shape[1]), np.inf)
    rows = np.arange(len(strips))[:, None] + shifts[None, :]
    moved[rows, np.arange(strips.shape[1])[None, :]] = strips
    there = np.isfinite(moved).sum(axis=1)
    rank = np.maximum((0.2 * (there - 1)).astype(int), 0)
    level = np.take_along_axis(np.sort(moved, axis=1), rank[:, None], 1)[:, 0]
    return np.where(there >= 0.4 * strips.shape[1], level, 0.0)


def _thin_runs(ruled: np.ndarray, thickest: float) -> list[tuple[int, int]]:
    """(start, stop) of the runs of True that are no longer than ``thickest``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ruled.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a <= thickest]
