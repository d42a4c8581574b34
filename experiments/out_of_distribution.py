"""How confident a model is where there is no digit: python -m experiments.out_of_distribution

A digit recognizer answers with a digit whatever it is shown. Draws digits, letters, scribbles and
digits that touch, reads them as `digits_jax.predict` does, and counts the confident answers: those
by the network's probability alone, and those of `predict`, which also asks whether it is a digit
at all. Writes out_of_distribution.json and out_of_distribution.md.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import matplotlib
import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from digits_jax import load_dataset
from digits_jax.cli import parse, run_program
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.reading import read_picture
from digits_jax.formatting import markdown_table, percent
from digits_jax.hardware import use_compilation_cache
from digits_jax.runs.folder import hold_folder
from digits_jax.vision.decode import decode_image
from experiments.drawing import CONDITIONS, Drawing, compose, draw
from experiments.study import RESULTS, write_results

CHARACTERS = {
    "printed digits": "0123456789",
    # Without those that are digits in some hands: C, I, O, S, Z, c, i, j, l, o, q, s, z.
    "printed letters": "ABDEFGHJKLMNPQRTUVWXYabdefghkmnprtuvwxy",
    "printed signs": "?!#%&*@+=/<>{}[]~",
}
SCRIBBLES, SIDE, SEED = 400, 200, 12


@dataclass(frozen=True)
class Arguments:
    """What to ask."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")] = "cnn"
    """A finished run, an exported .npz, or a pretrained network."""
    count: int = 1000
    """Number of pictures of MNIST's images of each kind."""
    split: Literal["test", "validation"] = "test"
    """MNIST's images: test, or validation to develop on."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of out_of_distribution.json and out_of_distribution.md."""


def main(argv: Sequence[str]) -> None:
    """Draws, asks, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    use_compilation_cache()
    predictor = Predictor.load(arguments.run)
    split = getattr(load_dataset("mnist", arguments.data_dir), arguments.split)
    images, labels = split.rows(np.arange(min(arguments.count, len(split))))
    images, names = images[..., 0], labels.astype(str).tolist()
    rows = [
        measure(f"MNIST, {CONDITIONS[how].title}", photos(images, how), names, predictor)
        for how in ("inverted", "photo")
    ]
    characters = CHARACTERS["printed digits"]
    rows.append(measure("printed digits", printed(characters), 99 * characters, predictor))
    others = {
        **{name: printed(CHARACTERS[name]) for name in ("printed letters", "printed signs")},
        "scribbles": scribbles(SCRIBBLES),
        "circles": circles(SCRIBBLES),
        "two digits that touch": pairs(images, (0, 2)),
        "two digits apart": pairs(images, None),
    }
    rows += [measure(name, pages, None, predictor) for name, pages in others.items()]
    with hold_folder(arguments.output):
        table = {"run": predictor.network.name, "split": arguments.split, "rows": rows}
        write_results(arguments.output / "out_of_distribution.json", table, markdown(table))


def measure(
    title: str, pages: Iterable[np.ndarray], names: Sequence[str] | None, predictor: Predictor
) -> dict[str, Any]:
    """Counts confident answers to pictures, and the wrong ones where their digits are given."""
    count = right = alone = confident = wrong = 0
    for index, page in enumerate(tqdm(pages, title, leave=False, disable=None)):
        (lines,) = read_picture(page, [predictor.predict], "digit").answers
        count += 1
        for digit in lines[0].digits if lines else ():
            is_right = names is not None and digit.name == names[index]
            right += is_right
            alone += digit.probability >= predictor.network.threshold
            confident += digit.confident
            wrong += digit.confident and not is_right
    shares = {"right": right if names else None, "confident_by_probability": alone}
    shares |= {"confident": confident, "wrong_and_confident": wrong}
    return {"kind": title, "count": count} | {
        name: None if share is None else share / count for name, share in shares.items()
    }


def photos(images: np.ndarray, how: str) -> Iterator[np.ndarray]:
    """Draws images as pictures of a condition: uint8 [height, width]."""
    for index, image in enumerate(images):
        rng = np.random.Generator(np.random.Philox(key=SEED, counter=[0, 0, 0, index]))
        yield decode_image(draw(image, CONDITIONS[how], rng), f"{how} {index}")


def pairs(images: np.ndarray, overlap: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Draws images two by two: uint8 [height, width]."""
    for index, pair in enumerate(zip(images[::2], images[1::2], strict=False)):
        rng = np.random.Generator(np.random.Philox(key=SEED + 1, counter=[0, 0, 0, index]))
        row = compose(np.stack(pair), rng, overlap).max(axis=0)
        picture = draw(row, Drawing("", scale=(2, 5), margin=(0.1, 1)), rng)
        yield decode_image(picture, f"pair {index}")


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


def circles(count: int) -> Iterator[np.ndarray]:
    """Draws circles: uint8 [SIDE, SIDE]."""
    rng = np.random.Generator(np.random.Philox(key=12))
    for _ in range(count):
        page = Image.new("L", (SIDE, SIDE), 255)
        radius, width = rng.uniform(30, 80), int(rng.integers(4, 16))
        box = (100 - radius, 100 - radius, 100 + radius, 100 + radius)
        ImageDraw.Draw(page).ellipse(box, outline=0, width=width)
        yield np.asarray(page)


def markdown(table: dict[str, Any]) -> str:
    """Makes a line per kind of picture."""
    columns = ["picture", "pictures", "right", "confident by probability alone", "confident"]
    columns.append("wrong and confident")
    lines = []
    for row in table["rows"]:
        shares = list(row.values())[2:]
        cells = ["" if share is None else percent(share, 1) for share in shares]
        lines.append([row["kind"], row["count"], *cells])
    return (
        f"{table['run']}; MNIST's images are of the {table['split']} split.\n\n"
        f"{markdown_table(lines, columns)}"
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
