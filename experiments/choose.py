"""Which recipe is better, by images held out of training: python -m experiments.choose --name=NAME

Trains candidates with several seeds and drops the test split before: what isn't there can't be
chosen by. Candidates are compared with the first one seed by seed, so that what a seed does to
both cancels out. With ``--folds=12`` each of twelve seeds is scored on another twelfth of the
training and validation images, which it isn't trained on (seed 0 on MNIST's own validation split):
a difference of a tenth of a percent needs more images than one split has. After each ``--`` stands
a candidate, as flags of ``digits_jax.train``:

  python -m experiments.choose --name=tiny -- --preset=tiny -- --preset=tiny --dropout=0.1

Writes ``NAME.json`` and ``NAME.md`` into ``experiments/results/choices``. Trainings that are there
are kept: with more ``--seeds`` or candidates it goes on.
"""

import dataclasses
import json
import os
import shlex
import statistics
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.benchmarks.processes import stopping_children
from digits_jax.benchmarks.words import some
from digits_jax.cli import parse, run_program
from digits_jax.config import NOT_THE_RUN, TrainConfig
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import ConfigError, shown
from digits_jax.hardware import processor_name
from digits_jax.runs.folder import hold_folder, read_json, replace_files
from digits_jax.train import parse_config
from experiments.cores import pin, shares
from experiments.running import results_folder

# What all candidates share, or none has, as nothing is written of a training but its row.
NOT_OF_A_CANDIDATE = (
    *("dataset", "data_dir", "config", "input", "workdir", "dry_run", "resume", "eval_only"),
    *("coordinator", "num_processes", "process_id", "checkpoint_every_steps", "together"),
)
RESULTS = Path(__file__).parent / "results" / "choices"


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    name: str
    """Of the files that are written."""
    seeds: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: 3, or as many as --folds)")
    ] = None
    """Seeds 0, 1, ... of each."""
    folds: int = 0
    """Cross-validation: seed K is scored on part K of so many, and trained on the others; 0: all are scored on the validation split."""  # noqa: E501
    dataset: str = "mnist"
    """Name of the data set."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: as for training)")
    ] = None
    """Folder of the data set."""
    jobs: int = 1
    """Trainings at once, each with its share of the cores."""
    together: bool = False
    """Train a candidate's seeds in one step, side by side: on an accelerator as fast as one."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of the files."""


def main(argv: Sequence[str]) -> None:
    """Trains what is missing, then writes the table of all that is there."""
    own, *candidates = split(argv)
    words = f"{__doc__.splitlines()[0]} -- FLAGS -- FLAGS ..."
    arguments = parse(Arguments, own, doc=words)
    if arguments.seeds is None:
        arguments = dataclasses.replace(arguments, seeds=arguments.folds or 3)
    check(arguments, candidates)
    with hold_folder(results_folder(arguments.output)):
        compare(arguments, candidates, shlex.join(["python", "-m", "experiments.choose", *argv]))


