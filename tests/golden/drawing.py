"""Draws pictures of handwritten digits by seed, with NumPy and Pillow's lines and ellipses.

Coordinates are rounded to whole pixels before Pillow gets them, and pictures are made smaller by
averaging integers, so that the same seed gives the same pixels wherever Pillow draws the same.
"""

import hashlib
import io

import numpy as np
from PIL import Image, ImageDraw

COUNTS = {"digit": 200, "line": 30, "page": 15}


def _turn(x, y, across, down, start, stop):
    """Points of an ellipse about (x, y); angles in quarter turns, clockwise from the right."""
    angles = np.pi / 2 * np.linspace(start, stop, 17)
    return [(x + across * np.cos(a), y + down * np.sin(a)) for a in angles]


# Polylines in a box of 1 x 1, several ways to write some digits.
_SHAPES = {
    "0": [[_turn(0.5, 0.5, 0.33, 0.5, -1, 3)]],
    "1": [[[(0.5, 0), (0.5, 1)]], [[(0.28, 0.25), (0.55, 0), (0.53, 1)]]],
    "2": [
        [[*_turn(0.5, 0.28, 0.33, 0.28, -2, 0.6), (0.15, 1), (0.88, 0.98)]],
        [[(0.18, 0.2), (0.5, 0), (0.8, 0.22), (0.2, 1), (0.85, 1)]],
    ],
    "3": [
        [[*_turn(0.45, 0.25, 0.3, 0.25, -1.9, 0.9), *_turn(0.45, 0.74, 0.36, 0.26, -0.9, 1.8)]],
        [[(0.2, 0.02), (0.78, 0), (0.45, 0.4), *_turn(0.43, 0.7, 0.34, 0.3, -1, 1.7)]],
    ],
    "4": [
        [[(0.6, 0), (0.1, 0.66), (0.9, 0.66)], [(0.65, 0.35), (0.63, 1)]],
        [[(0.2, 0.02), (0.15, 0.5), (0.82, 0.5)], [(0.78, 0), (0.74, 1)]],
    ],
    "5": [
        [[(0.8, 0), (0.28, 0.02), (0.22, 0.45), *_turn(0.45, 0.69, 0.35, 0.31, -1.2, 1.6)]],
    ],
    "6": [[[(0.68, 0), (0.3, 0.38), *_turn(0.5, 0.71, 0.3, 0.29, 2, 6)]]],
    "7": [
        [[(0.12, 0.02), (0.86, 0), (0.42, 1)]],
        [[(0.12, 0.02), (0.86, 0), (0.42, 1)], [(0.35, 0.5), (0.8, 0.48)]],
    ],
    "8": [[[*_turn(0.5, 0.25, 0.25, 0.25, 1, 5)], [*_turn(0.5, 0.75, 0.32, 0.25, -1, 3)]]],
    "9": [[[*_turn(0.47, 0.29, 0.3, 0.29, 0, -4), (0.74, 0.5), (0.6, 1)]]],
}
KINDS = (
    "plain", "thin", "thick", "slanted", "coloured", "noisy", "ruled", "squared", "transparent",
    "inverted", "tiny", "huge", "shaded", "sixteen-bit", "palette", "close", "two", "specks",
    "faint", "blank",
)  # fmt: skip


# --- strokes -------------------------------------------------------------------------------


def _strokes(rng, digit, height, slant=None, way=None):
    """A digit's strokes of a height: lists of (x, y), with a hand's slant and jitter."""
    ways = _SHAPES[digit]
    lines = ways[rng.integers(len(ways))] if way is None else ways[way]
    across = height * (0.6 + 0.25 * rng.random())
    slant = (0.4 * rng.random() - 0.1) if slant is None else slant
    made = []
    for line in lines:
        jitter = 0.04 * (rng.random((len(line), 2)) - 0.5)
        made.append(
            [
                ((x + dx) * across + (1 - y) * slant * height, (y + dy) * height)
                for (x, y), (dx, dy) in zip(line, jitter, strict=True)
            ]
        )
    return made


def _ink(size, items, width, fine=3):
    """Ink of strokes in integers, 0 to 255: [height, width]; items are (strokes, left, top)."""
    image = Image.new("L", (size[0] * fine, size[1] * fine), 0)
    draw = ImageDraw.Draw(image)
    thick = max(round(width * fine), 1)
    radius = thick // 2
    for strokes, left, top in items:
        for stroke in strokes:
            points = [(round((left + x) * fine), round((top + y) * fine)) for x, y in stroke]
            draw.line(points, fill=255, width=thick)
            for x, y in points:
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return _smaller(np.asarray(image), fine)


