"""Measures confidence on images of no digit: python -m experiments.out_of_distribution RUN

A digit recognizer predicts a digit for any image; only a low probability marks a letter or a
scribble. Draws some of both, reads them as `digits_jax.predict` would, and writes the share below
the threshold of confidence, beside the share of correctly classified test images below it.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from digits_jax import load_dataset, read_run
from digits_jax.cli import parse, run_program
from digits_jax.deploy.predictor import Predictor
from digits_jax.formatting import markdown_table, percent
from digits_jax.runs.folder import hold_folder
from digits_jax.vision.segment import read_digit
from experiments.study import RESULTS, write_results

CHARACTERS = {
    "printed digits": "0123456789",
    # Without those that are digits in some hands: C, I, O, S, Z, c, i, j, l, o, q, s, z.
    "printed letters": "ABDEFGHJKLMNPQRTUVWXYabdefghkmnprtuvwxy",
    "printed signs": "?!#%&*@+=/<>{}[]~",
}
SCRIBBLES, SIDE = 400, 200


@dataclass(frozen=True)
class Arguments:
    """What to ask."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trained runs."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of out_of_distribution.json and out_of_distribution.md."""


def main(argv: Sequence[str]) -> None:
    """Draws, asks, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    drawn = {name: printed(characters) for name, characters in CHARACTERS.items()}
    drawn["scribbles"] = scribbles(SCRIBBLES)
    images = {
        name: np.stack([image for page in pages if (image := read_digit(page)) is not None])
        for name, pages in drawn.items()
    }
    rows = [measure(run, images, arguments.data_dir) for run in arguments.runs]
    with hold_folder(arguments.output):
        write_results(arguments.output / "out_of_distribution.json", rows, markdown(rows))


def measure(run: Path, images: dict[str, np.ndarray], data_dir: str | None) -> dict[str, Any]:
    """Measures the shares of answers under a model's threshold of confidence."""
    predictor = Predictor.load(run)
    test = load_dataset(read_run(run).results["dataset"], data_dir).test
    answers = predictor.predict(np.asarray(test.images))
    correct = answers.labels == test.labels
    unconfident = answers.confidence < answers.threshold

    def share(given: np.ndarray) -> float:
        own = predictor.predict(given)
        return float((own.confidence < own.threshold).mean())

    return {
        "run": run.name,
        "threshold": answers.threshold,
        "correct_test_images": float(unconfident[correct].mean()),
        "misclassified_test_images": float(unconfident[~correct].mean()),
        "counts": {name: len(own) for name, own in images.items()},
        "shares": {name: share(own) for name, own in images.items()},
    }


def printed(characters: str) -> Iterator[np.ndarray]:
    """Draws each character in the fonts that come with matplotlib: uint8 [SIDE, SIDE]."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for path in sorted(folder.glob("DejaVuS*.ttf")):
        if "Display" in path.name:  # mathematical signs only
            continue
        font = ImageFont.truetype(str(path), 110)
        for character in characters:
            page = Image.new("L", (SIDE, SIDE), 255)
            ImageDraw.Draw(page).text((60, 30), character, 0, font)
            yield np.asarray(page)


def scribbles(count: int) -> Iterator[np.ndarray]:
    """Draws random strokes: uint8 [SIDE, SIDE]."""
    rng = np.random.Generator(np.random.Philox(key=11))
    for _ in range(count):
        page = Image.new("L", (SIDE, SIDE), 255)
        points = rng.uniform(20, SIDE - 20, (rng.integers(6, 14), 2))
        ImageDraw.Draw(page).line([(x, y) for x, y in points], 0, 8)
        yield np.asarray(page)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Makes a line per run: shares of answers that aren't confident."""
    columns = ["not confident", "threshold", "correct test images", "misclassified test images"]
    columns += [f"{name} ({count})" for name, count in rows[0]["counts"].items()]
    lines = []
    for row in rows:
        shares = [row["threshold"], row["correct_test_images"], row["misclassified_test_images"]]
        shares += row["shares"].values()
        lines.append([row["run"], *(percent(share, 1) for share in shares)])
    return markdown_table(lines, columns)


if __name__ == "__main__":
    sys.exit(run_program(main))
