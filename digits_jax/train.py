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

from digits_jax.cli import leave, parse, parse_known, run_program, with_flags
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
    """Path of a run or its config.json, whose settings become the defaults."""
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

    @property
    def origin(self) -> Path | None:
        """The folder of the run that is resumed or repeated."""
        given = self.options.workdir if self.modes.resume else self.modes.config_from
        path = given and Path(os.path.expanduser(given))
        return (path if path.is_dir() else path.parent) if path else None


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parses a command line.

    With ``--resume`` or ``--config``, flags that aren't given have the values of that run.

    Raises:
      ConfigError: a flag can't be used, or differs from the run that is resumed.
    """
    early = parse_known(_Early, argv)
    if early.resume and early.config is not None:
        raise ConfigError("--config starts a new run, --resume continues one; give one of them")
    if early.resume and not early.workdir:
        raise ConfigError("--resume needs --workdir, the folder of the run")
    default = _defaults(early) if early.resume or early.config is not None else None
    arguments = parse(Arguments, argv, doc=__doc__ or "", default=default)
    if arguments.config.teacher == NO_TEACHER:
        config = dataclasses.replace(arguments.config, **dict.fromkeys(("teacher", *DISTILLATION)))
        arguments = dataclasses.replace(arguments, config=config)
    return arguments


@dataclass(frozen=True)
class _Early:
    """The flags that the defaults of the others depend on."""

    resume: Switch = False
    config: str | None = None
    workdir: str | None = None
    arch: str | None = None
    preset: str | None = None
    dataset: str | None = None


def _defaults(early: _Early) -> Arguments:
    """The arguments of the run that is resumed or repeated."""
    path = Path(os.path.expanduser((early.workdir if early.resume else early.config) or ""))
    if early.resume:
        folder.check_run(path)
    run, options = read_config(path)
    _check_same(early, run, path)
    here = options.for_resuming(path)
    if not early.resume:  # sums round differently on another number of devices
        here = dataclasses.replace(here, workdir=None, devices=options.devices)
    return Arguments(run, here)


def _check_same(early: _Early, run: TrainConfig, path: str | Path) -> None:
    """Refuses what a run's other fields depend on, before another data set is downloaded."""
    arch = "mlp" if early.arch == "ann" else early.arch
    given = {"arch": arch, "preset": early.preset}
    # Without its version, a data set may be the same one; and so may the one at a path.
    if early.resume and not Path(os.path.expanduser(early.dataset or "")).exists():
        given["dataset"] = early.dataset
    for name, value in given.items():
        own = getattr(run, name)
        if value not in (None, own, "auto") and value != own.split(":")[0]:
            raise ConfigError(
                f"{name}={value}: the run in {path} has {name}={own}; leave it out, or start a new "
                "run"
            )


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

    from digits_jax.training.ensemble import run_ensemble
    from digits_jax.training.interrupts import stop_on_signals
    from digits_jax.training.loop import run
    from digits_jax.training.run_metadata import summarize
    from digits_jax.training.setup import prepare

    resuming = arguments.modes.resume
    setup = prepare(arguments.config, arguments.options, _user_data(arguments), resuming=resuming)
    main_process = jax.process_index() == 0
    differences = _check_repeated(setup, arguments)
    if main_process:
        print(summarize(setup), flush=True)
        print_notice(setup.dataset.notice)
        for line in differences:
            print(f"warning: {line}", file=sys.stderr)
    if arguments.modes.dry_run:
        place = _check_place(setup, resuming)
        if main_process:
            print(f"dry run: no run was written{place}")
        return 0
    if setup.config.ensemble > 1:

        def on_member(result: Any) -> None:
            write_curves(result)
            print(plain(last_line(result.results, result.workdir)), flush=True)

        ensemble = run_ensemble(setup, resuming=resuming, on_member=on_member)
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


def _user_data(arguments: Arguments) -> Any:
    """Loads the user data of the run that is resumed or repeated, if it was trained on any."""
    from digits_jax.training.run_data import load_own_of_run

    if arguments.origin is None:
        return None
    given, own = arguments.config.dataset, read_config(arguments.origin)[0].dataset
    if given != own and not arguments.modes.resume:  # a new run may have other data
        return None
    moved = None if given == own else given
    return load_own_of_run(arguments.origin, moved, arguments.options.data_dir)


def _check_repeated(setup: Any, arguments: Arguments) -> list[str]:
    """Raises where the data aren't the run's that is resumed or repeated; returns differences."""
    from digits_jax.training.same_run import check_same_inputs, platform_differences

    run = arguments.origin
    if run is None:
        return []
    if arguments.modes.resume:
        if setup.config.ensemble == 1:
            # Before the network is announced: it isn't the run's if that has a custom module.
            check_same_inputs(setup, run)
        return []
    same_teacher = read_config(run)[0].teacher == setup.config.teacher
    check_same_inputs(setup, run, same_teacher=same_teacher)
    return platform_differences(setup, run)


def _check_place(setup: Any, resuming: bool) -> str:
    """Raises where the run couldn't be written or resumed; says where it would resume."""
    from digits_jax.runs.checkpoint import newest_good
    from digits_jax.training.same_run import check_same_run

    workdir = setup.options.workdir and Path(setup.options.workdir)
    if resuming:
        check_same_run(setup, workdir)
        if setup.config.ensemble == 1:
            step = newest_good(workdir / folder.CHECKPOINTS) or 0
            return f"; it would resume at step {step} of {setup.total_steps}"
    elif workdir:
        folder.check_free(workdir)
    return ""


def print_notice(text: str) -> None:
    """Prints what must not be overlooked, if anything."""
    if not text:
        return
    lines = textwrap.wrap(with_flags(text), 75, break_long_words=False, break_on_hyphens=False)
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
