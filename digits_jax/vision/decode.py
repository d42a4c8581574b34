"""The bytes of a picture -> grey levels, in bounded memory and time.

Whatever the bytes are, the result is an array or a `DataError` of one line. Pillow decodes and
tries the formats that we list, whatever the file is called.
"""

import contextlib
import io
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from digits_jax.errors import DataError

Picture = str | Path | bytes | Image.Image | np.ndarray  # as of `read_grey`
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 50_000_000
# Colours take 4 bytes a pixel in Pillow, and TIFF a strip of as much beside it. WebP's decoder
# keeps two canvases, and Pillow copies the one that it gives twice.
MAX_PIXELS = 24_000_000
MAX_PIXELS_WEBP = 12_000_000
# A baseline JPEG is scaled while it is decoded, without the complete picture in memory: only time
# limits its size.
MAX_PIXELS_JPEG = 450_000_000
_STRIP_PIXELS = 1_000_000
# Ink on nothing covers less than this; a page with transparent corners covers more. On white paper,
# lighter ink than this can't be seen well.
_INK_SHARE, _NEAR_WHITE = 0.5, 225
# How a picture is shown, by its EXIF orientation; 1 is as it is stored.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda a: a[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: np.rot90,
}


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a picture file to grey levels: PNG, JPEG, WebP, BMP or TIFF.

    The picture is turned as its EXIF data requires, what is transparent lies on white paper (or,
    where what isn't is a little nearly white ink, on black), and 16 bits, 32 bits and floats are
    scaled to 8 bits, not clipped: by the range that their values fit, so that 8 bits saved as 16
    are read. A JPEG over ``MAX_PIXELS`` comes back at 1/2, 1/4 or 1/8 of its size.

    Args:
      data: the whole file.
      name: what to call it in messages.

    Returns:
      uint8 [height, width], 0 black and 255 white.

    Raises:
      DataError: it is empty, too large, truncated, animated, or of none of these formats.

    Examples:
      >>> stream = io.BytesIO()
      >>> Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(stream, "PNG")
      >>> decode_image(stream.getvalue(), "clear.png").tolist()
      [[255, 255, 255], [255, 255, 255]]
    """
    if not data:
        raise DataError(f"{name}: is empty (0 bytes); give a picture file")
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{name}: is {len(data):,} bytes; {MAX_BYTES:,} are allowed: save it smaller"
        )
    with _one_line(name):
        return _decode(data, name)


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Makes a DataError of whatever Pillow raises."""
    try:
        # Pillow warns of odd tags and large pictures; what matters of it is an error here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception as error:
        # On damaged files Pillow raises OSError, SyntaxError, struct.error, ValueError,
        # OverflowError, MemoryError, ...: each means that the file can't be read.
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"{name}: can't be decoded ({reason}); it is damaged or cut off: save it again"
        ) from None


def read_grey(picture: Picture) -> np.ndarray:
    """Reads the grey levels of a file, of its bytes, of a PIL image, or of an array.

    Args:
      picture: an array is [height, width] or with a last axis of 1 (grey), 3 (RGB) or 4 (RGBA)
        channels; its levels are as of `check_levels`.

    Returns:
      uint8 [height, width], as of `decode_image`.

    Raises:
      DataError: the picture can't be read.

    Examples:
      >>> read_grey(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).tolist()
      [[76, 29]]
    """
    if isinstance(picture, str | Path):
        try:
            with open(picture, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
            why = getattr(error, "strerror", error)
            raise DataError(f"{picture}: can't be read ({why})") from None
        return decode_image(data, str(picture))
    if isinstance(picture, bytes):
        return decode_image(picture, "picture")
    if isinstance(picture, Image.Image):
        _check_pixels("picture", picture.size, MAX_PIXELS)
        with _one_line("picture"):
            return _upright_grey(picture)
    levels, white = check_levels(picture, "a picture")
    if levels.dtype != np.uint8 or white == 1:
        levels = np.rint(levels.astype(np.float32) * (255 // white)).astype(np.uint8)
    if levels.ndim == 3 and levels.shape[2] in (3, 4) and levels.size:
        return _to_grey(Image.fromarray(levels))
    grey = levels[..., 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels
    if grey.ndim != 2 or not grey.size:
        raise DataError(
            f"a picture of shape {list(levels.shape)}: give [height, width], not empty, or with a "
            "last axis of 1, 3 or 4 channels"
        )
    return grey


def check_levels(values: Any, name: str) -> tuple[np.ndarray, int]:
    """Returns an array of grey levels, and the one that is white: 1 where none is greater, or 255.

    Args:
      values: bool, integers from 0 to 255, or floats from 0 to 1 or from 0 to 255.
      name: of the array, for the message.

    Raises:
      DataError: no array, another type, or values out of range.
    """
    array = as_array(values, name)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} is {array.dtype}: must be bool, integers or floats")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{name} holds NaN or infinity: must be from 0 to 1, or from 0 to 255")
    if low < 0 or high > 255:
        raise DataError(
            f"{name} is from {low:g} to {high:g}: must be from 0 to 1, or from 0 to 255"
        )
    return array, 1 if high <= 1 else 255


def as_array(values: Any, name: str) -> np.ndarray:
    """Returns what NumPy makes of values; a DataError says why there is no array of them."""
    if isinstance(values, np.ma.MaskedArray):
        raise DataError(f"{name} is masked, and the mask would be ignored: give array.filled(0)")
    try:
        array = np.asarray(values)
        # As of a column of pandas.
        return np.array(array.tolist()) if array.dtype == object else array
    except Exception as error:  # as of a tensor on a GPU, or rows of several lengths
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{name} is no array ({reason}): give one of NumPy") from None


def _decode(data: bytes, name: str) -> np.ndarray:
    size = _webp_size(data)
    if size:  # Before Pillow opens it: that alone takes the memory.
        _check_pixels(name, size, MAX_PIXELS_WEBP)
    try:
        if data[:2] == b"\xff\xd8":
            # Not `Image.open`, whose limit of pixels doesn't take `_draft_jpeg` into account.
            image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        else:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(
            f"{name}: is not a readable picture; allowed are PNG, JPEG, WebP, BMP and TIFF files"
        ) from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: has more pixels than can be read; {MAX_PIXELS:,} are allowed: save it smaller"
        ) from None
    with image:
        # A phone's MPO, a JPEG with more pictures of the same behind it, is read as a JPEG.
        if image.format == "JPEG":
            _draft_jpeg(image, data, name)
        elif (frames := getattr(image, "n_frames", 1)) > 1:
            raise DataError(f"{name}: has {frames} frames or pages; give a picture that has one")
        else:
            _check_pixels(name, image.size, MAX_PIXELS)
        return _upright_grey(image)


def _upright_grey(image: Image.Image) -> np.ndarray:
    image.load()
    # Read now: Pillow turns a TIFF as it loads it, and takes the tag away.
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), lambda a: a)
    return np.ascontiguousarray(turn(_to_grey(image)))


