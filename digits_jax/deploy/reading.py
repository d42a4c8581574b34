"""The digits of a picture, by one or several networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import softmax

from digits_jax.deploy.predictions import Digit, Line, Predictions
from digits_jax.deploy.rejection import digit_probability, load_rejector
from digits_jax.vision.segment import (
    Glyph,
    Row,
    find_digit,
    find_rows,
    read_line,
    read_page,
    segment,
)

Mode = Literal["digit", "line", "page"]
Predict = Callable[[np.ndarray], Predictions]  # of a network: images uint8 [n, 28, 28]


@dataclass(frozen=True, eq=False)
class Reading:
    """The digits of one picture.

    Attributes:
      grey: uint8 [height, width], the picture.
      answers: of each network, the lines of digits.
      found: how many digits seem to be on the picture, where one is read.
      too_small: how many marks were too small to be digits.
    """

    grey: np.ndarray
    answers: list[list[Line]]
    found: int
    too_small: int


def read_picture(grey: np.ndarray, predict: Sequence[Predict], mode: Mode) -> Reading:
    """Reads one digit somewhere on a picture, uint8 [height, width], or a line or page of them.

    The first of the networks also divides lines into digits. What doesn't look like one digit isn't
    answered with confidence, nor is one digit of a picture that seems to hold several.
    """

    def score(images: np.ndarray) -> np.ndarray:  # not calibrated: see `Score`
        found = predict[0](images)
        return softmax(found.logits, -1) * _digit_probability(images, found)[:, None]

    found = segment(grey, page=mode == "page")
    if mode == "page":
        lines = read_page(found, score)
    elif mode == "line":
        lines = read_line(found, score)
    else:
        digit = find_digit(found)
        lines = [Row([digit], [])] if digit else []
    count = sum(len(row.digits) for row in find_rows(found)) if mode == "digit" else 0
    answers = [[_line(line, each, alone=count < 2) for line in lines] for each in predict]
    return Reading(grey, answers, count, found.too_small)


def _line(row: Row[Glyph], predict: Predict, alone: bool) -> Line:
    images = np.stack([glyph.image for glyph in row.digits])
    found = predict(images)
    confident = found.confident & (_digit_probability(images, found) >= load_rejector().threshold)
    digits = [
        Digit(
            name=name,
            probability=float(found.confidence[i]),
            runner_up=found.class_names[found.runners_up[i]],
            runner_up_probability=float(found.runner_up_confidence[i]),
            confident=alone and bool(confident[i]),
            box=glyph.box,
            image=glyph.image,
        )
        for i, (name, glyph) in enumerate(zip(found.names, row.digits, strict=True))
    ]
    return Line(tuple(digits), tuple(row.marks))


def _digit_probability(images: np.ndarray, found: Predictions) -> np.ndarray:
    """That each image is of one digit; 1 where the network may know something else."""
    return digit_probability(images) if found.of_digits else np.ones(len(images))
