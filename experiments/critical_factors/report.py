"""The report of the study: tables, as Markdown, and two figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from digits_jax import Dataset
from digits_jax.formatting import fixed, interval, markdown_table, mean_sd, plural
from digits_jax.runs.folder import replace_files
from experiments.critical_factors.effects import (
    Effect,
    Row,
    by_level,
    find_effects,
    mean_interval,
    points,
    rank,
    read_rows,
)
from experiments.critical_factors.factors import DATA, FACTORS, Factors, Settings, key_of
from experiments.critical_factors.figures import Ranked, draw_ranking, draw_robustness
from experiments.critical_factors.images import all_corruptions

ARCHS = ("mlp", "cnn")


def write_report(
    folder: Path,
    dataset: Dataset,
    baselines: Mapping[str, Settings],
    factors: Factors,
    command: str,
) -> str:
    """Writes report.md and its figures, of all rows in a folder; returns the ranked table."""
    rows = list(read_rows(folder / "factors.csv").values())
    robustness = list(read_rows(folder / "robustness.csv").values())
    effects = find_effects(factors, baselines, rows)
    ranked = rank(effects)
    draw_ranking(ranked).savefig(folder / "ranking.png", dpi=110)
    draw_robustness(robustness).savefig(folder / "robustness.png", dpi=110)
    devices = "; ".join(sorted({row.device for row in rows}))
    significant = sum(effect.is_significant for effect in effects)
    parts = [
        "# What influences recognition, and how much",
        f"Written by `{command}`; trained on {devices}.",
        _head(dataset, baselines, factors, rows),
        "## What changes accuracy most",
        "![ranking](ranking.png)",
        ranking_table(ranked),
        "An effect is the mean over seeds of the difference to the baseline with the same seed, "
        f"its interval Student's (95%). Of {len(effects)} levels {significant} have an interval "
        f"that excludes 0; if no level had any effect, about {0.05 * len(effects):.0f} would. The "
        "largest of several effects is a little too large: it was chosen for it. Of each optimizer "
        "the best learning rate counts. The factors are ordered by the larger of both networks' "
        "significant effects.",
        "## Every level",
        *(level_table(factor, factors, effects, rows) for factor in ranked),
        "## Robustness",
        "![robustness](robustness.png)",
        f"The baseline networks of {plural(len({row.seed for row in robustness}), 'seed')} on the "
        f"{len(dataset.test):,} test images, corrupted in the style of MNIST-C, by code of our "
        "own: compare these numbers with each other, not with those on MNIST-C's files. The "
        "networks have seen no such change in training. CNN − MLP: the mean over seeds, and "
        "Student's interval (95%).",
        robustness_table(robustness),
    ]
    replace_files({folder / "report.md": ("\n\n".join(parts) + "\n").encode()})
    return f"{ranking_table(ranked)}\n\n{folder / 'report.md'}: the report, with figures beside it"


def _head(
    dataset: Dataset, baselines: Mapping[str, Settings], factors: Factors, rows: Sequence[Row]
) -> str:
    trained = {  # two factors may have the same level
        (key_of({**baselines[row.arch], **levels[row.level]}), row.seed): row.seconds
        for row in rows
        if row.level in (levels := factors.get(row.factor, {}).get(row.arch, {}))
    }
    counts = sorted({len(runs) for runs in by_level(rows).values()})
    seeds = plural(" to ".join(map(str, counts)), "seed")
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


def ranking_table(ranked: Ranked) -> str:
    """Makes a row for each factor, those with the largest effects first."""
    columns = ["#", "factor"]
    for arch in ARCHS:
        columns += [f"{arch.upper()}: largest effect, points", f"{arch.upper()}: best level"]
    rows = []
    for place, (factor, archs) in enumerate(ranked.items(), start=1):
        cells: list[object] = [place, factor.replace("_", " ")]
        for arch in ARCHS:
            if arch not in archs:
                cells += [None, None]
                continue
            largest, best = archs[arch]
            first = f"{largest.level}: {largest}"
            cells.append(first if largest.is_significant else f"none significant ({first})")
            cells.append(f"{best.level}: {best}" if best.low > 0 else "none above the baseline")
        rows.append(cells)
    return markdown_table(rows, columns, "rl")


def level_table(
    factor: str, factors: Factors, effects: Iterable[Effect], rows: Iterable[Row]
) -> str:
    """Makes the heading and the table of a factor: accuracy and effect of every level."""
    found = {(e.arch, e.level): str(e) for e in effects if e.factor == factor}
    table, levels = by_level(rows), factors[factor]
    title, axis = FACTORS[factor]
    columns = [axis]
    for arch in levels:
        columns += [f"{arch.upper()}: accuracy", "effect, points"]
    lines = []
    for label in dict.fromkeys(label for own in levels.values() for label in own):
        cells: list[object] = [label]
        for arch in levels:
            runs = table.get((arch, factor, label), {}).values()
            cells.append(f"{mean_sd([run.accuracy for run in runs])}%" if runs else None)
            cells.append(found.get((arch, label), "the baseline" if runs else None))
        lines.append(cells)
    return f"### {title}\n\n{markdown_table(lines, columns, 'l')}"


def robustness_table(rows: Iterable[Row]) -> str:
    """Makes a row for each corruption, those where the CNN leads most first."""
    table = by_level(rows)
    lines: list[tuple[float, list[object]]] = []
    for name, count in dict(all_corruptions()).items():  # the last severity is the count
        runs = {a: [table[a, name, str(k)] for k in range(1, count + 1)] for a in ARCHS}
        shown = sorted({1, count // 2 + 1, count})
        title = name.replace("_", " ")
        if name == "off_centre":
            title += f" by {', '.join(map(str, shown))} pixels"
        cells: list[object] = [title]
        for own in runs.values():
            means = [fmean(row.accuracy for row in own[k - 1].values()) for k in shown]
            cells.append(", ".join(fixed(mean, 1) for mean in means))
        seeds = sorted(set.intersection(*(set(step) for own in runs.values() for step in own)))
        mlp, cnn = (
            [fmean(step[seed].accuracy for step in own) for seed in seeds] for own in runs.values()
        )
        mean, *bounds = mean_interval([b - a for a, b in zip(mlp, cnn, strict=True)])
        cells.append(f"{points(mean, 1)} {interval(bounds, lambda end: points(end, 1))}")
        lines.append((mean if name != "none" else float("inf"), cells))
    columns = ["corruption", *(f"{a.upper()}, % at severity 1, 3, 5" for a in ARCHS)]
    columns.append("CNN − MLP over all severities, points")
    ordered = sorted(lines, key=lambda line: line[0], reverse=True)
    return markdown_table([cells for _, cells in ordered], columns, "l")
