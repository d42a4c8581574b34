"""Searches hyperparameters on the validation split: python -m experiments.search --arch=mlp

Optuna (the extra "search") proposes the trials, and stops those that are worse than most after as
many epochs. Trial 0 is the preset "standard". At the end the best trial and the preset are trained
with other seeds. The test set is not read. The same command continues a search that was stopped:
what a trial is depends on the seed and the trials before it.
"""

import math
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro

try:
    import optuna
except ImportError:
    print('error: the search needs optuna; pip install "digits_jax[search]"', file=sys.stderr)
    sys.exit(2)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots

from digits_jax import ConfigError, Dataset, DigitsError, TrainConfig, load_dataset
from digits_jax.cli import leave, parse, run_program
from digits_jax.files import replace_files
from digits_jax.formatting import markdown_table, mean_sd, percent, plural
from digits_jax.hardware import keep_freed_memory
from digits_jax.runs.folder import hold_folder
from digits_jax.train import parse_arguments
from digits_jax.training.loop import train_members
from digits_jax.training.setup import prepare
from experiments.study import without_test

# Ranges of the learning rate and the weight decay. Steps of Adam and Lion don't depend on the
# gradient's length, and Lion's are larger; SGD adds the decay to the gradient.
OPTIMIZERS = {
    "adamw": ((1e-3, 5e-2), (1e-3, 3e-1)),
    "sgd": ((1e-2, 5e-1), (1e-6, 1e-3)),
    "lion": ((1e-4, 5e-3), (1e-2, 1.0)),
}
CHOICES = {
    "batch_size": (64, 128, 256, 512),
    "schedule": ("one_cycle", "cosine", "constant"),
    "augment": ("none", "shift", "affine", "elastic"),
    "ema_decay": (0.0, 0.9, 0.99),
    "batch_norm": (True, False),
}
ARCH_CHOICES = {
    "mlp": {"hidden_sizes": [",".join([w] * n) for n in (1, 2, 3) for w in ("128", "512", "1024")]},
    "cnn": {
        "channels": ("16,32", "24,48", "32,64", "64,128", "16,32,64"),
        "convs_per_block": (1, 2),
        "dense_size": (0, 64, 128, 256),
    },
}


@dataclass(frozen=True)
class Arguments:
    """What to search, and for how long."""

    arch: Literal["cnn", "mlp", "ann"] = "cnn"
    """Network: cnn, or mlp (also called ann)."""
    dataset: str = "auto"
    """Data set, as for training."""
    data_dir: str | None = None
    """Its folder, as for training."""
    epochs: float | None = None
    """Epochs of a trial that is not stopped (default: the preset's)."""
    trials: int = 100
    """Trials in all, those of earlier calls included."""
    budget_seconds: float = 600.0
    """No trial starts after so many seconds of this call."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's sampler: tree-structured Parzen estimator, or random search."""
    seed: int = 0
    """Seed of the sampler, and of every trial's training."""
    seeds: int = 3
    """Other seeds, with which the best trial and the preset are compared at the end."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(
            aliases=["-o"], help_behavior_hint="(default: runs/search-ARCH-DATASET-seedSEED)"
        ),
    ] = None
    """Folder of the search; the same search there is continued."""


def main(argv: Sequence[str]) -> int:
    """Parses, searches, compares, writes."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    for name in ("trials", "budget_seconds", "seeds"):
        if not 0 < (value := getattr(arguments, name)) < math.inf:
            raise ConfigError(f"{name}={value}: must be more than 0 and finite")
    names = ("arch", "dataset", "epochs", "seed")
    config = TrainConfig(**{name: getattr(arguments, name) for name in names})
    keep_freed_memory()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dataset = without_test(load_dataset(config.dataset, arguments.data_dir))
    config = config.resolve(dataset.name)
    name = f"search-{config.arch}-{dataset.name}-seed{config.seed}".replace("/", "-")
    output = arguments.output or Path("runs") / name
    with hold_folder(output):
        study = open_study(output, config, dataset, arguments.sampler)
        deadline = time.monotonic() + arguments.budget_seconds
        while len(ended(study)) < arguments.trials and time.monotonic() < deadline:
            run_trial(study, config, dataset)
        write_report(study, config, dataset, arguments.seeds, output, shlex.join(argv))
    return 0


