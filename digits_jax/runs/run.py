"""A run as the statistics take it: from `read_run`, or made of any framework's arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.array_checks import check_logits
from digits_jax.errors import DataError
from digits_jax.formatting import html_table, percent, plain


@dataclass(frozen=True, eq=False)
class Run:
    """A run: its logits on the test set and on the validation split, which calibrates them.

    Attributes:
      name: what tables call it.
      labels: int [n].
      logits: float [n, classes].
      validation_labels, validation_logits: likewise, or None.
      results: what is known of it, as in ``results.json``.
      source: the folder or file that it comes from; by default the name.

    Raises:
      DataError: arrays that don't match, or aren't finite; the message names the source.
    """

    name: str
    labels: np.ndarray
    logits: np.ndarray
    validation_labels: np.ndarray | None = None
    validation_logits: np.ndarray | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        source = self.source or self.name
        labels, logits = check_logits(self.labels, self.logits, f"{source}: ")
        checked: dict[str, Any] = {"source": source, "labels": labels, "logits": logits}
        checked["name"] = plain(self.name)  # it may be a folder's
        if self.validation_labels is not None and self.validation_logits is not None:
            checked["validation_labels"], checked["validation_logits"] = check_logits(
                self.validation_labels, self.validation_logits, f"{source}: validation_"
            )
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        return f"Run({self.name}: {self._summary()})"

    def _repr_html_(self) -> str:
        known = {key: self.results[key] for key in ("arch", "dataset") if key in self.results}
        return html_table({"name": self.name, **known, "test": self._summary()}, "Run")

    def _summary(self) -> str:
        right = (self.logits.argmax(axis=1) == self.labels).mean()
        return f"{self.labels.size:,} images, {percent(right)} right"

    @property
    def path(self) -> Path:
        """The source, as a path."""
        return Path(self.source)

    @property
    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels and the logits of the validation split; a DataError without them."""
        if self.validation_labels is None or self.validation_logits is None:
            raise DataError(f"{self.source}: has no validation split; train it again")
        return self.validation_labels, self.validation_logits

    @property
    def kind(self) -> str:
        """The architecture, or the name of a run that doesn't say."""
        arch = str(self.results.get("arch") or "")
        return (arch.upper() if len(arch) <= 4 else arch) or self.name
