"""The rows of results, in CSV files that are replaced as a whole."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from digits_jax import ConfigError
from digits_jax.runs.folder import replace_files


@dataclass(frozen=True)
class Row:
    """How many images a network classifies correctly.

    Attributes:
      arch, seed: of the network.
      factor: a factor, or a corruption of the test images.
      level: of the factor; or the severity.
      correct, count: images classified correctly, and all of them.
      seconds: of the training; its share, where several networks were trained side by side.
      device: that trained.
    """

    arch: str
    factor: str
    level: str
    seed: int
    correct: int
    count: int
    seconds: float
    device: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a table has once."""
        return self.arch, self.factor, self.level, self.seed

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * self.correct / self.count


def read_rows(path: Path) -> dict[tuple, Row]:
    """Reads a table, by the rows' keys; one that isn't there has no rows.

    Raises:
      ConfigError: it isn't such a table.
    """
    if not path.exists():
        return {}
    try:
        head, *lines = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
        if head != [field.name for field in fields(Row)]:
            raise ValueError("other columns")
        rows = [
            Row(arch, factor, level, int(seed), int(correct), int(count), float(seconds), device)
            for arch, factor, level, seed, correct, count, seconds, device in lines
        ]
    except ValueError as error:
        raise ConfigError(
            f"{path}: not a table of this study ({error}); delete it, or give another --output"
        ) from None
    return {row.key: row for row in rows}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table; the old one stays until the new one is complete."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows(astuple(row) for row in rows)
    replace_files({path: text.getvalue().encode()})
