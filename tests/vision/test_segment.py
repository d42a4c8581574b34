"""Pieces, digits and rows of strokes whose places are known, and scores made by hand."""

import ast
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from digits_jax.vision import segment as segment_module
from digits_jax.vision import touching as touching_module
from digits_jax.vision.segment import (
    find_digit,
    find_rows,
    read_digit,
    read_line,
    read_page,
    segment,
)
from digits_jax.vision.touching import MAX_PARTS, Part, choose_cuts, cut


def blank(height=100, width=200):
    return np.full((height, width), 255, np.uint8)


def paint_ring(page, left, top, height=40, width=30, pen=5):
    y, x = np.mgrid[:height, :width]
    y, x = (y - (height - 1) / 2) / (height / 2), (x - (width - 1) / 2) / (width / 2)
    inner = np.hypot(y * height / (height - 2 * pen), x * width / (width - 2 * pen))
    ring = (np.hypot(y, x) <= 1) & (inner >= 1)
    page[top : top + height, left : left + width][ring] = 0


def boxes(lines):
    """The boxes of glyphs, or of parts, line by line."""
    return [[each.box for each in line.digits] for line in lines]


def uncertain(images):
    return np.full((len(images), 10), 0.1, np.float32)


def certain(images):
    return np.eye(10, dtype=np.float32)[np.zeros(len(images), int)]


def widths(images):
    return np.array([np.ptp(np.flatnonzero(image.any(axis=0))) for image in images])


# --- one digit -----------------------------------------------------------------------------


def test_specks_and_a_frame_are_no_pieces():
    page = blank(100, 100)
    page[:5] = page[:, :5] = 0  # a frame
    page[30:70, 40:50] = 0
    page[80, 80] = 0  # a speck
    assert [piece.box for piece in segment(page).pieces] == [(40, 30, 50, 70)]


def test_pieces_nearby_are_of_the_digit_and_others_are_not():
    page = blank(120, 140)
    page[30:90, 60:68] = 0
    page[110:113, 5:8] = 0  # a blot far off
    assert find_digit(segment(page)).box == (60, 30, 68, 90)
    page[30:38, 74:100] = 0  # a bar that doesn't touch
    assert find_digit(segment(page)).box == (60, 30, 100, 90)
    without_blot = page.copy()
    without_blot[110:113, 5:8] = 255
    np.testing.assert_array_equal(read_digit(page), read_digit(without_blot))


# --- rows ----------------------------------------------------------------------------------


def test_rows_and_digits_come_in_reading_order():
    page = blank(220, 240)
    expected = [[(20, 30, 50, 70), (90, 34, 120, 74), (160, 28, 190, 68)], [(40, 130, 70, 170)]]
    for left, top, *_ in [box for line in expected for box in line][::-1]:
        paint_ring(page, left, top)
    found = segment(page)
    assert boxes(find_rows(found)) == boxes(read_page(found, uncertain)) == expected
    image = read_page(found, uncertain)[0].digits[0].image
    assert (image.dtype, image.shape) == (np.uint8, (28, 28))


def test_a_bar_apart_is_of_its_digit_and_specks_are_of_none():
    page = blank()
    paint_ring(page, 20, 40, 30)
    page[28:33, 24:52] = 0  # over the first
    paint_ring(page, 90, 30)
    page[80:83, 150:153] = page[50, 130] = 0
    assert boxes(find_rows(segment(page))) == [[(20, 28, 52, 70), (90, 30, 120, 70)]]


@pytest.mark.parametrize("page", [np.full((50, 50), 9, np.uint8), np.zeros((1, 1), np.uint8)])
def test_a_blank_page_has_no_rows(page):
    found = segment(page)
    assert find_digit(found) is None
    assert find_rows(found) == read_page(found, uncertain) == read_line(found, uncertain) == []


def test_boxes_are_in_the_pictures_pixels():
    page = blank(600, 2400)
    for left in (200, 1000):
        paint_ring(page, left, 100, 400, 300, 50)
    found = boxes(read_page(segment(page), certain))
    np.testing.assert_allclose(found, [[(200, 100, 500, 500), (1000, 100, 1300, 500)]], atol=4)


@pytest.mark.parametrize("kind", ["dash", "colon", "dot"])
def test_separators_are_left_out(kind):
    """Of a date, an hour or a sum; they stand apart from the digits."""
    page = blank(100, 260)
    for left in (20, 60, 150, 190):
        page[20:80, left : left + 8] = 0
    if kind == "dash":
        page[48:54, 95:125] = 0
    else:
        page[70:78, 106:114] = 0
        page[36:44, 106:114] = 0 if kind == "colon" else 255
    expected = [(left, 20, left + 8, 80) for left in (20, 60, 150, 190)]
    (row,) = read_line(segment(page), uncertain)
    assert [glyph.box for glyph in row.digits] == expected
    named = {
        "dash": [("dash", (95, 48, 125, 54))],
        "dot": [("dot", (106, 70, 114, 78))],
        "colon": [("dot", (106, 36, 114, 44)), ("dot", (106, 70, 114, 78))],
    }
    assert [(mark.kind, mark.box) for mark in row.marks] == named[kind]


