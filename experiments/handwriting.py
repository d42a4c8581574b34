"""Test images as users' pictures, read back: python -m experiments.handwriting RUN...

Each of MNIST's test images is drawn as somebody might send it, encoded to a file's bytes, and
read by `decode_image` and `read_digit`; lines of digits by `read_line`. Writes
``experiments/results/handwriting.json``, ``.md`` and ``.png``: each condition's accuracy beside
that on the images as they are, and some of the pictures beside what the model saw.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from scipy.special import softmax
from tqdm import tqdm

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.evaluation.metrics import wilson_interval
from digits_jax.vision.decode import decode_image
from digits_jax.vision.segment import read_digit, read_line, segment
from experiments.drawing import CONDITIONS, Drawing, compose, draw

RESULTS = Path(__file__).parent / "results"
SEED = 7
_PART, _LINES = 250, 25  # pictures and lines of one job
_SHOWN = 6
_SCORE: Callable | None = None


@dataclass(frozen=True)
class Arguments:
    """What to read back."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trained runs; lines are cut by the first."""
    quick: bool = False
    """The first 500 images only."""
    count: int = 0
    """So many images; 0 is all."""
    data_dir: str | None = None
    """Folder of the data set, if not where it is found by itself."""
    split: str = "test"
    """The images: test, or validation to develop on."""
    conditions: tuple[str, ...] = ()
    """Only these conditions."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of handwriting.json, .md and .png."""


# --- reading -------------------------------------------------------------------------------


def make_score(predictor) -> Callable[[np.ndarray], np.ndarray]:
    """A model as `read_line` takes it: see digits_jax.vision.segment."""
    return lambda images: softmax(predictor.predict(images).logits, -1)


def start_worker(run: Path) -> None:
    """What a process of the pool needs to read lines."""
    global _SCORE
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.training.parallel import use_compilation_cache

    use_compilation_cache()
    _SCORE = make_score(Predictor.load(run))


def read_part(name, images, first):
    """What `read_digit` makes of each image under a condition; None where it found nothing."""
    how, number = CONDITIONS[name], list(CONDITIONS).index(name)
    glyphs, pictures = [], []
    for index, image in enumerate(images, start=first):
        rng = np.random.Generator(np.random.Philox(key=[SEED, number], counter=[0, 0, 0, index]))
        grey = decode_image(draw(image, how, rng), f"{name} {index}")
        glyphs.append(read_digit(grey))
        if index < _SHOWN:
            pictures.append(grey)
    return glyphs, pictures


def read_condition(pool, name, images):
    """`read_part` of all images, by the processes of a pool."""
    starts = range(0, len(images), _PART)
    jobs = [pool.submit(read_part, name, images[start : start + _PART], start) for start in starts]
    done = [job.result() for job in tqdm(jobs, desc=name, leave=False, disable=None)]
    return [g for glyphs, _ in done for g in glyphs], [p for _, pictures in done for p in pictures]


def score_glyphs(score, glyphs):
    """The digit read in each glyph, -1 where there is none."""
    found = np.array([glyph is not None for glyph in glyphs])
    answers = np.full(len(glyphs), -1)
    if found.any():
        answers[found] = score(np.stack([g for g in glyphs if g is not None])).argmax(-1)
    return answers


def difference(right: np.ndarray, plain: np.ndarray) -> tuple[float, float, float]:
    """Points between two accuracies on the same images, and the 95% interval.

    Example:
      >>> [round(v, 2) for v in difference(np.array([True] * 99 + [False]), np.ones(100, bool))]
      [-1.0, -2.95, 0.95]
    """
    change = 100.0 * (right.astype(float) - plain)
    half = 1.96 * change.std() / np.sqrt(len(change))
    return float(change.mean()), float(change.mean() - half), float(change.mean() + half)


def read_lines(images, labels, length, touching, count, first):
    """How many of ``count`` lines, and of their digits' numbers, are read right."""
    right = counted = 0
    for index in range(first, first + count):
        key = [SEED + 1 + touching, length]
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
        chosen = rng.integers(0, len(images), length)
        line = compose(images[chosen], touching, rng)
        how = Drawing("", scale=(2, 5), margin=(0.1, 1))
        glyphs = read_line(segment(decode_image(draw(line, how, rng), f"line {index}")), _SCORE)
        counted += len(glyphs) == length
        if len(glyphs) == length:
            answers = _SCORE(np.stack([glyph.image for glyph in glyphs])).argmax(-1)
            right += bool((answers == labels[chosen]).all())
    return right, counted


# --- the study -----------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Draws, reads, prints and writes."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    unknown = [c for c in arguments.conditions if c not in (*CONDITIONS, "lines")]
    if unknown or not arguments.runs or arguments.split not in ("test", "validation"):
        raise ConfigError(
            f"{len(arguments.runs)} runs, split {arguments.split}, conditions "
            f"{', '.join(unknown) or 'fine'}: give a run; splits are test and validation; "
            f"conditions are {', '.join(CONDITIONS)} and lines"
        )
    from digits_jax.data.datasets import load_dataset
    from digits_jax.deploy.predictor import Predictor

    predictors = [Predictor.load(run) for run in arguments.runs]
    scores = [make_score(predictor) for predictor in predictors]
    name = predictors[0].network.facts["runs"][0]["dataset"]
    split = getattr(load_dataset(name, arguments.data_dir), arguments.split)
    count = 500 if arguments.quick else arguments.count or len(split)
    images, labels = np.asarray(split.images[:count, :, :, 0]), split.labels[:count]
    arguments.output.mkdir(parents=True, exist_ok=True)
    plain = [score(images).argmax(-1) == labels for score in scores]
    table = {
        "split": arguments.split,
        "count": len(labels),
        "runs": [run.name for run in arguments.runs],
        "plain_accuracy": [float(p.mean()) for p in plain],
        "conditions": {},
        "lines": [],
    }
    shown = {}
    # A process of the pool keeps to one core; NumPy reads this when it is imported there.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(
        os.cpu_count(), get_context("spawn"), start_worker, (arguments.runs[0],)
    ) as pool:
        study_pictures(pool, arguments, table, shown, scores, plain, images, labels)
        if not arguments.conditions or "lines" in arguments.conditions:
            table["lines"] = study_lines(pool, images, labels)
    write(table, shown, arguments.output)


