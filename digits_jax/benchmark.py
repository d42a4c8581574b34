"""Measures the speed of training and prediction: python -m digits_jax.benchmark --quick

Prints five lines: images per second in training and prediction of the quick CNN, the seconds of a
whole training, and its memory. The documentation has them for other machines. With -v or -o all
benchmarks run and give tables; a benchmark's name runs that one alone.
"""

import dataclasses
import importlib
import platform
import shlex
import time
from collections.abc import Sequence
from typing import Any

from digits_jax.benchmarks.options import QUICK, Options
from digits_jax.benchmarks.processes import stopping_children
from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.files import as_json, replace_files
from digits_jax.formatting import duration, fixed, markdown_table, percent, plural
from digits_jax.hardware import cpu_count, processor_name, version_of

SUMMARIZED = ("step", "inference", "time-to-accuracy")
BENCHMARKS = (*SUMMARIZED, "input", "startup", "scaling")
_PACKAGES = ("digits_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


def main(argv: Sequence[str]) -> int:
    """Measures, prints, writes."""
    command = shlex.join(["python", "-m", "digits_jax.benchmark", *argv])
    default = Options(**QUICK) if "--quick" in argv else None
    options = parse(Options, argv, doc=__doc__ or "", default=default)
    detailed = options.verbose or options.output is not None
    names = BENCHMARKS if detailed else SUMMARIZED
    if options.what != "all":
        names = (options.what,)
    elif not detailed:
        # What the summary says, and no more.
        options = dataclasses.replace(options, arch=options.arch[:1], batch_sizes=(256,))
    if options.output is not None:  # before anything is measured
        if options.output.is_file():
            raise ConfigError(f"output={options.output}: is a file; give a folder")
        options.output.mkdir(parents=True, exist_ok=True)
    with stopping_children():
        results = {name: measure(name, options, command) for name in names}
    if options.what != "all":
        result = results[options.what]
        print(f"{headline(result)}\n\n{tables(result)}")
        return 0
    print(summary(results))
    if options.verbose:
        for name, result in results.items():
            print(f"\n## {name}\n\n{tables(result)}")
    return 0


def measure(name: str, options: Options, command: str) -> dict[str, Any]:
    """Runs a benchmark, and writes its JSON and Markdown files where that is asked for.

    Args:
      name: of ``BENCHMARKS``.
      options: what to measure.
      command: how it was called.

    Returns:
      What it measured, with its settings, the machine and versions.

    Raises:
      ConfigError: what can't be used.
    """
    module = importlib.import_module(f"digits_jax.benchmarks.{name.replace('-', '_')}")
    started = time.perf_counter()
    found = module.benchmark(options)
    result = {
        "benchmark": name,
        "command": command,
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "machine": {
            "processor": processor_name(),
            "cores": cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version_of(package) for package in _PACKAGES},
        },
        "wall_seconds": time.perf_counter() - started,
        **found,
    }
    if options.output is not None:
        page = f"# {name}\n\n`{command}`\n\n{headline(result)}\n\n{tables(result)}\n"
        files = {".json": as_json(result), ".md": page.encode()}
        replace_files({options.output / f"{name}{end}": x for end, x in files.items()})
    return result


def headline(result: dict[str, Any]) -> str:
    """Returns what was measured on what, in a line."""
    machine, device = result["machine"], result.get("device", "cpu: ")
    accelerator = "" if device.startswith("cpu: ") else f"{device}; "
    name, asked = result["dataset"], result["settings"]["dataset"]
    if (asked, name) == ("auto", "digits"):
        name = "digits of scikit-learn, as MNIST isn't here (--data-dir names its folder)"
    return f"{name}; {accelerator}{machine['processor']}, {plural(machine['cores'], 'core')}"


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Returns five lines about the first network: see the top of this module."""
    steps = results["step"]["steps"]
    step = next((row for row in steps if row["batch_size"] == 256), steps[0])
    predict = results["inference"]["test_set"][0]
    run = results["time-to-accuracy"]["networks"][0]
    parts = {"start and end": "process", "compilation": "compile", "training": "train"}
    parts["data, scoring, saving"] = "other"
    each = ", ".join(f"{k} {duration(run[f'{v}_seconds']['median'])}" for k, v in parts.items())
    verb = "reached" if run["reached"] else "not reached:"
    memory = run["peak_memory_bytes"]
    lines = {
        "machine": headline(results["step"]),
        "training": f"{step['images_per_second']:,.0f} images/s, in batches of "
        f"{step['batch_size']}",
        "prediction": f"{predict['images_per_second']['median']:,.0f} images/s",
        f"{run['target']:.0%} accuracy": f"{verb} {percent(run['test_accuracy'])} after "
        f"{duration(run['seconds']['median'])} ({each})",
        "memory": "unknown" if memory is None else f"{memory / 1e6:,.0f} MB",
    }
    return "\n".join(f"{name:13} {text}" for name, text in lines.items())


def tables(result: dict[str, Any]) -> str:
    """Returns each table of a result as Markdown, under its name.

    Examples:
      >>> print(tables({"rows": [{"arch": "cnn", "step_seconds": 0.25, "blocks": [0.2, 0.3]}]}))
      rows:
      <BLANKLINE>
      | arch | step |
      |---|--:|
      | cnn | 250 ms |
    """
    parts = []
    for name, rows in result.items():
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
            cells = [[_cell(key, row[key]) for key in columns] for row in rows]
            heads = [key.removesuffix("_seconds").replace("_", " ") for key in columns]
            heads = [head.replace("per second", "/s") for head in heads]
            words = sum(all(isinstance(row[k], str | None) for row in rows) for k in columns)
            align = "l" * max(1, words) + "r"
            parts.append(f"{name.replace('_', ' ')}:\n\n{markdown_table(cells, heads, align)}")
    return "\n\n".join(parts)


def _cell(key: str, value: Any) -> str | None:
    """A value as its name asks for; of a spread the median, and the range in brackets."""
    if isinstance(value, dict):
        median, low, high = (_cell(key, value[name]) for name in ("median", "p10", "p90"))
        return median if low == high else f"{median} ({low} to {high})"
    if value is None or isinstance(value, str | bool):
        return {True: "yes", False: "no"}.get(value, value)  # type: ignore[arg-type]
    if key.endswith("seconds"):
        return duration(value)
    if "flops" in key:
        return f"{value / 1e9:,.4g} G"
    if key.endswith("bytes"):
        return f"{value / 1e6:,.0f} MB"
    if key in ("fraction", "target") or "accuracy" in key:
        return percent(value)
    return fixed(value, 0) if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    leave(run_program(main))
