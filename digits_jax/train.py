"""Trains a digit recognizer: python -m digits_jax.train --arch=cnn"""

import dataclasses
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import leave, parse, parse_known, run_program
from digits_jax.config import RunOptions, TrainConfig, check_processes, read_config
from digits_jax.errors import ConfigError
from digits_jax.fields import Switch
from digits_jax.formatting import plain, plural
from digits_jax.presets import DISTILLATION
from digits_jax.runs import folder

# --teacher=none removes the teacher of a run that --config repeats.
NO_TEACHER = "none"


@dataclass(frozen=True)
class Modes:
    """What to do with the configuration."""

    config_from: Annotated[str | None, tyro.conf.arg(name="config", help_behavior_hint="")] = None
    """Path to a run or its config.json whose settings are the defaults of this one."""
    resume: Switch = False
    """Resume the run in --workdir from its newest checkpoint."""
    dry_run: Switch = False
    """Check everything, print what would be done, and stop: no run is written."""


@dataclass(frozen=True)
class Arguments:
    """The flags of the program."""

    config: Annotated[
        tyro.conf.OmitArgPrefixes[TrainConfig],
        tyro.conf.arg(name="training", help="What is trained."),
    ] = field(default_factory=TrainConfig)
    options: Annotated[
        tyro.conf.OmitArgPrefixes[RunOptions],
        tyro.conf.arg(name="run", help="Where and how it is computed."),
    ] = field(default_factory=RunOptions)
    modes: Annotated[
        tyro.conf.OmitArgPrefixes[Modes],
        tyro.conf.arg(name="mode", help="What the program does."),
    ] = field(default_factory=Modes)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    With ``--resume`` what isn't given is the run's own; with ``--config`` it is the other run's.

    Raises:
      ConfigError: a flag can't be used, or differs from the run that is resumed.
    """
    early = parse_known(_Early, argv)
    if early.resume and early.config is not None:
        raise ConfigError("--config starts a new run, --resume continues one; give one of them")
    if early.resume and not early.workdir:
        raise ConfigError("--resume needs --workdir, the folder of the run")
    if early.resume:
        path = Path(os.path.expanduser(early.workdir or ""))
        folder.check_run(path)
        run, saved_options = read_config(path)
        options = saved_options.for_resuming(path)
        _check_same(early, run, path)
    elif early.config is not None:
        run, saved_options = read_config(Path(os.path.expanduser(early.config)))
        # Sums round differently on another number of devices.
        options = dataclasses.replace(
            saved_options.for_resuming(early.config), workdir=None, devices=saved_options.devices
        )
        # A data set of another name is a choice.
        _check_same(dataclasses.replace(early, dataset=None), run, early.config)
        if early.teacher == NO_TEACHER:
            run = dataclasses.replace(run, **dict.fromkeys(("teacher", *DISTILLATION)))
        if early.ensemble == 1:
            options = dataclasses.replace(options, together=None)
    else:
        return _without_teacher_none(parse(Arguments, argv, doc=__doc__ or ""))
    arguments = parse(Arguments, argv, doc=__doc__ or "", default=Arguments(run, options))
    return _without_teacher_none(arguments)


@dataclass(frozen=True)
class _Early:
    """The flags that the defaults of the others depend on."""

    resume: Switch = False
    config: str | None = None
    workdir: str | None = None
    arch: str | None = None
    preset: str | None = None
    dataset: str | None = None
    teacher: str | None = None
    ensemble: int | None = None


def _check_same(early: _Early, run: TrainConfig, path: str | Path) -> None:
    """Refuses what a run's other fields depend on, before another data set is downloaded."""
    arch = "mlp" if early.arch == "ann" else early.arch
    for name, value in (("arch", arch), ("preset", early.preset), ("dataset", early.dataset)):
        own = getattr(run, name)
        # Without its version, a data set may be the same one; and so may the one at a path.
        is_path = name == "dataset" and value and Path(os.path.expanduser(value)).exists()
        if value not in (None, own, "auto") and value != own.split(":")[0] and not is_path:
            raise ConfigError(
                f"{name}={value}: the run in {path} has {name}={own}; leave it out, or start a new "
                "run"
            )


def _without_teacher_none(arguments: Arguments) -> Arguments:
    if arguments.config.teacher != NO_TEACHER:
        return arguments
    config = dataclasses.replace(arguments.config, **dict.fromkeys(("teacher", *DISTILLATION)))
    return dataclasses.replace(arguments, config=config)


def main(argv: Sequence[str]) -> int:
    """Parses, trains, prints."""
    started = time.perf_counter()
    arguments = parse_arguments(argv)

    from digits_jax.hardware import keep_freed_memory, use_compilation_cache
    from digits_jax.training import distributed
    from digits_jax.training.interrupts import Interrupted

    options = arguments.options
    check_processes(arguments.config, options)
    if not arguments.modes.dry_run:
        use_compilation_cache()
        keep_freed_memory()
    try:
        with distributed.initialize(options.coordinator, options.num_processes, options.process_id):
            return _train(arguments, started)
    except Interrupted as stop:
        import jax

        if jax.process_index() == 0:
            print(stop, file=sys.stderr)
        return 128 + stop.signal_number