def compare(arguments: Arguments, candidates: Sequence[str], command: str) -> None:
    """Trains what is missing, each written when it ends, and prints the table."""
    path = arguments.output / f"{arguments.name}.json"
    own = {"dataset": arguments.dataset, "folds": arguments.folds}
    there = read_json(path) if path.exists() else {"candidates": {}, **own}
    for name, before in (("dataset", "mnist"), ("folds", 0)):
        if (before := there.get(name, before)) != own[name]:
            raise ConfigError(
                f"--{name}={own[name]}: {path} is of --{name}={before}; give another --name"
            )
    note_recipes(there, candidates, path)
    table = {**there, **own}
    table |= {"command": command, "processor": processor_name()}
    runs = {flags: table["candidates"].setdefault(flags, {}) for flags in candidates}
    # All candidates of a seed before the next one: what is cut short still compares.
    wanted = [
        (flags, seed)
        for seed in range(arguments.seeds)
        for flags in candidates
        if str(seed) not in runs[flags]
    ]
    for flags in dict.fromkeys(flags for flags, _ in wanted):
        if runs[flags] and flags not in table["recipes"]:
            raise ConfigError(
                f"{flags}: in {path} it was trained before it was noted what flags stand for, and "
                "may be another recipe by now; give another --name"
            )
    if wanted:  # Prepared once, and what is wrong with it is said here.
        dataset = load_dataset(arguments.dataset, arguments.data_dir)
        count = len(dataset.train) + len(dataset.validation)
        if arguments.folds > count:
            raise ConfigError(
                f"--folds={arguments.folds}: {dataset.name} has {count:,} images besides its test "
                "split; give at most so many"
            )
    table["left"] = len(wanted)
    if wanted:
        print(
            f"{some(len(wanted), 'training')}, each kept in {path} when it ends; "
            "the same command goes on"
        )
    groups = [(flags, (seed,)) for flags, seed in wanted]
    if arguments.together:
        groups = [
            (flags, tuple(seed for other, seed in wanted if other == flags))
            for flags in dict.fromkeys(flags for flags, _ in wanted)
        ]
    if any(runs.values()):
        write(table, path)  # which says how many are left
    with stopping_children():
        data = {**own, "data_dir": arguments.data_dir}
        for flags, seeds, outcomes in trained(groups, data, arguments.jobs):
            for seed, found in zip(seeds, outcomes, strict=True):
                runs[flags][str(seed)] = found
                print(f"{flags}, seed {seed}: {said(found)}", flush=True)
            table["left"] -= len(seeds)
            write(table, path)
    write(table, path)  # where nothing was missing, too: the page, and by which command
    print(f"\n{markdown(table)}")


def write(table: dict[str, Any], path: Path) -> None:
    """The table as JSON, and as a page beside it."""
    files = {path: (json.dumps(table, indent=1) + "\n").encode()}
    replace_files({**files, path.with_suffix(".md"): markdown(table).encode()})


def split(argv: Sequence[str]) -> list[Any]:
    """The program's own flags, then a line for each candidate.

    Example:
      >>> split(["--name=x", "--", "--arch=cnn", "--", "--arch=mlp", "--dropout=0.1"])
      [['--name=x'], '--arch=cnn', '--arch=mlp --dropout=0.1']
    """
    parts = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    return [parts[0], *map(shlex.join, parts[1:])]


def check(arguments: Arguments, candidates: Sequence[str]) -> None:
    """Raises an DigitsError for what can't be compared, before anything is trained."""
    named = arguments.name and Path(arguments.name).name == arguments.name
    if not named or arguments.name.startswith("."):
        raise ConfigError(f"--name={shown(arguments.name)}: give a word that can name a file")
    if arguments.folds < 0 or arguments.folds == 1:
        raise ConfigError(
            f"--folds={arguments.folds}: give 2 or more, or 0 for the validation split"
        )
    if arguments.seeds < 2:
        raise ConfigError(f"--seeds={arguments.seeds}: give 2 or more, as one says nothing")
    if arguments.folds and arguments.seeds > arguments.folds:
        raise ConfigError(
            f"--seeds={arguments.seeds}: each seed has a part of its own; give at most "
            f"{arguments.folds}, as --folds, or less"
        )
    shares(arguments.jobs)
    for flags in candidates:
        own = parse(TrainConfig, shlex.split(flags), doc=__doc__.splitlines()[0])
        for name in NOT_OF_A_CANDIDATE:
            if getattr(own, name) != getattr(TrainConfig(), name):
                flag = f"--{name.replace('_', '-')}"
                advice = "give it before the first --" if name == "dataset" else "leave it out"
                raise ConfigError(f"{flags}: {flag} isn't for one candidate; {advice}")
        config = parse_config([*shlex.split(flags), f"--dataset={arguments.dataset}"])
        if config.ensemble > 1 or config.teacher:
            raise ConfigError(f"{flags}: a candidate is one network that is trained from scratch")
        if config.seed:
            raise ConfigError(f"{flags}: all have the seeds 0 to --seeds - 1; leave --seed out")
    if len(candidates) < 2 or len(set(candidates)) < len(candidates):
        raise ConfigError(
            "give two or more candidates that differ, each after a --: "
            "-- --preset=tiny -- --preset=tiny --dropout=0.1"
        )


