"""Trains a digit recogniser: python -m digits_jax.train --arch=cnn"""

import dataclasses
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax.cli import leave, parse, run_program
from digits_jax.config import (
    HERE,
    TrainConfig,
    config_path,
    difference_in_resuming,
    read_config,
    recipe_of,
)
from digits_jax.config_checks import check
from digits_jax.errors import ConfigError, DigitsError
from digits_jax.presets import TEACHER
from digits_jax.runs import folder

# What takes back the teacher of a run that --config repeats.
NO_TEACHER = "none"


def parse_config(argv: Sequence[str]) -> TrainConfig:
    """The configuration that a command line asks for.

    With ``--resume`` or ``--eval-only`` what isn't given is the run's own; with ``--config`` it is
    the other run's.
    """
    config = parse(TrainConfig, argv, doc=__doc__)
    if config.config is not None:
        try:
            recipe = recipe_of(config.config)
        except DigitsError as error:
            raise ConfigError(f"--config={error}") from None
        _check_repeat(argv, config, recipe)
        if config.ensemble == 1 and _given(argv, "ensemble"):
            recipe = dataclasses.replace(recipe, together=None)  # one network of an ensemble's
        if config.teacher == NO_TEACHER:
            recipe = dataclasses.replace(recipe, **dict.fromkeys(("teacher", *TEACHER)))
        config = parse(TrainConfig, argv, default=recipe, doc=__doc__)
        check(config)  # with what it takes over: its architecture, its teacher, its members
    config = _without_none(config)
    if config.workdir and config.resume != config.eval_only:
        workdir = Path(config.workdir)
        folder.check_run(workdir)
        # Where and with what to compute is up to this call, not to the earlier one.
        own = dataclasses.replace(read_config(workdir / folder.CONFIG), **HERE)
        config = _without_none(parse(TrainConfig, argv, default=own, doc=__doc__))
        _check_same_fields(config, own)
    check(config)
    return config


def _without_none(config):
    return dataclasses.replace(config, teacher=None) if config.teacher == NO_TEACHER else config


def _given(argv, name):
    """Whether a flag is on the command line."""
    flags = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    return f"--{name}" in flags


def _check_repeat(argv, config, recipe):
    """What a preset and an architecture fill in is already there in a recipe, and would stay."""
    arch = {"ann": "mlp"}.get(config.arch, config.arch)
    for name, value, own in (
        ("arch", arch, recipe.arch),
        ("preset", config.preset, recipe.preset),
    ):
        if _given(argv, name) and value != own:
            raise ConfigError(
                f"--{name}={value}: --config={config.config} has {name}={own}, and all that it "
                f"fills in; leave --{name} out, or give no --config"
            )


def _check_same_fields(config, own):
    """Before anything is loaded, and before sizes are checked against another architecture."""
    arch = {"ann": "mlp"}.get(config.arch, config.arch)
    name = difference_in_resuming(dataclasses.replace(config, arch=arch), own)
    if name:
        flag = name.replace("_", "-")
        advice = "leave the flag out, or start a new run"
        if config.eval_only:
            advice = "--eval-only scores it as it is: leave the flag out"
        raise ConfigError(
            f"--{flag}={getattr(config, name)}: the run in {config.workdir} has "
            f"{flag}={getattr(own, name)}; {advice}"
        )


def main(argv: Sequence[str]) -> int:
    """Parses, trains, prints."""
    started = time.perf_counter()
    config = parse_config(argv)
    if config.eval_only:
        from digits_jax.evaluate import evaluate

        return evaluate(Path(config.workdir), config.data_dir, config.devices, config.platform)

    from digits_jax.training.interrupts import Interrupted
    from digits_jax.training.parallel import keep_freed_memory, use_compilation_cache

    if not config.dry_run:
        use_compilation_cache()
        keep_freed_memory()
    try:
        return (_train_members if config.ensemble > 1 else _train)(config, started)
    except Interrupted as stop:
        if not config.process_id:  # of several processes one speaks
            print(stop, file=sys.stderr)
        return 128 + stop.signal_number