def _train(arguments: Arguments, started: float) -> int:
    import jax

    from digits_jax.training.ensemble import fit_ensemble
    from digits_jax.training.interrupts import stop_on_signals
    from digits_jax.training.loop import run
    from digits_jax.training.setup import prepare

    dataset, resuming = _own_dataset(arguments), arguments.modes.resume
    setup = prepare(arguments.config, arguments.options, dataset, resuming=resuming)
    main_process = jax.process_index() == 0
    _announce(setup, arguments, speaks=main_process)
    if arguments.modes.dry_run:
        _print_dry_run(setup, arguments, speaks=main_process)
        return 0
    if setup.config.ensemble > 1:

        def on_member(result: Any) -> None:
            write_curves(result)
            print(plain(last_line(result.results, result.workdir)), flush=True)

        ensemble = fit_ensemble(
            setup.config,
            setup.options,
            dataset=setup.dataset,
            resuming=resuming,
            on_member=on_member,
        )
        results, workdir = ensemble.results, ensemble.workdir
    else:
        result = run(setup, resuming=resuming)
        results, workdir = result.results, result.workdir
        if not main_process:
            return 0
        with stop_on_signals() as stop:  # The run is finished: drawing takes a moment.
            write_curves(result)
        if stop.signal_number:
            return 128 + stop.signal_number
    print_notice(setup.dataset.notice)
    print(plain(last_line(results, workdir, time.perf_counter() - started)))
    return 0


def _own_dataset(arguments: Arguments) -> Any:
    """The data of one's own that a run is resumed or repeated with, if it has such."""
    from digits_jax.training.run_data import load_own_of_run

    resume, repeat, options = arguments.modes.resume, arguments.modes.config_from, arguments.options
    run = options.workdir if resume else repeat
    if run is None:
        return None
    given, own = arguments.config.dataset, read_config(Path(os.path.expanduser(run)))[0].dataset
    if repeat and given != own:  # other data is a choice
        return None
    workdir = Path(os.path.expanduser(run))
    workdir = workdir if workdir.is_dir() else workdir.parent
    return load_own_of_run(workdir, None if given == own else given, options.data_dir)


def _announce(setup: Any, arguments: Arguments, *, speaks: bool) -> None:
    """Prints what will be done; raises where the data aren't those of a run that is repeated."""
    from digits_jax.training.run_metadata import summarize
    from digits_jax.training.same_run import check_same_inputs, platform_differences

    differences = []
    if arguments.modes.config_from is not None:
        repeated = Path(os.path.expanduser(arguments.modes.config_from))
        repeated = repeated if repeated.is_dir() else repeated.parent
        same_teacher = read_config(repeated)[0].teacher == setup.config.teacher
        check_same_inputs(setup, repeated, same_teacher=same_teacher)
        differences = platform_differences(setup, repeated)
    elif arguments.modes.resume and setup.config.ensemble == 1:
        # A module of the caller's isn't known here: else ours would be announced.
        check_same_inputs(setup, Path(setup.options.workdir))
    if speaks:
        print(summarize(setup), flush=True)
        print_notice(setup.dataset.notice)
        for line in differences:
            print(f"warning: {line}", file=sys.stderr)


def _print_dry_run(setup: Any, arguments: Arguments, *, speaks: bool) -> None:
    from digits_jax.runs.checkpoint import newest_good
    from digits_jax.training.same_run import check_same_run

    place = ""
    if arguments.modes.resume:
        workdir = Path(setup.options.workdir)
        check_same_run(setup, workdir)
        if setup.config.ensemble == 1:
            step = newest_good(workdir / folder.CHECKPOINTS) or 0
            place = f"; it would resume at step {step} of {setup.total_steps}"
    elif setup.options.workdir:
        folder.check_free(Path(setup.options.workdir))
    if speaks:
        print(f"dry run: no run was written{place}")


def print_notice(text: str) -> None:
    """Prints what must not be overlooked, if anything."""
    if not text:
        return
    lines = textwrap.wrap(text, 75, break_long_words=False, break_on_hyphens=False)
    print("", "!" * 78, *(f"!! {line}" for line in lines), "!" * 78, "", sep="\n", flush=True)


def write_curves(result: Any) -> None:
    """Writes ``curves.png`` into the folder of a `FitResult`, where there is an epoch to draw."""
    if not result.metrics:
        print(
            f"warning: {result.workdir / folder.METRICS}: holds no epoch, so there are no curves",
            file=sys.stderr,
        )
        return
    from digits_jax.figure_style import save_figure

    try:
        save_figure(result.plot_curves(), result.workdir / folder.CURVES)
    except Exception as error:  # matplotlib's own; the run is worth more
        print(f"warning: {folder.CURVES} can't be drawn ({plain(error)})", file=sys.stderr)


def last_line(results: dict[str, Any], workdir: Path | None, seconds: float | None = None) -> str:
    """Describes a finished run."""
    parts = [] if seconds is None else [f"in {seconds:.1f} s"]
    if members := results.get("member_test_accuracies"):
        mean = sum(members) / len(members)
        parts.append(f"{len(members)} members of {mean:.2%} on average")
    if of_each := results.get("parts"):
        parts += [f"{name} {found['test_accuracy']:.2%}" for name, found in of_each.items()]
    errors, images = plural(results["test_errors"], "error"), f"{results['test_count']:,} images"
    scored = ", ".join([f"{errors} of {images}", *parts])
    return f"{results['dataset']} test accuracy {results['test_accuracy']:.2%}: {scored}; {workdir}"


if __name__ == "__main__":
    leave(run_program(main))