def open_study(output: Path, config: TrainConfig, dataset: Dataset, sampler: str) -> Any:
    """Makes the study in a folder, with the preset as trial 0, or loads the one that is there.

    Raises:
      ConfigError: the folder holds another search.
    """
    path = output / "journal.log"
    path.with_name("journal.log.lock").unlink(missing_ok=True)  # of a process that was killed
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
        study_name="search",
        direction="maximize",
        # Half of the trials continue after a quarter of the epochs, and half of these after a half.
        # Earlier, large batches and slow averages of the weights would have no chance.
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, round((config.epochs or 0) / 4)), reduction_factor=2
        ),
        load_if_exists=True,
    )
    settings = {name: getattr(config, name) for name in ("arch", "dataset", "epochs", "seed")}
    settings |= {"dataset_sha256": dataset.sha256, "sampler": sampler}
    if not study.user_attrs:
        study.set_user_attr("settings", settings)
        study.enqueue_trial(to_params(config))
    for name, own in study.user_attrs["settings"].items():
        if settings[name] != own:
            raise ConfigError(
                f"{output}: holds a search with {name}={own}, not {settings[name]}; "
                "give another folder"
            )
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)  # its process was stopped
        study.enqueue_trial(trial.params)
    return study


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that were trained to their end, or stopped by the pruner."""
    return study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def run_trial(study: optuna.Study, config: TrainConfig, dataset: Dataset) -> None:
    """Draws, trains and prints one trial."""
    # Its own sampler for each trial: a search that was stopped continues as it would have.
    seed = 1_000_003 * config.seed + len(ended(study))
    if study.user_attrs["settings"]["sampler"] == "random":
        study.sampler = optuna.samplers.RandomSampler(seed)
    else:
        study.sampler = optuna.samplers.TPESampler(seed=seed)
    trial = study.ask()
    flags = suggest(trial, config.arch)
    trial.set_user_attr("flags", flags)

    def report(rows: Sequence[Mapping[str, Any]]) -> None:
        trial.report(rows[0]["validation_accuracy"], round(rows[0]["epoch"]))
        if rows[0]["step"] < setup.total_steps and trial.should_prune():
            raise optuna.TrialPruned(f"stopped after {rows[0]['epoch']:.3g} epochs")

    try:
        own = parse_arguments([*command(config, flags), f"--seed={config.seed}"]).config
        setup = prepare(own, dataset=dataset)
        [result] = train_members([setup], callbacks=[report])
        study.tell(trial, result.validation.accuracy)
        outcome = f"validation accuracy {percent(result.validation.accuracy)}"
    except (optuna.TrialPruned, DigitsError) as error:  # or it diverged, or doesn't fit the data
        study.tell(trial, state=TrialState.PRUNED)
        outcome = str(error)
    finally:
        jax.clear_caches()  # or the traces of hundreds of networks add up
    print(f"trial {trial.number}: {outcome}; {' '.join(flags)}", flush=True)


def suggest(trial: Any, arch: str) -> list[str]:
    """Draws a trial's flags."""
    values = {"optimizer": trial.suggest_categorical("optimizer", list(OPTIMIZERS))}
    ranges = OPTIMIZERS[values["optimizer"]]
    for name, (low, high) in zip(("learning_rate", "weight_decay"), ranges, strict=True):
        # Good rates differ between optimizers, so each optimizer has its own parameter.
        drawn = trial.suggest_float(f"{name}_{values['optimizer']}", low, high, log=True)
        values[name] = f"{drawn:.3g}"
    for name, high, step in (("label_smoothing", 0.2, 0.01), ("dropout", 0.5, 0.05)):
        values[name] = f"{trial.suggest_float(name, 0.0, high, step=step):.2f}"
    for name, choices in {**CHOICES, **ARCH_CHOICES[arch]}.items():
        values[name] = trial.suggest_categorical(name, choices)
    normalize = values.pop("batch_norm")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return [*flags, "--batch-norm" if normalize else "--no-batch-norm"]


def to_params(config: TrainConfig) -> dict[str, Any]:
    """Returns the parameters for which `suggest` gives a configuration's values."""
    params = {}
    for name in ("optimizer", "label_smoothing", "dropout", *CHOICES, *ARCH_CHOICES[config.arch]):
        value = getattr(config, name)
        params[name] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    for name in ("learning_rate", "weight_decay"):
        params[f"{name}_{config.optimizer}"] = getattr(config, name)
    return params


def command(config: TrainConfig, flags: Sequence[str]) -> list[str]:
    """Returns the flags of a training; a trial without flags is the preset."""
    names = ("arch", "dataset", "preset", "epochs")
    return [*(f"--{name}={getattr(config, name)}" for name in names), *flags]


def write_report(
    study: optuna.Study, config: TrainConfig, dataset: Dataset, count: int, output: Path, argv: str
) -> None:
    """Compares the best trial with the preset; writes and prints the tables; draws."""
    complete = [trial for trial in ended(study) if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: (-trial.values[0], trial.number))
    if not complete:
        raise ConfigError(f"{output}: no trial was trained to its end; give more budget_seconds")
    seeds = range(config.seed + 1, config.seed + 1 + count)
    rows, accuracies = [], []
    for name, flags in (("best trial", complete[0].user_attrs["flags"]), ("preset", [])):
        setup = prepare(parse_arguments(command(config, flags)).config, dataset=dataset)
        results = [train_members([setup.with_seed(seed)])[0] for seed in seeds]
        accuracies.append([result.validation.accuracy for result in results])
        line = " ".join(["python -m digits_jax.train", *command(config, flags)])
        shown = map(percent, accuracies[-1])
        rows.append((name, f"`{line}`", *shown, mean_sd(accuracies[-1], factor=100)))
    gains = [best - preset for best, preset in zip(*accuracies, strict=True)]
    best_rows = [(t.number, percent(t.value), " ".join(t.user_attrs["flags"])) for t in complete]
    text = "\n\n".join(
        [
            f"# Hyperparameters of the {config.arch} on {dataset.name}",
            f"`python -m experiments.search {argv}`",
            f"{plural(len(ended(study)), 'trial')}, {len(complete)} of them trained to the end:",
            markdown_table(best_rows[:10], ("trial", "validation accuracy", "flags"), "rrl"),
            "The best trial and the preset, with other seeds:",
            markdown_table(rows, ("", "command", *(f"seed {s}" for s in seeds), "mean, %"), "llr"),
            f"The best trial has {mean_sd(gains, factor=100)} points more than the preset, on the "
            f"{len(dataset.validation):,} validation images that chose it, which is optimistic. "
            "The test set was not read.",
            "![Accuracy by trial](history.png) ![Accuracy by parameter](parameters.png)",
        ]
    )
    replace_files({output / "search.md": f"{text}\n".encode()})
    print(f"\n{text}\n\nwritten to {output}")

    with plt.rc_context({"backend": "Agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these plots are experimental
        for name, plot in (
            ("history", plots.plot_optimization_history),
            ("parameters", plots.plot_slice),
        ):
            figure = np.ravel(np.asarray(plot(study)))[0].figure
            figure.savefig(output / f"{name}.png", bbox_inches="tight")
            plt.close(figure)


if __name__ == "__main__":
    leave(run_program(main))
