"""Frames about drawn digits are removed, and digits that could be taken for frames are not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from digits_jax.vision.frames import find_frames
from digits_jax.vision.ink import find_ink
from digits_jax.vision.segment import find_rows, segment

SEVEN = [(0, 0), (28, 0), (10, 50)]


def draw(*sevens, size=(400, 140), frames=(), circles=()):
    """uint8 [height, width]: a 7 from each (left, top), and rectangles and ellipses."""
    image = Image.new("L", size, 240)
    pen = ImageDraw.Draw(image)
    for left, top in sevens:
        pen.line([(x + left, y + top) for x, y in SEVEN], 30, 5)
    for box in frames:
        pen.rectangle(box, outline=60, width=3)
    for box in circles:
        pen.ellipse(box, outline=60, width=3)
    return np.asarray(image)


CELLS = [(20 + 70 * i, 25, 90 + 70 * i, 115) for i in range(5)]
STARTS = [(40 + 70 * i, 45) for i in range(5)]


@pytest.mark.parametrize(
    "marks",
    [
        {"frames": CELLS},
        {"frames": [(left + 3, top, right - 6, bottom) for left, top, right, bottom in CELLS]},
        {"frames": [(20, 15, 385, 120)]},
        {"circles": [(left + 2, 30, right - 4, 110) for left, _, right, _ in CELLS]},
    ],
    ids=["joined", "apart", "one", "circles"],
)
def test_frames_are_removed(marks):
    ink = find_ink(draw(*STARTS, **marks))
    np.testing.assert_allclose(ink, find_ink(draw(*STARTS)), atol=0.05)


@pytest.mark.parametrize("left", [24, 61])
def test_a_digit_that_touches_its_box_stays(left):
    page = draw((left, 45), (180, 45), frames=[CELLS[0], CELLS[2]])
    boxes = [part.box for part in find_rows(segment(page), single=True)[0].digits]
    expected = [
        part.box for part in find_rows(segment(draw((left, 45), (180, 45))), single=True)[0].digits
    ]
    np.testing.assert_allclose(boxes, expected, atol=8)


def test_an_empty_box_of_a_form_is_no_0():
    page = draw(
        *STARTS[:2], frames=[(x + 3, y, right - 6, bottom) for x, y, right, bottom in CELLS]
    )
    assert len(find_rows(segment(page), single=True)[0].digits) == 2


@pytest.mark.parametrize("dot", [True, False])
def test_a_0_stays_even_with_a_dot_in_it(dot):
    image = Image.fromarray(draw(size=(140, 140)))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 30, 100, 110), outline=30, width=6)
    if dot:
        pen.ellipse((66, 62, 74, 70), fill=30)
    assert segment(np.asarray(image)).pieces[0].box == (40, 30, 101, 111)


def test_a_table_with_a_narrow_cell():
    """Within the margin of its walls a cell of two columns has no pixels."""
    inked = np.zeros((60, 60), bool)
    inked[5:55, 5:55] = True
    inked[7:53, 7:35] = False
    inked[7:53, 37:39] = inked[7:53, 41:53] = False
    inked[15:45, 20:23] = True
    found = find_frames(inked)
    assert not found[15:45, 20:23].any()
    assert found[5:7, 5:55].all()
