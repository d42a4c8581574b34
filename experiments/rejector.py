"""Trains the network that tells digits from other ink: python -m experiments.rejector

Its images are whole digits (of MNIST and of `digits_jax.data.strokes`, alone or cut out of digits
that touch), and what none is: digits that touch, parts of them, letters, scribbles, circles. Writes
rejector.npz and rejector.json in digits_jax/deploy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from digits_jax import Dataset, load_dataset
from digits_jax.cli import leave, parse, run_program
from digits_jax.data.strokes import WAYS, draw_digit, draw_strokes
from digits_jax.vision.digit import place_digit
from digits_jax.vision.touching import Part, cut
from experiments.drawing import change_pen, compose
from experiments.study import REPOSITORY, train_run

FLAGS = ("--arch=cnn", "--preset=quick", "--channels=32,64", "--dense-size=64", "--augment=affine")
FLAGS += ("--epochs=20", "--batch-size=128", "--learning-rate=0.025", "--label-smoothing=0")
MAX_REJECTED = 0.01  # of the validation digits
# A piece of ink is a digit if it holds so much of the digit's, and little else: both shares are
# larger; it is none if one of them is less. Others aren't trained on.
_DIGIT, _NONE = 0.9, 0.7
_PARTS = 4  # of each row, at most so many parts that are no digits
# Strokes through points, x and y in tenths (a: 10), / between strokes. Letters that are digits in
# some hands (C, G, I, J, O, Q, S, Z, b, g, l, q) aren't there.
LETTERS = {
    "A": "0a 20 40 5a/15 55", "B": "00 0a/00 52 15 15 67 0a", "D": "00 0a/00 53 66 4a 0a",
    "E": "60 00 05 0a 6a/05 55", "F": "60 00 05 0a/05 55", "H": "00 0a/60 6a/05 65",
    "K": "00 0a/60 05 6a", "L": "00 05 09 0a 1a 6a", "M": "0a 10 46 70 8a", "N": "0a 00 6a 60",
    "P": "00 0a/00 62 05", "R": "00 0a/00 62 05 6a", "T": "00 70/30 3a", "U": "00 08 3a 68 60",
    "V": "00 3a 4a 70", "W": "00 2a 43 6a 80", "X": "00 6a/60 0a", "Y": "00 35/60 35 3a",
    "a": "53 13 07 3a 55 53 6a", "e": "06 56 33 06 2a 59", "h": "00 0a 15 45 5a",
    "k": "00 0a/54 07 5a", "m": "0a 03 24 3a 44 64 7a", "n": "0a 03 34 4a", "r": "0a 03 07 24 43",
    "u": "03 19 48 43 5a", "w": "03 1a 34 5a 63", "+": "30 3a/05 65", "=": "03 63/07 67",
    "#": "20 1a/50 4a/03 63/07 67", "?": "02 30 53 35 36 37/39 3a", "&": "6a 12 30 42 08 3a 66",
    "*": "30 3a/02 68/62 08", "square": "00 0a 7a 70 00", "triangle": "0a 40 8a 0a",
}  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Where to write, and how much is drawn."""

    runs: Path = Path("runs/rejector")
    """Folder of the drawn images and the run; what is finished there is taken."""
    rows: int = 1000
    """Rows of touching digits to cut for training."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = REPOSITORY / "digits_jax" / "deploy"
    """Folder of rejector.npz and rejector.json."""


def main(argv: Sequence[str]) -> None:
    """Draws, trains, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    from digits_jax.deploy.network import RUN_FACTS, load_network
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.deploy.rejection import CLASSES
    from digits_jax.files import write_json
    from digits_jax.runs.pretrained import write_variables
    from digits_jax.runs.trained_network import SETTINGS

    path = arguments.runs / "other-or-digit.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        arrays = {}
        for split in ("train", "validation"):
            count = arguments.rows // (1 if split == "train" else 8)
            images, labels = draw_images(count, split, arguments.data_dir)
            arrays |= {f"images_{split}": images, f"labels_{split}": labels}
        # Never MNIST's test images: what is reported is of the validation images, too.
        arrays |= {f"{each}_test": arrays[f"{each}_validation"] for each in ("images", "labels")}
        np.savez(path, **arrays)
    train_run((*FLAGS, f"--dataset={path}"), arguments.runs / "run")
    network = load_network(arguments.runs / "run")
    (member,), (run,) = network.members, network.facts["runs"]
    data = load_dataset(str(path)).validation
    found = Predictor(network).predict(np.asarray(data.images))
    digits = found.probabilities[data.labels == 1, 1]
    threshold = float(np.quantile(digits, MAX_REJECTED))
    write_variables(member.variables, arguments.output / "rejector.npz", int8=True)
    facts = {fact: run[fact] for names in RUN_FACTS for fact in names.split()}
    card = {
        "name": "rejector",
        "class_names": CLASSES,
        "command": "python -m experiments.rejector",
        "threshold": threshold,
        "temperature": network.temperature,
        "settings": {key: member.settings[key] for key in SETTINGS if key in member.settings},
        "run": facts,
    }
    write_json(arguments.output / "rejector.json", card)
    others = found.probabilities[data.labels == 0, 1]
    print(
        f"of {len(others):,} validation images of no digit {np.mean(others < threshold):.1%} "
        f"are rejected, of {len(digits):,} of a digit {np.mean(digits < threshold):.1%}"
    )