@pytest.mark.parametrize("ends", [(12, 88), (24, 76)], ids=["high", "as low as a 1"])
def test_a_stroke_that_leans_is_a_slash_where_it_is_higher_than_the_row(ends):
    image = Image.new("L", (300, 100), 255)
    pen = ImageDraw.Draw(image)
    for left in (20, 60, 170, 210):
        pen.rectangle((left, 20, left + 8, 80), fill=0)
    pen.line([(130, ends[0]), (105, ends[1])], 0, 7)
    (row,) = read_line(segment(np.asarray(image)), uncertain)
    slashes = [mark.kind for mark in row.marks]
    assert (len(row.digits), slashes) == ((4, ["slash"]) if ends[0] == 12 else (5, []))


def test_a_page_of_small_digits_is_processed_at_a_larger_size():
    page = blank(2600, 2600)
    places = range(20, 2560, 160)
    expected = [[(x, y, x + 5, y + 14) for x in places] for y in places]
    for left, top, right, bottom in (box for row in expected for box in row):
        page[top:bottom, left:right] = 0
    small = segment(page)
    assert (small.pieces, small.too_small) == ([], 256)  # 5 of 1,000 pixels high
    assert boxes(find_rows(segment(page, page=True))) == expected


# --- touching digits -----------------------------------------------------------------------


def touching():
    page = blank(100, 160)
    paint_ring(page, 30, 30)
    paint_ring(page, 58, 30)  # two columns in common
    return segment(page)


def test_touching_digits_are_cut():
    def score(images):  # confident of one hole that is nearly as wide as the ink
        holes = [ndimage.label(image < 128)[0] == 2 for image in images]
        wide = [np.ptp(np.flatnonzero(hole.any(axis=0))) if hole.any() else 0 for hole in holes]
        one = [ndimage.label(image < 128)[1] == 2 for image in images]
        good = one & (widths(images) - np.array(wide) < 9)
        return np.where(good, 0.95, 0.2)[:, None].astype(np.float32)

    assert boxes(find_rows(touching())) == [[(30, 30, 88, 70)]]
    found = boxes(read_line(touching(), score))
    np.testing.assert_allclose(found, [[(30, 30, 59, 70), (59, 30, 88, 70)]], atol=6)


def test_a_0_does_not_become_two_1s():
    page = blank(100, 160)
    paint_ring(page, 30, 30, 40, 34)

    def score(images):  # a little more confident of halves than of the whole
        return np.where(widths(images)[:, None] < 12, 0.99, 0.85) * np.eye(10)[[0]]

    assert boxes(read_line(segment(page), score)) == [[(30, 30, 64, 70)]]


def test_parts_that_are_digits_with_little_doubt_arent_cut():
    counts = []

    def score(images):
        counts.append(len(images))
        return np.full((len(images), 1), 0.9, np.float32)

    page = blank(100, 200)
    for left in (20, 80, 140):
        paint_ring(page, left, 30, 40, 34)
    assert len(read_line(segment(page), score)[0].digits) == 3
    assert counts == [3, 3]


@pytest.mark.parametrize("turned", [False, True])
def test_few_of_a_page_without_digits_are_cut(monkeypatch, turned):
    monkeypatch.setattr(touching_module, "MAX_SPANS", 200)
    page = blank(500, 700)
    for top in range(20, 400, 60):
        for left in range(20, 660, 40):
            paint_ring(page, left, top)
    paint_ring(page, 20, 440)
    paint_ring(page, 48, 440)  # the widest part
    counts = []

    def score(images):  # of no digit
        counts.append(len(images))
        return np.full((len(images), 1), 0.3, np.float32)

    rows = read_page(segment(page.T if turned else page), score)
    number = sum(len(row.digits) for row in rows)
    assert number >= 113
    assert sum(counts) <= 6 * number + 2 * 200  # 113 parts of 20 spans or more, in 4 directions
    assert counts[-1] > number + 20  # some are cut


def pieces(kind):
    """Two touching strokes: the ink of each, float32 [60, 80]."""
    left, right = Image.new("L", (80, 60)), Image.new("L", (80, 60))
    if kind == "overhang":  # a 7 over a 1
        ImageDraw.Draw(left).line([(8, 4), (52, 4), (26, 56)], 255, 5)
        ImageDraw.Draw(right).line([(48, 8), (44, 56)], 255, 5)
    elif kind == "side by side":  # two slanted 1s that meet halfway
        ImageDraw.Draw(left).line([(40, 4), (22, 56)], 255, 5)
        ImageDraw.Draw(right).line([(49, 4), (31, 56)], 255, 5)
        ImageDraw.Draw(right).rectangle((33, 28, 38, 31), fill=255)
    else:
        ImageDraw.Draw(left).ellipse((4, 4, 38, 56), outline=255, width=5)
        ImageDraw.Draw(right).ellipse((36, 4, 70, 56), outline=255, width=5)
    return [np.asarray(image, np.float32) / 255 for image in (left, right)]


