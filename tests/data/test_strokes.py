"""Drawn digits have the shapes of their digits: ends, holes, placement."""

import numpy as np
import pytest
from scipy import ndimage

from digits_jax.data.strokes import WAYS, _draw, _smooth, draw_digit

# Holes of each way of each digit, counted by a person on paper.
HOLES = {
    0: [1, 1, 1, 2],
    1: [0, 0, 0, 0, 0, 0],
    2: [0, 1, 0, 0],
    3: [0, 0, 0],
    4: [0, 0, 1, 0, 0, 0],
    5: [0, 0, 0],
    6: [1, 1, 1],
    7: [0, 0, 0, 0, 0, 0],
    8: [2, 2, 2],
    9: [1, 1, 1, 1, 1],
}


def holes(ink):
    areas, _ = ndimage.label(ink < 0.5)
    sizes = np.bincount(areas.ravel())[1:]
    return (sizes > 20).sum() - 1  # without specks between two lines, and the paper outside


@pytest.mark.parametrize(
    ("digit", "way"), [(d, w) for d, ways in WAYS.items() for w in range(len(ways))]
)
def test_a_way_has_the_holes_of_its_digit(digit, way):
    strokes = [_smooth(stroke) for stroke in WAYS[digit][way]]
    assert holes(_draw(strokes, 7.0)) == HOLES[digit][way]


def test_drawings_are_placed_as_mnists():
    rng = np.random.default_rng(0)
    for digit in range(10):
        image = draw_digit(rng, digit)
        assert (image.shape, image.dtype, image.max()) == ((28, 28), np.uint8, 255)
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        middle = ndimage.center_of_mass(image)
        assert np.abs(np.array(middle) - 13.5).max() <= 1


def test_a_seed_gives_one_drawing():
    one, same, other = (draw_digit(np.random.default_rng(seed), 4) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
