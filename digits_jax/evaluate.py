"""Scores a run on its whole test set, or validation split: python -m digits_jax.evaluate RUN"""

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.runs import folder

# Training images aren't offered: a streamed run holds none in memory.
SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Arguments:
    """What to score."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "test"
    """What to score: test, or validation, the images to choose by."""
    views: int = 1
    """Views of each image whose answers are averaged: itself, and others slightly turned, scaled, slanted and shifted."""  # noqa: E501
    json: bool = False
    """Print JSON."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: where the run had it)")
    ] = None
    """Folder with the original files, or where tensorflow-datasets keeps prepared data sets."""
    devices: str = "auto"
    """Number of devices, or auto."""
    platform: str = "auto"
    """Kind of device: auto, cpu, gpu or tpu."""


def main(argv: Sequence[str]) -> int:
    """Parses, scores, prints."""
    arguments = parse(Arguments, argv, doc=__doc__)
    return evaluate(
        arguments.run,
        arguments.data_dir,
        arguments.devices,
        arguments.platform,
        json=arguments.json,
        views=arguments.views,
        split=arguments.split,
    )


def evaluate(
    workdir: Path,
    data_dir: str | None,
    devices: str,
    platform: str,
    *,
    json: bool = False,
    views: int = 1,
    split: str = "test",
) -> int:
    """Restores a run's newest checkpoint, scores a split and prints the numbers.

    An ensemble's members are scored each, and answer together.
    """
    from digits_jax.evaluation.metrics import class_accuracy, wilson_interval
    from digits_jax.runs.ensemble import mean_log_probabilities, members_of
    from digits_jax.hardware import use_compilation_cache
    from digits_jax.training.scoring import score_logits

    if not 1 <= views <= 1000:
        raise ConfigError(f"--views={views}: give a number that is at least 1 and at most 1000")
    if split not in SPLITS:
        raise ConfigError(f"--split={split}: give {' or '.join(SPLITS)}")
    use_compilation_cache()
    members = members_of(workdir)
    here = {"data_dir": data_dir, "devices": devices, "platform": platform}
    scored = [_score(member, here, views, split) for member in members or [workdir]]
    plan, state, score = scored[0]
    if members:
        score = score_logits(
            score.labels, mean_log_probabilities([each.logits for *_, each in scored])
        )
    classes = class_accuracy(score.labels, score.logits.argmax(-1), plan.dataset.num_classes)
    low, high = wilson_interval(score.correct, score.count)
    if json:
        numbers = {
            "run": str(workdir),
            "dataset": plan.dataset.name,
            "step": int(state.step),
            "views": views,
            "members": max(1, len(members)),
            f"{split}_accuracy": score.accuracy,
            f"{split}_accuracy_ci95": [low, high],
            f"{split}_errors": score.errors,
            f"{split}_count": score.count,
            f"{split}_loss": score.loss,
            "class_accuracy": dict(zip(plan.dataset.class_names, classes.accuracy, strict=True)),
        }
        print(json_module.dumps(numbers, indent=2))
        return 0
    said = f"; {len(members)} members" if members else ""
    said += f"; {views} views of each image" if views > 1 else ""
    print(
        f"{plan.dataset.name} {split} accuracy {score.accuracy:.2%} "
        f"(95% interval {low:.2%} to {high:.2%}): {score.errors} errors of {score.count:,} "
        f"images, loss {score.loss:.4f}, at step {int(state.step)}{said}"
    )
    for name, count, share in zip(
        plan.dataset.class_names, classes.counts, classes.accuracy, strict=True
    ):
        text = f"{share:8.2%}  {round(count * (1 - share)):4d} errors of" if count else "none of"
        print(f"  {name:>12}  {text} {count:,}")
    return 0


def _score(workdir, here, views, split):
    """A run's plan, state and the score of a split."""
    from digits_jax.runs.checkpoint import tree_sha256
    from digits_jax.training.resuming import load_trained
    from digits_jax.training.scoring import make_scorer, score_views

    plan, state = load_trained(workdir, **here)
    results = workdir / folder.RESULTS
    if results.exists():
        found = folder.read_json(results)
        expected = found.get("params_sha256") if isinstance(found, dict) else None
        if expected != tree_sha256(state.variables["params"]):
            raise ConfigError(
                f"{workdir}: the checkpoint's parameters aren't those that {folder.RESULTS} names "
                "(params_sha256 differs): go on with --resume from the newest whole one, "
                "or train again"
            )
    score = make_scorer([plan])
    return plan, state, score_views(score, state, getattr(plan.dataset, split), views)


if __name__ == "__main__":
    leave(run_program(main))
