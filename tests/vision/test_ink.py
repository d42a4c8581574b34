"""Ink of drawn pictures whose ink is known, and one digit of photographs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from digits_jax.errors import DataError
from digits_jax.vision.ink import find_ink
from digits_jax.vision.segment import read_digit


def seven(ink=0, paper=255, pen=9):
    """A 7: a bar and a slanted stroke."""
    grey = np.full((120, 140), paper, np.uint8)
    grey[20 : 20 + pen, 40:90] = ink
    for row in range(20, 100):
        left = 81 - round((row - 20) * 0.4)
        grey[row, left : left + pen] = ink
    return grey


def assert_near(a, b, mean):
    assert np.abs(a.astype(int) - b.astype(int)).mean() <= mean


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0), (90, 180), (200, 60)])
def test_polarity_is_found(ink, paper):
    found = find_ink(seven(ink, paper))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, seven() == 0)


BLANK = {
    "1x1": np.full((1, 1), 255, np.uint8),
    "black": np.zeros((28, 28), np.uint8),
    "grain": np.random.default_rng(0).normal(200, 6, (200, 300)).clip(0, 255).astype(np.uint8),
    "shade": np.tile(np.linspace(90, 250, 300), (200, 1)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", BLANK)
def test_a_blank_picture_holds_no_ink(kind):
    assert not find_ink(BLANK[kind]).any()
    assert read_digit(BLANK[kind]) is None


def test_uneven_light_is_no_ink():
    shade = np.linspace(1, 0.5, 140)[None, :] * np.linspace(1, 0.8, 120)[:, None]
    ink = find_ink((seven() * 0.9 * shade + 20 * shade).astype(np.uint8))
    assert ink[seven() == 0].min() > 0.85
    assert ink[seven() == 255].max() == 0


@pytest.mark.parametrize("kind", ["ruled", "squared", "tilted"])
def test_lines_of_paper_are_removed_and_ink_across_them_stays(kind):
    y, x = np.mgrid[:120, :140]
    rules = (y + 0.03 * x) % 30 < 2 if kind == "tilted" else y % 24 == 5
    if kind == "squared":
        rules |= x % 24 == 7
    expected = seven() == 0
    ink = find_ink(np.where(rules, np.minimum(seven(), 170), seven()).astype(np.uint8))
    assert (ink[~expected] > 0.1).mean() < (0.002 if kind == "tilted" else 1e-9)
    assert ink[expected].mean() > 0.97


def test_large_pictures_are_averaged_down():
    large = seven().repeat(20, 0).repeat(20, 1)
    assert find_ink(large).shape == (857, 1000)
    assert_near(read_digit(large), read_digit(seven()), 8)


@pytest.mark.parametrize(
    "grey",
    [np.zeros((3, 3)), np.zeros((3, 3, 3), np.uint8), np.zeros((0, 5), np.uint8), [[0]], None],
    ids=["float", "colour", "empty", "list", "None"],
)
def test_what_is_no_grey_picture_is_refused(grey):
    with pytest.raises(DataError, match="give a uint8 array"):
        read_digit(grey)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 4))
@settings(max_examples=8, deadline=None)
def test_a_digit_is_the_same_anywhere_inverted_and_enlarged(down, right, scale):
    digit = read_digit(seven())
    moved = np.pad(seven(), ((down, 20), (right, 5)), constant_values=255)
    np.testing.assert_array_equal(read_digit(moved), digit)
    np.testing.assert_array_equal(read_digit(255 - moved), digit)
    assert_near(read_digit(moved.repeat(scale, 0).repeat(scale, 1)), digit, 3)


def photograph(kind):
    """A drawn 7 on a sheet of 260 x 260, and what else there is on a photograph of it."""
    sheet = np.full((260, 260), 235.0)
    sheet[60:74, 70:180] = sheet[60:200, 166:180] = 40
    if kind == "shadow":
        sheet[:, :120] *= 0.5
    if kind == "thumb":
        sheet[200:, 200:] = 120
    if kind in ("dark desk", "grey desk"):
        desk = np.full((330, 380), 35.0 if kind == "dark desk" else 120.0)
        desk[30:290, 60:320] = sheet
        sheet = desk
    if kind == "bars":
        sheet = np.pad(sheet, ((0, 0), (90, 90)))
    return np.rint(sheet).astype(np.uint8)


@pytest.mark.parametrize("kind", ["shadow", "thumb", "dark desk", "grey desk", "bars"])
def test_what_else_is_on_a_photograph_is_no_ink(kind):
    found = read_digit(photograph(kind))
    assert_near(found, read_digit(photograph("nothing")), 8)
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 16)  # 140 x 110, by hand


def test_a_digit_cut_out_along_its_strokes_is_found():
    """Its border says nothing of the paper."""
    y, x = np.mgrid[:100, :70] + 0.5
    radius = np.hypot((y - 50) / 50, (x - 35) / 35)
    found = read_digit(np.where((radius < 1) & (radius > 0.6), 20, 250).astype(np.uint8))
    assert found[14, 14] == 0
    assert (found > 128).sum() > 100


def test_a_smudge_beside_faint_strokes_is_no_ink():
    y, x = np.mgrid[:200, :300]
    smudge = 0.4 * np.exp(-((y - 60) ** 2 + (x - 220) ** 2) / (2 * 20**2))
    page = np.full((200, 300), 150.0)
    page[60:140, 60:64] = page[60:64, 60:100] = page[100:104, 200:240] = 100
    ink = find_ink(np.rint(page * (1 - smudge)).astype(np.uint8))
    np.testing.assert_array_equal(ink > 0.5, page == 100)


def test_a_blurred_thick_stroke_is_ink():
    grey = np.full((200, 300), 230, np.uint8)
    grey[40:160, 130:170] = 40
    blurred = ndimage.gaussian_filter(grey, 6)
    assert find_ink(blurred)[100, 140:160].min() > 0.9
