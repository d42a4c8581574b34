"""Test images as users' pictures, read back: python -m experiments.handwriting RUN...

Each of MNIST's test images is drawn as somebody might send it, encoded to a file's bytes, and
read by `decode_image` and `read_digit`; lines of digits by `read_line`. Writes
``experiments/results/handwriting.json``, ``.md`` and ``.png``: each condition's accuracy beside
that on the images as they are, and some of the pictures beside what the model saw.
"""

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from digits_jax.cli import parse, run_program
from digits_jax.data.decode import decode_image
from digits_jax.data.images import read_digit
from digits_jax.data.lines import read_line
from digits_jax.errors import InputError
from digits_jax.evaluation.metrics import wilson_interval

RESULTS = Path(__file__).parent / "results"
SEED = 7
_BATCH = 500
_SHOWN = 6


@dataclass(frozen=True)
class Arguments:
    """What to read back."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of trained runs; lines are cut by the first."""
    quick: bool = False
    """The first 500 images only."""
    count: int = 0
    """So many images; 0 is all."""
    split: str = "test"
    """The images: test, or validation to develop on."""
    conditions: tuple[str, ...] = ()
    """Only these conditions."""
    output: Path = RESULTS
    """Folder of handwriting.json, .md and .png."""


@dataclass(frozen=True)
class Drawing:
    """How a picture is made; see `draw`. Ranges are (least, greatest).

    Attributes:
      words: what a table calls it.
      scale: of the 28x28, log-uniform.
      margin: room around the 28x28, as a share of its side, for the whole of a page's side.
      pen: pixels of the 28x28 that strokes lose (negative) or gain at either side.
      turn: degrees, uniform in plus and minus this.
      paper: the paper's light, 0 to 255.
      shade: the share of light lost in the darkest corner.
      noise: standard deviation of each pixel, in grey levels.
      rules: "", "ruled" or "squared".
      tilt: degrees that ruled lines are turned by, uniform in plus and minus this.
      light_ink: whether ink is light on dark.
      quality: of JPEG; None is PNG.
      goal: how many points under the plain accuracy are allowed.
    """

    words: str
    scale: tuple[float, float] = (1, 10)
    margin: tuple[float, float] = (0.1, 1.5)
    pen: tuple[float, float] = (0, 0)
    turn: float = 0
    paper: tuple[float, float] = (245, 255)
    shade: tuple[float, float] = (0, 0)
    noise: float = 0
    rules: str = ""
    tilt: float = 0
    light_ink: bool = False
    quality: int | None = None
    goal: float = 0.7


_FEW = (2, 8)
CONDITIONS = {
    "inverted": Drawing("dark on light, 28x28", scale=(1, 1), margin=(0, 0)),
    "upright": Drawing("light on dark, any size", light_ink=True, paper=(0, 30)),
    "placed": Drawing("anywhere on a page, 1x", scale=(1, 1), margin=(1, 6)),
    "scaled": Drawing("1x to 10x, anywhere", margin=(0.1, 2)),
    "tenfold": Drawing("10x", scale=(10, 10)),
    "thin": Drawing("thin strokes", scale=(4, 10), pen=(-0.5, -0.3)),
    "thick": Drawing("thick strokes", scale=(4, 10), pen=(0.4, 0.8)),
    "jpeg": Drawing("JPEG, quality 40", scale=(1, 10), quality=40),
    "grey": Drawing("grey, grainy paper", scale=_FEW, paper=(110, 190), noise=4),
    "uneven": Drawing("uneven light", scale=_FEW, paper=(170, 240), shade=(0.3, 0.6), noise=2),
    "rotated": Drawing("turned by up to 10 degrees", scale=_FEW, turn=10, goal=2),
    "ruled": Drawing("ruled lines", scale=_FEW, rules="ruled", goal=2),
    "squared": Drawing("squared paper", scale=_FEW, rules="squared", goal=2),
    "tilted": Drawing("ruled, tilted up to 2 degrees", scale=_FEW, rules="ruled", tilt=2, goal=2),
    "photo": Drawing(
        "squared, uneven, grainy, pens, JPEG 70",
        scale=(3, 10),
        pen=(-0.3, 0.5),
        paper=(170, 230),
        shade=(0.1, 0.5),
        noise=3,
        rules="squared",
        quality=70,
        goal=2,
    ),
}


# --- drawing -------------------------------------------------------------------------------


