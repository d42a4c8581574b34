"""A sheet of pictures, each with its boxes, and the 28x28 inputs of the networks below."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from digits_jax.deploy.predictions import show_probability
from digits_jax.deploy.reading import Reading
from digits_jax.errors import DataError
from digits_jax.files import replace_file

MAX_PICTURES = 60  # pictures on one sheet: more are a file that no viewer shows well
_WIDTH, _GAP, _DIGIT, _LINE = 900, 15, 84, 18  # pixels
_COLUMNS = 3  # of pictures with one digit each
_SOFTWARE = "digits_jax.predict"
_INK, _QUIET, _CONFIDENT, _UNCERTAIN = "#1a1a1a", "#5c5c5c", "#0b6e4f", "#b3541e"
_BOXES = ("#0b6e4f", "#7a3e9d")  # of every other line


def write_sheet(path: Path, readings: Sequence[tuple[str, Reading | DataError]]) -> None:
    """Writes a PNG file of pictures, each with its name and what was read, or why it can't be."""
    read = [reading for _, reading in readings if isinstance(reading, Reading)]
    wide = any(len(line.digits) > 1 for reading in read for line in reading.answers[0])
    columns = 1 if wide else _COLUMNS
    width = (_WIDTH - 2 * _GAP) // columns
    cells = [_draw(name, reading, width - _GAP) for name, reading in readings]
    sheet = ImageOps.expand(_grid(cells, columns, width), _GAP, "white")
    about = PngInfo()
    about.add_text("Software", _SOFTWARE)
    replace_file(path, lambda file: sheet.save(file, "PNG", optimize=True, pnginfo=about))


def is_sheet(path: Path) -> bool:
    """Whether a file is one that `write_sheet` made, and may be replaced."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures
            with Image.open(path, formats=["PNG"]) as image:
                return image.info.get("Software") == _SOFTWARE
    except Exception:  # Pillow's own, by what is damaged
        return False


def _draw(name: str, reading: Reading | DataError, width: int) -> Image.Image:
    """The name, the picture, and below it the digits."""
    letters = width // 8
    parts = [_text([(name if len(name) <= letters else f"...{name[-letters:]}", _INK)], width)]
    if isinstance(reading, DataError):
        problem = textwrap.wrap(str(reading).removeprefix(f"{name}: "), letters)[:4]
        return _grid([*parts, _text([(line, _QUIET) for line in problem], width)], 1, width)
    parts.append(_picture(reading, width))
    tiles = []
    for lines in zip(*reading.answers, strict=True):
        for digits in zip(*(line.digits for line in lines), strict=True):
            image = Image.fromarray(255 - digits[0].image).resize((_DIGIT, _DIGIT), 0)
            texts = [
                (
                    f"{digit.name}  {show_probability(digit.probability)}",
                    _CONFIDENT if digit.confident else _UNCERTAIN,
                )
                for digit in digits
            ]
            framed = ImageOps.expand(image, 1, _QUIET)
            tiles.append(_grid([framed, _text(texts, _DIGIT + _GAP)], 1, _DIGIT + _GAP, gap=4))
    parts.append(_grid(tiles, max(width // (_DIGIT + _GAP), 1), _DIGIT + _GAP))
    return _grid(parts if tiles else [*parts, _text([("no digit", _QUIET)], width)], 1, width)


def _picture(reading: Reading, width: int) -> Image.Image:
    tall, wide = reading.grey.shape
    scale = min(width / wide, 240 / tall, 8)
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    picture = Image.fromarray(reading.grey).resize(size).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(reading.answers[0]):
        for digit in line.digits:
            edges = [round(edge * scale) for edge in digit.box]
            draw.rectangle(edges, outline=_BOXES[number % 2], width=2)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=_QUIET)
    return picture


def _text(lines: list[tuple[str, str]], width: int) -> Image.Image:
    """Lines of (text, colour)."""
    image = Image.new("RGB", (width, _LINE * len(lines)), "white")
    for number, (line, colour) in enumerate(lines):
        font = ImageFont.load_default(_LINE - 4)
        ImageDraw.Draw(image).text((0, number * _LINE), line, colour, font)
    return image


def _grid(cells: list[Image.Image], columns: int, width: int, gap: int = _GAP) -> Image.Image:
    """Images in rows, from left to right."""
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    tops = np.cumsum([0, *(max(cell.height for cell in row) + gap for row in rows)]).tolist()
    grid = Image.new("RGB", (columns * width, tops[-1]), "white")
    for number, cell in enumerate(cells):
        grid.paste(cell, (number % columns * width, tops[number // columns]))
    return grid
