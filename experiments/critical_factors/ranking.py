"""What changes accuracy most: effects with intervals over seeds, and a sentence for each factor.

The effect of a level is the mean over seeds of the accuracy with it minus that of the baseline
with the same seed (the same initial parameters, where the sizes agree, and the same order of the
same images), in percentage points.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.critical_factors.factors import Factor
from experiments.critical_factors.results import FactorRow

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effect:
    """What a level changes, beside the baseline.

    Attributes:
      arch, factor, level: of which.
      mean: percentage points.
      low, high: of its interval.
      accuracy: with the level, percent, the mean over the seeds.
      seeds: how many.
    """

    arch: str
    factor: str
    level: str
    mean: float
    low: float
    high: float
    accuracy: float
    seeds: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Ranked:
    """A factor and the effect that it is ranked by, for each architecture.

    Attributes:
      factor: the factor.
      largest: architecture -> its largest sure effect; where none is sure, its largest.
      best: architecture -> its best level's effect.
    """

    factor: Factor
    largest: dict[str, Effect]
    best: dict[str, Effect]

    @property
    def size(self) -> float:
        """The largest sure effect, in points; 0 where there is none."""
        return max((abs(e.mean) for e in self.largest.values() if e.is_sure), default=0.0)


def mean_interval(
    values: Sequence[float], least_deviation: float = 0.0, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    r"""A mean and Student's interval: :math:`\bar d \pm t_{n-1}\, s / \sqrt n`.

    Args:
      values: one of each seed.
      least_deviation: what the standard deviation is at least. Counts are whole: three seeds that
        happen to agree to the image are no proof that all would.
      confidence: in (0, 1).

    Returns:
      (mean, low, high); of a single value the interval is infinite.

    Example:
      >>> [round(v, 2) for v in mean_interval([1.0, 2.0, 3.0])]
      [2.0, -0.48, 4.48]

    Reference:
      Student, The Probable Error of a Mean, 1908.
    """
    from scipy.special import stdtrit

    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    deviation = max(statistics.stdev(values), least_deviation)
    quantile = float(stdtrit(len(values) - 1, 0.5 + confidence / 2))
    half = quantile * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def accuracies(rows: Sequence[FactorRow]) -> dict[tuple, dict[int, FactorRow]]:
    """The rows by (arch, factor, level), and in each by seed."""
    found: dict[tuple, dict[int, FactorRow]] = defaultdict(dict)
    for row in rows:
        found[row.arch, row.factor, row.level][row.seed] = row
    return dict(found)


def effects(rows: Sequence[FactorRow]) -> list[Effect]:
    """The effect of every level but the baseline's, in the rows' order.

    Args:
      rows: of the table; a level whose seeds the baseline hasn't is left out.
    """
    found = accuracies(rows)
    baselines = {row.key[:2]: found[row.key[:3]] for row in rows if row.baseline}
    results = []
    for (arch, factor, level), own in found.items():
        base = baselines.get((arch, factor), {})
        seeds = sorted(own.keys() & base.keys())
        if not seeds or own is base:
            continue
        changes = [own[seed].accuracy - base[seed].accuracy for seed in seeds]
        one_image = 100 / own[seeds[0]].count
        interval = mean_interval(changes, one_image)
        accuracy = statistics.fmean(own[seed].accuracy for seed in seeds)
        results.append(Effect(arch, factor, level, *interval, accuracy, len(seeds)))
    return results


def rank(factors: Sequence[Factor], rows: Sequence[FactorRow]) -> list[Ranked]:
    """The factors, those that change most first; those without a sure effect last.

    Of a factor with several curves (the optimizer's) each curve counts with its best level: a
    learning rate that suits another optimizer says nothing about this one.
    """
    ranked = []
    found = effects(rows)
    for factor in factors:
        largest, best = {}, {}
        for arch in factor.levels:
            own = [e for e in found if (e.arch, e.factor) == (arch, factor.name)]
            own = _best_of_curves(factor, arch, own)
            if own:
                # Sure ones before others, then by size.
                largest[arch] = max(own, key=lambda e: (e.is_sure, abs(e.mean)))
                best[arch] = max(own, key=lambda e: e.mean)
        if largest:
            ranked.append(Ranked(factor, largest, best))
    return sorted(ranked, key=lambda each: -each.size)


def _best_of_curves(factor, arch, own):
    curves = {level.label: level.curve for level in factor.levels[arch]}
    if not any(curves.values()):
        return own
    best: dict[str, Effect] = {}
    for effect in own:
        curve = curves.get(effect.level, "")
        if curve not in best or effect.mean > best[curve].mean:
            best[curve] = effect
    return list(best.values())


NAMES = {"mlp": "the MLP", "cnn": "the CNN"}


def sentence(ranked: Ranked) -> str:
    """What a factor's intervals support, for both architectures in one sentence."""
    parts = []
    for arch, effect in ranked.largest.items():
        level = effect.level
        if effect.is_sure:
            word = "gains" if effect.mean > 0 else "loses"
            parts.append(
                f"{NAMES[arch]} {word} {abs(effect.mean):.2f} points with {level} "
                f"{interval_text(effect)}"
            )
        else:
            parts.append(
                f"for {NAMES[arch]} no level differs surely from the baseline (the most, {level}: "
                f"{signed(effect.mean)} {interval_text(effect)})"
            )
    text = "; ".join(parts)
    return f"{ranked.factor.subject}: {text}."


def interval_text(effect: Effect) -> str:
    """The ends of an effect's interval, in points.

    Example:
      >>> interval_text(Effect("mlp", "width", "8", -1.0, -1.25, -0.75, 97.0, 3))
      '[-1.25, -0.75]'
    """
    return f"[{signed(effect.low)}, {signed(effect.high)}]"


def signed(points: float) -> str:
    """Points with two decimals and a sign, which 0 has not.

    Example:
      >>> signed(1.5), signed(-0.001), signed(-2)
      ('+1.50', '0.00', '-2.00')
    """
    rounded = round(points, 2) if math.isfinite(points) else points
    return f"{rounded:+.2f}" if rounded else "0.00"
