"""A picture of what the models saw: each picture with its boxes, and the 28x28 that they read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from digits_jax.deploy.pictures import Reading
from digits_jax.runs.folder import replace_file

WIDTH, MARGIN, GLYPH, TEXT = 900, 16, 84, 15
MOST = 60  # pictures on one sheet: more are a file that no viewer shows well
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

    rows = [
        _row(name, reading, models)
        for name, reading in zip(names[:MOST], readings[:MOST], strict=True)
    ]
    height = sum(row.height + MARGIN for row in rows) + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), _PAPER)
    y = MARGIN
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + MARGIN
    replace_file(path, lambda file: sheet.save(file, "PNG", optimize=True))
    return len(rows)


def _row(name, reading, models):
    """One picture, on the left, and its digits to the right of it."""
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(TEXT), ImageFont.load_default(TEXT - 2)
    wide = any(len(glyphs) > 1 for glyphs, _ in reading.lines)
    thumb = _thumb(reading, (WIDTH - 2 * MARGIN, 240) if wide else (150, 150))
    cells = [
        (glyph, answers, i) for glyphs, answers in reading.lines for i, glyph in enumerate(glyphs)
    ]
    cell_height = GLYPH + 6 + (TEXT + 3) * max(1, len(models))
    left = MARGIN if wide else MARGIN + 150 + MARGIN
    per_row = max(1, (WIDTH - left - MARGIN) // (GLYPH + MARGIN))
    block = -(-len(cells) // per_row) * (cell_height + 8)
    top = TEXT + 8
    height = top + (thumb.height + 8 + block if wide else max(thumb.height, block, TEXT + 8))
    row = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(row)
    draw.text((MARGIN, 0), _shorten(name, 100), _INK, font)
    row.paste(thumb, (MARGIN, top))
    y0 = top + (thumb.height + 8 if wide else 0)
    if not cells:
        draw.text((left, y0), _shorten(reading.error or "no digit", 85), _QUIET, font)
    for k, (glyph, answers, i) in enumerate(cells):
        x = left + k % per_row * (GLYPH + MARGIN)
        y = y0 + k // per_row * (cell_height + 8)
        row.paste(Image.fromarray(255 - glyph.image).resize((GLYPH, GLYPH), 0), (x, y))
        draw.rectangle((x, y, x + GLYPH - 1, y + GLYPH - 1), outline=_QUIET)
        for m, each in enumerate(answers):
            text = f"{each.names[i]}  {each.confidence[i]:.1%}"
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
