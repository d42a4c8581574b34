"""Scores a run on its whole test set or validation split: python -m digits_jax.evaluate RUN"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import CheckpointError, ConfigError
from digits_jax.fields import Optional, Switch
from digits_jax.files import read_json
from digits_jax.formatting import plain
from digits_jax.runs import folder


@dataclass(frozen=True)
class Arguments:
    """What to score."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or cnn, mlp or tiny, which come with the package."""
    # The training images aren't offered: a streamed run holds none in memory.
    split: Literal["test", "validation"] = "test"
    """Images to score: test, or validation, on which choices are made."""
    views: int = 1
    """Views of each image, whose probabilities are averaged: the image itself, then slightly rotated, scaled, sheared and shifted ones."""  # noqa: E501
    json: Switch = False
    """Print JSON."""
    dataset: Optional[str] = None
    """Path of your own data, if it has moved since the training; for a network of the package, any data set."""  # noqa: E501
    data_dir: Optional[str] = None
    """Folder with the original files, or of tensorflow-datasets (default: as in training)."""
    devices: int | Literal["auto"] = "auto"
    """Number of devices, or auto."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Kind of device."""


def main(argv: Sequence[str]) -> int:
    """Loads a run's newest checkpoint, or each member's of an ensemble; scores; prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if not 1 <= arguments.views <= 1000:
        raise ConfigError(f"--views={arguments.views}: must be from 1 to 1000")
    from digits_jax.evaluation.metrics import class_accuracy, wilson_interval
    from digits_jax.formatting import interval, percent, plural
    from digits_jax.hardware import use_compilation_cache
    from digits_jax.models.mean_probability import mean_log_probabilities
    from digits_jax.runs.ensembles import members_of
    from digits_jax.runs.pretrained import find_pretrained
    from digits_jax.training.scoring import make_scorer, score_logits, score_views

    use_compilation_cache()
    here = {name: getattr(arguments, name) for name in ("data_dir", "devices", "platform")}
    pretrained, members = find_pretrained(arguments.run), []
    if pretrained:
        loaded = [_load_pretrained(pretrained, arguments.dataset, here)]
    else:
        members = members_of(Path(arguments.run))
        paths = members or [Path(arguments.run)]
        loaded = [_load_run(path, arguments.dataset, here) for path in paths]
    scored = []
    for setup, state in loaded:
        images = getattr(setup.dataset, arguments.split)
        scored.append(score_views(make_scorer([setup]), state, images, arguments.views))
    (setup, state), score = loaded[0], scored[0]
    if members:
        logits = mean_log_probabilities([each.logits for each in scored])
        score = score_logits(score.labels, logits)
    data, split = setup.dataset, arguments.split
    step = None if pretrained else int(state.step)
    bounds = wilson_interval(score.correct, score.count)
    by_class = class_accuracy(score.labels, score.logits.argmax(-1), data.num_classes)
    if arguments.json:
        numbers = {
            "run": arguments.run,
            "dataset": data.name,
            "step": step,
            "views": arguments.views,
            "members": max(1, len(members)),
            f"{split}_accuracy": score.accuracy,
            f"{split}_accuracy_ci95": bounds,
            f"{split}_errors": score.errors,
            f"{split}_count": score.count,
            f"{split}_loss": score.loss,
            "class_accuracy": {
                name: share if count else None
                for name, count, share in zip(
                    data.class_names, by_class.counts, by_class.accuracy.tolist(), strict=True
                )
            },
        }
        print(json.dumps(numbers, indent=2))
        return 0
    print(
        f"{plain(data.name)} {split} accuracy {percent(score.accuracy)} (95% interval "
        f"{interval(bounds)}): {plural(score.errors, 'error')} of {score.count:,} images, "
        f"loss {score.loss:.4f}"
        + (f", at step {step}" if step is not None else "")
        + (f"; {len(members)} members" if members else "")
        + (f"; {arguments.views} views of each image" if arguments.views > 1 else "")
    )
    for name, count, share in zip(
        data.class_names, by_class.counts, by_class.accuracy, strict=True
    ):
        name = plain(name)
        if count:
            errors = f"{round(count * (1 - share)):4d} errors of {count:,}"
            print(f"  {name:>12}  {percent(share):>8}  {errors}")
        else:
            print(f"  {name:>12}  no images")
    return 0


def _load_run(workdir: Path, dataset: str | None, here: dict[str, Any]) -> tuple[Any, Any]:
    """Returns a run's setup and its state."""
    from digits_jax.runs.checkpoint import tree_sha256
    from digits_jax.training.resuming import load_trained

    setup, state = load_trained(workdir, needs_images=True, dataset=dataset, **here)
    if (workdir / folder.RESULTS).exists():
        results = read_json(workdir / folder.RESULTS)
        expected = results.get("params_sha256") if isinstance(results, dict) else None
        if expected != tree_sha256(state.variables["params"]):
            raise CheckpointError(
                f"{workdir}: the checkpoint's parameters aren't those of {folder.RESULTS} "
                "(params_sha256 differs): continue with --resume from the newest intact one, "
                "or train again"
            )
    return setup, state


def _load_pretrained(name: str, dataset: str | None, here: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the setup of a training that starts from a pretrained network, and its start."""
    from digits_jax.config import RunOptions, TrainConfig
    from digits_jax.runs.pretrained import read_card
    from digits_jax.training.setup import prepare

    card = read_card(name)
    arch, source = card["settings"]["arch"], dataset or str(card["run"]["dataset"])
    setup = prepare(TrainConfig(arch=arch, dataset=source, init_from=name), RunOptions(**here))
    classes = setup.dataset.class_names
    if list(classes) != card["class_names"]:  # the last layer would be a new one
        raise ConfigError(
            f"{setup.dataset.name} has the classes {plain(' '.join(classes))}; {name} has "
            f"{' '.join(card['class_names'])}: give a data set of the same classes"
        )
    return setup, setup.for_scoring(setup.initial_state())


if __name__ == "__main__":
    leave(run_program(main))
