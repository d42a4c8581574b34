"""Whole trainings, from the start of a process to its end, and what they reach."""

import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.options import Options, train_config
from digits_jax.benchmarks.processes import timed_process
from digits_jax.benchmarks.timing import spread
from digits_jax.files import read_json
from digits_jax.runs import folder

TARGET = 0.99  # test accuracy to reach
_SECONDS = ("seconds", "process_seconds", "compile_seconds", "train_seconds", "other_seconds")
_KEPT = (
    *("arch", "seed", "dataset", "dataset_sha256", "num_devices", "steps", "epochs", "batch_size"),
    *("dtype", "convolution", "test_accuracy", "params_sha256", "device"),
)


def benchmark(options: Options) -> dict[str, Any]:
    """Runs ``python -m digits_jax.train`` for each network and seed, in turn.

    Before the first seed each network is trained once more, to fill JAX's compilation cache; not
    with ``cold``, and not with ``quick``, whose "compile_seconds" tell.

    Returns:
      "device", "dataset", "networks" (a row for each: its mean accuracy, and the spread of its
      seconds) and "trainings" (a row for each training, see `train`).
    """
    for arch in options.arch:
        train_config(options, arch=arch)
    warm_up = [] if options.cold or options.quick else [(0, arch) for arch in options.arch]
    pairs = [*warm_up, *itertools.product(range(options.seeds), options.arch)]
    runs = [
        train(arch, seed, options)
        for seed, arch in tqdm(pairs, "trainings", unit="run", leave=False, disable=None)
    ][len(warm_up) :]
    networks = [_summarize([r for r in runs if r["arch"] == arch]) for arch in options.arch]
    where = {name: runs[0][name] for name in ("device", "dataset")}
    return {**where, "networks": networks, "trainings": runs}


def train(arch: str, seed: int, options: Options) -> dict[str, Any]:
    """Trains once, in its own process and folder.

    Returns:
      Some fields of its ``results.json``; "seconds" of the whole process; "peak_memory_bytes"; and
      where the seconds went: "train_seconds" and "compile_seconds"; "other_seconds" load the data,
      score and save; "process_seconds" are the process's start, imports, curves and end.
    """
    names = ("preset", "dataset", "data_dir", "dtype", "devices", "platform")
    given = {name: getattr(options, name) for name in names}
    flags = [f"--{n.replace('_', '-')}={v}" for n, v in given.items() if v is not None]
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as root:
        command = [sys.executable, "-m", "digits_jax.train", f"--arch={arch}", f"--seed={seed}"]
        cold = {"JAX_COMPILATION_CACHE_DIR": f"{root}/cache"} if options.cold else {}
        finished = timed_process([*command, *flags, f"--workdir={root}/run"], cold)
        results = read_json(Path(root) / "run" / folder.RESULTS)
    total, compiling, training = (
        results[f"{name}_seconds"] for name in ("total", "compile", "train")
    )
    return {
        **{name: results[name] for name in _KEPT},
        "seconds": finished.seconds,
        "process_seconds": finished.seconds - total,
        "compile_seconds": compiling,
        "train_seconds": training,
        "other_seconds": total - compiling - training,
        "peak_memory_bytes": finished.peak_memory_bytes,
    }


def _summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [run["test_accuracy"] for run in runs]
    sizes = [run["peak_memory_bytes"] for run in runs]
    return {
        "arch": runs[0]["arch"],
        "seeds": len(runs),
        **{name: spread([run[name] for run in runs]) for name in _SECONDS},
        "test_accuracy": statistics.fmean(accuracies),
        "test_accuracy_sd": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "target": TARGET,
        "reached": statistics.fmean(accuracies) >= TARGET,
        "peak_memory_bytes": None if None in sizes else max(sizes),
    }
