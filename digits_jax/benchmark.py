"""Measures how fast training and prediction are here: python -m digits_jax.benchmark --quick

Prints five lines: training and prediction of the quick CNN (images a second), the seconds of a
whole training, and its memory. The documentation has them for other machines. -v or -o adds all
benchmarks' tables; the name of a benchmark, as the first argument, runs that one alone.
"""

import dataclasses
import importlib
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from digits_jax.benchmarks import options as o
from digits_jax.benchmarks.processes import stopping_children
from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.formatting import duration, fixed, markdown_table, percent, plural
from digits_jax.hardware import cpu_count, processor_name, version_of
from digits_jax.runs import folder


class Benchmark(NamedTuple):
    """A module of `digits_jax.benchmarks`, what it may be told, and what ``--quick`` changes."""

    options: type[o.Options]
    quick: Mapping[str, Any]


# Those that the summary needs come first.
BENCHMARKS = {
    "step": Benchmark(o.StepOptions, {"batch_sizes": (256,), "repeats": 3, "seconds": 0.1}),
    "inference": Benchmark(
        o.InferenceOptions,
        {"arch": ("cnn",), "batch_sizes": (1000,), "repeats": 3, "seconds": 0.1},
    ),
    "time-to-accuracy": Benchmark(o.TimeToAccuracyOptions, {"arch": ("cnn",), "seeds": 1}),
    "input": Benchmark(
        o.InputOptions,
        {"batch_sizes": (256,), "threads": (1, 2), "repeats": 3, "seconds": 0.3},
    ),
    "startup": Benchmark(o.StartupOptions, {"repeats": 1}),
    "scaling": Benchmark(
        o.ScalingOptions,
        {
            "batch_sizes": (128, 256),
            "widths": (1.0, 2.0),
            "sizes": (512, 1024, 2048),
            "repeats": 3,
            "seconds": 0.1,
        },
    ),
}
_ONE_NETWORK = {
    "step": {"arch": ("cnn",), "batch_sizes": (256,)},
    "inference": {"arch": ("cnn",)},
    "time-to-accuracy": {"arch": ("cnn",)},
}
SUMMARIZED = ("step", "inference", "time-to-accuracy")
_PACKAGES = ("digits_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


@dataclass(frozen=True, kw_only=True)
class Arguments(o.DeviceOptions):
    """What to measure."""

    what: Annotated[
        Literal["all", "step", "inference", "time-to-accuracy", "input", "startup", "scaling"],
        tyro.conf.Positional,
    ] = "all"
    """A benchmark by its name has its own flags: WHAT --help."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Run all benchmarks, and print their tables behind the summary."""


def main(argv: Sequence[str]) -> int:
    """Measures, prints, writes."""
    command = shlex.join(["python", "-m", "digits_jax.benchmark", *argv])
    quick, doc = "--quick" in argv, __doc__ or ""
    with stopping_children():
        if argv and argv[0] in BENCHMARKS:
            kind, changed = BENCHMARKS[argv[0]]
            default = kind(**changed) if quick else None
            result = measure(argv[0], parse(kind, argv[1:], doc=doc, default=default), command)
            print(f"{headline(result)}\n\n{tables(result)}")
            return 0
        arguments = parse(Arguments, argv, doc=doc)
        if arguments.what != "all":
            raise ConfigError(f"{arguments.what}: give it first, and its flags behind it")
        detailed = arguments.verbose or arguments.output is not None
        results = {}
        for name in BENCHMARKS if detailed else SUMMARIZED:
            kind, changed = BENCHMARKS[name]
            if quick or not detailed:
                changed = {**(changed if quick else {}), **_ONE_NETWORK.get(name, {})}
            names = [field.name for field in dataclasses.fields(kind)]
            shared = {key: value for key, value in vars(arguments).items() if key in names}
            results[name] = measure(name, kind(**{**changed, **shared}), command)
        print(summary(results))
        if arguments.verbose:
            for name, result in results.items():
                print(f"\n## {name}\n\n{tables(result)}")
    return 0


def measure(name: str, options: o.Options, command: str) -> dict[str, Any]:
    """Runs a benchmark, and writes its JSON and Markdown files where that is asked for.

    Args:
      name: of ``BENCHMARKS``.
      options: its own.
      command: how it was called.

    Returns:
      What it measured, with its settings, the machine and versions.

    Raises:
      ConfigError: what can't be used.
    """
    if options.output is not None:
        if options.output.is_file():
            raise ConfigError(f"output={options.output}: is a file; give a folder")
        options.output.mkdir(parents=True, exist_ok=True)  # before anything is measured
    module = importlib.import_module(f"digits_jax.benchmarks.{name.replace('-', '_')}")
    started = time.perf_counter()
    found = module.benchmark(options)
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    result = {
        "benchmark": name,
        "command": command,
        "settings": settings,
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
        files = {".json": folder.as_json(result), ".md": page.encode()}
        folder.replace_files({options.output / f"{name}{end}": x for end, x in files.items()})
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
    """Returns five lines about the CNN: see the top of this module."""
    step = next(row for row in results["step"]["steps"] if row["batch_size"] == 256)
    [predict, *_] = results["inference"]["test_set"]
    run = results["time-to-accuracy"]["networks"][0]
    parts = {"start and end": "process", "compilation": "compile", "training": "train"}
    parts["data, scoring, saving"] = "other"
    each = ", ".join(f"{k} {duration(run[f'{v}_seconds']['median'])}" for k, v in parts.items())
    verb = "reached" if run["reached"] else "not reached:"
    memory = run["peak_memory_bytes"]
    lines = {
        "machine": headline(results["step"]),
        "training": f"{step['images_per_second']:,.0f} images/s, in batches of 256",
        "prediction": f"{predict['images_per_second']['median']:,.0f} images/s",
        f"{run['target']:.0%} accuracy": f"{verb} {percent(run['test_accuracy'])} after "
        f"{duration(run['seconds']['median'])} ({each})",
        "memory": "unknown" if memory is None else f"{memory / 1e6:,.0f} MB",
    }
    return "\n".join(f"{name:13} {text}" for name, text in lines.items())


def tables(result: dict[str, Any]) -> str:
    """Returns each table of a result as Markdown, under its name.

    Example:
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
        return value if value is None or isinstance(value, str) else "yes" if value else "no"
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
