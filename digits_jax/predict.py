"""Reads digits in pictures: python -m digits_jax.predict [RUN] IMAGE..."""

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError, DataError
from digits_jax.fields import Switch
from digits_jax.files import walk_visible
from digits_jax.formatting import csv_cell, plain

if TYPE_CHECKING:
    from digits_jax.deploy.predictions import Line
    from digits_jax.deploy.reading import Reading

DIGIT = ("digit", "probability", "runner_up", "runner_up_probability", "sure")
_SUBMISSION = b"ImageId,Label\n"
COLUMNS = ("file", "model", *DIGIT, "found", "error")


@dataclass(frozen=True)
class Arguments:
    """What to read."""

    words: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUN] IMAGE...", help_behavior_hint=""),
    ] = ()
    """Folder of a finished run, a .npz file of digits_jax.export, or cnn, mlp or tiny, which come with the package (default: cnn); then picture files, folders of them, or - for standard input. With --image: only runs."""  # noqa: E501
    # A list: the command line splits tuples at commas, which names of files may hold.
    image: Annotated[list[str], tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")] = field(
        default_factory=list
    )
    """Pictures; the positional arguments are runs then."""
    ensemble: Switch = False
    """Average the probabilities of several runs."""
    line: Switch = False
    """Read a row of digits."""
    page: Switch = False
    """Read several rows of digits."""
    json: Switch = False
    """Print a list of objects."""
    csv: Switch = False
    """Print a table (one digit an image)."""
    show: Switch = False
    """Draw what was read into seen.png."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = (
        ""
    )
    """File of --show instead of seen.png; for RUN test.csv, the .csv file of the answers."""


def main(argv: Sequence[str]) -> int:
    """Parses, reads, prints; 1 where a picture couldn't be read."""
    # Switches first: the words may stand on both sides of one, as in RUN --line IMAGE.
    switches = [f"--{each.name}" for each in fields(Arguments) if each.default is False]
    argv = sorted(argv, key=lambda word: word not in switches)
    args = parse(Arguments, argv, doc=__doc__ or "")
    count = len(args.words) if args.image else int(bool(args.words) and _is_run(args.words[0]))
    runs, names = args.words[:count], args.image or args.words[count:]
    if names and names[0].lower().endswith((".csv", ".csv.gz")):
        return _classify_table(args, runs, names)
    sheet = Path(args.output or "seen.png") if args.show or args.output else None
    _check(args, names, sheet)
    from tqdm import tqdm

    from digits_jax.deploy.predictor import Predictor
    from digits_jax.deploy.reading import read_picture
    from digits_jax.deploy.sheet import MAX_PICTURES, write_sheet
    from digits_jax.hardware import use_compilation_cache
    from digits_jax.vision.decode import MAX_BYTES, decode_image, read_grey

    files = list(_find_files(names))
    use_compilation_cache()
    predictors = [Predictor.load(runs)] if args.ensemble else [Predictor.load(r) for r in runs]
    predictors = predictors or [Predictor.pretrained()]
    models = [predictor.network.name for predictor in predictors]
    mode = "page" if args.page else "line" if args.line else "digit"
    as_text = not (args.json or args.csv)
    entries, readings = [], []
    # Printed results show the progress themselves.
    hidden = as_text or not sys.stderr.isatty()
    for name in tqdm(files, unit="picture", delay=2, leave=False, disable=hidden):
        try:
            if name == "-":
                grey = decode_image(sys.stdin.buffer.read(MAX_BYTES + 1), name)
            elif Path(name).is_dir():
                raise DataError(f"{name}: the folder holds no file that can be listed")
            else:
                grey = read_grey(name)
            reading = read_picture(grey, [predictor.predict for predictor in predictors], mode)
            entries.append(_entry(name, reading, models, mode))
            if as_text:
                _print_text(name, reading, models, mode)
            if reading.too_small > sum(len(line.digits) for line in reading.answers[0]):
                print(
                    f"warning: {plain(name)}: {reading.too_small:,} marks are too small to read; "
                    "give a part of the picture",
                    file=sys.stderr,
                )
        except DataError as error:
            reading = error
            entries.append({"file": name, "error": str(error)})
            if as_text:
                print(f"error: {error}", file=sys.stderr)
        if len(readings) < MAX_PICTURES:
            readings.append((name, reading))
    if args.json:
        print(json.dumps(entries, indent=1))
    if args.csv:
        columns = [column for column in COLUMNS if column != "model" or len(models) > 1]
        table = csv.DictWriter(sys.stdout, columns, "", "ignore", lineterminator="\n")
        table.writeheader()
        for entry in entries:
            rows = entry.get("models", [{"model": model} for model in models])
            for row in rows:
                table.writerow({key: csv_cell(value) for key, value in {**entry, **row}.items()})
    if sheet:
        write_sheet(sheet, readings)
        more = f" (the first {MAX_PICTURES} of {len(files)})" if len(files) > MAX_PICTURES else ""
        print(f"what was read: {sheet}{more}", file=sys.stderr)
    return int(any("error" in entry for entry in entries))


def _is_run(name: str) -> bool:
    """Whether the first of the words is a run, and no picture or folder of pictures."""
    path = Path(name)
    with contextlib.suppress(OSError, ValueError):
        if path.is_dir():
            return any(
                (path / each).exists() for each in ("config.json", "results.json", "checkpoints")
            )
        return path.suffix == ".npz" or (name != "-" and not path.suffix and not path.exists())
    return False


