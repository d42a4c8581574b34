"""Draws pictures of handwritten digits by seed, with NumPy and Pillow's lines and ellipses.

Coordinates are rounded to whole pixels before Pillow gets them, and pictures are made smaller by
averaging integers, so that the same seed gives the same pixels wherever Pillow draws the same.
"""

import itertools

import numpy as np
from PIL import Image, ImageDraw

COUNTS = {"digit": 200, "line": 30, "page": 15}


def _turn(x, y, across, down, start, stop):
    """Points of an ellipse about (x, y); angles in quarter turns, clockwise from the right."""
    angles = np.pi / 2 * np.linspace(start, stop, 17)
    return [(x + across * np.cos(a), y + down * np.sin(a)) for a in angles]


# Of each digit, polylines in a box of 1 x 1; there are several ways to write some.
_SHAPES = [
    [[_turn(0.5, 0.5, 0.33, 0.5, -1, 3)]],
    [[[(0.5, 0), (0.5, 1)]], [[(0.28, 0.25), (0.55, 0), (0.53, 1)]]],
    [
        [[*_turn(0.5, 0.28, 0.33, 0.28, -2, 0.6), (0.15, 1), (0.88, 0.98)]],
        [[(0.18, 0.2), (0.5, 0), (0.8, 0.22), (0.2, 1), (0.85, 1)]],
    ],
    [
        [[*_turn(0.45, 0.25, 0.3, 0.25, -1.9, 0.9), *_turn(0.45, 0.74, 0.36, 0.26, -0.9, 1.8)]],
        [[(0.2, 0.02), (0.78, 0), (0.45, 0.4), *_turn(0.43, 0.7, 0.34, 0.3, -1, 1.7)]],
    ],
    [
        [[(0.6, 0), (0.1, 0.66), (0.9, 0.66)], [(0.65, 0.35), (0.63, 1)]],
        [[(0.2, 0.02), (0.15, 0.5), (0.82, 0.5)], [(0.78, 0), (0.74, 1)]],
    ],
    [[[(0.8, 0), (0.28, 0.02), (0.22, 0.45), *_turn(0.45, 0.69, 0.35, 0.31, -1.2, 1.6)]]],
    [[[(0.68, 0), (0.3, 0.38), *_turn(0.5, 0.71, 0.3, 0.29, 2, 6)]]],
    [
        [[(0.12, 0.02), (0.86, 0), (0.42, 1)]],
        [[(0.12, 0.02), (0.86, 0), (0.42, 1)], [(0.35, 0.5), (0.8, 0.48)]],
    ],
    [[[*_turn(0.5, 0.25, 0.25, 0.25, 1, 5)], [*_turn(0.5, 0.75, 0.32, 0.25, -1, 3)]]],
    [[[*_turn(0.47, 0.29, 0.3, 0.29, 0, -4), (0.74, 0.5), (0.6, 1)]]],
]
_KINDS = (
    "plain", "thin", "thick", "slanted", "coloured", "noisy", "ruled", "squared", "transparent",
    "inverted", "tiny", "huge", "shaded", "sixteen-bit", "palette", "close", "two", "specks",
    "faint", "blank",
)  # fmt: skip


def picture(mode: str, index: int) -> Image.Image:
    """Draws a picture: the mode is "digit", "line" or "page", the index is below `COUNTS[mode]`."""
    rng = np.random.default_rng([list(COUNTS).index(mode), index])
    return {"digit": _digit, "line": _line, "page": _page}[mode](rng, index)


def _strokes(rng, digit, height, slant=None, way=None):
    """A digit's strokes, float [n, 2] each, with a hand's slant and jitter."""
    ways = _SHAPES[digit]
    lines = ways[rng.integers(len(ways))] if way is None else ways[way]
    across = height * (0.6 + 0.25 * rng.random())
    slant = (0.4 * rng.random() - 0.1) if slant is None else slant
    strokes = []
    for points in map(np.array, lines):
        moved = points + 0.04 * (rng.random(points.shape) - 0.5)
        x = moved[:, 0] * across + (1 - points[:, 1]) * slant * height
        strokes.append(np.stack([x, moved[:, 1] * height], -1))
    return strokes


