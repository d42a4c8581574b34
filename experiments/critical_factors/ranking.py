"""Effects of levels with intervals over seeds, and factors ranked by them.

The effect of a level is the mean over seeds of its accuracy minus that of the baseline with the
same seed (the same initial parameters, where the sizes agree, and the same order of the same
images), in percentage points.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from digits_jax.formatting import fixed, interval
from experiments.critical_factors.factors import Factor, Settings
from experiments.critical_factors.rows import Row

CONFIDENCE = 0.95
# (arch, factor, level) -> seed -> row
Table = dict[tuple[str, str, str], dict[int, Row]]


@dataclass(frozen=True)
class Effect:
    """What a level changes against the baseline: percentage points, with the ends of an interval.

    Example:
      >>> str(Effect("width 8", -1.0, -1.25, -0.75))
      '**−1.00** [−1.25, −0.75]'
    """

    level: str
    mean: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def bounds(self) -> str:
        """The interval."""
        return interval((self.low, self.high), points)

    def __str__(self) -> str:
        bold = "**" if self.is_significant else ""
        return f"{bold}{points(self.mean)}{bold} {self.bounds}"


def points(value: float) -> str:
    """Formats percentage points, with a sign."""
    return fixed(value, 2, "+") if math.isfinite(value) else f"{value:+}"


@dataclass(frozen=True)
class Ranked:
    """A factor and the effects that it is ranked by.

    Attributes:
      factor: the factor.
      largest: architecture -> its largest significant effect; its largest, where none is.
      best: architecture -> the effect of its best level.
    """

    factor: Factor
    largest: dict[str, Effect]
    best: dict[str, Effect]

    @property
    def size(self) -> float:
        """The largest significant effect, in points; 0 where there is none."""
        return max((abs(e.mean) for e in self.largest.values() if e.is_significant), default=0.0)

    @property
    def sentence(self) -> str:
        """What its intervals support."""
        parts = []
        for arch, effect in self.largest.items():
            if effect.is_significant:
                verb = "gains" if effect.mean > 0 else "loses"
                size = f"{fixed(abs(effect.mean), 2)} points"
                parts.append(
                    f"the {arch.upper()} {verb} {size} with {effect.level} {effect.bounds}"
                )
            else:
                parts.append(
                    f"for the {arch.upper()} no level differs significantly from the baseline (the "
                    f"most, {effect.level}: {effect})"
                )
        return f"{self.factor.subject}: {'; '.join(parts)}."


def mean_interval(
    values: Sequence[float], least_deviation: float = 0.0
) -> tuple[float, float, float]:
    r"""Computes a mean and Student's interval: :math:`\bar d \pm t_{n-1}\, s / \sqrt n`.

    Args:
      values: one of each seed.
      least_deviation: a lower bound of the standard deviation. Counts are whole numbers: three
        seeds that happen to agree to the image don't prove that all would.

    Returns:
      (mean, low, high); of a single value the interval is infinite.

    Example:
      >>> [round(v, 2) for v in mean_interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48]

    Reference:
      Student, The Probable Error of a Mean, 1908.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    deviation = max(statistics.stdev(values), least_deviation)
    quantile = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2))
    half = quantile * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def by_level(rows: Sequence[Row]) -> Table:
    """Groups rows by level, and in each by seed."""
    table: Table = defaultdict(dict)
    for row in rows:
        table[row.arch, row.factor, row.level][row.seed] = row
    return dict(table)


def effects(
    factors: Sequence[Factor], baselines: Mapping[str, Settings], rows: Sequence[Row]
) -> dict[tuple[str, str], list[tuple[str, Effect]]]:
    """Computes the effect of every level that has rows but the baseline's.

    Returns:
      (arch, factor) -> [(curve, effect)].
    """
    table = by_level(rows)
    found = {}
    for factor in factors:
        for arch, levels in factor.levels.items():
            own = {level: table.get((arch, factor.name, level.label), {}) for level in levels}
            base = next((own[v] for v in levels if v.is_baseline(baselines[arch])), {})
            results = []
            for level, runs in own.items():
                seeds = sorted(runs.keys() & base.keys())
                if not seeds or runs is base:
                    continue
                changes = [runs[s].accuracy - base[s].accuracy for s in seeds]
                one_image = 100 / runs[seeds[0]].count
                effect = Effect(level.label, *mean_interval(changes, one_image))
                results.append((level.curve, effect))
            found[arch, factor.name] = results
    return found


def rank(
    factors: Sequence[Factor], baselines: Mapping[str, Settings], rows: Sequence[Row]
) -> list[Ranked]:
    """Ranks the factors by their largest significant effect.

    Of a factor with several curves (the optimizer's) each curve counts with its best level: a
    learning rate that suits another optimizer says nothing about this one.
    """
    found = effects(factors, baselines, rows)
    ranked = []
    for factor in factors:
        largest, best = {}, {}
        for arch in factor.levels:
            own = [effect for _, effect in found[arch, factor.name]]
            if factor.has_curves:
                curves: dict[str, Effect] = {}
                for curve, effect in found[arch, factor.name]:
                    curves[curve] = max(effect, curves.get(curve, effect), key=lambda e: e.mean)
                own = list(curves.values())
            if own:
                largest[arch] = max(own, key=lambda e: (e.is_significant, abs(e.mean)))
                best[arch] = max(own, key=lambda e: e.mean)
        if largest:
            ranked.append(Ranked(factor, largest, best))
    return sorted(ranked, key=lambda each: -each.size)
