"""Lines of strokes whose places are known, and scores made by hand."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digits_jax.errors import DigitsError
from digits_jax.vision.segment import MOST_PARTS, Glyph, _choose, find_lines, read_line, read_page


def ring(height=40, width=30, pen=5):
    y, x = np.mgrid[:height, :width]
    y, x = (y - (height - 1) / 2) / (height / 2), (x - (width - 1) / 2) / (width / 2)
    inner = np.hypot(y * height / (height - 2 * pen), x * width / (width - 2 * pen))
    return (np.hypot(y, x) <= 1) & (inner >= 1)


def paint(page, shape, left, top):
    place = page[top : top + shape.shape[0], left : left + shape.shape[1]]
    place[shape] = 0


def boxes(lines):
    return [[glyph.box for glyph in line] for line in lines]


def unsure(images):
    return np.full((len(images), 10), 0.1, np.float32)


def test_reading_order():
    page = np.full((220, 240), 255, np.uint8)
    expected = [[(20, 30, 50, 70), (90, 34, 120, 74), (160, 28, 190, 68)], [(40, 130, 70, 170)]]
    for left, top, *_ in [box for line in expected for box in line][::-1]:
        paint(page, ring(), left, top)
    assert boxes(find_lines(page)) == expected
    assert boxes(read_page(page, unsure)) == expected
    glyph = find_lines(page)[0][0]
    assert isinstance(glyph, Glyph)
    assert (glyph.image.dtype, glyph.image.shape) == (np.uint8, (28, 28))


def test_a_bar_apart_is_of_its_digit():
    page = np.full((100, 200), 255, np.uint8)
    paint(page, ring(30, 30), 20, 40)
    page[28:33, 24:52] = 0  # over the first
    paint(page, ring(40, 30), 90, 30)
    assert boxes(find_lines(page)) == [[(20, 28, 52, 70), (90, 30, 120, 70)]]


def test_specks_are_no_digits():
    page = np.full((100, 200), 255, np.uint8)
    paint(page, ring(), 20, 30)
    page[80:83, 150:153] = 0
    page[50, 100] = 0
    assert boxes(find_lines(page)) == [[(20, 30, 50, 70)]]


@pytest.mark.parametrize("page", [np.full((50, 50), 9, np.uint8), np.zeros((1, 1), np.uint8)])
def test_blank(page):
    assert find_lines(page) == []
    assert read_page(page, unsure) == []
    assert read_line(page, unsure) == []


def test_wrong_arrays():
    for function in (find_lines, lambda grey: read_line(grey, unsure)):
        with pytest.raises(DigitsError, match="give a uint8 array"):
            function(np.zeros((3, 3)))


def test_boxes_are_in_the_pictures_pixels():
    page = np.full((600, 2400), 255, np.uint8)
    paint(page, ring(400, 300, 50), 200, 100)
    paint(page, ring(400, 300, 50), 1000, 100)
    ((first, second),) = boxes(find_lines(page))
    np.testing.assert_allclose(first, (200, 100, 500, 500), atol=4)
    np.testing.assert_allclose(second, (1000, 100, 1300, 500), atol=4)


def touching():
    page = np.full((100, 160), 255, np.uint8)
    paint(page, ring(), 30, 30)
    paint(page, ring(), 58, 30)  # two columns in common
    return page


def by_symmetry(images):
    """Sure of what is as wide as one ring is, unsure of the rest."""
    wide = np.array([np.ptp(np.flatnonzero(image.any(axis=0))) for image in images])
    tall = np.array([np.ptp(np.flatnonzero(image.any(axis=1))) for image in images])
    sure = (tall >= 18) & (np.abs(wide - 14.5) < 2.5)
    scores = np.full((len(images), 10), 0.05, np.float32)
    scores[:, 0] = np.where(sure, 0.95, 0.2)
    return scores


def test_touching_digits_are_cut():
    assert boxes(find_lines(touching())) == [[(30, 30, 88, 70)]]
    first, second = (glyph.box for glyph in read_line(touching(), by_symmetry))
    np.testing.assert_allclose(first, (30, 30, 59, 70), atol=6)
    np.testing.assert_allclose(second, (59, 30, 88, 70), atol=6)


def test_a_0_does_not_become_two_1s():
    page = np.full((100, 160), 255, np.uint8)
    paint(page, ring(40, 34), 30, 30)

    def score(images):  # a little surer of halves than of the whole
        wide = np.array([np.ptp(np.flatnonzero(image.any(axis=0))) for image in images])
        return np.where(wide[:, None] < 12, 0.99, 0.85) * np.eye(10)[[0]].astype(np.float32)

    assert boxes([read_line(page, score)]) == [[(30, 30, 64, 70)]]


@given(
    st.integers(2, 6).flatmap(
        lambda last: st.tuples(
            st.just(last),
            st.lists(st.floats(-5, 0), min_size=36, max_size=36),
            st.floats(0.3, 3),
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_best_of_all(problem):
    """Against every way to cut, one by one."""
    last, values, width = problem
    spans = [(i, j) for i in range(last) for j in range(i + 1, last + 1)]
    logs = dict(zip(spans, values, strict=False))
    best = {}
    for count in range(1, MOST_PARTS + 1):
        for cuts in combinations(range(1, last), count - 1):
            edges = [0, *cuts, last]
            total = sum(logs[span] for span in pairwise(edges))
            best[count] = max(best.get(count, -np.inf), total / count)
    chosen = _choose(logs, width)
    assert [a for a, _ in chosen] == [0, *(b for _, b in chosen[:-1])]
    assert chosen[-1][1] == last
    mean = np.mean([logs[span] for span in chosen])
    assert mean == pytest.approx(best[len(chosen)])
    # No other number of parts is better by more than the margin for cutting.
    assert mean >= max(v for k, v in best.items() if k == 1 or len(chosen) > 1) - 1e-9


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_any_scores_give_digits_in_order(seed):
    rng = np.random.default_rng(seed)

    def score(images):
        return rng.dirichlet(np.ones(10), len(images)).astype(np.float32)

    glyphs = read_line(touching(), score)
    assert 1 <= len(glyphs) <= MOST_PARTS
    middles = [glyph.box[0] + glyph.box[2] for glyph in glyphs]
    assert middles == sorted(middles)


@pytest.mark.parametrize("kind", ["dash", "colon", "dot"])
def test_separators_are_left_out(kind):
    """Of a date, an hour or a sum; they stand apart from the digits."""
    grey = np.full((100, 260), 255, np.uint8)
    for left in (20, 60, 150, 190):
        grey[20:80, left : left + 8] = 0
    if kind == "dash":
        grey[48:54, 95:125] = 0
    else:
        grey[70:78, 106:114] = 0
        if kind == "colon":
            grey[36:44, 106:114] = 0
    boxes = [glyph.box for glyph in read_line(grey, lambda x: np.full((len(x), 10), 0.1))]
    assert boxes == [(left, 20, left + 8, 80) for left in (20, 60, 150, 190)]