def draw(ink: np.ndarray, how: Drawing, rng: np.random.Generator) -> bytes:
    """A picture file of some ink.

    Args:
      ink: uint8 [height, width], 255 where there is ink; a digit is 28 pixels high.
      how: the drawing.
      rng: for its random amounts.

    Returns:
      PNG or JPEG.
    """
    scale = float(np.exp(rng.uniform(*np.log(how.scale))))
    size = [max(round(side * scale), 1) for side in (ink.shape[1], ink.shape[0])]
    large = Image.fromarray(ink)
    if how.turn:
        large = large.resize(size, Image.Resampling.BICUBIC).rotate(
            rng.uniform(-how.turn, how.turn), Image.Resampling.BICUBIC, expand=True
        )
    elif scale != 1:
        large = large.resize(size, Image.Resampling.BICUBIC)
    strokes = _change_pen(np.asarray(large, np.float32) / 255, rng.uniform(*how.pen) * scale)
    room = [int(s * ink.shape[0] * scale) for s in rng.uniform(*how.margin, 2)]
    top, left = (int(rng.integers(0, r + 1)) for r in room)
    page = np.zeros((strokes.shape[0] + room[0], strokes.shape[1] + room[1]), np.float32)
    page[top : top + strokes.shape[0], left : left + strokes.shape[1]] = strokes
    page *= rng.uniform(0.75, 0.95)
    if how.rules:
        page = np.maximum(page, _rule(page.shape, how, 28 * scale, rng))
    paper = rng.uniform(*how.paper)
    light = paper + page * (255 - paper) if how.light_ink else paper * (1 - page)
    light = light * _shade(page.shape, rng.uniform(*how.shade), rng)
    if how.noise:
        light = light + rng.normal(0, how.noise, light.shape)
    picture = Image.fromarray(np.clip(light + 0.5, 0, 255).astype(np.uint8))
    stream = io.BytesIO()
    if how.quality is None:
        picture.save(stream, "PNG", compress_level=1)
    else:
        picture.convert("RGB").save(stream, "JPEG", quality=how.quality)
    return stream.getvalue()


def _change_pen(strokes, radius):
    """Strokes wider by ``radius`` pixels at either side, or thinner where it is negative."""
    if abs(radius) < 0.5:
        return strokes
    reach = int(np.ceil(abs(radius)))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = i * i + j * j <= radius * radius
    change = ndimage.grey_dilation if radius > 0 else ndimage.grey_erosion
    return change(np.pad(strokes, reach), footprint=disk)


def _rule(shape, how, height, rng):
    """The depth of ruled lines, float32 of the given shape."""
    depth, thick = rng.uniform(0.15, 0.5), max(rng.uniform(0.015, 0.05) * height, 1)
    apart = rng.uniform(0.35, 0.6) * height if how.rules == "squared" else height
    apart *= rng.uniform(0.9, 1.4)
    y, x = np.mgrid[: shape[0], : shape[1]]
    slope = np.tan(np.deg2rad(rng.uniform(-how.tilt, how.tilt)))
    phase = rng.uniform(0, apart, 2)
    along = [y + slope * x + phase[0], x - slope * y + phase[1]]
    lines = np.zeros(shape, np.float32)
    for position in along[: 2 if how.rules == "squared" else 1]:
        off = np.abs((position + apart / 2) % apart - apart / 2)
        lines = np.maximum(lines, np.clip(thick / 2 + 0.5 - off, 0, 1))
    return depth * lines


def _shade(shape, lost, rng):
    """Light that falls to ``1 - lost``: towards a side, and about a lamp."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    angle, lamp = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, 2)
    side = (np.cos(angle) * x[None, :] + np.sin(angle) * y[:, None]) / 2.83 + 0.5
    far = np.hypot(x[None, :] - lamp[0], y[:, None] - lamp[1]) / 2.83
    return (1 - lost * np.clip((side + far) / 2 + 0.15, 0, 1)).astype(np.float32)


def compose(images: Sequence[np.ndarray], touching: bool, rng: np.random.Generator) -> np.ndarray:
    """Digits side by side, uint8 [28 * 2, width]: sizes, spacing and baseline vary.

    Args:
      images: uint8 [28, 28] each.
      touching: whether ink meets ink, by one pixel or two; else at least two pixels are between.
      rng: for the amounts.
    """
    line = np.zeros((56, 28 * 2 * len(images) + 20), np.uint8)
    end = 0
    for number, image in enumerate(images):
        size = round(28 * rng.uniform(0.9, 1.1))
        digit = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        columns = np.flatnonzero((digit > 50).any(axis=0))
        digit = digit[:, columns[0] : columns[-1] + 1]
        top = 28 - size // 2 + int(rng.integers(-3, 4))
        left = end + int(rng.integers(2, 12))
        if touching and number:
            left = _meet(line[top : top + size], digit, end) - int(rng.integers(0, 2))
        place = line[top : top + size, left : left + digit.shape[1]]
        np.maximum(place, digit, out=place)
        end = int(np.flatnonzero((line > 50).any(axis=0))[-1]) + 1
    return line[:, : end + 4]


def _meet(line, digit, end):
    """The rightmost left edge at which a digit's ink meets that of a line."""
    for left in range(end, 0, -1):
        under = line[:, left : left + digit.shape[1]] > 100
        # Dilated by one: neighbours meet too.
        if (ndimage.binary_dilation(under, np.ones((3, 3))) & (digit > 100)).any():
            return left
    return end


