"""The digits of a picture, by one or several networks: plain values, as programs print them.

One digit is {"digit", "probability", "runner_up", "runner_up_probability", "sure"}; on a blank
picture, "digit" is None. "digit" is a number where the class's name is one, "sure" is whether
the network is confident of it, and "found" is how many digits seem to be on the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import softmax

from digits_jax.deploy.predictor import Predictions, Predictor
from digits_jax.vision.segment import (
    Glyph,
    find_digit,
    find_rows,
    read_line,
    read_page,
    segment,
)

Mode = Literal["digit", "line", "page"]
_FIELDS = ("digit", "probability", "runner_up", "runner_up_probability", "sure")


@dataclass(frozen=True, eq=False)
class Reading:
    """The digits of one picture.

    Attributes:
      grey: uint8 [height, width], the picture.
      lines: the digits found, line by line.
      predictions: of each network, for the digits of each line.
      rows: for each network, what programs print: JSON values.
    """

    grey: np.ndarray
    lines: list[list[Glyph]]
    predictions: list[list[Predictions]]
    rows: list[dict[str, Any]]


def read_picture(grey: np.ndarray, predictors: Sequence[Predictor], mode: Mode) -> Reading:
    """Reads one digit somewhere on a picture, uint8 [height, width], or a line or page of them.

    The first of the predictors also divides lines into digits.
    """

    def score(images: np.ndarray) -> np.ndarray:  # not calibrated: see `Score`
        return softmax(predictors[0].predict(images).logits, -1)

    found = segment(grey)
    if mode == "page":
        lines = read_page(found, score)
    elif mode == "line":
        lines = [read_line(found, score)] if found.pieces else []
    else:
        digit = find_digit(found)
        lines = [[digit]] if digit else []
    images = [np.stack([glyph.image for glyph in line]) for line in lines]
    predictions = [[predictor.predict(each) for each in images] for predictor in predictors]
    count = sum(map(len, find_rows(found))) if mode == "digit" else 0
    rows = []
    for of_one in predictions:
        read = [_line(line, each) for line, each in zip(lines, of_one, strict=True)]
        if mode == "page":
            rows.append({"text": "\n".join(line["text"] for line in read), "lines": read})
        elif mode == "line":
            rows.append(read[0] if read else {"text": "", "probability": None, "digits": []})
        else:
            one = read[0]["digits"][0] if read else {}
            rows.append({**{name: one.get(name) for name in _FIELDS}, "found": count})
    return Reading(grey, lines, predictions, rows)


def _line(glyphs: list[Glyph], predictions: Predictions) -> dict[str, Any]:
    names = [int(name) if name in tuple("0123456789") else name for name in predictions.class_names]
    digits = [
        {
            "digit": names[predictions.labels[i]],
            "probability": round(float(predictions.confidence[i]), 6),
            "runner_up": names[predictions.runners_up[i]],
            "runner_up_probability": round(float(predictions.runner_up_confidence[i]), 6),
            "sure": bool(predictions.confident[i]),
            "box": list(glyph.box),
        }
        for i, glyph in enumerate(glyphs)
    ]
    return {
        "text": "".join(str(digit["digit"]) for digit in digits),
        # That all are right, if the digits are independent.
        "probability": round(float(np.prod(predictions.confidence)), 6),
        "digits": digits,
    }


def show_probability(probability: float) -> str:
    """Formats a probability for a person, without certainty that the network hasn't.

    Example:
      >>> show_probability(0.9996), show_probability(0.5), show_probability(0.0001)
      ('>99.9%', '50.0%', '<0.1%')
    """
    if probability > 0.999:
        return ">99.9%"
    return "<0.1%" if probability < 0.001 else f"{probability:.1%}"
