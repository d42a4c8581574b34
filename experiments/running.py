"""Trains what a study needs, each run in a process of its own, and only once."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from digits_jax.config import first_difference, read_config
from digits_jax.errors import ConfigError
from digits_jax.runs import folder
from digits_jax.train import parse_config
from experiments.cores import pin

SECONDS = "process_seconds.json"


def results_folder(path: Path) -> Path:
    """Makes a folder for a study's results, before hours are spent on them.

    Raises:
      ConfigError: it can't be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: the folder can't be made ({error.strerror}); give another place"
        ) from None
    if not os.access(path, os.W_OK):
        raise ConfigError(f"{path}: can't be written to; give another place")
    return path


def train_once(
    flags: Sequence[str],
    workdir: Path,
    *,
    cores: Collection[int] | None = None,
    log: Path | None = None,
) -> dict[str, Any]:
    """Trains as a user would, or takes the run that is there; goes on with one cut short.

    Args:
      flags: of ``python -m digits_jax.train``.
      workdir: the run's folder.
      cores: that it may use; None for all.
      log: file for what it says, instead of the terminal.

    Returns:
      What ``results.json`` holds, and "process_seconds", the whole process's time (None for a
      run that was resumed).

    Raises:
      ConfigError: the run there is another one, or the training failed (it has said why).
    """
    if not (workdir / folder.RESULTS).exists():
        _train(flags, workdir, cores, log)
    _check_same(flags, workdir)
    timing = workdir / SECONDS
    seconds = json.loads(timing.read_text()) if timing.exists() else None
    return {**folder.read_results(workdir), "process_seconds": seconds}


def _train(flags, workdir, cores, log):
    resume = (workdir / folder.CONFIG).exists()
    command = [sys.executable, "-m", "digits_jax.train", *flags, f"--workdir={workdir}"]
    with open(log, "a") if log else contextlib.nullcontext() as out:
        print(f"\n{workdir}:", "going on" if resume else "training", *flags, file=out, flush=True)
        started = time.perf_counter()
        child = subprocess.Popen(
            [*command, *(["--resume"] if resume else [])], stdout=out, stderr=out
        )
        with child:
            if cores:
                pin(child.pid, cores)  # before it has imported anything
            status = child.wait()
    if status:
        said = f" (see {log})" if log else ""
        what = "training can't begin, as it says" if status == 2 else "start again to go on"
        raise ConfigError(f"{workdir}: training ended with status {status}{said}; {what}")
    if not resume:
        (workdir / SECONDS).write_text(json.dumps(time.perf_counter() - started))


def _check_same(flags, workdir):
    """A folder with a name that fits may hold a run of other settings, from another day."""
    there = read_config(workdir / folder.CONFIG)
    wanted = parse_config(flags).resolve(there.dataset)
    if name := first_difference(wanted, there):
        raise ConfigError(
            f"{workdir} holds a run with {name}={getattr(there, name)}, not "
            f"{getattr(wanted, name)}; delete it, or give another folder with --runs"
        )