def _ink(size, items, width, fine=3):
    """Ink of (strokes, left, top) items, integers from 0 to 255: [height, width]."""
    image = Image.new("L", (size[0] * fine, size[1] * fine), 0)
    draw = ImageDraw.Draw(image)
    thick = max(round(width * fine), 1)
    radius = thick // 2
    for strokes, *corner in items:
        for stroke in strokes:
            points = np.rint((stroke + np.array(corner)) * fine).astype(int)
            draw.line(points.ravel().tolist(), fill=255, width=thick)
            for x, y in points.tolist():
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    blocks = np.asarray(image, np.int64).reshape(size[1], fine, size[0], fine)
    return blocks.sum((1, 3)) // fine**2


def _paint(rng, ink, level, paper=255, noise=0, shade=0, ruled=0, squared=0):
    """Grey levels, uint8, of ink of a level on paper; lines have a distance in pixels."""
    height, width = ink.shape
    levels = np.full(ink.shape, paper, np.int64)
    if shade:
        levels -= shade * np.arange(width)[None, :] // width
        levels -= shade * np.arange(height)[:, None] // height
    if distance := ruled or squared:
        start = rng.integers(4, distance)
        levels[start::distance] -= 45
        if squared:
            levels[:, start::distance] -= 45
    if noise:
        levels += rng.integers(-noise, noise + 1, ink.shape)
    return np.clip(levels + (level - levels) * ink // 255, 0, 255).astype(np.uint8)


def _digit(rng, index):
    kind = _KINDS[index % len(_KINDS)]
    digit = index // len(_KINDS) % 10 if index % 2 else rng.integers(10)
    side = {"tiny": rng.integers(14, 26), "huge": rng.integers(800, 1200)}.get(kind)
    side = int(side or rng.integers(80, 200))
    size = (side, round(side * (0.9 + 0.4 * rng.random())))
    height = side * ((0.9 if kind == "close" else 0.45) + 0.1 * rng.random())
    shares = {"thin": 0.02, "thick": 0.22, "close": 0.16}
    width = height * shares.get(kind, 0.06 + 0.08 * rng.random())
    slant = 0.5 if kind == "slanted" else None
    left, top = size[0] * (0.15 + 0.2 * rng.random()), (size[1] - height) * rng.random()
    items = [(_strokes(rng, digit, height, slant), left, top)]
    if kind == "two":
        items.append((_strokes(rng, rng.integers(10), height * 0.6), left + height, top))
    ink = _ink(size, [] if kind == "blank" else items, width, 1 if kind == "huge" else 4)
    if kind == "transparent":
        levels = np.zeros((*ink.shape, 4), np.uint8)
        levels[..., :3] = rng.integers(0, 2) * 255
        levels[..., 3] = ink
        return Image.fromarray(levels)
    if kind == "coloured":
        papers, inks = rng.integers(190, 256, 3), rng.integers(0, 110, 3)
        planes = [_paint(rng, ink, i, p) for p, i in zip(papers, inks, strict=True)]
        return Image.fromarray(np.stack(planes, -1))
    if kind == "inverted":
        return Image.fromarray(_paint(rng, ink, 235, paper=20, noise=8))
    options = {
        "noisy": {"paper": 220, "noise": 25},
        "ruled": {"paper": 245, "noise": 3, "ruled": 24},
        "squared": {"paper": 240, "noise": 3, "squared": 18},
        "shaded": {"paper": 235, "noise": 3, "shade": 60},
        "faint": {"level": 150, "paper": 225, "noise": 4},
        "sixteen-bit": {"level": 20},
        "blank": {"paper": 230, "noise": rng.integers(0, 4)},
    }
    levels = _paint(rng, ink, **{"level": 30, **options.get(kind, {})})
    if kind == "sixteen-bit":
        return Image.fromarray(levels.astype(np.uint16) * 257)
    if kind == "specks":
        levels[rng.integers(0, len(levels), 25), rng.integers(0, levels.shape[1], 25)] = 60
    image = Image.fromarray(levels)
    if kind == "palette":
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([v for level in range(256) for v in (level, level, (level + 255) // 2)])
    return image


def _row(rng, digits, height, left, top, gap):
    """The items of a row of digits, and where it ends; they touch where the gap is below 0."""
    items = []
    for digit in digits:
        strokes = _strokes(rng, digit, height * (0.9 + 0.2 * rng.random()))
        x = np.concatenate(strokes)[:, 0]
        left -= x.min()
        items.append((strokes, left, top + height * 0.12 * (rng.random() - 0.5)))
        left += x.max() + height * (gap + 0.1 * rng.random())
    return items, left


def _line(rng, index):
    kind = ("apart", "touching", "ruled", "inverted", "noisy", "slope")[index % 6]
    digits, height = rng.integers(0, 10, rng.integers(2, 8)), float(rng.integers(36, 70))
    gap = -0.08 if kind == "touching" else 0.3
    items, right = _row(rng, digits, height, height * 0.6, height * 0.6, gap)
    if kind == "slope":
        items = [(strokes, left, top + left * 0.05) for strokes, left, top in items]
    size = (round(right + height * 0.6), round(height * 2.4))
    ink = _ink(size, items, height * (0.06 + 0.06 * rng.random()))
    options = {
        "inverted": {"level": 240, "paper": 15, "noise": 6},
        "ruled": {"paper": 245, "noise": 3, "ruled": 28},
        "noisy": {"paper": 215, "noise": 22, "shade": 20},
    }
    return Image.fromarray(_paint(rng, ink, **{"level": 35, **options.get(kind, {})}))


def _page(rng, index):
    kind = ("plain", "ruled", "squared", "noisy", "touching")[index % 5]
    count, height = int(rng.integers(2, 5)), float(rng.integers(28, 44))
    gap = -0.06 if kind == "touching" else 0.3
    rows, items, right = [rng.integers(0, 10, rng.integers(2, 7)) for _ in range(count)], [], 0.0
    for number, digits in enumerate(rows):
        left, top = height * (0.7 + rng.random()), height * (0.7 + 1.9 * number)
        row, end = _row(rng, digits, height, left, top, gap)
        items, right = items + row, max(right, end)
    size = (round(right + height), round(height * (1.6 + 1.9 * count)))
    ink = _ink(size, items, height * (0.07 + 0.05 * rng.random()))
    options = {
        "ruled": {"paper": 245, "noise": 3, "ruled": 32},
        "squared": {"paper": 242, "noise": 2, "squared": 20},
        "noisy": {"paper": 220, "noise": 18, "shade": 40},
    }
    return Image.fromarray(_paint(rng, ink, 30, **options.get(kind, {})))


def make_score():
    """A classifier for dividing lines: logits by the distance to the nearest drawn digit.

    Everything is exact in integers but for the last division.
    """
    images, labels = [], []
    for digit, ways in enumerate(_SHAPES):
        for way, slant, width in itertools.product(range(len(ways)), (-0.05, 0.1, 0.25), (2, 3)):
            strokes = _strokes(np.random.default_rng(7), digit, 18.0, slant, way)
            points = np.concatenate(strokes)
            left, top = 14 - (points.min(0) + points.max(0)) / 2
            images.append(_ink((28, 28), [(strokes, left, top)], width, 4))
            labels.append(digit)
    known, labels = _sums(np.stack(images)), np.array(labels)

    def score(glyphs):
        found = _sums(glyphs.astype(np.int64))
        squared = (found**2).sum(-1)[:, None] + (known**2).sum(-1)[None] - 2 * found @ known.T
        nearest = [squared[:, labels == digit].min(-1) for digit in range(10)]
        return -np.stack(nearest, -1) / (9 * 255) ** 2 / 4

    return score


def _sums(images):
    """Sums over 3x3 pixels, flat."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return windows.sum((-2, -1)).reshape(len(images), -1)
