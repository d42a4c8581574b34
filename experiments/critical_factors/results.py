"""The tables on disk: CSV files that grow by whole lines, so that a study can go on."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from digits_jax.errors import ConfigError
from digits_jax.runs.folder import hold_folder, naming, read_json, write_json

FACTORS, ROBUSTNESS, SETTINGS = "factors.csv", "robustness.csv", "settings.json"


@dataclass(frozen=True)
class FactorRow:
    """What a training reached on the validation split.

    Attributes:
      arch, factor, level, seed: see `factors.Job`.
      baseline: 1 where the level changes nothing, else 0.
      recipe: the recipe's digest.
      correct, count: images recognised, and images there are.
      steps: of the training.
      seconds: of the training; its share of the time of those that ran at once.
    """

    arch: str
    factor: str
    level: str
    seed: int
    baseline: int
    recipe: str
    correct: int
    count: int
    steps: int
    seconds: float

    @property
    def key(self) -> tuple:
        """What a table has once."""
        return self.arch, self.factor, self.level, self.seed

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.count


@dataclass(frozen=True)
class RobustnessRow:
    """What a baseline model reached on changed test images.

    Attributes:
      arch, seed: the model's.
      corruption: the change, "none" for none.
      severity: how strong, from 1.
      recipe: the recipe's digest.
      correct, count: images recognised, and images there are.
    """

    arch: str
    corruption: str
    severity: int
    seed: int
    recipe: str
    correct: int
    count: int

    @property
    def key(self) -> tuple:
        """What a table has once."""
        return self.arch, self.corruption, self.severity, self.seed

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.count


Row = TypeVar("Row", FactorRow, RobustnessRow)


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a table; none where there is no table.

    A last line that was cut short is removed from the file.

    Raises:
      ConfigError: it is another table, or it is damaged.
    """
    if not path.exists():
        return []
    with naming(path):
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            with open(path, "r+b") as file:
                file.truncate(len(whole))
    lines = list(csv.reader(io.StringIO(whole.decode(errors="replace"))))
    names = [field.name for field in fields(kind)]
    if not lines:
        path.unlink()
        return []
    if lines[0] != names:
        raise ConfigError(f"{path} has columns {','.join(lines[0])[:60]}; {_elsewhere(path)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            values = [f.type(v) for f, v in zip(fields(kind), line, strict=True)]
        except ValueError:
            raise ConfigError(f"{path}: line {number} is damaged; {_elsewhere(path)}") from None
        rows.append(kind(*values))
    return rows


def _elsewhere(path):
    return f"delete {path.parent}, or give another folder with --output"


def append_rows(path: Path, rows: Sequence[FactorRow] | Sequence[RobustnessRow]) -> None:
    """Adds rows in one write, so that they are there or they aren't; a new table gets its head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow([field.name for field in fields(rows[0])])
    writer.writerows(astuple(row) for row in rows)
    with naming(path), open(path, "ab", buffering=0) as file:
        file.write(text.getvalue().encode())


@contextlib.contextmanager
def hold_output(output: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Keeps a folder of results to this process, and to one study's settings.

    Args:
      output: the folder, which is made.
      settings: what all its rows have in common.

    Raises:
      ConfigError: it can't be written, another process has it, or it has other settings.
    """
    with hold_folder(output):
        check_settings(output, settings)
        yield


def check_settings(output: Path, settings: dict[str, Any]) -> None:
    """Raises an DigitsError where a folder holds a study of other settings; else notes them."""
    path = output / SETTINGS
    if not path.exists():
        tables = [name for name in (FACTORS, ROBUSTNESS) if (output / name).exists()]
        if tables:
            raise ConfigError(
                f"{output} holds {tables[0]} but no {SETTINGS} that says of what; "
                f"{_elsewhere(path)}"
            )
        write_json(path, settings)
        return
    there = read_json(path)
    there = there if isinstance(there, dict) else {}
    for name, value in settings.items():
        if there.get(name) != value:
            raise ConfigError(
                f"{output} holds a study with {name} {there.get(name)}, and this one has {value}; "
                f"{_elsewhere(path)}"
            )


@contextlib.contextmanager
def noting_machine(output: Path, machine: str) -> Iterator[None]:
    """Notes the machine in the settings if what is done here adds rows: its seconds go by it.

    Args:
      output: the folder, held.
      machine: in words.
    """
    before = _sizes(output)
    try:
        yield
    finally:
        there = machines_of(output)
        if _sizes(output) != before and machine not in there:
            settings = read_json(output / SETTINGS)
            write_json(output / SETTINGS, {**settings, "machines": [*there, machine]})


def machines_of(output: Path) -> list[str]:
    """Those that added rows, in the order in which they first did; none of a study of before."""
    return read_json(output / SETTINGS).get("machines", [])


def _sizes(output):
    paths = [output / name for name in (FACTORS, ROBUSTNESS)]
    return [path.stat().st_size if path.exists() else 0 for path in paths]


def of_today(rows: Sequence[Any], recipes: dict[tuple, str]) -> list[Any]:
    """The rows of which today's study would train the same.

    Args:
      rows: that are there.
      recipes: key -> digest of the recipe.
    """
    return [row for row in rows if recipes.get(row.key) == row.recipe]


def check_recipes(rows: Sequence[Any], wanted: dict[tuple, str], path: Path) -> None:
    """Raises an DigitsError for a row whose recipe isn't what its level means today.

    Args:
      rows: that are there.
      wanted: key -> digest of the recipe.
      path: of the table.
    """
    for row in rows:
        if wanted.get(row.key, row.recipe) != row.recipe:
            name = " ".join(map(str, row.key))
            raise ConfigError(f"{path}: {name} was trained by another recipe; {_elsewhere(path)}")
