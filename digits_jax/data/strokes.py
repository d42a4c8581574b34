"""``strokes``: digits drawn with a virtual pen, in the ways of writers of many countries.

MNIST's writers are Americans. Elsewhere a 1 has a long upstroke or a base, a 7 is crossed, a 4 is
open or shaped like a lightning bolt, a 9 ends in a straight stem or a foot, and a 0 is slashed.
Each image draws one of the digit's ways with random proportions, slant, bends and pen widths, and
is placed by `digits_jax.vision.digit.place_digit`, as MNIST's makers placed theirs.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from digits_jax.data.splits import SPLITS, Dataset, Split, sha256_of_splits
from digits_jax.vision.digit import place_digit

COUNTS = {"train": 8000, "validation": 1000, "test": 1000}
SEED = 2026
VERSION = "1"
_HEIGHT, _MARGIN = 84, 42  # pixels of a drawing; bends and slants lead out of the digit's box

Points = list[tuple[float, float]]


def _arc(x: float, y: float, across: float, down: float, start: float, stop: float) -> Points:
    """Points of an ellipse about (x, y); angles in degrees, 0 to the right and 90 downwards."""
    angles = np.radians(np.linspace(start, stop, max(3, int(abs(stop - start) / 15))))
    return [(x + across * float(np.cos(a)), y + down * float(np.sin(a))) for a in angles]


# For each digit, the ways to write it: strokes through points, x to the right and y downwards, in a
# box that is 1 high. Strokes are smoothed; a point that is repeated is a corner.
WAYS: dict[int, list[list[Points]]] = {
    0: [
        [_arc(0.33, 0.5, 0.32, 0.5, -90, 270)],
        [_arc(0.3, 0.5, 0.28, 0.5, -50, 330)],
        [_arc(0.33, 0.5, 0.33, 0.5, -110, 240)],
        [_arc(0.33, 0.5, 0.32, 0.5, -90, 270), [(0.08, 0.9), (0.6, 0.1)]],
    ],
    1: [
        [[(0.1, 0.0), (0.1, 1.0)]],
        [[(0.02, 0.22), (0.24, 0.0), (0.24, 0.0), (0.22, 1.0)]],
        [[(0.0, 0.45), (0.4, 0.0), (0.4, 0.0), (0.38, 1.0)]],
        [[(0.0, 0.62), (0.46, 0.0), (0.46, 0.0), (0.4, 1.0)]],
        [[(0.08, 0.24), (0.3, 0.0), (0.3, 0.0), (0.3, 1.0)], [(0.0, 1.0), (0.6, 1.0)]],
        [[(0.0, 0.5), (0.4, 0.0), (0.4, 0.0), (0.4, 1.0)], [(0.12, 1.0), (0.68, 1.0)]],
    ],
    2: [
        [[*_arc(0.32, 0.28, 0.3, 0.28, -170, 30), (0.0, 1.0), (0.0, 1.0), (0.66, 0.98)]],
        [
            [
                *_arc(0.32, 0.27, 0.3, 0.27, -160, 40), (0.12, 0.92),
                *_arc(0.14, 0.86, 0.14, 0.13, 60, 330), (0.4, 0.98), (0.7, 0.9),
            ]
        ],
        [[(0.02, 0.16), (0.3, 0.0), (0.6, 0.2), (0.4, 0.6), (0.0, 0.97), (0.0, 0.97), (0.7, 1.0)]],
        [[(0.02, 0.03), (0.6, 0.0), (0.6, 0.0), (0.0, 1.0), (0.0, 1.0), (0.64, 1.0)]],
    ],
    3: [
        [[*_arc(0.28, 0.25, 0.28, 0.25, -160, 80), *_arc(0.28, 0.74, 0.34, 0.26, -80, 150)]],
        [
            [
                (0.02, 0.02), (0.58, 0.0), (0.58, 0.0), (0.26, 0.4), (0.26, 0.4),
                *_arc(0.26, 0.7, 0.34, 0.3, -70, 150),
            ]
        ],
        [
            [
                *_arc(0.3, 0.25, 0.27, 0.25, -150, 90), (0.24, 0.48), (0.24, 0.48),
                *_arc(0.28, 0.74, 0.33, 0.26, -90, 120), (0.0, 0.96),
            ]
        ],
    ],
    4: [
        [[(0.1, 0.0), (0.04, 0.55), (0.04, 0.55), (0.62, 0.52)], [(0.52, 0.05), (0.48, 1.0)]],
        [
            [(0.44, 0.0), (0.0, 0.66), (0.0, 0.66), (0.68, 0.66)],
            [(0.48, 0.34), (0.46, 1.0)],
        ],
        [
            [
                (0.5, 1.0), (0.52, 0.0), (0.52, 0.0), (0.0, 0.66), (0.0, 0.66), (0.7, 0.64),
            ]
        ],
        [[(0.4, 0.0), (0.02, 0.62), (0.02, 0.62), (0.56, 0.5), (0.56, 0.5), (0.3, 1.0)]],
        [[(0.42, 0.0), (0.04, 0.6), (0.04, 0.6), (0.66, 0.58)], [(0.62, 0.3), (0.34, 1.0)]],
        [[(0.06, 0.0), (0.02, 0.42), (0.2, 0.52), (0.52, 0.4)], [(0.56, 0.0), (0.5, 1.0)]],
    ],
    5: [
        [
            [(0.1, 0.02), (0.06, 0.44), (0.06, 0.44), *_arc(0.24, 0.7, 0.34, 0.3, -100, 150)],
            [(0.1, 0.02), (0.6, 0.0)],
        ],
        [
            [
                (0.6, 0.0), (0.12, 0.03), (0.12, 0.03), (0.06, 0.44), (0.06, 0.44),
                *_arc(0.26, 0.7, 0.32, 0.3, -100, 140),
            ]
        ],
        [
            [
                (0.6, 0.02), (0.2, 0.06), (0.1, 0.36), (0.42, 0.52), (0.52, 0.8), (0.26, 1.0),
                (0.0, 0.9),
            ]
        ],
    ],
    6: [
        [[(0.5, 0.0), (0.1, 0.42), *_arc(0.3, 0.72, 0.28, 0.28, -190, 170)]],
        [[(0.3, 0.0), (0.04, 0.5), *_arc(0.28, 0.74, 0.26, 0.26, -200, 150)]],
        [[(0.56, 0.06), (0.3, 0.02), (0.02, 0.5), *_arc(0.3, 0.7, 0.28, 0.3, 170, -190)]],
    ],
    7: [
        [[(0.0, 0.02), (0.6, 0.0), (0.6, 0.0), (0.22, 1.0)]],
        [[(0.0, 0.02), (0.6, 0.0), (0.6, 0.0), (0.22, 1.0)], [(0.14, 0.5), (0.6, 0.48)]],
        [[(0.0, 0.14), (0.02, 0.0), (0.02, 0.0), (0.62, 0.02), (0.62, 0.02), (0.24, 1.0)]],
        [
            [(0.0, 0.16), (0.02, 0.01), (0.02, 0.01), (0.62, 0.02), (0.62, 0.02), (0.26, 1.0)],
            [(0.1, 0.54), (0.58, 0.48)],
        ],
        [[(0.0, 0.06), (0.3, 0.0), (0.62, 0.04), (0.62, 0.04), (0.36, 0.4), (0.28, 1.0)]],
        [
            [(0.0, 0.1), (0.14, 0.02), (0.6, 0.06), (0.6, 0.06), (0.34, 0.44), (0.26, 1.0)],
            [(0.12, 0.56), (0.62, 0.44)],
        ],
    ],
    8: [
        [[*_arc(0.3, 0.24, 0.24, 0.24, 90, 450), *_arc(0.3, 0.74, 0.3, 0.26, -90, 270)]],
        [
            [
                (0.54, 0.12), (0.3, 0.0), (0.06, 0.2), (0.32, 0.48), (0.58, 0.78), (0.3, 1.0),
                (0.02, 0.78), (0.3, 0.48), (0.56, 0.18), (0.5, 0.06),
            ]
        ],
        [_arc(0.3, 0.23, 0.22, 0.23, -90, 270), _arc(0.3, 0.73, 0.28, 0.27, -90, 270)],
    ],
    9: [
        [[*_arc(0.28, 0.28, 0.27, 0.28, 0, -350), (0.55, 0.3), (0.55, 0.3), (0.5, 1.0)]],
        [[*_arc(0.28, 0.27, 0.27, 0.27, 10, -350), (0.54, 0.34), (0.32, 1.0)]],
        [[*_arc(0.28, 0.27, 0.27, 0.27, 0, -355), (0.56, 0.6), (0.36, 0.98), (0.04, 0.92)]],
        [[*_arc(0.26, 0.27, 0.25, 0.27, -10, -340), (0.52, 0.1), (0.52, 1.0)]],
        [
            [
                *_arc(0.28, 0.28, 0.27, 0.28, -20, -350), (0.54, 0.2), (0.52, 0.95),
                (0.52, 0.95), (0.7, 0.98),
            ]
        ],
    ],
}  # fmt: skip


def load_strokes() -> Dataset:
    """Draws ``strokes``: 8,000 training, 1,000 validation and 1,000 test images.

    Examples:
      >>> draw_digit(np.random.default_rng(0), 7).shape
      (28, 28)
    """
    parts = {}
    for index, split in enumerate(SPLITS):
        rng = np.random.default_rng([SEED, index])
        labels = np.arange(COUNTS[split], dtype=np.int32) % 10
        drawn = tqdm(labels, f"drawing {split} images", delay=2, leave=False, disable=None)
        images = np.stack([draw_digit(rng, int(label)) for label in drawn])
        parts[split] = Split(images[..., None], labels)
    return Dataset(
        name="strokes",
        version=VERSION,
        source="digits drawn by digits_jax.data.strokes",
        sha256=sha256_of_splits(parts.values()),
        class_names=tuple("0123456789"),
        **parts,
    )


def draw_digit(rng: np.random.Generator, digit: int) -> np.ndarray:
    """Draws a digit in one of its ways: uint8 [28, 28], placed as MNIST's are."""
    ways = WAYS[digit]
    return draw_strokes(rng, ways[rng.integers(len(ways))])