def _check(args: Arguments, names: Sequence[str], sheet: Path | None) -> None:
    if not names:
        raise ConfigError("no picture is given; give IMAGE..., or RUN_A RUN_B --image IMAGE...")
    if (args.line and args.page) or (args.json and args.csv):
        raise ConfigError("--line and --page, --json and --csv exclude each other; give one")
    if args.csv and (args.line or args.page):
        raise ConfigError("--csv is for one digit an image; give --json for lines and pages")
    # RUN_A RUN_B IMAGE, without --image, would read the second run as a folder of pictures.
    for name in names if not args.image else ():
        if (Path(name) / "config.json").is_file():
            raise ConfigError(
                f"{name} is a run; to compare runs give RUN_A RUN_B --image IMAGE..., or --ensemble"
            )
    if sheet:
        from digits_jax.deploy.sheet import is_sheet

        if sheet.suffix.lower() != ".png":
            raise ConfigError(
                f"{sheet}: --output is for the picture of --show; give a .png file, or for a table "
                "--csv > FILE"
            )
        if sheet.is_dir() or not sheet.parent.is_dir():
            raise ConfigError(f"{sheet}: can't be written; give a .png file in an existing folder")
        if os.path.lexists(sheet) and not (sheet.is_file() and is_sheet(sheet)):
            raise ConfigError(f"{sheet}: exists, and isn't a sheet of this program; give another")


def _classify_table(args: Arguments, runs: Sequence[str], names: Sequence[str]) -> int:
    """Writes Kaggle's table of answers to a CSV file of pixels."""
    output, switches = Path(args.output), (args.line, args.page, args.json, args.csv, args.show)
    several = len(runs) > 1 and not args.ensemble
    if len(names) > 1 or several or any(switches) or output.suffix != ".csv":
        raise ConfigError(f"{names[0]}: for a table of pixels give RUN test.csv -o submission.csv")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: can't be written; give a file in an existing folder")
    if os.path.lexists(output) and not _is_submission(output):
        raise ConfigError(f"{output}: exists, and is no table of answers; give another")
    from digits_jax.data.tables import read_csv_images
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.files import replace_file
    from digits_jax.hardware import use_compilation_cache

    use_compilation_cache()
    predictor = Predictor.load(runs) if runs else Predictor.pretrained()
    labels = predictor.predict(read_csv_images(names[0])).names
    table = io.StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows(enumerate(map(csv_cell, labels), 1))
    replace_file(output, _SUBMISSION + table.getvalue().encode())
    print(f"{output}: {len(labels):,} labels")
    return 0


def _is_submission(path: Path) -> bool:
    from digits_jax.files import open_regular

    with contextlib.suppress(OSError), open_regular(path) as file:
        return file.read(len(_SUBMISSION)) == _SUBMISSION
    return False


def _find_files(names: Sequence[str]) -> Iterator[str]:
    """The files given, and those in the folders given; a folder that can't be listed is one."""
    for name in names:
        unlisted: list[OSError] = []
        files = [str(path) for path, _ in walk_visible(name, unlisted.append)]
        folders = [error.filename for error in unlisted]
        yield from [*filter(os.path.isfile, files), *folders] or [name]


def _entry(name: str, reading: "Reading", models: list[str], mode: str) -> dict[str, Any]:
    rows = [_row(lines, mode, reading.found) for lines in reading.answers]
    if len(models) == 1:
        return {"file": name, **rows[0]}
    agree = len({row.get("text", row.get("digit")) for row in rows}) == 1
    each = [{"model": model, **row} for model, row in zip(models, rows, strict=True)]
    return {"file": name, "agree": agree, "models": each}


def _row(lines: "list[Line]", mode: str, found: int) -> dict[str, Any]:
    """What one network reads, as JSON values."""
    if mode == "digit":
        digit = lines[0].digits[0].as_json() if lines else {}
        return {**{name: digit.get(name) for name in DIGIT}, "found": found}
    each = [line.as_json() for line in lines]
    if mode == "page":
        return {"text": "\n".join(line.text for line in lines), "lines": each}
    return each[0] if each else {"text": "", "probability": None, "digits": []}


def _print_text(name: str, reading: "Reading", models: list[str], mode: str) -> None:
    texts = [_text(lines, mode, reading.found) for lines in reading.answers]
    if len(models) == 1:
        print(f"{plain(name)}: {texts[0]}", flush=True)
        return
    agree = len({tuple(line.text for line in lines) for lines in reading.answers}) == 1
    print(f"{plain(name)}:{'' if agree else ' (they disagree)'}")
    for model, text in zip(models, texts, strict=True):
        print(f"  {model}: {text}", flush=True)


def _text(lines: "list[Line]", mode: str, found: int) -> str:
    """What one network reads, for a person."""
    if not lines:
        return "no digit"
    if mode == "page":
        return "".join(f"\n  {line}" for line in lines)
    if mode == "line":
        return str(lines[0])
    more = f"; {found} digits seem to be there: give --line or --page" if found > 1 else ""
    return f"{lines[0].digits[0]}{more}"


if __name__ == "__main__":
    leave(run_program(main))
