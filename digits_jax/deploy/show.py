"""A picture of what the models saw: each picture with its boxes, and the 28x28 that they read."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from digits_jax.deploy.pictures import Reading, percent
from digits_jax.runs.folder import replace_file

WIDTH, MARGIN, GLYPH, TEXT = 900, 16, 84, 15
COLUMNS = 3  # of pictures with one digit each
MOST = 60  # pictures on one sheet: more are a file that no viewer shows well
_SOFTWARE = "digits_jax.predict"
_PAPER, _INK, _QUIET = "#ffffff", "#1a1a1a", "#5c5c5c"
_SURE, _UNSURE = "#0b6e4f", "#b3541e"
_BOXES = ("#0b6e4f", "#7a3e9d")


def write_sheet(
    path: Path, names: Sequence[str], readings: Sequence[Reading], models: Sequence[str]
) -> int:
    """Writes a PNG.

    Args:
      path: of the file.
      names: of the pictures.
      readings: what was read in each.
      models: their names, for more than one.

    Returns:
      How many pictures are on it: the first ``MOST``.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    shown = readings[:MOST]
    columns = 1 if any(_is_wide(reading) for reading in shown) else COLUMNS
    cells = [
        _cell(name, reading, models, WIDTH // columns)
        for name, reading in zip(names[:MOST], shown, strict=True)
    ]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + MARGIN), _PAPER)
    y = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * WIDTH // columns, y))
        y += height
    about = PngInfo()
    about.add_text("Software", _SOFTWARE)
    replace_file(path, lambda file: sheet.save(file, "PNG", optimize=True, pnginfo=about))
    return len(cells)


def is_sheet(path: Path) -> bool:
    """Whether a file is one that `write_sheet` made, and may be replaced."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures
            with Image.open(path, formats=["PNG"]) as image:
                return image.info.get("Software") == _SOFTWARE
    except Exception:  # Pillow's own, by what is damaged
        return False


def _is_wide(reading):
    return any(len(glyphs) > 1 for glyphs, _ in reading.lines)


def _cell(name, reading, models, width):
    """One picture, on the left, and its digits to the right of it, or below."""
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
    wide = _is_wide(reading)
    thumb = _thumb(reading, (width - 2 * MARGIN, 240) if wide else (150, 150))
    cells = [
        (glyph, answers, i) for glyphs, answers in reading.lines for i, glyph in enumerate(glyphs)
    ]
    cell_height = GLYPH + 6 + (TEXT + 3) * max(1, len(models))
    left = MARGIN if wide else MARGIN + 150 + MARGIN
    per_row = max(1, (width - left - MARGIN) // (GLYPH + MARGIN))
    block = -(-len(cells) // per_row) * (cell_height + 8)
    top = TEXT + 8
    height = top + (thumb.height + 8 + block if wide else max(thumb.height, block, 4 * TEXT + 16))
    row = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(row)
    draw.text((MARGIN, 0), _shorten(name, (width - 2 * MARGIN) // 8), _INK, font)
    row.paste(thumb, (MARGIN, top))
    y0 = top + (thumb.height + 8 if wide else 0)
    if not cells:
        said = textwrap.wrap(reading.error.removeprefix(f"{name}: ") or "no digit", width // 9)
        x, y = (MARGIN, y0) if reading.error else (left, y0)
        draw.multiline_text((x, y), "\n".join(said[:4]), _QUIET, small)
    for k, (glyph, answers, i) in enumerate(cells):
        x = left + k % per_row * (GLYPH + MARGIN)
        y = y0 + k // per_row * (cell_height + 8)
        row.paste(Image.fromarray(255 - glyph.image).resize((GLYPH, GLYPH), 0), (x, y))
        draw.rectangle((x, y, x + GLYPH - 1, y + GLYPH - 1), outline=_QUIET)
        for m, each in enumerate(answers):
            text = f"{each.names[i]}  {percent(each.confidence[i])}"
            colour = _SURE if each.sure[i] else _UNSURE
            draw.text((x, y + GLYPH + 4 + m * (TEXT + 3)), text, colour, small)
    return row


def _shorten(text, most):
    return text if len(text) <= most else "..." + text[-most:]


def _thumb(reading, most):
    from PIL import Image, ImageDraw

    if reading.grey is None:
        return Image.new("RGB", (150, TEXT), _PAPER)
    height, width = reading.grey.shape
    scale = min(most[0] / width, most[1] / height, 8)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    thumb = Image.fromarray(np.ascontiguousarray(reading.grey)).resize(size).convert("RGB")
    draw = ImageDraw.Draw(thumb)
    for number, (glyphs, _) in enumerate(reading.lines):
        for glyph in glyphs if len(reading.lines) > 1 or len(glyphs) > 1 else []:
            edges = [round(edge * scale) for edge in glyph.box]
            draw.rectangle(edges, outline=_BOXES[number % 2], width=2)
    draw.rectangle((0, 0, size[0] - 1, size[1] - 1), outline=_QUIET)
    return thumb
