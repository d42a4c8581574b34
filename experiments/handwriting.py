"""Reads test images drawn as users' pictures: python -m experiments.handwriting RUN...

Each of MNIST's test images is drawn as a user might send it, encoded to a file's bytes, and read
with what `digits_jax.predict` uses. Writes handwriting.json, .md and .png: each condition's
accuracy beside that on the images as they are, and some of the pictures beside what the model sees.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from digits_jax import ConfigError, load_dataset, read_run
from digits_jax.cli import parse, run_program
from digits_jax.deploy.predictor import Predictor
from digits_jax.formatting import fixed, interval, markdown_table, percent
from digits_jax.hardware import cpu_count, use_compilation_cache
from digits_jax.runs.folder import hold_folder
from digits_jax.vision.decode import decode_image
from digits_jax.vision.segment import read_digit
from experiments.drawing import CONDITIONS, draw
from experiments.study import RESULTS, write_results

SEED = 7
PART, SHOWN = 250, 6  # pictures of one job, of the sheet


@dataclass(frozen=True)
class Arguments:
    """What to read."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trained runs."""
    count: int = 10_000
    """Number of images."""
    split: Literal["test", "validation"] = "test"
    """The images: test, or validation to develop on."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of handwriting.json, .md and .png."""


def main(argv: Sequence[str]) -> None:
    """Draws, reads, prints and writes."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if not arguments.runs:
        raise ConfigError("RUN is missing: give folders of trained runs")
    use_compilation_cache()
    predictors = [Predictor.load(run) for run in arguments.runs]
    name = read_run(arguments.runs[0]).results["dataset"]
    split = getattr(load_dataset(name, arguments.data_dir), arguments.split)
    images, labels = split.rows(np.arange(min(arguments.count, len(split))))
    images = images[..., 0]
    plain = [predictor.predict(images).labels == labels for predictor in predictors]
    table: dict[str, Any] = {
        "split": arguments.split,
        "count": len(labels),
        "runs": [run.name for run in arguments.runs],
        "plain_accuracy": [float(correct.mean()) for correct in plain],
        "conditions": {},
    }
    # A process of the pool uses one core; NumPy reads this when it is imported there.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(cpu_count(), get_context("spawn"))
    with hold_folder(arguments.output), pool:
        for name, how in CONDITIONS.items():
            glyphs, found = read_condition(pool, name, images)
            row: dict[str, Any] = {"drawing": how.title, "goal": how.goal}
            row |= {"not_found": int((~found).sum()), "runs": []}
            for predictor, before in zip(predictors, plain, strict=True):
                correct = found & (predictor.predict(glyphs).labels == labels)
                change = difference(correct, before)
                row["runs"].append({"accuracy": float(correct.mean()), "difference": change})
            table["conditions"][name] = row
        sheet = contact_sheet(images[:SHOWN])
        sheet.quantize(32).save(arguments.output / "handwriting.png", optimize=True)
        write_results(arguments.output / "handwriting.json", table, markdown(table))


def read_condition(pool: Executor, name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws and reads images under a condition: the 28x28 found, and whether there was one."""
    starts = range(0, len(images), PART)
    jobs = [pool.submit(read_pictures, name, images[s : s + PART], s) for s in starts]
    jobs = tqdm(jobs, desc=name, leave=False, disable=None)
    glyphs = [glyph for job in jobs for _, glyph in job.result()]
    blank = np.zeros((28, 28), np.uint8)
    found = np.array([glyph is not None for glyph in glyphs])
    return np.stack([blank if glyph is None else glyph for glyph in glyphs]), found


def read_pictures(
    name: str, images: np.ndarray, first: int
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Draws images, the first of which has a number, and reads each: the picture, and the 28x28."""
    found = []
    for index, image in enumerate(images, start=first):
        key = [SEED, list(CONDITIONS).index(name)]
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
        picture = decode_image(draw(image, CONDITIONS[name], rng), f"{name} {index}")
        found.append((picture, read_digit(picture)))
    return found


def difference(correct: np.ndarray, plain: np.ndarray) -> tuple[float, float, float]:
    """Returns the points between two accuracies on the same images, and the 95% interval.

    Examples:
      >>> [round(v, 2) for v in difference(np.array([True] * 99 + [False]), np.ones(100, bool))]
      [-1.0, -2.95, 0.95]
    """
    change = 100.0 * (correct.astype(float) - plain)
    half = 1.96 * change.std() / np.sqrt(len(change))
    return float(change.mean()), float(change.mean() - half), float(change.mean() + half)


def markdown(table: dict[str, Any]) -> str:
    """Makes the table of conditions."""
    pairs = zip(table["runs"], table["plain_accuracy"], strict=True)
    plain = ", ".join(f"{run} {percent(accuracy)}" for run, accuracy in pairs)
    parts = [f"The first {table['count']:,} {table['split']} images; as they are: {plain}."]
    lines = []
    for row in table["conditions"].values():
        cells = [row["drawing"], fixed(-row["goal"], 1), row["not_found"]]
        for run in row["runs"]:
            mean, *bounds = run["difference"]
            cells += [percent(run["accuracy"]), f"{_points(mean)} {interval(bounds, _points)}"]
        lines.append(cells)
    columns = ["picture", "goal, points", "not found"]
    for run in table["runs"]:
        columns += [run, "points [95% interval]"]
    return "\n\n".join([*parts, markdown_table(lines, columns)])


def _points(value: float) -> str:
    return fixed(value, 2, "+")


def contact_sheet(images: np.ndarray) -> Image.Image:
    """Draws a row per condition: pictures, each beside the 28x28 that a model sees."""
    cell, gap = 84, 6
    size = (len(images) * 2 * (cell + gap) + gap, len(CONDITIONS) * (cell + gap) + gap)
    sheet = Image.new("L", size, 128)
    for row, name in enumerate(CONDITIONS):
        for column, (grey, glyph) in enumerate(read_pictures(name, images, 0)):
            picture = Image.fromarray(grey)
            picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            left, top = gap + column * 2 * (cell + gap), gap + row * (cell + gap)
            sheet.paste(picture, (left, top))
            if glyph is not None:
                seen = Image.fromarray(glyph).resize((cell, cell), Image.Resampling.NEAREST)
                sheet.paste(seen, (left + cell + gap // 2, top))
    return sheet


if __name__ == "__main__":
    sys.exit(run_program(main))
