"""Reads digits in anybody's pictures: python -m digits_jax.predict RUN IMAGE..."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax.cli import Parser, leave, run_program
from digits_jax.errors import ConfigError, DigitsError

SHEET = "seen.png"
COLUMNS = (
    *("file", "model", "digit", "probability", "runner_up", "runner_up_probability"),
    *("sure", "found"),
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m digits_jax.predict", description=__doc__.split(":")[0] + ".")
    add = made.add_argument
    add("run", metavar="RUN", help="folder of a finished run, or a .npz file of digits_jax.export")
    add("paths", nargs="*", metavar="IMAGE", help="PNG, JPEG, WebP, BMP or TIFF files, folders of "
        "them, or - for standard input; with --image: more runs")  # fmt: skip
    add("--image", nargs="+", metavar="IMAGE", help="the pictures; all else are runs to compare")
    add("--ensemble", action="store_true", help="several runs answer as one")
    modes = made.add_mutually_exclusive_group()
    modes.add_argument("--line", action="store_true", help="read a row of digits")
    modes.add_argument("--page", action="store_true", help="read several rows of digits")
    forms = made.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print a list of objects")
    forms.add_argument("--csv", action="store_true", help="print a table (one digit an image)")
    add("--show", action="store_true", help=f"write a picture of what was read to {SHEET}")
    add("-o", "--output", metavar="FILE", help=f"write that picture here instead of {SHEET}")
    return made


def main(argv: Sequence[str]) -> int:
    """Parses, reads, prints; 1 where a picture couldn't be read."""
    args = parser().parse_intermixed_args(argv)
    runs = [args.run, *args.paths] if args.image else [args.run]
    names = args.image or args.paths
    if not names:
        raise ConfigError("no picture is given; give RUN IMAGE..., or RUN_A RUN_B --image IMAGE...")
    if args.csv and (args.line or args.page):
        raise ConfigError("--csv is for one digit an image; give --json for lines and pages")
    from digits_jax.deploy.pictures import Reading, find_files, read_bytes, read_picture
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.deploy.show import MOST
    from digits_jax.hardware import use_compilation_cache

    files = list(find_files(names))
    sheet = _sheet(args, files)
    _check_no_run(args)
    use_compilation_cache()
    predictors = [Predictor.load(runs)] if args.ensemble else [Predictor.load(r) for r in runs]
    models = [predictor.network.name for predictor in predictors]
    mode = "page" if args.page else "line" if args.line else "digit"
    readings, rows, failed = [], [], 0
    for name in _progress(files, args):
        try:
            data = read_bytes(name, sys.stdin.buffer)
        except DigitsError as error:
            reading = Reading(None, [], [{"error": str(error)} for _ in models], str(error))
        else:
            reading = read_picture(data, name, predictors, mode)
        rows.append(reading.rows)
        if sheet and len(readings) < MOST:
            readings.append((name, reading))
        failed += "error" in rows[-1][0]
        if not (args.json or args.csv):
            _print_text(name, rows[-1], models)
    if args.json:
        print(json.dumps(_objects(files, rows, models), indent=1))
    if args.csv:
        _print_csv(files, rows, models)
    if sheet:
        _write(sheet, readings, models, len(files))
    return 1 if failed else 0


def _progress(files, args):
    """A bar, where the answers themselves don't run past."""
    if not (args.json or args.csv) or not sys.stderr.isatty():
        return files
    from tqdm import tqdm

    return tqdm(files, unit="picture", delay=2, leave=False)


def _check_no_run(args):
    """RUN_A RUN_B IMAGE, without --image, would read the second run as a folder of pictures."""
    for name in args.paths if not args.image else ():
        if (Path(name) / "config.json").is_file():
            raise ConfigError(
                f"{name} is a run; to compare runs give RUN_A RUN_B --image IMAGE..., or --ensemble"
            )


def _sheet(args, files) -> Path | None:
    if not (args.show or args.output):
        return None
    from digits_jax.deploy.show import is_sheet

    path = Path(args.output or SHEET)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: can't be written; give a file in a folder that is there")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: the picture is a PNG; give a file that ends in .png")
    if path.exists() and (not is_sheet(path) or any(map(path.samefile, filter(_exists, files)))):
        raise ConfigError(f"{path}: is there already, and not made by this program; give another")
    return path


def _exists(name):
    return Path(name).exists()


def _write(path, readings, models, count):
    from digits_jax.deploy.show import write_sheet

    names, read = zip(*readings, strict=True) if readings else ((), ())
    shown = write_sheet(path, names, read, models)
    more = f" (the first {shown} of {count})" if shown < count else ""
    print(f"what was read: {path}{more}", file=sys.stderr)


def _printable(name):
    """A name may hold a line break, or what a terminal takes for a command."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _print_text(name, rows, models):
    if "error" in rows[0]:
        print(f"error: {_printable(rows[0]['error'])}", file=sys.stderr)
        return
    name = _printable(name)
    if len(models) == 1:
        print(f"{name}: {_said(rows[0])}", flush=True)
        return
    differ = len({_answer(row) for row in rows}) > 1
    print(f"{name}:{' (they disagree)' if differ else ''}")
    for model, row in zip(models, rows, strict=True):
        print(f"  {model}: {_said(row)}", flush=True)


def _answer(row):
    return row["text"] if "text" in row else row["digit"]


def _said(row):
    from digits_jax.deploy.pictures import percent

    if "lines" in row:
        return "no digit" if not row["lines"] else "\n  " + "\n  ".join(map(_said, row["lines"]))
    if "text" in row:
        if not row["digits"]:
            return "no digit"
        unsure = [str(i + 1) for i, digit in enumerate(row["digits"]) if not digit["sure"]]
        note = f"; not sure of number {', '.join(unsure)}" if unsure else ""
        each = " ".join(percent(digit["probability"]) for digit in row["digits"])
        return f"{row['text']}  ({each}{note})"
    if row["digit"] is None:
        return "no digit"
    text = f"{row['digit']}  {percent(row['probability'])}, then {row['runner_up']} "
    text += percent(row["runner_up_probability"])
    text += "" if row["sure"] else "; not sure"
    more = f"; {row['found']} digits seem to be there: give --line or --page"
    return text + (more if row["found"] > 1 else "")


def _objects(files, rows, models) -> list[dict[str, Any]]:
    if len(models) == 1:
        return [{"file": name, **row[0]} for name, row in zip(files, rows, strict=True)]
    return [
        {"file": name, "error": row[0]["error"]}
        if "error" in row[0]
        else {
            "file": name,
            "agree": len({_answer(each) for each in row}) == 1,
            "models": [{"model": m, **each} for m, each in zip(models, row, strict=True)],
        }
        for name, row in zip(files, rows, strict=True)
    ]


def _print_csv(files, rows, models):
    columns = [c for c in COLUMNS if c != "model" or len(models) > 1]
    table = csv.DictWriter(sys.stdout, [*columns, "error"], restval="", lineterminator="\n")
    table.writeheader()
    for name, row in zip(files, rows, strict=True):
        for model, each in zip(models, row, strict=True):
            extra = {"model": model} if len(models) > 1 else {}
            table.writerow({"file": name, **extra, **each})


if __name__ == "__main__":
    leave(run_program(main))
