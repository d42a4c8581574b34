"""Which figures a comparison has, in reading order, with their captions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from digits_jax.evaluation import matrices, pictures, plots
from digits_jax.evaluation.comparison import Comparison, RunCalibration, pooled_reliability
from digits_jax.evaluation.metrics import class_accuracy, confusion
from digits_jax.evaluation.repairs import plurality
from digits_jax.evaluation.summary import ALPHA


@dataclass(frozen=True)
class Picture:
    """One figure of the report: draw(theme=...) gives it; it is saved as `name`.png."""

    name: str
    caption: str
    draw: Callable
    wide: bool = False


def report_pictures(found: Comparison, classes, images=None) -> tuple[list[Picture], list[str]]:
    """The figures that this comparison can have.

    Args:
      found: of `compare`.
      classes: the classes' names, short enough for an axis.
      images: uint8 [n, height, width, 1], the test set, or None.

    Returns:
      (pictures, and a sentence for each one that is left out and why).
    """
    names = (found.a.name, found.b.name)
    sure = found.overlap.mcnemar_p <= ALPHA
    # In pairs, for a page of two columns: the two sheets of errors stand side by side.
    made, left_out = [_overlap(found, names), _seeds(found, names)], []
    if images is None:
        left_out.append("the misclassified images: no data set was named, so there are none")
    else:
        made += _sheets(found, names, classes, images)
    made += [_classes(found, names, classes), _confusions(found, names, classes, sure)]
    if found.by_confusion:
        caption = "The confusions with the largest gains, and below the line the largest losses; "
        caption += "those that gain as many as they lose are left out."
        draw = partial(plots.repairs, found.by_confusion, names, classes, sure)
        made.append(Picture("repairs", caption, draw))
    else:
        left_out.append("repairs by confusion: neither makes an error")
    if found.overlap_of_runs:
        test = found.overlap_of_runs["error_consistency"]
        counts = (len(found.a.runs), len(found.b.runs))
        caption = "Each square: how alike two runs fail, corrected for their accuracies. The "
        caption += f"runs of {names[0]} (A) come first, then those of {names[1]} (B). The "
        caption += "permutation test deals the names of the groups to the runs in every way."
        draw = partial(matrices.overlap_matrix, test, counts, names, _seed_numbers(found))
        made.append(Picture("overlap_matrix", caption, draw))
    else:
        left_out.append(f"the overlap of any two runs: {found.overlap_of_runs_reason}")
    made.append(_reliability(found, names))
    return made, left_out


def _overlap(found: Comparison, names) -> Picture:
    caption = "Areas are proportional to numbers of images"
    caption += ", means over all pairs of runs." if found.groups else "."
    draw = partial(plots.overlap_diagram, found.overlap, *names, found.interval("repair_rate"))
    return Picture("overlap", caption, draw)


def _sheets(found: Comparison, names, classes, images) -> list[Picture]:
    answers = [plurality(g.predictions, found.num_classes)[0] for g in (found.a, found.b)]
    voted = ""
    if found.groups:
        voted = " A group's answer here is its most frequent one, so the counts differ from the "
        voted += "headline's, which are means over runs."
    made = []
    for side, (own, other) in enumerate(((0, 1), (1, 0))):
        tiles, count = pictures.error_tiles(found.labels, answers[own], answers[other], classes)
        wrong, fixer = names[own], names[other]
        fixed = int(((answers[own] != found.labels) & (answers[other] == found.labels)).sum())
        title = f"{fixer} gets {fixed} of the {count} images right that {wrong} gets wrong"
        if count == 1:
            same = "right" if fixed else "wrong too"
            title = f"{wrong} gets 1 image wrong, {fixer} gets it {same}"
        if not count:
            title = f"{wrong} gets no image wrong"
        shown = "All of them" if len(tiles) == count else f"{len(tiles)} of them, evenly drawn"
        caption = f"{shown}. Below each image: its label: {wrong}'s answer → {fixer}'s.{voted}"
        frames = (f"{fixer} is right", f"{fixer} is wrong too")
        draw = partial(pictures.image_sheet, images, tiles, title, frames)
        made.append(Picture(f"errors_{'ab'[side]}", caption, draw))
    made.append(_hardest(found, classes, images))
    return made


def _hardest(found: Comparison, classes, images) -> Picture:
    shown = found.hardest[:30]
    tiles = [
        pictures.Tile(
            image.index,
            f"{classes[image.label]} → {classes[image.wrong_label]} {image.confidence:.0%}",
            False if image.known else None,
        )
        for image in shown
    ]
    title = f"{len(found.hardest)} images are wrong in every run: is it the label?"
    if len(shown) == 1:
        title = "1 image is wrong in every run: is it the label?"
    if not shown:
        title = "No image is wrong in every run"
    caption = "By mean confidence in the wrong answer. Below each image: its label → the answer "
    caption += "and that confidence."
    frames = None
    if any(image.known for image in shown):
        frames = (None, "published as a doubtful label")
    return Picture("hardest", caption, partial(pictures.image_sheet, images, tiles, title, frames))


def _seeds(found: Comparison, names) -> Picture:
    values = found.accuracies("a"), found.accuracies("b")
    draw = partial(plots.seeds_spread, *values, names, found.labels.size)
    return Picture("seeds", "Each point is one run, scored on the whole test set.", draw)


def _classes(found: Comparison, names, classes) -> Picture:
    scores = [
        class_accuracy(found.labels, group.predictions, found.num_classes)
        for group in (found.a, found.b)
    ]
    caption = "Intervals are over the images of the class; the largest gain is on top."
    return Picture("classes", caption, partial(plots.accuracy_by_class, *scores, names, classes))


def _confusions(found: Comparison, names, classes, sure: bool) -> Picture:
    tables = [
        confusion(found.labels, group.predictions, found.num_classes)
        for group in (found.a, found.b)
    ]
    caption = "Errors only, the diagonal is left grey"
    caption += "; means over the runs of each group." if found.groups else "."
    draw = partial(matrices.confusions, *tables, names, classes, sure)
    return Picture("confusion", caption, draw, wide=True)


def _reliability(found: Comparison, names) -> Picture:
    before, after = [], []
    for group, made in ((found.a, found.calibration_a), (found.b, found.calibration_b)):
        before.append(pooled_reliability(found.labels, group.runs))
        temperatures = _temperatures(made)
        after.append(
            pooled_reliability(found.labels, group.runs, temperatures) if temperatures else None
        )
    caption = "On the dotted line confidence can be believed. Bars: 95% intervals, Wilson. "
    caption += "Below: how many answers have that confidence, as trained; note the log scale."
    caption += f" Bins of fewer than {plots.FEWEST} answers have no point. Under-confident: more "
    caption += "is right than the confidence says, often from label smoothing in training."
    if found.groups:
        caption += " All runs of a group are pooled."
    draw = partial(plots.reliability_diagrams, tuple(before), tuple(after), names)
    return Picture("reliability", caption, draw)


def _seed_numbers(found: Comparison) -> tuple[list[int], list[int]] | None:
    """The runs' own seeds, where all are known and tell the runs of a group apart."""
    seeds = tuple([run.seed for run in group.runs] for group in (found.a, found.b))
    if any(None in own or len(set(own)) < len(own) for own in seeds):
        return None
    return seeds


def _temperatures(runs: list[RunCalibration]) -> list[float] | None:
    if any(run.after is None for run in runs):
        return None
    return [float(np.asarray(run.temperature.temperature)) for run in runs]