def study_pictures(pool, arguments, table, shown, scores, plain, images, labels):
    """Each condition's accuracy beside that on the images as they are."""
    for name in [c for c in CONDITIONS if c in (arguments.conditions or CONDITIONS)]:
        glyphs, pictures = read_condition(pool, name, images)
        shown[name] = list(zip(pictures, glyphs, strict=False))
        rows = []
        for score, before in zip(scores, plain, strict=True):
            right = score_glyphs(score, glyphs) == labels
            rows.append({"accuracy": float(right.mean()), "difference": difference(right, before)})
        lost = sum(glyph is None for glyph in glyphs)
        drawing = CONDITIONS[name]
        table["conditions"][name] = {
            "drawing": drawing.words,
            "goal": drawing.goal,
            "not_found": lost,
            "runs": rows,
        }
        tqdm.write(f"{name:9} {rows[0]['accuracy']:.2%} {rows[0]['difference']} lost {lost}")
        (arguments.output / "handwriting.json").write_text(json.dumps(table, indent=1) + "\n")


def study_lines(pool, images, labels):
    """Accuracies of whole lines: separated ones of 2 to 10 digits, touching ones of 2, 3, 5."""
    rows = []
    for touching, lengths in ((False, range(2, 11)), (True, (2, 3, 5))):
        for length in lengths:
            count = len(images) // (5 if length == 5 else 20)
            starts = range(0, count, _LINES)
            jobs = [
                pool.submit(
                    read_lines, images, labels, length, touching, min(_LINES, count - start), start
                )
                for start in starts
            ]
            bar = tqdm(jobs, desc=f"lines of {length}", leave=False, disable=None)
            right, counted = map(sum, zip(*(job.result() for job in bar), strict=True))
            rows.append(
                {
                    "digits": length,
                    "touching": touching,
                    "lines": count,
                    "accuracy": right / count,
                    "interval": wilson_interval(right, count),
                    "right_number_of_digits": counted / count,
                }
            )
            tqdm.write(f"{length} digits, touching {touching}: {rows[-1]}")
    return rows


def write(table: dict, shown: dict, output: Path) -> None:
    """Leaves handwriting.json, .md and .png."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "handwriting.json").write_text(json.dumps(table, indent=1) + "\n")
    text = markdown(table)
    (output / "handwriting.md").write_text(text)
    if shown:
        contact_sheet(shown, output / "handwriting.png")
    print(text)


def markdown(table: dict) -> str:
    """The tables of conditions and of lines."""
    plain = ", ".join(
        f"{run} {accuracy:.2%}"
        for run, accuracy in zip(table["runs"], table["plain_accuracy"], strict=True)
    )
    lines = [
        f"The first {table['count']:,} {table['split']} images of MNIST; as they are: {plain}.",
        "",
    ]
    lines.append(
        "| picture | goal, points | not found | "
        + " | ".join(f"{run} | points [95% interval]" for run in table["runs"])
        + " |"
    )
    lines.append("|---" * (3 + 2 * len(table["runs"])) + "|")
    for row in table["conditions"].values():
        cells = [row["drawing"], f"-{row['goal']}", str(row["not_found"])]
        for run in row["runs"]:
            mean, low, high = run["difference"]
            cells += [f"{run['accuracy']:.2%}", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"]
        lines.append("| " + " | ".join(cells) + " |")
    if not table["lines"]:
        return "\n".join(lines) + "\n"
    lines += ["", f"Whole lines, cut and read by {table['runs'][0]}:", ""]
    lines += ["| digits | apart or touching | lines | all read right [95% interval] | all found |"]
    lines += ["|---|---|---|---|---|"]
    for row in table["lines"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['digits']} | {'touching' if row['touching'] else 'apart'} | {row['lines']:,} "
            f"| {row['accuracy']:.1%} [{low:.1%}, {high:.1%}] "
            f"| {row['right_number_of_digits']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def contact_sheet(shown: dict, path: Path) -> None:
    """A row per condition: pictures, each beside the 28x28 that a model sees."""
    cell, gap = 84, 6
    width = _SHOWN * 2 * (cell + gap)
    sheet = Image.new("L", (width + gap, len(shown) * (cell + gap) + gap), 128)
    for row, pairs in enumerate(shown.values()):
        for column, (grey, glyph) in enumerate(pairs):
            picture = Image.fromarray(grey)
            picture.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            left, top = gap + column * 2 * (cell + gap), gap + row * (cell + gap)
            sheet.paste(picture, (left, top))
            if glyph is not None:
                seen = Image.fromarray(glyph).resize((cell, cell), Image.Resampling.NEAREST)
                sheet.paste(seen, (left + cell + gap // 2, top))
    sheet.quantize(32).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