@pytest.mark.parametrize("kind", ["overhang", "side by side", "rings"])
def test_a_cut_leaves_each_digit_its_ink(kind):
    digits = pieces(kind)
    whole = np.maximum(*digits)
    top, bottom, left, right = (
        end for axis in (1, 0) for end in np.flatnonzero(whole.any(axis=axis))[[0, -1]] + [0, 1]
    )
    digits = [digit[top:bottom, left:right] for digit in digits]
    whole = whole[top:bottom, left:right]
    found = cut(Part(whole, (0, 0, right - left, bottom - top)), float(bottom - top))
    last = max(stop for _, stop in found)

    def share(part, digit):  # of the ink of both, what they have in common
        left, top, right, bottom = part.box
        own = np.zeros_like(whole)
        own[top:bottom, left:right] = part.ink
        return np.minimum(own, digit).sum() / np.maximum(own, digit).sum()

    pairs = [(found.get((0, i)), found.get((i, last))) for i in range(1, last)]
    best = max(
        min(share(part, digit) for part, digit in zip(pair, digits, strict=True))
        for pair in pairs
        if None not in pair
    )
    assert best > 0.75


@given(st.integers(2, 6), st.lists(st.floats(-5, 0), min_size=21, max_size=21), st.floats(0.3, 3))
@settings(max_examples=60, deadline=None)
def test_the_chosen_cuts_are_the_best_of_all(last, values, width):
    """Against every way to cut, one by one."""
    logs = dict(zip(combinations(range(last + 1), 2), values, strict=False))
    best = {
        count: max(
            np.mean([logs[span] for span in pairwise([0, *cuts, last])])
            for cuts in combinations(range(1, last), count - 1)
        )
        for count in range(1, min(last, MAX_PARTS) + 1)
    }
    chosen = choose_cuts(logs, width)
    assert [start for start, _ in chosen] == [0, *(stop for _, stop in chosen[:-1])]
    assert chosen[-1][1] == last
    mean = np.mean([logs[span] for span in chosen])
    assert mean == pytest.approx(best[len(chosen)])
    # No other number of parts is better by more than the margin for cutting.
    assert mean >= max(v for k, v in best.items() if k == 1 or len(chosen) > 1) - 1e-9


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_any_scores_give_digits_in_order(seed):
    rng = np.random.default_rng(seed)
    (line,) = read_line(touching(), lambda images: rng.dirichlet(np.ones(10), len(images)))
    assert 1 <= len(line.digits) <= MAX_PARTS
    middles = [glyph.box[0] + glyph.box[2] for glyph in line.digits]
    assert middles == sorted(middles)


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_page_is_read_and_its_boxes_are_those_of_the_picture(turns):
    page = blank(200, 300)
    for left, top in ((30, 30), (90, 30), (150, 30), (60, 120)):
        page[top : top + 44, left : left + 30] = 0

    def score(images):  # confident of digits that are higher than wide
        rows, columns = images.any(axis=2).sum(axis=1), images.any(axis=1).sum(axis=1)
        return np.where(rows > columns, 0.95, 0.5)[:, None] * [[1, 0]]

    turned = np.ascontiguousarray(np.rot90(page, turns))
    rows = read_page(segment(turned), score)
    assert [len(row.digits) for row in rows] in ([3, 1], [1, 3])
    for glyph in (glyph for row in rows for glyph in row.digits):
        left, top, right, bottom = glyph.box
        assert (turned[top:bottom, left:right] == 0).mean() > 0.8


def test_digits_that_were_thresholded_to_dots_are_found():
    page = blank(120, 260)
    paint_ring(page, 20, 30, 60, 44, 2)
    paint_ring(page, 100, 30, 60, 44, 2)
    page[30:90, 180:182] = 0
    dots = np.random.default_rng(0).random(page.shape) > 0.25
    found = find_rows(segment(np.where(dots, page, 255).astype(np.uint8)))
    expected = [(20, 30, 64, 90), (100, 30, 144, 90), (180, 30, 182, 90)]
    np.testing.assert_allclose(boxes(found)[0], expected, atol=2)


def test_the_halves_of_a_broken_digit_are_in_one_row():
    page = blank(120, 200)
    page[30:90, 20:26] = page[30:58, 80:84] = page[64:90, 84:88] = page[30:90, 140:146] = 0
    assert boxes(find_rows(segment(page))) == [
        [(20, 30, 26, 90), (80, 30, 88, 90), (140, 30, 146, 90)]
    ]


def test_a_punched_hole_is_no_digit():
    image = Image.new("L", (200, 200), 255)
    pen = ImageDraw.Draw(image)
    pen.ellipse((150, 15, 181, 46), fill=0)
    pen.line([(70, 60), (110, 60), (90, 130)], 0, 5)
    (piece,) = segment(np.asarray(image)).pieces
    assert 60 < piece.box[0] < piece.box[2] < 120


def test_names_of_the_modules_differ():
    """`preprocessing.py` writes them into one file."""
    names = [
        node.id
        for path in Path(segment_module.__file__).parent.glob("*.py")
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Assign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    assert len(names) == len(set(names))
