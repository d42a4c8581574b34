"""Reads drawn pictures of several kinds: python -m experiments.drawn_kinds FOLDER [RUN]

FOLDER holds KIND/NNN_TEXT.png: TEXT is what is written, the lines of a page joined by '-'. A kind
that starts with `rows-` holds a line of digits, one that starts with `pages-` several.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.reading import Mode, read_picture
from digits_jax.formatting import markdown_table
from digits_jax.runs.folder import hold_folder
from digits_jax.vision.decode import read_grey
from experiments.study import RESULTS, write_results

MODES: dict[str, Mode] = {"rows": "line", "pages": "page"}
COLUMNS = ("kind", "pictures", "right", "wrong and confident")


@dataclass(frozen=True)
class Arguments:
    """What to read, and by what."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the drawn pictures."""
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = "cnn"
    """A finished run, an exported .npz, or a pretrained network."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of drawn_kinds.json and drawn_kinds.md."""


def main(argv: Sequence[str]) -> None:
    """Reads, counts, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    predictor = Predictor.load(arguments.run)
    folders = sorted(folder for folder in arguments.folder.iterdir() if folder.is_dir())
    rows = [measure(folder, predictor) for folder in folders]
    total = {name: sum(row[name] for row in rows) for name in COLUMNS[1:]}
    lines = [[str(row[name]) for name in COLUMNS] for row in [*rows, {"kind": "all", **total}]]
    with hold_folder(arguments.output):
        table = markdown_table(lines, COLUMNS)
        write_results(arguments.output / "drawn_kinds.json", rows, table)


def measure(folder: Path, predictor: Predictor) -> dict[str, Any]:
    """Counts the pictures of a kind that are read right, and those that are wrong and confident."""
    right, confident, paths = 0, 0, sorted(folder.glob("*.png"))
    mode = MODES.get(folder.name.partition("-")[0], "digit")
    for path in paths:
        (lines,) = read_picture(read_grey(path), [predictor.predict], mode).answers
        if "-".join(line.text for line in lines) == path.stem.partition("_")[2]:
            right += 1
        elif lines and all(digit.confident for line in lines for digit in line.digits):
            confident += 1
    return dict(zip(COLUMNS, (folder.name, len(paths), right, confident), strict=True))


if __name__ == "__main__":
    sys.exit(run_program(main))
