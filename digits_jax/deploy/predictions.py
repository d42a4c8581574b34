"""What a network predicts: for images, for a digit of a picture, for a line of digits."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from digits_jax.formatting import html_table, plural
from digits_jax.vision.marks import Mark
from digits_jax.vision.touching import Box


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network predicts for some images.

    Attributes:
      class_names: a name for each label.
      logits: float32 [n, classes].
      probabilities: float32 [n, classes].
      threshold: the least probability of a confident prediction.
      of_digits: whether the network was trained on digits, see `rejection.knows_digits`.

    Examples:
      >>> found = Predictions(("0", "1", "2"), np.log([[0.2, 0.7, 0.1]]),
      ...                     np.array([[0.2, 0.7, 0.1]]), threshold=0.5)
      >>> found.labels.tolist(), found.confidence.tolist(), found.names
      ([1], [0.7], ['1'])
      >>> found.runners_up.tolist(), found.confident.tolist()
      ([0], [True])
    """

    class_names: tuple[str, ...]
    logits: np.ndarray
    probabilities: np.ndarray
    threshold: float
    of_digits: bool = False

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        pairs = zip(self.names[:5], self.confidence[:5], strict=True)
        shown = ", ".join(f"{name} ({p:.1%})" for name, p in pairs)
        more = ", ..." if len(self) > 5 else ""
        return f"Predictions({plural(len(self), 'image')}: {shown}{more})"

    def _repr_html_(self) -> str:
        rows = zip(self.names[:20], self.confidence, self.confident, strict=False)
        facts = {
            f"image {i}": f"{name}, {p:.1%}{'' if confident else ', not confident'}"
            for i, (name, p, confident) in enumerate(rows)
        }
        more = {"...": f"{len(self) - 20:,} more"} if len(self) > 20 else {}
        return html_table(facts | more, f"Predictions of {plural(len(self), 'image')}")

    @cached_property
    def _order(self) -> np.ndarray:
        """Classes by descending probability: int32 [n, classes]."""
        return np.argsort(-self.probabilities, -1, kind="stable").astype(np.int32)

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each image: int32 [n]."""
        return self._order[:, 0]

    @property
    def runners_up(self) -> np.ndarray:
        """The second most probable class of each image: int32 [n]."""
        return self._order[:, 1]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of each label: [n]."""
        return self.probabilities[np.arange(len(self)), self.labels]

    @property
    def runner_up_confidence(self) -> np.ndarray:
        """The probability of each runner-up: [n]."""
        return self.probabilities[np.arange(len(self)), self.runners_up]

    @property
    def confident(self) -> np.ndarray:
        """Whether the probability of the label reaches the threshold: bool [n]."""
        return self.confidence >= self.threshold

    @property
    def names(self) -> list[str]:
        """The name of each label."""
        return [self.class_names[label] for label in self.labels]


@dataclass(frozen=True, eq=False)
class Digit:
    """What a network predicts for one digit of a picture.

    Attributes:
      name: of the most probable class.
      probability: of that class.
      runner_up, runner_up_probability: of the second most probable class.
      confident: whether the probability reaches the network's threshold, the ink looks like one
        digit, and the picture holds no others where one is read.
      box: (left, top, right, bottom) in pixels of the picture.
      image: uint8 [28, 28], the network's input: 0 the paper and 255 the ink.
    """

    name: str
    probability: float
    runner_up: str
    runner_up_probability: float
    confident: bool
    box: Box
    image: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        text = f"{self.name}  {show_probability(self.probability)}, then {self.runner_up} "
        text += show_probability(self.runner_up_probability)
        return text if self.confident else f"{text}; not confident"

    def as_json(self) -> dict[str, Any]:
        """Returns JSON values; a name that is a number becomes one."""
        return {
            "digit": _number(self.name),
            "probability": round(self.probability, 6),
            "runner_up": _number(self.runner_up),
            "runner_up_probability": round(self.runner_up_probability, 6),
            "sure": self.confident,
            "box": list(self.box),
        }


@dataclass(frozen=True, eq=False)
class Line:
    """The digits of a line, from left to right, and the marks between them that are none."""

    digits: tuple[Digit, ...]
    marks: tuple[Mark, ...] = ()

    @property
    def text(self) -> str:
        """The digits' names."""
        return "".join(digit.name for digit in self.digits)

    @property
    def probability(self) -> float:
        """That all are right, if the digits are independent."""
        return math.prod(digit.probability for digit in self.digits)

    def __repr__(self) -> str:
        return f"Line({self.text!r}, probability={self.probability:.4g})"

    def __str__(self) -> str:
        doubtful = [str(i) for i, digit in enumerate(self.digits, 1) if not digit.confident]
        note = f"; not confident of number {', '.join(doubtful)}" if doubtful else ""
        each = " ".join(show_probability(digit.probability) for digit in self.digits)
        kinds = ", ".join(mark.kind for mark in self.marks)
        return f"{self.text}  ({each}{note}{f'; left out: {kinds}' if kinds else ''})"

    def as_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {
            "text": self.text,
            "probability": round(self.probability, 6),
            "digits": [digit.as_json() for digit in self.digits],
            "marks": [{"kind": mark.kind, "box": list(mark.box)} for mark in self.marks],
        }


def _number(name: str) -> int | str:
    return int(name) if name in tuple("0123456789") else name


def show_probability(probability: float) -> str:
    """Formats a probability for a person, without certainty that the network hasn't.

    Examples:
      >>> show_probability(0.9996), show_probability(0.5), show_probability(0.0001)
      ('>99.9%', '50.0%', '<0.1%')
    """
    if probability > 0.999:
        return ">99.9%"
    return "<0.1%" if probability < 0.001 else f"{probability:.1%}"
