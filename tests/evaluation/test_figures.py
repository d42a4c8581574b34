"""Figures: every text is inside the page, areas are the numbers, titles say the finding."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle

from digits_jax.evaluation import class_accuracy, confusion, error_overlap, reliability
from digits_jax.evaluation.figures import report_pictures
from digits_jax.evaluation.matrices import confusions, overlap_matrix
from digits_jax.evaluation.pictures import Tile, error_tiles, image_sheet
from digits_jax.evaluation.plots import (
    _distance,
    _lens,
    accuracy_by_class,
    overlap_diagram,
    reliability_diagrams,
    repairs,
    seeds_spread,
)
from digits_jax.evaluation.style import DARK, LIGHT

LONG = "…xperiments/mlp-standard"  # as long as a name can get
DIGITS = [str(i) for i in range(10)]


def drawn_texts(figure, monkeypatch):
    """(text, its box on the page) of every text that is really drawn."""
    found, draw = [], mpl.text.Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent(renderer)))
        return draw(text, renderer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mpl.text.Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return found


def cut_off(texts, page):
    """Those that leave the page by more than a pixel."""
    return [
        text
        for text, box in texts
        if box.x0 < -1 or box.y0 < -1 or box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1
    ]


def overlapping(texts):
    """The pairs whose boxes share more than a pixel each way."""
    return [
        (one, two)
        for i, (one, a) in enumerate(texts)
        for two, b in texts[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


CASES = {
    "groups": {},
    "pair": {"seeds": 1},
    "long names": {"seeds": 2, "names": (LONG, LONG[::-1])},
    "A perfect": {"seeds": 1, "rates": (0.0, 0.05)},
    "both perfect": {"seeds": 1, "rates": (0.0, 0.0)},
    "many classes": {"seeds": 1, "classes": 26},
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_of_any_figure_is_cut_off_or_covered(case, comparison, monkeypatch):
    found = comparison(**CASES[case])
    images = np.random.default_rng(1).integers(0, 256, (400, 28, 28, 1), np.uint8)
    classes = [str(i) for i in range(found.num_classes)]
    drawn, _ = report_pictures(found, classes, images)
    for picture in drawn:
        figure = picture.draw(theme=LIGHT)
        texts = drawn_texts(figure, monkeypatch)
        assert texts, picture.name
        assert cut_off(texts, figure.bbox) == [], picture.name
        assert overlapping(texts) == [], picture.name


def test_figures_leave_the_settings_alone_and_follow_the_theme():
    before = dict(mpl.rcParams)
    overlap = error_overlap([0, 0, 0], [1, 0, 0], [0, 1, 0])
    for theme in (LIGHT, DARK):
        figure = overlap_diagram(overlap, "A", "B", theme=theme)
        assert mpl.colors.to_hex(figure.get_facecolor()) == theme.background
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("cells", [(50, 30, 20), (5, 0, 5), (10, 100, 1), (20, 20, 0)])
def test_areas_are_proportional(cells):
    only_a, only_b, both = cells
    total = max(only_a + both, only_b + both)
    r_a, r_b = np.sqrt((only_a + both) / total), np.sqrt((only_b + both) / total)
    apart = _distance(r_a, r_b, np.pi * both / total)
    if only_b == 0:
        assert apart <= r_a - r_b + 1e-9
    elif both == 0:
        assert apart > r_a + r_b
    else:
        # By Monte Carlo, not by the formula that found the distance.
        points = np.random.default_rng(0).uniform(-1, 3, (400_000, 2))
        inside = (np.hypot(*points.T) < r_a) & (np.hypot(points[:, 0] - apart, points[:, 1]) < r_b)
        assert inside.mean() * 16 == pytest.approx(np.pi * both / total, rel=0.04, abs=0.002)
        assert _lens(apart, r_a, r_b) == pytest.approx(np.pi * both / total)


def test_the_drawn_circles_are_the_errors():
    labels = np.zeros(100, int)
    a, b = np.repeat([1, 0], [16, 84]), np.repeat([1, 0], [4, 96])
    figure = overlap_diagram(error_overlap(labels, a, b), "A", "B")
    circles = [p for p in figure.axes[0].patches if isinstance(p, Circle)]
    assert circles[0].radius / circles[1].radius == pytest.approx(2)


def test_titles_say_what_was_found():
    better, worse = class_accuracy([0, 1], [0, 1]), class_accuracy([0, 1], [0, 0])
    names = ("A", "B")
    assert "No class differs" in accuracy_by_class(better, worse, names, "01").get_suptitle()
    labels = np.repeat([0, 1], 50)
    better, worse = class_accuracy(labels, labels), class_accuracy(labels, 0 * labels)
    title = accuracy_by_class(worse, better, names, "01").get_suptitle()
    assert " ".join(title.split()) == "B is clearly ahead on 1 of 2 classes (95% intervals apart)"
    tables = np.array([[5, 2], [1, 5]]), np.array([[7, 0], [1, 5]])
    assert "No confusion stands out" in confusions(*tables, names, "01", False).get_suptitle()
    assert "beats" in seeds_spread([0.9, 0.8], [0.95, 0.96], names, 50).get_suptitle()
    assert "overlap" in seeds_spread([0.9, 0.8], [0.85, 0.96], names, 50).get_suptitle()
    same = confusion([0, 1], [0, 0])
    assert "equally often" in confusions(same, same, names, "01").get_suptitle()
    assert repairs([], names, "01").get_suptitle() == "B gains on no confusion"
    sure = reliability([0, 1], [[9.0, 0.0], [9.0, 0.0]])
    shy = reliability([0, 0], [[0.1, 0.0], [0.1, 0.0]])
    title = reliability_diagrams((sure, shy), (None, None), names).get_suptitle()
    assert "A is over-confident" in title
    assert "B is under-confident" in title


def test_the_diagonal_is_left_out_of_the_confusions():
    figure = confusions(np.diag([90, 80]) + 1, np.diag([70, 60]) + 2, ("A", "B"), "01")
    shown = figure.axes[0].collections[0].get_array()
    assert shown.mask[0, 0]
    assert shown.max() == 1


def test_sheets_show_repaired_images_first_and_frame_them():
    labels = np.array([1, 2, 3, 4])
    tiles, count = error_tiles(labels, np.array([1, 0, 0, 0]), np.array([1, 7, 3, 4]), DIGITS)
    assert count == 3
    assert [t.index for t in tiles] == [2, 3, 1]
    assert [t.good for t in tiles] == [True, True, False]
    assert tiles[2].text == "2: 0 → 7 ✗"
    images = np.zeros((4, 28, 28, 1), np.uint8)
    figure = image_sheet(images, tiles, "three", ("right", "wrong"), theme=LIGHT)
    colours = [mpl.colors.to_hex(p.get_edgecolor()) for p in figure.axes[0].patches]
    assert colours == [LIGHT.right.lower(), LIGHT.right.lower(), LIGHT.wrong.lower()]


def test_a_long_sheet_draws_evenly_from_all_errors():
    labels = np.zeros(1000, int)
    tiles, count = error_tiles(labels, labels + 1, labels, DIGITS, most=10)
    assert count == 1000
    assert [t.index for t in tiles] == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_an_empty_sheet_says_none():
    figure = image_sheet(np.zeros((1, 28, 28, 1), np.uint8), [], "nothing", None)
    assert "none" in [t.get_text() for t in figure.axes[0].texts]
    assert Tile(0, "", None).good is None


def test_the_matrix_names_runs_by_their_seeds(comparison):
    found = comparison(seeds=2)
    test = found.overlap_of_runs["error_consistency"]
    figure = overlap_matrix(test, (2, 2), ("MLP", "CNN"), ([3, 7], [0, 1]))
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["MLP 3", "MLP 7", "CNN 0", "CNN 1"]


def test_the_overlap_title_has_the_interval():
    overlap = error_overlap([0, 0, 0], [1, 0, 0], [0, 1, 0])
    title = overlap_diagram(overlap, "A", "B", (0.2, 1.0)).get_suptitle()
    assert title == "B gets 100% [20%, 100%] of A's errors right"
