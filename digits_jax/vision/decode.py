"""The bytes of anybody's picture -> grey levels, in bounded memory and time.

Whatever the bytes are, the answer is an array or an :class:`DigitsError` of one line. Pillow
decodes; it is told which formats to try, so that a file's name plays no part.
"""

import io
import struct
import warnings

import numpy as np

from digits_jax.errors import DataError, DigitsError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_BYTES = 50_000_000
# Colours take 4 bytes a pixel in Pillow, and TIFF a strip of as much beside it. WebP's decoder
# keeps two canvases, and Pillow copies the one that it gives twice.
MAX_PIXELS = 24_000_000
MAX_PIXELS_WEBP = 12_000_000
# A baseline JPEG is scaled while it is decoded and never lies whole in memory: only time counts.
MAX_PIXELS_JPEG = 450_000_000
_STRIP_PIXELS = 1_000_000
_ORIENTATION = 0x0112


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Grey levels of a picture file: PNG, JPEG, WebP, BMP or TIFF.

    The picture is turned as its EXIF data says, what is transparent lies on white paper (or,
    where nothing would be seen on white, on black), and 16 bits, 32 bits and floats are scaled
    to 8 bits, not clipped. A JPEG over ``MAX_PIXELS`` comes back at 1/2, 1/4 or 1/8 of its size.

    Args:
      data: the whole file.
      name: what to call it in messages.

    Returns:
      uint8 [height, width], 0 black and 255 white.

    Raises:
      DataError: it is empty, too large, truncated, animated, or of none of these formats.

    Example:
      >>> import io
      >>> from PIL import Image
      >>> stream = io.BytesIO()
      >>> Image.new("RGBA", (3, 2), (0, 0, 0, 0)).save(stream, "PNG")
      >>> decode_image(stream.getvalue(), "clear.png").shape
      (2, 3)
    """
    name = "".join(c if c.isprintable() else "?" for c in name)
    if not data:
        raise DataError(f"{name}: is empty (0 bytes); give a picture file")
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{name}: is {len(data):,} bytes; {MAX_BYTES:,} are allowed: save it smaller"
        )
    try:
        # Pillow warns of odd tags and large pictures; what matters of it is an error here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, name)
    except DigitsError:
        raise
    except Exception as error:
        # On damaged files Pillow raises OSError, SyntaxError, struct.error, ValueError,
        # OverflowError, MemoryError, ...: each means that the file can't be read.
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"{name}: can't be decoded ({reason}); it is damaged or cut off: save it again"
        ) from None


def _decode(data, name):
    from PIL import Image, JpegImagePlugin, UnidentifiedImageError

    size = _webp_size(data)
    if size:  # Before Pillow opens it: that alone takes the memory.
        _check_pixels(name, *size, MAX_PIXELS_WEBP)
    try:
        if data[:2] == b"\xff\xd8":
            # Past Pillow's own limit of pixels, which doesn't know of `_draft_jpeg`.
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
        is_jpeg = image.format == "JPEG"
        if not is_jpeg and getattr(image, "n_frames", 1) > 1:
            raise DataError(
                f"{name}: has {image.n_frames} frames or pages; give a picture that has one"
            )
        if is_jpeg:
            _draft_jpeg(image, data, name)
        else:
            _check_pixels(name, *image.size, MAX_PIXELS)
        image.load()
        # Read now: Pillow turns a TIFF as it loads it, and takes the tag away.
        orientation = image.getexif().get(_ORIENTATION, 1)
        return np.ascontiguousarray(_turn(_to_grey(image), orientation))


def _check_pixels(name, width, height, allowed):
    if width * height > allowed:
        raise DataError(
            f"{name}: is {width:,}x{height:,} pixels, {width * height:,} in all; "
            f"{allowed:,} are allowed: save it smaller"
        )


def _webp_size(data):
    """(width, height) from a WebP file's first chunk; None where it is no WebP."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    elif chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (v & 0x3FFF for v in struct.unpack_from("<HH", data, 26))
    return width, height


def _draft_jpeg(image, data, name):
    """Has a JPEG decoded as grey, and a large one at a fraction of its size."""
    width, height = image.size
    baseline = image.info.get("progressive") is None and _one_scan(data)
    _check_pixels(name, width, height, MAX_PIXELS_JPEG if baseline else MAX_PIXELS)
    size = None
    if width * height > MAX_PIXELS:
        shrink = 2
        while width * height > MAX_PIXELS * shrink**2:
            shrink *= 2
        size = (max(width // shrink, 1), max(height // shrink, 1))
    image.draft("L", size)


def _one_scan(data):
    """Whether a JPEG's first scan holds all components: others are kept whole by the decoder."""
    position, components = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
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


def _to_grey(image):
    """uint8 [height, width] of a loaded image, a strip at a time: copies in colour stay small."""
    width, height = image.size
    if image.mode == "LAB":
        return np.asarray(image.getchannel(0))
    rows = max(_STRIP_PIXELS // width, 1)
    strips = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    if image.mode == "F" or image.mode.startswith("I"):
        return _scale_levels(lambda: (np.asarray(image.crop(s)) for s in strips))
    if not image.has_transparency_data:
        return np.concatenate([np.asarray(image.crop(s).convert("L")) for s in strips])
    grey = np.concatenate([_on_paper(image.crop(s), "white") for s in strips])
    if grey.min() == 255:  # White ink on nothing: on white paper it can't be seen.
        grey = np.concatenate([_on_paper(image.crop(s), "black") for s in strips])
        grey = grey if grey.max() > grey.min() else np.full_like(grey, 255)
    return grey


def _on_paper(image, colour):
    from PIL import Image

    paper = Image.new("RGBA", image.size, colour)
    return np.asarray(Image.alpha_composite(paper, image.convert("RGBA")).convert("L"))


def _scale_levels(strips):
    """Integers or floats of more than 8 bits -> uint8; which range they mean, they show.

    16 bits are 0 to 65,535. Others are taken for 0 to 1, 255 or 65,535, the first that holds
    all of them; what fits none is stretched from its least to its greatest.

    Args:
      strips: a function; each call gives the picture's strips anew.
    """
    first = next(strips())
    if first.dtype.itemsize == 2:
        # Rounded division by 257.
        halves = (((s.astype(np.uint32) + 128) // 257).astype(np.uint8) for s in strips())
        return np.concatenate(list(halves))

    def finite():
        for strip in strips():
            yield np.nan_to_num(strip, nan=0.0, posinf=0.0, neginf=0.0)

    ranges = (1.0, 255.0, 65535.0) if first.dtype.kind == "f" else (255.0, 65535.0)
    ends = [(float(s.min()), float(s.max())) for s in finite()]
    bottom, top = min(low for low, _ in ends), max(high for _, high in ends)
    if bottom >= 0 and top <= ranges[-1]:
        bottom, top = 0.0, next(r for r in ranges if top <= r)
    if top <= bottom:
        top = bottom + 1.0
    scale = 255.0 / (top - bottom)
    scaled = ((s.astype(np.float32) - bottom) * scale + 0.5 for s in finite())
    return np.concatenate([s.clip(0, 255).astype(np.uint8) for s in scaled])


def _turn(grey, orientation):
    """The picture as EXIF's orientation, 1 to 8, would have it shown."""
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a),
    }
    return turns.get(orientation, lambda a: a)(grey)
