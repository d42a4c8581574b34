"""The report: tables and sentences, as Markdown."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax.benchmarks.words import some
from experiments.critical_factors.corruptions import CORRUPTIONS, SEVERITIES, SHIFTS
from experiments.critical_factors.factors import Factor
from experiments.critical_factors.ranking import (
    Effect,
    Ranked,
    accuracies,
    effects,
    interval_text,
    mean_interval,
    sentence,
    signed,
)
from experiments.critical_factors.recipe import Recipe
from experiments.critical_factors.results import FactorRow, RobustnessRow


def markdown(
    facts: dict[str, Any],
    baselines: dict[str, Recipe],
    factors: Sequence[Factor],
    rows: Sequence[FactorRow],
    ranked: Sequence[Ranked],
    robustness: Sequence[RobustnessRow],
    pictures: Sequence[str],
) -> str:
    """The whole report.

    Args:
      facts: "command", "dataset", "train", "validation", "test" (images), "seeds" (in words),
        "where".
      baselines: by architecture.
      factors: in the order of the tables.
      rows, ranked, robustness: what was found.
      pictures: names of PNG files beside the report.
    """
    parts = [_head(facts, baselines, rows)]
    if ranked:
        parts += ["## What changes accuracy most", *_picture("ranking.png", pictures)]
        parts += [ranking_table(ranked), _caution(rows), "## Each factor in a sentence"]
        parts += ["\n".join(f"- {sentence(each)}" for each in ranked)]
        parts += ["## Every level", *_picture("factors.png", pictures)]
        for factor in factors:
            parts += _picture(f"{factor.name}.png", pictures)
        parts += [level_table(factor, rows) for factor in factors]
    if robustness:
        parts += ["## Robustness", *_picture("robustness.png", pictures)]
        parts += [robustness_text(facts, robustness), robustness_table(robustness)]
        parts += _picture("corruptions.png", pictures)
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(name, pictures):
    return [f"![{Path(name).stem.replace('_', ' ')}]({name})"] if name in pictures else []


def _head(facts, baselines, rows):
    recipes = "\n".join(f"- {arch.upper()}: {_recipe_text(r)}" for arch, r in baselines.items())
    trained = {(row.recipe, row.seed): row.seconds for row in rows}
    return (
        "# What influences recognition, and how much\n\n"
        f"Written by `{facts['command']}`; trained on {facts['where']}.\n\n"
        f"{facts['dataset']}: trained on up to {facts['train']:,} images; every number about a "
        f"factor is of the {facts['validation']:,} images of the validation split, with "
        f"{facts['seeds']} and the last step; the test images have no part in it. "
        f"{len(trained):,} trainings, {sum(trained.values()) / 60:.0f} minutes.\n\n"
        f"The baselines, of which each level changes one factor:\n\n{recipes}\n\n"
        "They are short trainings: what needs a long one to pay off, as augmentation does, "
        "shows its price here and not its worth."
    )


def seeds_text(rows: Sequence[FactorRow]) -> str:
    """How many seeds the levels have."""
    counts = {len(seeds) for seeds in accuracies(rows).values()}
    low, high = min(counts), max(counts)
    return some(low, "seed") if low == high else f"{low} to {high} seeds"


def _recipe_text(recipe):
    if recipe.arch == "mlp":
        sizes = f"hidden layers of {', '.join(map(str, recipe.hidden_sizes))}"
    else:
        sizes = (
            f"blocks of {', '.join(map(str, recipe.channels))} filters of {recipe.kernel}x"
            f"{recipe.kernel}, {recipe.pooling} pooling, a dense layer of {recipe.dense_size}"
        )
    return (
        f"{sizes}; {recipe.activation}, {recipe.normalization} normalization; {recipe.optimizer}, "
        f"learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, batches of "
        f"{recipe.batch_size}, {some(recipe.epochs, 'epoch')}, label smoothing "
        f"{recipe.label_smoothing:g}, dropout {recipe.dropout:g}, no augmentation"
    )


def _caution(rows):
    found = effects(rows)
    sure = sum(effect.is_sure for effect in found)
    expected = 0.05 * len(found)
    return (
        f"An effect is the mean over seeds of the difference to the baseline with the same seed, "
        f"its interval Student's (95%). Of {len(found)} levels {sure} have an interval that "
        f"excludes 0; if no level had any effect, about {expected:.0f} would. The largest of "
        "several effects is a little too large: it was chosen for it. Of each optimizer the best "
        "learning rate counts. Factors stand in the order of the larger of both networks' sure "
        "effects."
    )


def ranking_table(ranked: Sequence[Ranked]) -> str:
    """A row for each factor, those that change most first."""
    archs = sorted({arch for each in ranked for arch in each.largest}, reverse=True)
    heads = [f"{a.upper()}: largest effect, points | {a.upper()}: best level" for a in archs]
    lines = [f"| # | factor | {' | '.join(heads)} |", "|--:|---" + "|---" * 2 * len(archs) + "|"]
    for place, each in enumerate(ranked, start=1):
        cells = []
        for arch in archs:
            cells += _ranked_cells(each, arch)
        name = each.factor.name.replace("_", " ")
        lines.append(f"| {place} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ranked_cells(each, arch):
    if arch not in each.largest:
        return ["-", "-"]
    largest, best = each.largest[arch], each.best[arch]
    first = f"{largest.level}: {_effect_text(largest)}"
    gain = f"{best.level}: {_effect_text(best)}" if best.low > 0 else "none surely above baseline"
    return [first if largest.is_sure else f"none sure ({first})", gain]


def _effect_text(effect: Effect) -> str:
    bold = "**" if effect.is_sure else ""
    return f"{bold}{signed(effect.mean)}{bold} {interval_text(effect)}"


def level_table(factor: Factor, rows: Sequence[FactorRow]) -> str:
    """Accuracy and effect of every level of a factor; empty where there are no rows."""
    own = accuracies(rows)
    found = {(e.arch, e.level): e for e in effects(rows) if e.factor == factor.name}
    archs = [
        a for a in factor.levels if any((a, factor.name, v.label) in own for v in factor.levels[a])
    ]
    if not archs:
        return ""
    heads = " | ".join(f"{a.upper()}: accuracy | effect, points" for a in archs)
    lines = [f"### {factor.subject}", "", f"| {factor.axis} | {heads} |"]
    lines.append("|---" + "|--:|---" * len(archs) + "|")
    labels = dict.fromkeys(v.label for arch in archs for v in factor.levels[arch])
    for label in labels:
        cells = []
        for arch in archs:
            values = [r.accuracy for r in own.get((arch, factor.name, label), {}).values()]
            if not values:
                cells += ["-", "-"]
                continue
            cells.append(_accuracy_text(values))
            effect = found.get((arch, label))
            cells.append(_effect_text(effect) if effect else "the baseline")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _accuracy_text(values):
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}%{spread}"


def robustness_text(facts: dict[str, Any], rows: Sequence[RobustnessRow]) -> str:
    """What the numbers on robustness are of."""
    seeds = some(len({row.seed for row in rows}), "seed")
    return (
        f"The baseline models of {seeds} on the {facts['test']:,} test images, "
        "changed in the style of MNIST-C, by code of our own: compare these numbers with each "
        "other, and not with those on MNIST-C's files. The models have seen no such change in "
        "training. CNN - MLP: the mean over seeds, and Student's interval (95%)."
    )


def robustness_table(rows: Sequence[RobustnessRow]) -> str:
    """Accuracy of each architecture under each change, at severities 1, 3 and 5, and the difference
    over all severities; those where the CNN is ahead most first."""
    found: dict[tuple, dict[int, float]] = defaultdict(dict)
    for row in rows:
        found[row.arch, row.corruption, row.severity][row.seed] = row.accuracy
    archs = [a for a in ("mlp", "cnn") if any(row.arch == a for row in rows)]
    kinds = {name: SEVERITIES for name in CORRUPTIONS}
    kinds |= {"none": (1,), "inversion": (1,), "off_centre": SHIFTS}
    lines = []
    for name, steps in kinds.items():
        shown = steps if len(steps) == 1 else (steps[0], steps[len(steps) // 2], steps[-1])
        cells = []
        for arch in archs:
            means = [statistics.fmean(v.values()) for s in shown if (v := found[arch, name, s])]
            cells.append(", ".join(f"{mean:.1f}" for mean in means) or "-")
        change = _difference(found, name, steps) if len(archs) == 2 else None
        text = f"{change[0]:+.1f} [{change[1]:+.1f}, {change[2]:+.1f}]" if change else "-"
        order = (name != "none", -change[0] if change else 0)
        title = name.replace("_", " ") + (
            f" by {shown[0]}, {shown[1]}, {shown[2]} pixels" if name == "off_centre" else ""
        )
        lines.append((order, f"| {title} | {' | '.join(cells)} | {text} |"))
    heads = " | ".join(f"{arch.upper()}, % at severity 1, 3, 5" for arch in archs)
    head = [f"| change | {heads} | CNN - MLP over all severities, points |"]
    head.append("|---" * (len(archs) + 2) + "|")
    return "\n".join([*head, *(line for _, line in sorted(lines))])


def _difference(found, name, steps):
    seeds = set.intersection(*(set(found[a, name, s]) for a in ("mlp", "cnn") for s in steps))
    if not seeds:
        return None
    changes = [
        statistics.fmean(found["cnn", name, s][k] - found["mlp", name, s][k] for s in steps)
        for k in sorted(seeds)
    ]
    return mean_interval(changes)
