"""Ink placed in 28x28: SciPy's centre of mass, averages by hand, and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from digits_jax.vision.digit import place_digit


@st.composite
def inks(draw, pen=6):
    """Some strokes of usual width, as ink [60, 60] with a border of nothing."""
    ink = np.zeros((60, 60), np.float32)
    for _ in range(draw(st.integers(1, 4))):
        y, x = draw(st.integers(5, 40)), draw(st.integers(5, 40))
        tall, wide = draw(st.sampled_from([(pen, 13), (pen, 15), (13, pen), (15, pen)]))
        ink[y : y + tall, x : x + wide] = 1
    return ink


def bounds(image):
    """(first, last) inked row, and column."""
    return [np.flatnonzero(image.any(axis=axis))[[0, -1]] for axis in (1, 0)]


@given(inks())
@settings(max_examples=60, deadline=None)
def test_ink_fills_a_box_of_20_with_its_centre_of_mass_in_the_middle(ink):
    image = place_digit(ink)
    assert (image.dtype, image.shape, image.max()) == (np.uint8, (28, 28), 255)
    edges = bounds(image)
    assert max(np.ptp(edge) for edge in edges) + 1 == 20
    # SciPy counts from the middle of the first pixel: the picture's middle is at 13.5. A box
    # of 20 keeps within the picture, which may keep it from there.
    for centre, (first, last) in zip(ndimage.center_of_mass(image), edges, strict=True):
        assert abs(centre - 13.5) <= 0.51 or first == 0 or last == 27


@given(inks(), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_place_and_darkness_of_the_ink_make_no_difference(ink, down, right):
    image = place_digit(ink)
    np.testing.assert_array_equal(place_digit(np.pad(ink, ((down, 9), (right, 3)))), image)
    np.testing.assert_array_equal(place_digit(ink * np.float32(0.5)), image)


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_size_makes_almost_no_difference(scale):
    ink = np.zeros((60, 60), np.float32)
    ink[10:16, 10:40] = ink[10:50, 34:40] = 1
    image, large = place_digit(ink), place_digit(ink.repeat(scale, 0).repeat(scale, 1))
    assert np.abs(large.astype(int) - image).mean() < 8


def test_averages_are_those_of_blocks():
    ink = np.zeros((120, 120), np.float32)
    ink[10:110, 20:35] = np.random.default_rng(0).uniform(0.95, 1, (100, 15))
    image = place_digit(ink)
    blocks = ink[10:110, 20:35].reshape(20, 5, 3, 5).mean((1, 3))
    (top, bottom), (left, right) = bounds(image)
    inside = image[top : bottom + 1, left : right + 1]
    np.testing.assert_allclose(inside, 255 * blocks / blocks.max(), atol=1)


@pytest.mark.parametrize(("pen", "least", "most"), [(1, 1.4, 3), (3, 1.4, 3), (24, 2.4, 4.5)])
def test_strokes_are_brought_to_a_usual_width(pen, least, most):
    """A ring of 300 pixels, as thin as 1/15 and as thick as 1.6 times a usual pen."""
    y, x = np.mgrid[:320, :320] - 159.5
    ring = (np.abs(np.hypot(y, x) - (150 - pen)) < pen).astype(np.float32)
    row = place_digit(ring)[13] / 255
    assert least <= row.sum() / 2 <= most  # the row through the middle crosses two strokes
    assert row.max() > 0.85


def test_faint_ink_is_nothing_and_a_dot_is_something():
    assert place_digit(np.full((5, 5), 0.1, np.float32)) is None
    assert place_digit(np.ones((1, 1), np.float32)).max() == 255