def note_recipes(table: dict[str, Any], candidates: Sequence[str], path: Path) -> None:
    """Notes what each candidate's flags stand for: a preset is another recipe on another day.

    Args:
      table: that is there; of candidates that were trained before this was noted, nothing is known.
      candidates: of this call.
      path: of the table.

    Raises:
      ConfigError: a candidate was trained as something else.
    """
    noted = table.setdefault("recipes", {})
    for flags in candidates:
        resolved = parse_config(shlex.split(flags)).resolve(table.get("dataset", "mnist")).to_dict()
        apart = {*NOT_THE_RUN, "seed", "dataset"}
        now = {k: v for k, v in resolved.items() if k not in apart and v is not None}
        now = json.loads(json.dumps(now))
        for name, value in noted.get(flags, now).items():
            if now.get(name) != value:
                raise ConfigError(
                    f"{flags}: in {path} it was trained with {name}={value}, and today it has "
                    f"{now.get(name)}; give another --name"
                )
        if flags in noted or not table["candidates"].get(flags):
            noted[flags] = now


def trained(wanted: Sequence[tuple[str, Sequence[int]]], data: dict[str, Any], jobs: int):
    """Trains each, several at once, and yields (flags, seeds, outcomes) as they end.

    Args:
      wanted: flags and the seeds to train with them.
      data: {"dataset": its name, "data_dir" and "folds": as in `Arguments`}.
      jobs: how many at once.
    """
    starting = get_context("spawn")  # JAX's threads don't survive a fork
    cores = starting.SimpleQueue()
    for own in shares(jobs):
        cores.put(own)
    with ProcessPoolExecutor(jobs, starting, _begin, (cores, data)) as pool:
        waiting = {pool.submit(_trial, *each): each for each in wanted}
        try:
            for done in as_completed(waiting):
                yield *waiting[done], done.result()
        except BaseException:  # They would train on, and be waited for.
            threading.excepthook = lambda _: None  # the pool's thread finds what it waits for gone
            for process in active_children():
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_OF_THIS_PROCESS: dict[str, Any] = {}


def _begin(cores, data):
    """Once in each process: its cores, and the data."""
    from digits_jax.training.parallel import keep_freed_memory, use_compilation_cache
    from experiments.search.trial import without_test

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    pin(os.getpid(), cores.get())
    use_compilation_cache()
    keep_freed_memory()
    _OF_THIS_PROCESS["dataset"] = without_test(load_dataset(data["dataset"], data["data_dir"]))
    _OF_THIS_PROCESS["folds"] = data["folds"]


def _leave_with_parent():
    """A process of the pool would train on to the end of its trial, for nobody."""
    wait([parent_process().sentinel])
    os._exit(1)


def _trial(flags, seeds):
    from digits_jax.training import parallel
    from digits_jax.training.interrupts import StopRequest
    from digits_jax.training.record import device_name
    from experiments.search.trial import hold_out, train_seeds, train_trial

    dataset, folds = _OF_THIS_PROCESS["dataset"], _OF_THIS_PROCESS["folds"]
    datasets = [hold_out(dataset, seed, folds) if folds else dataset for seed in seeds]
    config = parse_config([*shlex.split(flags), f"--dataset={dataset.name}", f"--seed={seeds[0]}"])
    if len(seeds) > 1:
        found = train_seeds(config, datasets, seeds)
    else:
        found = [train_trial(config, datasets[0], StopRequest(), lambda: None)]
    mesh = parallel.make_mesh(parallel.start_backend(config.platform, 1)[:1])
    return [{**each, "device": device_name(mesh)} for each in found]


