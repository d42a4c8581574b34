"""How fast is it, here: python -m digits_jax.benchmark --quick"""

import argparse
import importlib
import io
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from digits_jax.benchmarks.settings import BENCHMARKS, OPTIONS, output_paths, settings_of
from digits_jax.cli import Parser, leave, run_program
from digits_jax.errors import ConfigError, DigitsError

# JAX, NumPy and what needs them are imported by the functions: Ctrl-C is then one line from the
# start. Of all benchmarks, those come last that keep this process's memory and threads busy.
_SHARED = ("dataset", "data_dir", "platform")
# In a minute for all of them there is no time for what repeats alone would show, nor for a network
# that no other of them measures.
_QUICK_ALL = {"step": {"archs": ["cnn"]}, "input": {"repeats": 1, "threads": [1]}}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m digits_jax.benchmark", description=f"{__doc__} runs them all.")
    _add_shared(made, BENCHMARKS["step"].defaults, {"quick": False, "output": None})
    commands = made.add_subparsers(dest="what", metavar="WHAT")
    for name, benchmark in BENCHMARKS.items():
        one = commands.add_parser(name, help=benchmark.help, description=benchmark.help)
        # What is left out here is what was given before the benchmark's name.
        _add_shared(one, benchmark.defaults, {})
        for option, default in benchmark.defaults.items():
            if option in _SHARED:
                continue
            flag, metavar, kind, text = OPTIONS[option]
            # Only what is given is there: --quick has defaults of its own.
            how = {"dest": option, "default": argparse.SUPPRESS}
            if kind == "switch":
                one.add_argument(flag, action="store_true", help=text, **how)
            else:
                text += f" (default: {default})"
                one.add_argument(flag, metavar=metavar, help=text, **how)
    return made


def _add_shared(made, defaults, own):
    for option in _SHARED:
        if option in defaults:
            flag, metavar, _, text = OPTIONS[option]
            default = argparse.SUPPRESS
            made.add_argument(flag, dest=option, metavar=metavar, default=default, help=text)
    quick = (
        "fewer and shorter, where no flag says otherwise: all within a minute on a few cores, of "
        "which step and input are shorter still"
    )
    output = "write JSON, Markdown and a picture, side by side: a folder, or a FILE.json"
    absent = argparse.SUPPRESS
    made.add_argument("--quick", action="store_true", default=own.get("quick", absent), help=quick)
    made.add_argument("-o", "--output", default=own.get("output", absent), help=output)


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    command = shlex.join(["python", "-m", "digits_jax.benchmark", *arguments])
    names = [args.what] if args.what else list(BENCHMARKS)
    settings = {name: settings_of(args, name) for name in names}
    if not args.what:
        for name, made in settings.items():
            made |= {"all": True, **(_QUICK_ALL.get(name, {}) if args.quick else {})}
    paths = output_paths(args.output, names)
    for name in names:
        result = {"benchmark": name, "command": command, **run_benchmark(name, settings[name])}
        show(result, paths.get(name), headed=not args.what)
    return 0


def run_benchmark(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a benchmark measures, with its settings, the machine and versions.

    Args:
      name: one of ``BENCHMARKS``.
      settings: of `settings_of`.

    Raises:
      ConfigError: what can't be used.
    """
    from digits_jax.benchmarks.machine import describe_machine, versions

    started = time.perf_counter()
    room = importlib.import_module(f"digits_jax.benchmarks.{name.replace('-', '_')}")
    try:
        found = room.benchmark(settings)
    except DigitsError as error:
        # Training has one batch size; here several are given.
        raise ConfigError(str(error).replace("--batch-size=", "--batch-sizes=")) from None
    return {
        "settings": settings,
        "machine": describe_machine(found.pop("device", None)),
        "versions": versions(),
        "wall_seconds": time.perf_counter() - started,
        **found,
    }


def show(result: dict[str, Any], path: Path | None, *, headed: bool) -> None:
    """Prints a result's tables, and writes its JSON, Markdown and picture side by side."""
    from digits_jax.benchmarks.report import markdown, page

    title = f"## {result['benchmark']}\n\n" if headed else ""
    print(title + markdown(result), end="\n" if headed else "", flush=True)
    if path is None:
        return
    from digits_jax.benchmarks.figures import draw
    from digits_jax.runs.folder import as_json, replace_files

    picture = io.BytesIO()
    draw(result, picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {".json": as_json(result), ".md": page(result, path.stem).encode()}
    files[".png"] = picture.getvalue()
    replace_files({path.with_suffix(suffix): data for suffix, data in files.items()})


if __name__ == "__main__":
    leave(run_program(main))
