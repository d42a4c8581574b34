"""Draws ink as a user's picture of it: paper, pens, light, lines, a file's bytes."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage


@dataclass(frozen=True)
class Drawing:
    """How a picture is made; see `draw`. Ranges are (least, greatest).

    Attributes:
      title: its name in tables.
      scale: of the 28x28, log-uniform.
      margin: room around the 28x28, as a share of its side.
      pen: pixels of the 28x28 that strokes lose (negative) or gain at either side.
      turn: largest rotation, in degrees.
      paper: the paper's brightness, 0 to 255.
      shade: the share of light lost in the darkest corner.
      noise: standard deviation of each pixel, in grey levels.
      rules: "", "ruled" or "squared".
      tilt: largest rotation of ruled lines, in degrees.
      light_ink: whether ink is light on dark.
      quality: of JPEG; None is PNG.
      goal: points that the accuracy may lose.
    """

    title: str
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
    "tenfold": Drawing("10x", scale=(10, 10), margin=(0.1, 0.6)),
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


def draw(ink: np.ndarray, how: Drawing, rng: np.random.Generator) -> bytes:
    """Draws ink as a picture file.

    Args:
      ink: uint8 [height, width], 255 where there is ink; a digit is 28 pixels high.
      how: it is drawn.
      rng: of the random amounts.

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
    strokes = change_pen(np.asarray(large, np.float32) / 255, rng.uniform(*how.pen) * scale)
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


def change_pen(strokes: np.ndarray, radius: float) -> np.ndarray:
    """Strokes wider by ``radius`` pixels at either side, or thinner where it is negative."""
    if abs(radius) < 0.5:
        return strokes
    reach = int(np.ceil(abs(radius)))
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = i * i + j * j <= radius * radius
    change = ndimage.grey_dilation if radius > 0 else ndimage.grey_erosion
    return change(np.pad(strokes, reach), footprint=disk)


def _rule(
    shape: tuple[int, ...], how: Drawing, height: float, rng: np.random.Generator
) -> np.ndarray:
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


def _shade(shape: tuple[int, ...], lost: float, rng: np.random.Generator) -> np.ndarray:
    """Light that falls to ``1 - lost``: towards a side, and about a lamp."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    angle, lamp = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1, 2)
    side = (np.cos(angle) * x[None, :] + np.sin(angle) * y[:, None]) / 2.83 + 0.5
    far = np.hypot(x[None, :] - lamp[0], y[:, None] - lamp[1]) / 2.83
    return (1 - lost * np.clip((side + far) / 2 + 0.15, 0, 1)).astype(np.float32)


def compose(
    images: np.ndarray, rng: np.random.Generator, overlap: tuple[int, int] | None = None
) -> np.ndarray:
    """Puts digits side by side; sizes, spacing and baseline vary.

    Args:
      images: uint8 [n, 28, 28].
      rng: of the random amounts.
      overlap: let neighbours meet, and move them so many more pixels into each other: at least the
        first, fewer than the second. None: at least two pixels are between.

    Returns:
      uint8 [n, 56, width]: each digit in its place. Their maximum is the row.
    """
    digits = np.zeros((len(images), 56, 28 * 2 * len(images) + 20), np.uint8)
    end = 0
    for number, image in enumerate(images):
        size = round(28 * rng.uniform(0.9, 1.1))
        digit = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
        columns = np.flatnonzero((digit > 50).any(axis=0))
        digit = digit[:, columns[0] : columns[-1] + 1]
        top = 28 - size // 2 + int(rng.integers(-3, 4))
        left = end + int(rng.integers(2, 12))
        line = digits.max(axis=0)
        if overlap and number:
            left = _meet(line[top : top + size], digit, end) - int(rng.integers(*overlap))
            left = max(left, 0)
        digits[number, top : top + size, left : left + digit.shape[1]] = digit
        end = int(np.flatnonzero((digits.max(axis=0) > 50).any(axis=0))[-1]) + 1
    return digits[:, :, : end + 4]


def _meet(line: np.ndarray, digit: np.ndarray, end: int) -> int:
    """The rightmost left edge at which a digit's ink meets that of a line."""
    for left in range(end, 0, -1):
        under = line[:, left : left + digit.shape[1]] > 100
        # Dilated by one: neighbours meet too.
        if ndimage.binary_dilation(under, np.ones((3, 3))).astype(bool)[digit > 100].any():
            return left
    return end
