"""What is around drawn paper is covered, and pages that fill the picture are left as they are."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from digits_jax.vision.paper import _median, cover_surroundings
from digits_jax.vision.segment import find_rows, segment

SEVEN = [(0, 0), (28, 0), (10, 50)]
WIDTH, HEIGHT = 600, 500


def page(paper, *sevens):
    """uint8 [HEIGHT, WIDTH] with grain: a 7 from each (left, top) on paper of these levels."""
    image = Image.new("L", (WIDTH, HEIGHT), 0)
    for left, top in sevens:
        ImageDraw.Draw(image).line([(x + left, y + top) for x, y in SEVEN], 255, 5)
    ink = np.asarray(image) / 255
    grain = np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH))
    return (paper * (1 - 0.7 * ink) + grain).clip(0, 255).astype(np.uint8)


def levels(inside, outside, left, top, right, bottom):
    grey = np.full((HEIGHT, WIDTH), float(outside))
    grey[top:bottom, left:right] = inside
    return grey


def boxes(grey):
    return [part.box for row in find_rows(segment(grey)) for part in row.digits]


PAPERS = {
    "note on a dark desk": levels(220, 40, 150, 120, 450, 400),
    "note on a light desk": levels(150, 215, 150, 120, 450, 400),
    "photo pasted on white": levels(205, 255, 150, 120, 450, 400),
    "beside a book's edge": levels(215, 25, 20, 0, WIDTH, HEIGHT),
    "at the corner of a desk": levels(215, 60, 150, 110, WIDTH, HEIGHT),
}


@pytest.mark.parametrize("kind", PAPERS)
def test_digits_on_paper_are_found_whatever_is_around_it(kind):
    places = (200, 180), (260, 180), (220, 300)
    expected = [(x - 3, y - 3, x + 31, y + 52) for x, y in places]
    np.testing.assert_allclose(boxes(page(PAPERS[kind], *places)), expected, atol=4)


def test_a_turned_sheet_is_found():
    grey = page(levels(230, 90, 150, 100, 470, 420), (250, 200), (310, 200))
    turned = np.asarray(Image.fromarray(grey).rotate(15, fillcolor=90))
    assert len(boxes(turned)) == 2


@pytest.mark.parametrize("right", [300, 240], ids=["between digits", "across a digit"])
def test_a_shadow_across_the_writing_is_no_edge_of_paper(right):
    grey = page(levels(130, 220, 0, 0, right, HEIGHT), (100, 180), (226, 180), (400, 180))
    assert cover_surroundings(grey) is grey


@pytest.mark.parametrize("level", [90, 255])
def test_a_page_that_fills_the_picture_stays(level):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shade = level * (1 - 0.4 * (x / WIDTH) * (y / HEIGHT))
    ruled = np.where(y % 40 < 2, 0.8, 1) * shade
    for grey in (page(shade, (200, 180), (0, 300)), page(ruled, (200, HEIGHT - 52))):
        assert cover_surroundings(grey) is grey


def test_a_thick_digit_at_the_border_stays():
    image = Image.new("L", (WIDTH, HEIGHT), 230)
    ImageDraw.Draw(image).line([(100, 0), (400, 0), (200, HEIGHT)], 30, 60)
    assert cover_surroundings(np.asarray(image)).min() == 30


def test_squared_paper_with_thick_lines_is_one_sheet():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grid = np.where((y % 150 < 12) | ((x + 60) % 200 < 12), 110.0, 190.0)
    grey = page(grid, (200, 180), (60, 180))
    assert cover_surroundings(grey) is grey


@pytest.mark.parametrize("shape", [(40, 60), (9, 9), (3, 50)])
@pytest.mark.parametrize("count", [2, 256])
def test_the_median_is_that_of_pillow(shape, count):
    grey = np.random.default_rng(0).integers(0, count, shape).astype(np.uint8)
    expected = Image.fromarray(grey).filter(ImageFilter.MedianFilter(9))
    np.testing.assert_array_equal(_median(grey, 9), np.asarray(expected))
