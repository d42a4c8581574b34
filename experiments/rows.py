"""Reads rows of digits that stand apart or touch: python -m experiments.rows [RUN]

Rows are made of MNIST's test images, drawn as a user might send them, and read with what
`digits_jax.predict --line` uses. Writes rows.json and rows.md.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from digits_jax import load_dataset
from digits_jax.cli import parse, run_program
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.reading import read_picture
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.formatting import interval, markdown_table, percent
from digits_jax.hardware import use_compilation_cache
from digits_jax.runs.folder import hold_folder
from digits_jax.vision.decode import decode_image
from experiments.drawing import Drawing, compose, draw
from experiments.study import RESULTS, write_results

SEED = 8


@dataclass(frozen=True)
class Kind:
    """How rows are made: see `compose` and `Drawing`."""

    title: str
    overlap: tuple[int, int] | None
    lengths: tuple[int, ...]
    pen: tuple[float, float] = (0, 0)
    scale: tuple[float, float] = (2, 5)


KINDS = (
    Kind("apart", None, (1, 2, 5)),
    Kind("touching", (0, 2), (2, 3)),
    Kind("overlapping by 2 to 4 pixels of 28", (2, 5), (2,)),
    Kind("touching, thin pens", (0, 2), (2,), pen=(-0.4, -0.2)),
    Kind("touching, thick pens", (0, 2), (2,), pen=(0.3, 0.6)),
    Kind("touching, small", (0, 2), (2,), scale=(1, 1.5)),
)


@dataclass(frozen=True)
class Arguments:
    """What to read, and by what."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = "cnn"
    """A finished run, an exported .npz, or a pretrained network."""
    count: int = 100
    """Number of rows of each kind and length."""
    split: Literal["test", "validation"] = "test"
    """The images: test, or validation to develop on."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of rows.json and rows.md."""


def main(argv: Sequence[str]) -> None:
    """Draws, reads, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    use_compilation_cache()
    predictor = Predictor.load(arguments.run)
    split = getattr(load_dataset("mnist", arguments.data_dir), arguments.split)
    images, labels = split.rows(np.arange(len(split)))
    with hold_folder(arguments.output):
        results = [
            measure(kind, length, images[..., 0], labels, predictor, arguments.count)
            for kind in KINDS
            for length in kind.lengths
        ]
        table: dict[str, Any] = {"run": predictor.network.name, "split": arguments.split}
        table["rows"] = results
        write_results(arguments.output / "rows.json", table, markdown(table))


def measure(
    kind: Kind,
    length: int,
    images: np.ndarray,
    labels: np.ndarray,
    predictor: Predictor,
    count: int,
) -> dict[str, Any]:
    """Reads rows of so many digits."""
    counted = correct = confident = 0
    for index in tqdm(range(count), f"{kind.title}, {length}", leave=False, disable=None):
        key = [SEED + KINDS.index(kind), length]
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
        chosen = rng.integers(0, len(images), length)
        row = compose(images[chosen], rng, kind.overlap).max(axis=0)
        how = Drawing("", scale=kind.scale, margin=(0.1, 1), pen=kind.pen)
        grey = decode_image(draw(row, how, rng), f"row {index}")
        (lines,) = read_picture(grey, [predictor.predict], "line").answers
        digits = [digit for line in lines for digit in line.digits]
        counted += len(digits) == length
        if [digit.name for digit in digits] == labels[chosen].astype(str).tolist():
            correct += 1
        else:
            confident += bool(digits) and all(digit.confident for digit in digits)
    return {
        "kind": kind.title,
        "digits": length,
        "rows": count,
        "right_number_of_digits": counted / count,
        "accuracy": correct / count,
        "interval": wilson_interval(correct, count),
        "wrong_and_confident": confident / count,
    }


def markdown(table: dict[str, Any]) -> str:
    """Makes the table."""
    columns = ["digits of a row", "digits", "rows", "number of digits right"]
    columns += ["all digits right [95% interval]", "wrong and confident"]
    lines = []
    for row in table["rows"]:
        bounds = interval(row["interval"], lambda end: percent(end, 1))
        cells = [row["kind"], row["digits"], row["rows"], percent(row["right_number_of_digits"], 1)]
        cells += [f"{percent(row['accuracy'], 1)} {bounds}", percent(row["wrong_and_confident"], 1)]
        lines.append(cells)
    head = f"Rows of MNIST's {table['split']} images, read by {table['run']}."
    return f"{head}\n\n{markdown_table(lines, columns)}"


if __name__ == "__main__":
    sys.exit(run_program(main))