def _check_pixels(name: str, size: tuple[int, int], allowed: int) -> None:
    width, height = size
    if width * height > allowed:
        raise DataError(
            f"{name}: is {width:,}x{height:,} pixels, {width * height:,} in all; "
            f"{allowed:,} are allowed: save it smaller"
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a WebP file's first chunk; None where it is no WebP."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", data, 26))
    return width, height


def _draft_jpeg(image: Image.Image, data: bytes, name: str) -> None:
    """Has a JPEG decoded as grey, and a large one at a fraction of its size."""
    width, height = image.size
    baseline = image.info.get("progressive") is None and _one_scan(data)
    _check_pixels(name, image.size, MAX_PIXELS_JPEG if baseline else MAX_PIXELS)
    shrink = 1
    while width * height > MAX_PIXELS * shrink**2:
        shrink *= 2
    image.draft("L", (max(width // shrink, 1), max(height // shrink, 1)) if shrink > 1 else None)


def _one_scan(data: bytes) -> bool:
    """Whether a JPEG's first scan holds all components: others are kept whole by the decoder."""
    position, components = 2, None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA:
            return data[position + 4] == components
        if 0xC0 <= marker <= 0xC2 and position + 9 < len(data):
            components = data[position + 9]
        position += 2 + length
    return False


def _to_grey(image: Image.Image) -> np.ndarray:
    """uint8 [height, width] of a loaded image, a strip at a time: copies in colour stay small."""
    width, height = image.size
    rows = max(_STRIP_PIXELS // width, 1)

    def strips() -> Iterator[Image.Image]:
        for top in range(0, height, rows):
            yield image.crop((0, top, width, min(top + rows, height)))

    if image.mode == "LAB":
        return np.asarray(image.getchannel(0))
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale_levels(lambda: map(np.asarray, strips()))
    if not image.has_transparency_data:
        return np.concatenate([np.asarray(strip.convert("L")) for strip in strips()])
    paper = "black" if _is_light_ink(strips(), width * height) else "white"
    return np.concatenate([_on_paper(strip, paper) for strip in strips()])


def _is_light_ink(strips: Iterator[Image.Image], pixels: int) -> bool:
    """Whether what is opaque is ink that white paper would hide: most of it nearly white."""
    levels = np.zeros(256)
    for strip in strips:
        colours = strip.convert("RGBA")
        opacity = np.asarray(colours.getchannel("A")).ravel() / 255
        levels += np.bincount(np.asarray(colours.convert("L")).ravel(), opacity, 256)
    return 0 < levels.sum() < _INK_SHARE * pixels and levels[_NEAR_WHITE:].sum() > levels.sum() / 2


def _on_paper(image: Image.Image, colour: str) -> np.ndarray:
    paper = Image.new("RGBA", image.size, colour)
    return np.asarray(Image.alpha_composite(paper, image.convert("RGBA")).convert("L"))


def _scale_levels(strips: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
    """Integers or floats of more than 8 bits -> uint8; their range is taken from their values."""
    # They are taken for 0 to 1 (floats), 255 or 65,535, the first that holds all of them; what fits
    # none is stretched from its least to its greatest.
    first = next(strips())
    if first.dtype.itemsize == 2 and max(strip.max() for strip in strips()) > 255:
        # Rounded division by 257.
        scaled = (((s.astype(np.uint32) + 128) // 257).astype(np.uint8) for s in strips())
        return np.concatenate(list(scaled))

    def finite() -> Iterator[np.ndarray]:
        return (np.nan_to_num(strip, nan=0.0, posinf=0.0, neginf=0.0) for strip in strips())

    ranges = (1.0, 255.0, 65535.0) if first.dtype.kind == "f" else (255.0, 65535.0)
    ends = [(float(s.min()), float(s.max())) for s in finite()]
    bottom, top = min(low for low, _ in ends), max(high for _, high in ends)
    if bottom >= 0 and top <= ranges[-1]:
        bottom, top = 0.0, next(r for r in ranges if top <= r)
    if top <= bottom:
        top = bottom + 1.0
    scale = 255.0 / (top - bottom)
    levels = ((s.astype(np.float32) - bottom) * scale + 0.5 for s in finite())
    return np.concatenate([s.clip(0, 255).astype(np.uint8) for s in levels])
