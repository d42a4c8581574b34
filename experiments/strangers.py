"""Pictures of something else, and how sure a model is: python -m experiments.strangers RUN...

A recogniser of digits answers with a digit whatever it is shown; all that can tell a letter or a
scribble is a low probability. Draws some of both, reads them as `digits_jax.predict` would, and
writes to ``experiments/results/strangers.json`` and ``.md`` which share stays under the threshold
("not sure"), beside the share of the right answers to the test images that it costs.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from digits_jax.cli import parse, run_program
from digits_jax.runs.folder import write_json
from experiments.training_table import RESULTS

# Without those that are digits in some hands: C, I, O, S, Z, c, i, j, l, o, q, s, z.
LETTERS = "ABDEFGHJKLMNPQRTUVWXYabdefghkmnprtuvwxy"
SIGNS = "?!#%&*@+=/<>{}[]~"
SCRIBBLES, SIDE = 400, 200


@dataclass(frozen=True)
class Arguments:
    """What to ask."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trained runs."""
    data_dir: str | None = None
    """Folder of the data set, if not where it is found by itself."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of strangers.json and strangers.md."""


def main(argv: Sequence[str]) -> None:
    """Draws, asks, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    from digits_jax.data.datasets import load_dataset
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.vision.segment import read_digit

    drawn = {
        "printed digits": list(printed("0123456789")),
        "printed letters": list(printed(LETTERS)),
        "printed signs": list(printed(SIGNS)),
        "scribbles": list(scribbles(SCRIBBLES)),
    }
    seen = {
        name: np.stack([image for image in map(read_digit, pictures) if image is not None])
        for name, pictures in drawn.items()
    }
    rows = []
    for run in arguments.runs:
        predictor = Predictor.load(run)
        facts = predictor.network.facts
        test = load_dataset(facts["runs"][0]["dataset"], arguments.data_dir).test
        answers = predictor.predict(np.asarray(test.images))
        right = answers.labels == test.labels
        rows.append(
            {
                "run": run.name,
                "threshold": predictor.network.threshold,
                "right_answers_not_sure": float((~answers.confident)[right].mean()),
                "wrong_answers_not_sure": float((~answers.confident)[~right].mean()),
                "not_sure": {
                    name: float((~predictor.predict(images).confident).mean())
                    for name, images in seen.items()
                },
            }
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "strangers.json", rows)
    text = markdown(rows, {name: len(images) for name, images in seen.items()})
    (arguments.output / "strangers.md").write_text(text)
    print(text)


def printed(characters: str) -> Iterator[np.ndarray]:
    """Each character in the fonts that come with matplotlib: uint8 [SIDE, SIDE]."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for path in sorted(folder.glob("DejaVuS*.ttf")):
        if "Display" in path.name:  # mathematical signs alone
            continue
        font = ImageFont.truetype(str(path), 110)
        for character in characters:
            page = Image.new("L", (SIDE, SIDE), 255)
            ImageDraw.Draw(page).text((60, 30), character, 0, font)
            yield np.asarray(page)


def scribbles(count: int) -> Iterator[np.ndarray]:
    """Random strokes: uint8 [SIDE, SIDE]."""
    from PIL import Image, ImageDraw

    rng = np.random.Generator(np.random.Philox(key=11))
    for _ in range(count):
        page = Image.new("L", (SIDE, SIDE), 255)
        points = rng.uniform(20, SIDE - 20, (rng.integers(6, 14), 2))
        ImageDraw.Draw(page).line([tuple(point) for point in points], 0, 8)
        yield np.asarray(page)


def markdown(rows: list[dict[str, Any]], counts: dict[str, int]) -> str:
    """A line per run: the shares that are called not sure."""
    names = list(counts)
    head = [f"{name} ({counts[name]})" for name in names]
    lines = [
        f"| not sure | threshold | right answers | wrong answers | {' | '.join(head)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for row in rows:
        shares = [row["right_answers_not_sure"], row["wrong_answers_not_sure"]]
        shares += [row["not_sure"][name] for name in names]
        cells = " | ".join(f"{share:.1%}" for share in shares)
        lines.append(f"| {row['run']} | {row['threshold']:.1%} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
