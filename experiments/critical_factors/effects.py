"""The rows of results, the effects of levels with intervals over seeds, and factors ranked by them.

The effect of a level is the mean over seeds of its accuracy minus that of the baseline with the
same seed (the same initial parameters, where the sizes agree, and the same order of the same
images), in percentage points.
"""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from scipy.special import stdtrit

from digits_jax import ConfigError
from digits_jax.formatting import fixed, interval
from digits_jax.runs.folder import replace_files
from experiments.critical_factors.factors import Factors, Settings, is_baseline


@dataclass(frozen=True)
class Row:
    """How many images a network classifies correctly.

    Attributes:
      factor: a factor, or a corruption of the test images.
      level: of the factor; or the severity.
      seconds: of the training; its share, where several networks were trained side by side.
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
    """Reads a CSV table of rows, by their keys; one that isn't there has no rows."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            kinds = {field.name: field.type for field in fields(Row)}
            rows = [
                Row(**{name: kinds[name](value) for name, value in line.items()})  # type: ignore[operator]
                for line in csv.DictReader(file, strict=True)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a table of this study ({error!r}); delete it, or give another --output"
        ) from None
    return {row.key: row for row in rows}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table; the old one stays until the new one is complete."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_files({path: text.getvalue().encode()})


def by_level(rows: Iterable[Row]) -> dict[tuple[str, str, str], dict[int, Row]]:
    """Groups rows by (arch, factor, level), and in each by seed."""
    table = defaultdict(dict)
    for row in rows:
        table[row.key[:3]][row.seed] = row
    return table


@dataclass(frozen=True)
class Effect:
    """What a level changes against the baseline: percentage points, with the ends of an interval.

    Example:
      >>> str(Effect("mlp", "width", "8", "8", -1.0, -1.25, -0.75))
      '**−1.00** [−1.25, −0.75]'
    """

    arch: str
    factor: str
    level: str
    group: str  # levels of which the best counts in the ranking: an optimizer's
    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        bold = "**" if self.is_significant else ""
        return f"{bold}{points(self.mean)}{bold} {interval((self.low, self.high), points)}"


def points(value: float, digits: int = 2) -> str:
    """Formats percentage points, with a sign."""
    return fixed(value, digits, "+") if math.isfinite(value) else f"{value:+}"


def mean_interval(
    values: Sequence[float], least_deviation: float = 0.0
) -> tuple[float, float, float]:
    r"""Computes a mean and Student's 95% interval: :math:`\bar d \pm t_{n-1}\, s / \sqrt n`.

    Args:
      values: one of each seed.
      least_deviation: a lower bound of the standard deviation. Counts are whole numbers: three
        seeds that happen to agree to the image don't prove that all would.

    Returns:
      (mean, low, high); of a single value the interval is infinite.

    Example:
      >>> [round(v, 2) for v in mean_interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    deviation = max(statistics.stdev(values), least_deviation)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def find_effects(
    factors: Factors, baselines: Mapping[str, Settings], rows: Iterable[Row]
) -> list[Effect]:
    """Computes the effect of every level that has rows but the baseline's."""
    table = by_level(rows)
    found = []
    for factor, archs in factors.items():
        for arch, levels in archs.items():
            own = {label: table.get((arch, factor, label), {}) for label in levels}
            base = next(own[k] for k, v in levels.items() if is_baseline(v, baselines[arch]))
            for label, runs in own.items():
                seeds = sorted(runs.keys() & base.keys())
                if not seeds or runs is base:
                    continue
                changes = [runs[seed].accuracy - base[seed].accuracy for seed in seeds]
                bounds = mean_interval(changes, 100 / runs[seeds[0]].count)
                group = levels[label].get("optimizer", label)
                found.append(Effect(arch, factor, label, group, *bounds))
    return found


def rank(effects: Iterable[Effect]) -> dict[str, dict[str, tuple[Effect, Effect]]]:
    """Ranks factors by their largest significant effect.

    Each optimizer counts with its best level: a learning rate that suits another optimizer says
    nothing about this one.

    Returns:
      For each factor, the first first, and each architecture: the largest significant effect (the
      largest, where none is), and that of the best level.
    """
    groups: dict[str, dict[str, dict[str, Effect]]] = defaultdict(lambda: defaultdict(dict))
    for each in effects:
        own = groups[each.factor][each.arch]
        own[each.group] = max(each, own.get(each.group, each), key=lambda e: e.mean)
    ranked = {
        factor: {
            arch: (
                max(own.values(), key=lambda e: (e.is_significant, abs(e.mean))),
                max(own.values(), key=lambda e: e.mean),
            )
            for arch, own in archs.items()
        }
        for factor, archs in groups.items()
    }

    def size(factor: str) -> float:
        return max(abs(e.mean) * e.is_significant for e, _ in ranked[factor].values())

    return {factor: ranked[factor] for factor in sorted(ranked, key=size, reverse=True)}