def draw_strokes(rng: np.random.Generator, lines: Sequence[Points]) -> np.ndarray:
    """Draws strokes, as those of ``WAYS``, bent: uint8 [28, 28], placed as MNIST's are."""
    strokes = _bend(rng, [_smooth(line) for line in lines])
    width = _HEIGHT * rng.uniform(0.085, 0.18)  # as MNIST's; `place_digit` makes others so
    image = place_digit(_draw(strokes, width))
    assert image is not None  # strokes have ink
    return image


def _smooth(stroke: Points) -> np.ndarray:
    """Catmull-Rom curves through points, with corners where a point is repeated: [n, 2]."""
    points = np.array(stroke)
    corners = np.flatnonzero((points[1:] == points[:-1]).all(1)) + 1
    curves = []
    for part in np.split(points, corners):
        padded = np.concatenate([part[:1], part, part[-1:]])
        t = np.linspace(0, 1, 4)[:, None]
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
            curves.append(
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2)
                + 0.5 * (3 * b - a - 3 * c + d) * t**3
            )
    return np.concatenate(curves)


def _bend(rng: np.random.Generator, strokes: list[np.ndarray]) -> list[np.ndarray]:
    """Random proportions, slant, turn and a smooth field of bends; one field for all strokes."""
    width, slant, turn = rng.uniform(0.7, 1.35), rng.uniform(-0.15, 0.5), rng.normal(0, 0.06)
    waves = rng.uniform(1, 5, (2, 3, 2))
    phases, sizes = rng.uniform(0, 2 * np.pi, (2, 3)), rng.normal(0, 0.018, (2, 3))
    bent = []
    for stroke in strokes:
        moved = stroke + rng.normal(0, 0.02, 2)  # the pen is put down nearly where it should be
        field = np.sin(np.einsum("akc,nc->nak", waves, moved) + phases)
        x, y = (moved + (field * sizes).sum(-1)).T
        x = width * x + slant * (0.5 - y)
        bent.append(np.stack([x - turn * y, y + turn * x], -1))
    return bent


def _draw(strokes: Sequence[np.ndarray], width: float) -> np.ndarray:
    """Ink of strokes of a round pen: float32 [h, w] in [0, 1]."""
    everything = np.concatenate(strokes)
    low = everything.min(0)
    size = np.ceil((everything.max(0) - low) * _HEIGHT).astype(int) + 2 * _MARGIN
    image = Image.new("L", (int(size[0]), int(size[1])))
    pen, radius = ImageDraw.Draw(image), width / 2
    for stroke in strokes:
        points = [(float(x), float(y)) for x, y in (stroke - low) * _HEIGHT + _MARGIN]
        pen.line(points, fill=255, width=max(round(width), 1))
        for x, y in points:  # round ends and joints
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(image, np.float32) / 255
