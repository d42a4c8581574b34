"""Anybody's pictures -> what is written there: plain values, as programs print them.

An answer is {"digit", "probability", "runner_up", "runner_up_probability", "sure"}; where nothing
is written, "digit" is None. A digit is a number where the class's name is one. "found" is how many
digits seem to be on a picture that was read for one.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.special import softmax

from digits_jax.deploy.predictor import Predictions, Predictor
from digits_jax.errors import DataError, DigitsError
from digits_jax.vision.decode import MAX_BYTES, decode_image
from digits_jax.vision.digit import read_digit
from digits_jax.vision.segment import Glyph, find_lines, read_line, read_page

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MODES = ("digit", "line", "page")
NOTHING = {
    "digit": None,
    "probability": None,
    "runner_up": None,
    "runner_up_probability": None,
    "sure": None,
    "found": 0,
}


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read in one picture.

    Attributes:
      grey: uint8 [height, width], the picture; None where it can't be read.
      lines: the digits found, line by line: (glyphs, answers of each model to them).
      rows: for each model, what programs print: JSON values.
      error: why the picture can't be read; empty where it can.
    """

    grey: np.ndarray | None
    lines: list[tuple[list[Glyph], list[Predictions]]]
    rows: list[dict[str, Any]]
    error: str = ""


def percent(share: float) -> str:
    """A probability for a person, who mustn't read certainty where there is none.

    Example:
      >>> percent(0.9996), percent(0.5), percent(0.0001)
      ('>99.9%', '50.0%', '<0.1%')
    """
    if share > 0.999:
        return ">99.9%"
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def find_files(names: Iterable[str]) -> Iterator[str]:
    """The files that a command line names: folders are opened, one level deep.

    Hidden files in folders are left out; any other is the caller's to read, or to say why not. So
    is a folder that is empty, or can't be listed.
    """
    for name in names:
        path = Path(name)
        if name == "-" or not path.is_dir():
            yield name
            continue
        inside = []
        with contextlib.suppress(OSError):
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
        yield from map(str, inside or [name])


def read_bytes(name: str, stdin: BinaryIO) -> bytes:
    """A file's bytes, or those of standard input for "-"; no more than are decoded.

    Raises:
      DataError: it can't be read.
    """
    try:
        if name == "-":
            return stdin.read(MAX_BYTES + 1)
        if Path(name).is_dir():
            raise DataError(f"{name}: the folder holds no file that can be listed")
        with open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except DigitsError:
        raise
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise DataError(f"{name}: can't be read ({getattr(error, 'strerror', error)})") from None


def read_picture(data: bytes, name: str, predictors: list[Predictor], mode: str) -> Reading:
    """What is written in a picture.

    Args:
      data: the bytes of a picture file.
      name: for messages.
      predictors: one or several models; the first one also divides lines into digits.
      mode: "digit" (one, somewhere on it), "line" or "page".

    Returns:
      The reading; one with an error where the picture can't be read.
    """
    try:
        grey = decode_image(data, name)
    except DigitsError as error:
        return Reading(None, [], [{"error": str(error)} for _ in predictors], str(error))
    if mode == "digit":
        image = read_digit(grey)
        height, width = grey.shape
        found = [] if image is None else [[Glyph(image, (0, 0, width, height))]]
        count = sum(map(len, find_lines(grey))) if found else 0
    else:

        def score(images):  # not its probabilities: see digits_jax.vision.segment
            return softmax(predictors[0].predict(images).logits, -1)

        found = [read_line(grey, score)] if mode == "line" else read_page(grey, score)
        found = [glyphs for glyphs in found if glyphs]
    lines = []
    for glyphs in found:
        images = np.stack([glyph.image for glyph in glyphs])
        lines.append((glyphs, [predictor.predict(images) for predictor in predictors]))
    rows = [_row(lines, i, mode) for i in range(len(predictors))]
    if mode == "digit":
        rows = [{**row, "found": count} for row in rows]
    return Reading(grey, lines, rows)


def _row(lines, model, mode):
    """What one model read, as JSON values."""
    read = [_line(glyphs, answers[model]) for glyphs, answers in lines]
    if mode == "digit":
        if not read:
            return dict(NOTHING)
        return {k: v for k, v in read[0]["digits"][0].items() if k != "box"}
    if mode == "line":
        return read[0] if read else {"text": "", "probability": None, "digits": []}
    return {"text": "\n".join(line["text"] for line in read), "lines": read}


def _line(glyphs, answers):
    names = [_plain(name) for name in answers.class_names]
    columns = (
        answers.labels,
        answers.confidence,
        answers.runners_up,
        answers.runner_up_confidence,
        answers.sure,
    )
    digits = [
        {
            "digit": names[label],
            "probability": round(float(probability), 6),
            "runner_up": names[second],
            "runner_up_probability": round(float(second_probability), 6),
            "sure": bool(sure),
            "box": [int(edge) for edge in glyph.box],
        }
        for glyph, label, probability, second, second_probability, sure in zip(
            glyphs, *columns, strict=True
        )
    ]
    return {
        "text": "".join(str(digit["digit"]) for digit in digits),
        # That all are right, if the digits are independent.
        "probability": round(float(np.prod(answers.confidence)), 6),
        "digits": digits,
    }


def _plain(name):
    return int(name) if name.isascii() and name.isdecimal() and len(name) == 1 else name