def said(found: dict[str, Any]) -> str:
    """An outcome in a few words.

    Example:
      >>> said({"status": "trained", "correct": 4975, "count": 5000, "loss": 0.02,
      ...       "train_seconds": 9.87})
      'validation accuracy 99.50%, loss 0.0200, 9.9 s'
    """
    if found["correct"] is None:
        return f"{found['status']} ({found['note']})"
    share = found["correct"] / found["count"]
    seconds = found["train_seconds"]
    return f"validation accuracy {share:.2%}, loss {found['loss']:.4f}, {seconds:.1f} s"


def markdown(table: dict[str, Any]) -> str:
    """The table, a line per candidate; differences to the first, over the seeds that both have."""
    first = next(iter(table["candidates"].values()))
    own = table.get("dataset", "mnist")
    lines = [
        f"| `python -m digits_jax.train --dataset={own}` ... | seeds | validation accuracy | loss "
        "| points more than the first | a training |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for flags, runs in table["candidates"].items():
        if not runs:
            continue  # not trained yet
        good = {seed: run for seed, run in runs.items() if run["correct"] is not None}
        if not good:
            why = "; ".join(dict.fromkeys(run["note"] for run in runs.values() if run.get("note")))
            lines.append(f"| `{flags}` | {len(runs)} | {why or 'no finite numbers'} | | | |")
            continue
        percent = {seed: 100 * run["correct"] / run["count"] for seed, run in good.items()}
        mean_loss = statistics.mean(run["loss"] for run in good.values())
        seconds = statistics.median(run["train_seconds"] for run in good.values())
        took = f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
        if "; " in _devices(table):
            took += f", {_devices({**table, 'candidates': {flags: runs}})}"
        both = [seed for seed in good if seed in first and first[seed]["correct"] is not None]
        gains = [percent[s] - 100 * first[s]["correct"] / first[s]["count"] for s in both]
        lines.append(
            f"| `{flags}` | {len(good)} | {spread(percent.values(), 3, '%')} | {mean_loss:.4f} | "
            f"{'' if runs is first else spread(gains, 3, '', '+')} | {took} |"
        )
    lines += [
        "",
        f"Mean ± standard deviation over the seeds, last step, {_scored_on(table)}; "
        f"{_devices(table)}. A training: its seconds, or its share of those of several at once, "
        "which are more where others ran beside it.",
        "",
        f"Last written by `{table['command']}`.",
    ]
    known = table.get("recipes", {})
    if any(runs and flags not in known for flags, runs in table["candidates"].items()):
        lines[-1] += (
            " What each line's flags stood for wasn't noted then: a preset may be another by now."
        )
    if absent := [flags for flags, runs in table["candidates"].items() if not runs]:
        lines[-1] += f" Not trained yet: {', '.join(f'`{flags}`' for flags in absent)}."
    if left := table.get("left"):
        lines[-1] += (
            f" It was stopped with {some(left, 'training')} left; the same command goes on."
        )
    return "\n".join(lines) + "\n"


def _scored_on(table):
    if not (folds := table.get("folds")):
        return "on the validation split alone"
    return (
        f"seed K on part K of {folds} of the training and validation images, trained on the others"
    )


def _devices(table):
    """What trained: those of several days may be several."""
    runs = [run for runs in table["candidates"].values() for run in runs.values()]
    # Those of before don't say; a processor it was.
    found = [run.get("device", table["processor"]).removeprefix("cpu: ") for run in runs]
    return "; ".join(dict.fromkeys(found)) or table["processor"]


def spread(values: Sequence[float], digits: int, unit: str, sign: str = "") -> str:
    """Mean ± standard deviation, as far as there is one.

    Example:
      >>> spread([1.0, 2.0], 2, "%"), spread([1.0], 1, "", "+")
      ('1.50% ± 0.71', '+1.0')
    """
    values = list(values)
    if not values:
        return "-"
    mean = f"{statistics.mean(values):{sign}.{digits}f}{unit}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(run_program(main))