def _smaller(levels, fine):
    height, width = levels.shape[0] // fine, levels.shape[1] // fine
    blocks = levels.astype(np.int64).reshape(height, fine, width, fine)
    return blocks.sum((1, 3)) // fine**2


def _paper(rng, size, level=255, noise=0, shade=0, lines="", pitch=24):
    """Grey levels of paper, int [height, width]."""
    width, height = size
    paper = np.full((height, width), level, np.int64)
    if shade:
        paper -= shade * np.arange(width)[None, :] // width
        paper -= shade * np.arange(height)[:, None] // height
    if lines:
        start = rng.integers(4, pitch)
        paper[start::pitch] -= 45
        if lines == "squared":
            paper[:, start::pitch] -= 45
    if noise:
        paper += rng.integers(-noise, noise + 1, paper.shape)
    return paper


def _write(paper, ink, level):
    return np.clip(paper + (level - paper) * ink // 255, 0, 255).astype(np.uint8)


def _text(rng, low, high):
    return "".join(str(digit) for digit in rng.integers(0, 10, rng.integers(low, high + 1)))


# --- pictures ------------------------------------------------------------------------------


def picture(mode: str, index: int) -> tuple[str, str, Image.Image]:
    """A picture by its number.

    Args:
      mode: "digit", "line" or "page".
      index: from 0 to ``COUNTS[mode]``.

    Returns:
      Its kind, what is written there (lines apart by newlines), and the picture.
    """
    rng = np.random.default_rng([sorted(COUNTS).index(mode), index])
    return {"digit": _single, "line": _line, "page": _page}[mode](rng, index)


def _single(rng, index):
    kind = KINDS[index % len(KINDS)]
    digit = str(index // len(KINDS) % 10) if index % 2 else str(rng.integers(10))
    side = {"tiny": int(rng.integers(14, 26)), "huge": int(rng.integers(800, 1200))}.get(kind)
    side = side or int(rng.integers(80, 200))
    size = (side, round(side * (0.9 + 0.4 * rng.random())))
    height = side * ((0.9 if kind == "close" else 0.45) + 0.1 * rng.random())
    shares = {"thin": 0.02, "thick": 0.22, "close": 0.16}
    width = height * shares.get(kind, 0.06 + 0.08 * rng.random())
    slant = 0.5 if kind == "slanted" else None
    left, top = size[0] * (0.15 + 0.2 * rng.random()), (size[1] - height) * rng.random()
    items = [(_strokes(rng, digit, height, slant), left, top)]
    if kind == "two":
        items.append((_strokes(rng, str(rng.integers(10)), height * 0.6), left + height, top))
    if kind == "blank":
        items, digit = [], ""
    ink = _ink(size, items, width, 1 if kind == "huge" else 4)
    if kind == "transparent":
        levels = np.zeros((*ink.shape, 4), np.uint8)
        levels[..., :3] = rng.integers(0, 2) * 255
        levels[..., 3] = ink
        return kind, digit, Image.fromarray(levels)
    if kind == "coloured":
        papers, inks = rng.integers(190, 256, 3), rng.integers(0, 110, 3)
        planes = [_write(np.full(ink.shape, p), ink, i) for p, i in zip(papers, inks, strict=True)]
        return kind, digit, Image.fromarray(np.stack(planes, -1))
    if kind == "sixteen-bit":
        levels = _write(_paper(rng, size), ink, 20).astype(np.uint16) * 257
        return kind, digit, Image.fromarray(levels)
    if kind == "inverted":
        return kind, digit, Image.fromarray(_write(_paper(rng, size, 20, 8), ink, 235))
    options = {
        "noisy": {"level": 220, "noise": 25},
        "ruled": {"level": 245, "noise": 3, "lines": "ruled"},
        "squared": {"level": 240, "noise": 3, "lines": "squared", "pitch": 18},
        "shaded": {"level": 235, "noise": 3, "shade": 60},
        "faint": {"level": 225, "noise": 4},
        "blank": {"level": 230, "noise": int(rng.integers(0, 4))},
    }
    levels = _write(_paper(rng, size, **options.get(kind, {})), ink, 150 if kind == "faint" else 30)
    if kind == "specks":
        rows, columns = (rng.integers(0, n, 25) for n in levels.shape)
        levels[rows, columns] = 60
    image = Image.fromarray(levels)
    if kind == "palette":
        colours = Image.new("P", image.size)
        colours.putpalette([v for level in range(256) for v in (level, level, (level + 255) // 2)])
        colours.frombytes(image.tobytes())
        return kind, digit, colours
    return kind, digit, image


def _row(rng, text, height, left, top, gap):
    """The strokes of a line of digits, and where it ends; a gap under 0 makes digits touch."""
    items = []
    for digit in text:
        strokes = _strokes(rng, digit, height * (0.9 + 0.2 * rng.random()))
        points = np.concatenate(strokes)
        left -= points[:, 0].min()
        items.append((strokes, left, top + height * 0.12 * (rng.random() - 0.5)))
        left += points[:, 0].max() + height * (gap + 0.1 * rng.random())
    return items, left


def _line(rng, index):
    kind = ("apart", "touching", "ruled", "inverted", "noisy", "slope")[index % 6]
    text, height = _text(rng, 2, 7), float(rng.integers(36, 70))
    gap = -0.08 if kind == "touching" else 0.3
    items, right = _row(rng, text, height, height * 0.6, height * 0.6, gap)
    if kind == "slope":
        items = [(s, left, top + left * 0.05) for s, left, top in items]
    size = (round(right + height * 0.6), round(height * 2.4))
    ink = _ink(size, items, height * (0.06 + 0.06 * rng.random()))
    if kind == "inverted":
        return kind, text, Image.fromarray(_write(_paper(rng, size, 15, 6), ink, 240))
    options = {
        "ruled": {"level": 245, "noise": 3, "lines": "ruled", "pitch": 28},
        "noisy": {"level": 215, "noise": 22, "shade": 20},
    }
    return kind, text, Image.fromarray(_write(_paper(rng, size, **options.get(kind, {})), ink, 35))


def _page(rng, index):
    kind = ("plain", "ruled", "squared", "noisy", "touching")[index % 5]
    count, height = int(rng.integers(2, 5)), float(rng.integers(28, 44))
    gap = -0.06 if kind == "touching" else 0.3
    texts, items, right = [_text(rng, 2, 6) for _ in range(count)], [], 0.0
    for number, text in enumerate(texts):
        left, top = height * (0.7 + rng.random()), height * (0.7 + 1.9 * number)
        row, end = _row(rng, text, height, left, top, gap)
        items, right = items + row, max(right, end)
    size = (round(right + height), round(height * (1.6 + 1.9 * count)))
    options = {
        "ruled": {"level": 245, "noise": 3, "lines": "ruled", "pitch": 32},
        "squared": {"level": 242, "noise": 2, "lines": "squared", "pitch": 20},
        "noisy": {"level": 220, "noise": 18, "shade": 40},
    }
    ink = _ink(size, items, height * (0.07 + 0.05 * rng.random()))
    levels = _write(_paper(rng, size, **options.get(kind, {})), ink, 30)
    return kind, "\n".join(texts), Image.fromarray(levels)


def digest(*arrays: np.ndarray) -> str:
    """A short SHA-256 of arrays: their types, shapes and values."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


def encoded(image: Image.Image) -> tuple[str, bytes]:
    """The digest of a picture's pixels, and the bytes of its PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    palette = np.array(image.getpalette() or [])
    return digest(np.asarray(image), palette), stream.getvalue()


# --- a classifier --------------------------------------------------------------------------


def _prototypes():
    images, labels = [], []
    for digit, ways in _SHAPES.items():
        for way in range(len(ways)):
            for slant in (-0.05, 0.1, 0.25):
                for width in (2, 3):
                    rng = np.random.default_rng(7)
                    strokes = _strokes(rng, digit, 18.0, slant, way)
                    points = np.concatenate(strokes)
                    middle = 14 - (points.min(0) + points.max(0)) / 2
                    images.append(_ink((28, 28), [(strokes, *middle)], width, 4))
                    labels.append(int(digit))
    return np.stack(images), np.array(labels)


def make_score():
    """A classifier for dividing lines: logits by the distance to the nearest drawn digit.

    Everything is exact in integers but for the last division.
    """
    images, labels = _prototypes()
    known = _blurred(images)

    def score(glyphs):
        found = _blurred(glyphs.astype(np.int64))
        squared = (found**2).sum(-1)[:, None] + (known**2).sum(-1)[None] - 2 * found @ known.T
        nearest = [squared[:, labels == digit].min(-1) for digit in range(10)]
        return -np.stack(nearest, -1) / (9 * 255) ** 2 / 4

    return score


def _blurred(images):
    """Sums over 3x3 pixels, flat."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return sums.reshape(len(images), -1)
