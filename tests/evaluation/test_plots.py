"""Figures: every text is inside the page, areas are the numbers, titles state the finding."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Circle

from digits_jax import figure_style
from digits_jax.evaluation import Run, compare, plots
from digits_jax.training.curves import draw_curves

LONG = "…xperiments/mlp-standard"  # as long as a name can get
DIGITS = [str(i) for i in range(10)]


def pair(labels, answers_a, answers_b, names=("A", "B"), scale=9.0):
    """A comparison of two runs with these answers."""
    classes = max(2, *(int(np.max(array)) + 1 for array in (labels, answers_a, answers_b)))
    runs = [
        Run(name, np.array(labels), scale * np.eye(classes)[np.array(answers)])
        for name, answers in zip(names, (answers_a, answers_b), strict=True)
    ]
    return compare(runs[:1], runs[1:], resamples=100)


def title(figure):
    return " ".join(figure.get_suptitle().split())


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
    "groups with long names": {"seeds": 2, "names": (LONG, LONG[::-1])},
    "A perfect, many classes": {"seeds": 1, "rates": (0.0, 0.05), "classes": 26},
    "both perfect": {"seeds": 1, "rates": (0.0, 0.0)},
}
# The overlap of two runs of one kind; gains; three sheets of the images, if they aren't given.
FIGURES = {"groups with long names": 10, "A perfect, many classes": 9, "both perfect": 5}


@pytest.mark.parametrize("case", CASES)
def test_no_text_of_any_figure_is_cut_off_or_covered(case, comparison, monkeypatch):
    before = dict(mpl.rcParams)
    found = comparison(**CASES[case])
    images = np.random.default_rng(1).integers(0, 256, (400, 28, 28, 1), np.uint8)
    images = None if case == "both perfect" else images
    draw = plots.comparison_figures(found, images)
    figures = {name: each() for name, each in draw.items()}
    assert len(figures) == FIGURES[case]
    for name, figure in figures.items():
        texts = drawn_texts(figure, monkeypatch)
        assert texts, name
        assert cut_off(texts, figure.bbox) == [], name
        assert overlapping(texts) == [], name
    assert dict(mpl.rcParams) == before
    assert figures["confusion"].axes[0].images[0].get_array().mask.diagonal().all()
    if found.grouped:
        shown = [label.get_text() for label in figures["overlap_matrix"].axes[0].get_yticklabels()]
        assert shown == ["A 0", "A 1", "B 0", "B 1"]
        assert "more accurate than every run" in title(figures["seeds"])


@pytest.mark.parametrize(
    ("only_a", "only_b", "both"), [(50, 30, 20), (5, 0, 5), (10, 100, 1), (20, 20, 0)]
)
def test_the_common_area_of_the_circles_is_the_common_errors(only_a, only_b, both):
    total = max(only_a + both, only_b + both)
    r_a, r_b = np.sqrt((only_a + both) / total), np.sqrt((only_b + both) / total)
    apart = plots.circle_distance(r_a, r_b, np.pi * both / total)
    if only_b == 0:
        assert apart <= r_a - r_b + 1e-9
    elif both == 0:
        assert apart > r_a + r_b
    else:
        # By Monte Carlo, not by the formula that found the distance.
        points = np.random.default_rng(0).uniform(-1, 3, (400_000, 2))
        inside = (np.hypot(*points.T) < r_a) & (np.hypot(points[:, 0] - apart, points[:, 1]) < r_b)
        assert inside.mean() * 16 == pytest.approx(np.pi * both / total, rel=0.04, abs=0.002)


def test_the_circles_are_the_errors():
    found = pair(np.zeros(100, int), [1] * 16 + [0] * 84, [1] * 4 + [0] * 96)
    figure = plots.overlap_circles(found)
    circles = [p for p in figure.axes[0].patches if isinstance(p, Circle)]
    assert circles[0].radius / circles[1].radius == pytest.approx(2)
    low, high = found.interval("repair_rate")
    assert title(figure) == f"B gets 75% [{low:.0%}, {high:.0%}] of A's errors right"


def test_titles_state_the_finding():
    labels = np.repeat([0, 1], 50)
    same, better = pair(labels, 0 * labels, 0 * labels), pair(labels, 0 * labels, labels)
    few = pair(labels[48:52], [0, 0, 0, 0], [0, 0, 1, 1])
    draw = plots.class_accuracies
    assert title(draw(same)).startswith("No class differs clearly")
    assert title(draw(better)).startswith("B is clearly ahead on 1 of 2 classes")
    draw = plots.confusion_gains
    assert title(draw(same)) == "B gains on no confusion"
    assert title(draw(few)) == "No confusion stands out between A and B"
    assert title(draw(better)) == ("B gains most where 1 is classified as 0: 50 images fewer, net")
    shy = pair(labels, 0 * labels, labels, scale=0.1)
    assert "A is over-confident" in title(plots.reliability_diagrams(same))
    assert "B is under-confident" in title(plots.reliability_diagrams(shy))


def test_sheets_show_repaired_images_first_and_frame_them():
    labels, answers, others = (np.array(x) for x in ([1, 2, 3, 4], [1, 0, 0, 0], [1, 7, 3, 4]))
    tiles = plots.error_tiles(labels, answers, others, DIGITS)
    assert [(tile.index, tile.good) for tile in tiles] == [(2, True), (3, True), (1, False)]
    assert tiles[2].text == "2: 0 → 7 ✗"
    images = np.zeros((4, 28, 28, 1), np.uint8)
    figure = plots.error_sheet(pair(labels, answers, others), images, 0)
    assert title(figure) == "B gets 2 of the 3 images right that A gets wrong"
    colors = [mpl.colors.to_hex(p.get_edgecolor()) for p in figure.axes[0].patches]
    assert colors == [
        figure_style.GREEN.lower(),
        figure_style.GREEN.lower(),
        figure_style.PINK.lower(),
    ]


def test_a_long_sheet_draws_evenly_from_all_errors():
    labels = np.zeros(1000, int)
    places = [tile.index for tile in plots.error_tiles(labels, labels + 1, labels, DIGITS)]
    assert (places[0], places[-1], len(places)) == (0, 999, 60)
    assert set(np.diff(places)) == {16, 17}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("accuracy", [0.99, 1.0])
def test_curves_of_a_training(accuracy, tmp_path):
    losses = {"train_loss": 0.3, "validation_loss": 0.2}
    scores = {"train_accuracy": accuracy, "validation_accuracy": 0.95}
    rows = [{"epoch": epoch, **losses, **scores} for epoch in (1, 2)]
    figure_style.save_figure(draw_curves(rows, "mlp on 数字"), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
