"""Whole trainings, from the start of a process to its end, and what they reach."""

import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from digits_jax.benchmarks.processes import timed_process
from digits_jax.benchmarks.settings import train_config
from digits_jax.runs import folder
from digits_jax.training.parallel import compilation_cache


def benchmark(settings: dict[str, Any]) -> dict[str, Any]:
    """Runs ``python -m digits_jax.train`` for each network and seed.

    Args:
      settings: see `digits_jax.benchmarks.settings`.

    Returns:
      "device", "dataset", "rows", one for each network, and "peak_memory_bytes" of any process.
    """
    for arch in settings["archs"]:
        train_config({k: v for k, v in settings.items() if k != "seeds"}, arch=arch)
    pairs = list(itertools.product(range(settings["seeds"]), settings["archs"]))
    runs: dict[str, list] = {arch: [] for arch in settings["archs"]}
    with tqdm(total=len(pairs), desc="trainings", unit="run", leave=False, disable=None) as bar:
        for seed, arch in pairs:
            found = train(arch, seed, settings)
            # What is compiled for the first time is a warm-up, where nothing else was asked for.
            # --quick hasn't the time to train once more, and says what it was.
            if found["compiled"] and not runs[arch] and not (settings["cold"] or settings["quick"]):
                found = train(arch, seed, settings)
            runs[arch].append(found)
            bar.update()
    first = runs[settings["archs"][0]][0]
    platform, _, kind = first["device"].partition(": ")
    return {
        "device": {"platform": platform, "kind": kind},
        "dataset": {"name": first["dataset"], "sha256": first["dataset_sha256"]},
        "rows": [summarize_runs(arch, runs[arch], settings["target"]) for arch in runs],
        "peak_memory_bytes": most_memory([run for each in runs.values() for run in each]),
    }


def most_memory(runs: list[dict[str, Any]]) -> int | None:
    """The most that any of them had; None where the system doesn't say.

    Example:
      >>> most_memory([{"peak_memory_bytes": 3}, {"peak_memory_bytes": 5}])
      5
    """
    sizes = [run["peak_memory_bytes"] for run in runs]
    return None if None in sizes else max(sizes)


_KEPT = ("dataset", "dataset_sha256", "device", "num_devices", "steps", "epochs", "batch_size")
_KEPT += ("dtype", "convolution", "steps_per_call", "test_accuracy", "test_count", "params_sha256")


def train(arch: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One training in a process and a folder of its own: how long, and how well.

    Returns:
      Some fields of its ``results.json``; "compiled", whether some of its code was compiled by it
      and not before; "peak_memory_bytes"; and where the seconds went: "other_seconds" are those of
      loading the data, of scoring and of checkpoints, "process_seconds" those of the process's
      start, imports, curves and end.
    """
    names = ("preset", "dataset", "data_dir", "dtype", "devices", "platform")
    flags = [f"--{n.replace('_', '-')}={settings[n]}" for n in names if settings[n] is not None]
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as root:
        command = [sys.executable, "-m", "digits_jax.train", f"--arch={arch}", f"--seed={seed}"]
        command += [*flags, f"--workdir={root}/run"]
        cache = Path(root) / "cache" if settings["cold"] else compilation_cache()
        before = _files_in(cache)
        cold = {"JAX_COMPILATION_CACHE_DIR": str(cache)} if settings["cold"] else {}
        ended = timed_process(command, cold)
        compiled = cache is None or not _files_in(cache) <= before
        results = folder.read_json(Path(root) / "run" / folder.RESULTS)
    seconds = ended.seconds
    inside = {name: results[f"{name}_seconds"] for name in ("total", "compile", "train")}
    return {
        "seed": seed,
        **{name: results[name] for name in _KEPT},
        "compiled": compiled,
        "peak_memory_bytes": ended.peak_memory_bytes,
        "seconds": seconds,
        "process_seconds": seconds - inside["total"],
        "compile_seconds": inside["compile"],
        "train_seconds": inside["train"],
        "other_seconds": inside["total"] - inside["compile"] - inside["train"],
    }


def _files_in(folder):
    """Names of what was compiled; JAX writes the times of use beside it."""
    return set() if folder is None else {path.name for path in Path(folder).glob("*-cache")}


def summarize_runs(arch: str, runs: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """The mean accuracy of some runs, its standard deviation, and whether it reached a target.

    Args:
      arch: of the runs.
      runs: of `train`.
      target: a fraction.

    Example:
      >>> row = summarize_runs("mlp", [{"test_accuracy": 0.5}, {"test_accuracy": 1.0}], 0.8)
      >>> row["accuracy_mean"], round(row["accuracy_sd"], 4), row["reached"]
      (0.75, 0.3536, False)
    """
    found = [run["test_accuracy"] for run in runs]
    mean = statistics.fmean(found)
    return {
        "arch": arch,
        "accuracy_mean": mean,
        "accuracy_sd": statistics.stdev(found) if len(found) > 1 else None,
        "reached": mean >= target,
        "runs": runs,
    }