def _train(config, started):
    """One network."""
    from digits_jax.training.interrupts import stop_on_signals
    from digits_jax.training.loop import run
    from digits_jax.training.plan import prepare
    from digits_jax.training.processes import join
    from digits_jax.training.resuming import check_same_run

    with join(config.coordinator, config.num_processes, config.process_id) as group:
        plan = prepare(config, group=group)
        _announce(plan, speaks=group.index == 0)
        if config.dry_run:
            if config.resume:
                check_same_run(plan, Path(config.workdir))
            elif config.workdir:
                folder.check_free(Path(config.workdir))
            if group.index == 0:
                print(f"dry run: no run was written{_where_it_is(plan)}")
            return 0
        result = run(plan, group=group)
    if group.index:
        return 0
    with stop_on_signals() as stop:  # The run is whole: what is left takes a moment.
        draw_curves(result.metrics, result.workdir, result.results)
    print_notice(plan.dataset.notice)
    print(last_line(result.results, result.workdir, time.perf_counter() - started))
    return 128 + stop.signal_number if stop.signal_number else 0


def _train_members(config, started):
    """An ensemble."""
    from digits_jax.training.ensemble import fit_ensemble
    from digits_jax.training.plan import prepare

    plan = prepare(config)
    _announce(plan)
    if config.dry_run:
        if config.workdir and not config.resume:
            folder.check_free(Path(config.workdir))
        print("dry run: no run was written")
        return 0

    def member_is_whole(result):
        draw_curves(result.metrics, result.workdir, result.results)
        print(last_line(result.results, result.workdir), flush=True)

    result = fit_ensemble(config, dataset=plan.dataset, each=member_is_whole)
    print_notice(plan.dataset.notice)
    print()
    print(last_line(result.results, result.workdir, time.perf_counter() - started))
    return 0


def _announce(plan, *, speaks=True):
    """Prints what will be done; raises where other data than a repeated run's are here."""
    from digits_jax.training.record import summarize
    from digits_jax.training.resuming import check_same_data, check_same_teacher, other_places

    repeated = plan.config.config
    if repeated is not None:
        check_same_data(plan, config_path(repeated))
        # To learn from another one may well be meant; but not by the same name.
        if read_config(config_path(repeated)).teacher == plan.config.teacher:
            check_same_teacher(plan, config_path(repeated))
    if not speaks:
        return
    print(summarize(plan), flush=True)
    print_notice(plan.dataset.notice)
    for line in other_places(plan, config_path(repeated)) if repeated is not None else ():
        print(f"note: {line}", file=sys.stderr)


def _where_it_is(plan: Any) -> str:
    """For a dry run: where a resumed run would go on."""
    if not plan.config.resume:
        return ""
    from digits_jax.runs.checkpoint import newest_good

    step = newest_good(Path(plan.config.workdir) / folder.CHECKPOINTS) or 0
    return f"; it would go on at step {step} of {plan.total_steps}"


def print_notice(text: str) -> None:
    """Prints what must not be overlooked, if anything."""
    if not text:
        return
    lines = textwrap.wrap(text, 75, break_long_words=False, break_on_hyphens=False)
    print("", "!" * 78, *(f"!! {line}" for line in lines), "!" * 78, "", sep="\n", flush=True)


def draw_curves(metrics: list[dict[str, Any]], workdir: Path, results: dict[str, Any]) -> None:
    """Writes ``curves.png``, where there is an epoch to draw."""
    if not metrics:
        print(f"notice: {workdir / folder.METRICS} holds no epoch, so there are no curves")
        return
    from digits_jax.evaluation.curves import plot_curves

    title = f"{results['arch']} on {results['dataset']}, seed {results['seed']}"
    plot_curves(metrics, workdir / folder.CURVES, title=title)


def last_line(results: dict[str, Any], workdir: Path, seconds: float | None = None) -> str:
    """What a finished run comes to."""
    took = "" if seconds is None else f"in {seconds:.1f} s"
    if members := results.get("member_test_accuracies"):
        mean = sum(members) / len(members)
        took = f"{took}, {len(members)} members of {mean:.2%} on average".removeprefix(", ")
    return (
        f"{results['dataset']} test accuracy {results['test_accuracy']:.2%}: "
        f"{results['test_errors']:,} errors of {results['test_count']:,} images"
        f"{', ' * bool(took)}{took}; {workdir}"
    )


if __name__ == "__main__":
    leave(run_program(main))