def draw_row(
    images: np.ndarray, rng: np.random.Generator, overlap: tuple[int, int] | None
) -> np.ndarray:
    """Draws digits, uint8 [n, 28, 28], in a row: the ink of each, float32 [n, h, w]."""
    scale = float(np.exp(rng.uniform(*np.log((1.5, 3)))))
    pen = rng.uniform(-0.4, 0.6) * scale
    digits = []
    for layer in compose(images, rng, overlap):
        size = [round(side * scale) for side in layer.shape[::-1]]
        large = Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC)
        digits.append(change_pen(np.asarray(large, np.float32) / 255, pen))
    return np.stack(digits)


def split_row(digits: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, bool]]:
    """Cuts a row of touching digits everywhere: images uint8 [28, 28], and whether each is one."""
    line = digits.max(axis=0)
    rows, columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    whole = Part(line[box[1] : box[3], box[0] : box[2]], box)
    heights = [np.ptp(np.flatnonzero(digit.any(axis=1))) + 1 for digit in digits]
    found: dict[bool, list[Part]] = {True: [], False: []}
    for part in cut(whole, float(np.median(heights))).values():
        left, top, right, bottom = part.box
        shared = (np.minimum(digits[:, top:bottom, left:right], part.ink)).sum((1, 2))
        least = np.minimum(shared / part.ink.sum(), shared / digits.sum((1, 2))).max()
        if least > _DIGIT or least < _NONE:
            found[bool(least > _DIGIT)].append(part)
    for is_digit, most in ((True, len(digits)), (False, _PARTS)):
        parts = found[is_digit]
        for index in rng.permutation(len(parts))[:most]:
            yield parts[index].image, is_digit
    if len(digits) > 1:
        yield whole.image, False


def draw_images(count: int, split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Draws images of digits and of none: uint8 [n, 28, 28], and int32 [n], 1 for a digit.

    Four parts are of MNIST's writers, one is of those of scikit-learn's digits.
    """
    parts = [
        _draw_images(load_dataset(name, data_dir), rows, split, number)
        for number, (name, rows) in enumerate((("mnist", count), ("digits", count // 4)))
    ]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _draw_images(
    data: Dataset, count: int, split: str, number: int
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([2027, int(split != "train"), number])
    source = getattr(data, split)
    images: list[np.ndarray] = []
    labels: list[bool] = []
    for index in tqdm(range(count), f"drawing {split} images", leave=False, disable=None):
        chosen = np.sort(rng.choice(len(source), rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2]), False))
        digits = rng.permutation(source.rows(chosen)[0][..., 0])
        overlap = None if index % 6 == 0 else ((0, 2), (0, 5))[index % 2]
        for image, is_digit in split_row(draw_row(digits, rng, overlap), rng):
            images.append(image)
            labels.append(is_digit)
    single, _ = source.rows(np.sort(rng.choice(len(source), min(3 * count, len(source)), False)))
    drawn = [draw_digit(rng, index % 10) for index in range(count)]
    strange = [draw_strange(rng, index) for index in range(count)]
    labels += [True] * (len(single) + count) + [False] * count
    return np.concatenate([images, single[..., 0], drawn, strange]), np.array(labels, np.int32)


def draw_strange(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Draws what is no digit: a letter, a scribble, a digit that lies on its side, a circle."""
    if kind % 8 < 4:
        strokes = list(LETTERS.values())[rng.integers(len(LETTERS))].split("/")
        points = [[(int(x, 16) / 10, int(y, 16) / 10) for x, y in each.split()] for each in strokes]
        return draw_strokes(rng, points)
    if kind % 8 < 6:
        points = [(float(x), float(y)) for x, y in rng.uniform(0, 1, (rng.integers(4, 12), 2))]
        return draw_strokes(rng, [points])
    if kind % 8 == 6:
        ways = WAYS[int(rng.choice([2, 3, 4, 5]))]
        lines = ways[rng.integers(len(ways))]
        turned = [[(y, -x) if kind % 16 < 8 else (-y, x) for x, y in line] for line in lines]
        return draw_strokes(rng, turned)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius, width = np.hypot(y, x * rng.uniform(0.93, 1)), rng.uniform(0.1, 0.35)
    image = place_digit(((radius < 0.95) & (radius > 0.95 - width)).astype(np.float32))
    assert image is not None
    return image


if __name__ == "__main__":
    leave(run_program(main))