# --- reading -------------------------------------------------------------------------------


def make_score(workdir: Path) -> tuple[Callable[[np.ndarray], np.ndarray], object]:
    """A run as a function uint8 [n, 28, 28] -> probabilities [n, classes], and its data set."""
    import jax

    from digits_jax import load_trained, predict_step
    from digits_jax.training.parallel import use_compilation_cache

    use_compilation_cache()
    plan, state = load_trained(workdir, devices="1")
    predict = jax.jit(lambda images: jax.nn.softmax(predict_step(state, images)))

    def score(images):
        results = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            # Few sizes, so that few are compiled.
            size = _BATCH if len(part) > 64 else 64 if len(part) > 8 else 8
            padded = np.zeros((size, 28, 28, 1), np.uint8)
            padded[: len(part), :, :, 0] = part
            results.append(np.asarray(predict(padded))[: len(part)])
        return np.concatenate(results)

    return score, plan.dataset


def read_condition(name, images, limit=None):
    """What `read_digit` makes of each image under a condition; None where it found nothing."""
    how, number = CONDITIONS[name], list(CONDITIONS).index(name)
    glyphs, pictures = [], []
    for index, image in enumerate(tqdm(images[:limit], desc=name, leave=False)):
        rng = np.random.Generator(np.random.Philox(key=[SEED, number], counter=[0, 0, 0, index]))
        grey = decode_image(draw(image, how, rng), f"{name} {index}")
        glyphs.append(read_digit(grey))
        if index < _SHOWN:
            pictures.append(grey)
    return glyphs, pictures


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


def read_lines(score, images, labels, length, touching, count):
    """How many of ``count`` lines, and of their digits' numbers, are read right."""
    right = counted = 0
    for index in tqdm(range(count), desc=f"lines of {length}", leave=False):
        key = [SEED + 1 + touching, length]
        rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
        chosen = rng.integers(0, len(images), length)
        if length * count <= len(images):  # each image once
            chosen = np.arange(index * length, (index + 1) * length)
        line = compose(images[chosen], touching, rng)
        how = Drawing("", scale=(2, 5), margin=(0.1, 1))
        glyphs = read_line(decode_image(draw(line, how, rng), f"line {index}"), score)
        counted += len(glyphs) == length
        if len(glyphs) == length:
            answers = score(np.stack([glyph.image for glyph in glyphs])).argmax(-1)
            right += bool((answers == labels[chosen]).all())
    return right, counted


# --- the study -----------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Draws, reads, prints and writes."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    unknown = [c for c in arguments.conditions if c not in (*CONDITIONS, "lines")]
    if unknown or not arguments.runs or arguments.split not in ("test", "validation"):
        raise InputError(
            f"{len(arguments.runs)} runs, split {arguments.split}, conditions "
            f"{', '.join(unknown) or 'fine'}: give a run; splits are test and validation; "
            f"conditions are {', '.join(CONDITIONS)} and lines"
        )
    scores, datasets = zip(*(make_score(run) for run in arguments.runs), strict=True)
    split = getattr(datasets[0], arguments.split)
    count = 500 if arguments.quick else arguments.count or len(split)
    images, labels = np.asarray(split.images[:count, :, :, 0]), split.labels[:count]
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
    for name in [c for c in CONDITIONS if c in (arguments.conditions or CONDITIONS)]:
        glyphs, pictures = read_condition(name, images)
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
    if not arguments.conditions or "lines" in arguments.conditions:
        table["lines"] = study_lines(scores[0], images, labels)
    write(table, shown, arguments.output)


def study_lines(score, images, labels):
    """Accuracies of whole lines: separated ones of 2 to 10 digits, touching ones of 2, 3, 5."""
    rows = []
    for touching, lengths in ((False, range(2, 11)), (True, (2, 3, 5))):
        for length in lengths:
            count = len(images) // (5 if length == 5 else 20)
            right, counted = read_lines(score, images, labels, length, touching, count)
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
    lines = [f"{table['count']:,} {table['split']} images of MNIST; as they are: {plain}.", ""]
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
    lines += ["", f"Whole lines, cut and read by {table['runs'][0]}:", ""]
    lines += ["| digits | apart or touching | lines | all read right [95% interval] | all found |"]
    lines += ["|---|---|---|---|---|"]
    for row in table["lines"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['digits']} | {'touching' if row['touching'] else 'apart'} | {row['lines']:,} "
            f"| {row['accuracy']:.1%} [{low:.1%}, {high:.1%}] | {row['right_number_of_digits']:.1%} |"
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
