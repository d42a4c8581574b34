"""The trials as a table, and the winner's command line."""

import shlex
from collections.abc import Sequence
from typing import Any

from digits_jax.benchmarks.words import some, where
from digits_jax.evaluation.metrics import wilson_interval
from experiments.search.halving import TRAINED, Row, ladder, on_rung
from experiments.search.loop import Search
from experiments.search.space import PRESET, flags, searched_fields, show

MOST_ROWS = 30


def winner(rows: Sequence[Row]) -> Row | None:
    """The best trial of the highest rung; None where no trial was trained to the end."""
    first = next(iter(ladder(rows)), None)
    return first if first and first["status"] == TRAINED else None


def winning_command(search: Search, row: Row, seed: int | str | None = None) -> str:
    """The command line that trains a trial as it was trained on its rung.

    Args:
      search: what was searched.
      row: of the trial.
      seed: another one than the search's.
    """
    said = {"arch": search.arch, "dataset": search.dataset, "preset": PRESET}
    said |= {"epochs": row["epochs"], **row["values"]}
    line = shlex.join(["python", "-m", "digits_jax.train", *flags(said)])
    return f"{line} --seed={search.seed if seed is None else seed}"


def other_seeds(search: Search) -> list[int]:
    """Five seeds that the search hasn't seen.

    Example:
      >>> other_seeds(Search("mlp", "digits", seed=2, epochs=60, rungs=3))
      [0, 1, 3, 4, 5]
    """
    return [seed for seed in range(6) if seed != search.seed][:5]


def caution(search: Search, rows: Sequence[Row]) -> str:
    """What the winner's accuracy is worth."""
    best = winner(rows)
    if best is None:
        notes = {row["note"] for row in rows if row.get("note")}
        why = f" ({'; '.join(sorted(notes)[:2])})" if notes else ""
        return f"No trial was trained to the end{why}; give more --budget-seconds."
    trials = len({row["trial"] for row in rows})
    equals = [row for row in on_rung(rows, best["rung"]) if row["status"] == TRAINED]
    close = sum(_interval(row)[1] >= best["correct"] / best["count"] for row in equals) - 1
    seeds = ", ".join(map(str, other_seeds(search)))
    others = len(equals) - 1
    beside = "No other trial was trained for as many epochs."
    if others:
        beside = (
            f"Of {others} other{'s' * (others > 1)} trained for as many epochs, {close} can't be "
            "told from it (their 95% intervals hold its accuracy)."
        )
    preset = ""
    if best["trial"] == 0:
        preset = f" It is trial 0, the preset {PRESET!r}: no other trial was better."
    return (
        f"Its {_accuracy(best)} is optimistic: it is the best of {some(trials, 'trial')} on the "
        f"same {best['count']:,} validation images, with one seed. {beside}{preset} Train it "
        f"with other seeds ({seeds}) before you believe it; the search hasn't read the test set."
    )


def markdown(search: Search, rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The page: settings, table, winner.

    Args:
      search: what was searched.
      rows: of all trials.
      facts: {"command", "machine", "versions"}.
    """
    order, best = ladder(rows), winner(rows)
    counts = [len(on_rung(rows, k)) for k in range(search.rungs)]
    epochs = {row["rung"]: row["epochs"] for row in rows}
    rungs = ", ".join(f"{n} for {some(epochs[k], 'epoch')}" for k, n in enumerate(counts) if n)
    lines = [
        f"# Hyperparameters of the {search.arch} on {search.dataset}",
        "",
        f"`{facts['command']}`",
        "",
        f"{len(order)} trials in {max((r['elapsed_seconds'] for r in rows), default=0):,.0f} s: "
        f"{rungs}; {where(facts['machine'])}. Trained for the most epochs first, then by "
        "validation accuracy, of the last step, with its Wilson interval; seed "
        f"{search.seed}. Trial 0 is the preset {PRESET!r}. Every number: trials.jsonl.",
        "",
        *table(search, order[:MOST_ROWS]),
    ]
    if len(order) > MOST_ROWS:
        lines.append(f"\nAnd {len(order) - MOST_ROWS} more, in trials.jsonl.")
    lines += ["", "## The winner", ""]
    if best is not None:
        seeds = " ".join(map(str, other_seeds(search)))
        again = f"for seed in {seeds}; do {winning_command(search, best, '$seed')}; done"
        lines += ["```sh", winning_command(search, best), "```", "", caution(search, rows)]
        lines += ["", "```sh", again, "```"]
    else:
        lines.append(caution(search, rows))
    found = ", ".join(f"{name} {number}" for name, number in facts["versions"].items() if number)
    return "\n".join([*lines, "", found, "", "![The trials](search.png)"]) + "\n"


def table(search: Search, order: Sequence[Row], *, values: bool = True) -> list[str]:
    """Lines of Markdown, a row for each trial.

    Args:
      search: what was searched.
      order: of the rows, best first.
      values: with the values, a column each.
    """
    names = searched_fields(search.arch) if values else []
    heads = ["rank", "trial", "epochs", "validation accuracy", "95% interval", "loss", "seconds"]
    heads += [name.replace("_", " ") for name in names]
    lines = [f"| {' | '.join(heads)} |", f"|{'--:|' * 7}{'---|' * len(names)}"]
    for rank, row in enumerate(order, 1):
        cells = [rank, row["trial"], show(float(row["epochs"])), *_cells(row)]
        cells += [show(row["values"].get(name, "")) for name in names]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _cells(row):
    if row["status"] != TRAINED:
        return [row["status"], "", "", f"{row['seconds']:.1f}"]
    low, high = _interval(row)
    return [
        _accuracy(row),
        f"{low:.2%} to {high:.2%}",
        f"{row['loss']:.4f}",
        f"{row['seconds']:.1f}",
    ]


def _accuracy(row):
    return f"{row['correct'] / row['count']:.2%}"


def _interval(row):
    return wilson_interval(row["correct"], row["count"])
