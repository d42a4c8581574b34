"""The report of the study: tables and sentences, as Markdown."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from digits_jax import Dataset
from digits_jax.formatting import fixed, interval, markdown_table, mean_sd, plural
from digits_jax.runs.folder import replace_files
from experiments.critical_factors.corruptions import CORRUPTIONS
from experiments.critical_factors.factors import DATA, Factor, Settings, key_of
from experiments.critical_factors.figures import draw_all
from experiments.critical_factors.ranking import (
    Ranked,
    by_level,
    effects,
    mean_interval,
    rank,
)
from experiments.critical_factors.rows import Row, read_rows


def write_report(
    folder: Path,
    dataset: Dataset,
    baselines: Mapping[str, Settings],
    factors: Sequence[Factor],
    command: str,
) -> str:
    """Writes report.md and its figures, of all rows in a folder; returns the ranked table.

    Args:
      folder: of the rows.
      dataset: that they are of.
      baselines: by architecture.
      factors: all.
      command: that was called.
    """
    rows = list(read_rows(folder / "factors.csv").values())
    robustness = list(read_rows(folder / "robustness.csv").values())
    ranked = rank(factors, baselines, rows)
    figures = draw_all(factors, baselines, rows, ranked, robustness, dataset.test.images, folder)
    devices = "; ".join(sorted({row.device for row in rows}))

    def figure(name: str) -> list[str]:
        return [f"![{name}]({name}.png)"] if name in figures else []

    parts = [
        "# What influences recognition, and how much",
        f"Written by `{command}`; trained on {devices}.",
        _head(dataset, baselines, factors, rows),
    ]
    if ranked:
        parts += ["## What changes accuracy most", *figure("ranking"), ranking_table(ranked)]
        parts += [_caution(factors, baselines, rows), "## Each factor in a sentence"]
        parts += ["\n".join(f"- {each.sentence}" for each in ranked)]
        parts += ["## Every level", *figure("factors"), *figure("optimizer")]
        parts += [level_table(each.factor, baselines, rows) for each in ranked]
    if robustness:
        parts += ["## Robustness", *figure("robustness")]
        parts += [_robustness_text(dataset, robustness), robustness_table(robustness)]
        parts += figure("corruptions")
    replace_files({folder / "report.md": ("\n\n".join(parts) + "\n").encode()})
    return f"{ranking_table(ranked)}\n\n{folder / 'report.md'}: the report, with figures beside it"


def _head(
    dataset: Dataset,
    baselines: Mapping[str, Settings],
    factors: Sequence[Factor],
    rows: Sequence[Row],
) -> str:
    settings = {
        (arch, factor.name, level.label): key_of({**baselines[arch], **level.changes})
        for factor in factors
        for arch in baselines
        for level in factor.levels[arch]
    }
    trained = {
        (settings[row.key[:3]], row.seed): row.seconds for row in rows if row.key[:3] in settings
    }
    counts = {len(runs) for runs in by_level(rows).values()}
    low, high = min(counts, default=0), max(counts, default=0)
    seeds = plural(low, "seed") if low == high else f"{low} to {high} seeds"
    recipes = "\n".join(
        f"- {arch.upper()}: "
        + ", ".join(
            f"{k.replace('_', ' ')} {_value(v)}" for k, v in own.items() if k not in ("arch", *DATA)
        )
        + ", no augmentation"
        for arch, own in baselines.items()
    )
    return (
        f"{dataset.name}: trained on up to {len(dataset.train):,} images. Every number about a "
        f"factor is of the {len(dataset.validation):,} images of the validation split, with "
        f"{seeds} and the last step; the test images have no part in it. "
        f"{len(trained):,} trainings, {sum(trained.values()) / 60:.0f} minutes.\n\n"
        f"The baselines, of which each level changes one factor:\n\n{recipes}\n\n"
        "They are short trainings: what needs a long one to pay off, as augmentation does, shows "
        "its price here and not its worth."
    )


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _caution(
    factors: Sequence[Factor], baselines: Mapping[str, Settings], rows: Sequence[Row]
) -> str:
    found = [e for own in effects(factors, baselines, rows).values() for _, e in own]
    significant = sum(effect.is_significant for effect in found)
    return (
        "An effect is the mean over seeds of the difference to the baseline with the same seed, "
        f"its interval Student's (95%). Of {len(found)} levels {significant} have an interval that "
        f"excludes 0; if no level had any effect, about {0.05 * len(found):.0f} would. The largest "
        "of several effects is a little too large: it was chosen for it. Of each optimizer the "
        "best learning rate counts. The factors are ordered by the larger of both networks' "
        "significant effects."
    )


def ranking_table(ranked: Sequence[Ranked]) -> str:
    """Makes a row for each factor, those with the largest effects first."""
    archs = [a for a in ("mlp", "cnn") if any(a in each.largest for each in ranked)]
    columns = ["#", "factor"]
    for arch in archs:
        columns += [f"{arch.upper()}: largest effect, points", f"{arch.upper()}: best level"]
    rows = []
    for place, each in enumerate(ranked, start=1):
        cells: list[object] = [place, each.factor.name.replace("_", " ")]
        for arch in archs:
            largest, best = each.largest.get(arch), each.best.get(arch)
            if largest is None or best is None:
                cells += [None, None]
                continue
            first = f"{largest.level}: {largest}"
            cells.append(first if largest.is_significant else f"none significant ({first})")
            cells.append(f"{best.level}: {best}" if best.low > 0 else "none above the baseline")
        rows.append(cells)
    return markdown_table(rows, columns, "rl")


def level_table(factor: Factor, baselines: Mapping[str, Settings], rows: Sequence[Row]) -> str:
    """Makes the heading and the table of a factor: accuracy and effect of every level."""
    table, found = by_level(rows), effects([factor], baselines, rows)
    archs = [
        a for a, v in factor.levels.items() if any((a, factor.name, x.label) in table for x in v)
    ]
    columns = [factor.axis]
    for arch in archs:
        columns += [f"{arch.upper()}: accuracy", "effect, points"]
    lines = []
    for label in dict.fromkeys(v.label for arch in archs for v in factor.levels[arch]):
        cells: list[object] = [label]
        for arch in archs:
            runs = table.get((arch, factor.name, label), {}).values()
            effect = {e.level: str(e) for _, e in found[arch, factor.name]}.get(label)
            accuracy = f"{mean_sd([run.accuracy for run in runs])}%" if runs else None
            cells += [accuracy, effect or ("the baseline" if runs else None)]
        lines.append(cells)
    return f"### {factor.subject}\n\n{markdown_table(lines, columns, 'l')}"


def _robustness_text(dataset: Dataset, rows: Sequence[Row]) -> str:
    seeds = plural(len({row.seed for row in rows}), "seed")
    return (
        f"The baseline networks of {seeds} on the {len(dataset.test):,} test images, corrupted in "
        "the style of MNIST-C, by code of our own: compare these numbers with each other, not with "
        "those on MNIST-C's files. The networks have seen no such change in training. CNN − MLP: "
        "the mean over seeds, and Student's interval (95%)."
    )


def robustness_table(rows: Sequence[Row]) -> str:
    """Makes a row for each corruption, those where the CNN leads most first."""
    table = by_level(rows)
    archs = [a for a in ("mlp", "cnn") if any(row.arch == a for row in rows)]
    severities = {"none": 1, **{name: len(all_) for name, (_, all_) in CORRUPTIONS.items()}}
    lines: list[tuple[float, list[object]]] = []
    for name, count in severities.items():
        shown = sorted({1, count // 2 + 1, count})
        title = name.replace("_", " ")
        if name == "off_centre":
            title += f" by {', '.join(map(str, shown))} pixels"
        runs = {a: [table.get((a, name, str(k)), {}) for k in range(1, count + 1)] for a in archs}
        cells: list[object] = [title]
        for arch in archs:
            means = [fmean(row.accuracy for row in runs[arch][k - 1].values()) for k in shown]
            cells.append(", ".join(fixed(mean, 1) for mean in means))
        mean = 0.0
        seeds = set.intersection(*(set(own) for steps in runs.values() for own in steps))
        if len(archs) == 2 and seeds:
            means = {
                a: [fmean(own[seed].accuracy for own in runs[a]) for seed in sorted(seeds)]
                for a in archs
            }
            changes = [b - a for a, b in zip(means["mlp"], means["cnn"], strict=True)]
            mean, low, high = mean_interval(changes)
            cells.append(f"{one_digit(mean)} {interval((low, high), one_digit)}")
        lines.append((-mean if name != "none" else -math.inf, cells))
    columns = ["corruption", *(f"{a.upper()}, % at severity 1, 3, 5" for a in archs)]
    if len(archs) == 2:
        columns.append("CNN − MLP over all severities, points")
    return markdown_table([cells for _, cells in sorted(lines, key=lambda x: x[0])], columns, "l")


def one_digit(value: float) -> str:
    """Formats points with one decimal and a sign."""
    return fixed(value, 1, "+") if math.isfinite(value) else f"{value:+}"
