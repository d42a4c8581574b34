"""Pictures of every kind against Pillow's and SciPy's answers, and against bytes that lie."""

import io
import struct
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from digits_jax.errors import DigitsError
from digits_jax.vision import decode
from digits_jax.vision import digit as images
from digits_jax.vision.decode import decode_image
from digits_jax.vision.digit import (
    THICK,
    THIN,
    find_ink,
    find_pieces,
    place_digit,
    read_digit,
)


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient(height=24, width=40):
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def page(height=80, width=100, paper=255):
    return np.full((height, width), paper, np.uint8)


def seven(height=120, width=140, ink=0, paper=255, pen=9):
    """A 7 by hand: a bar and a slanted stroke."""
    grey = page(height, width, paper)
    grey[20 : 20 + pen, 40:90] = ink
    for row in range(20, 100):
        left = 81 - round((row - 20) * 0.4)
        grey[row, left : left + pen] = ink
    return grey


# --- decoding ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 6),
    ],
)
def test_formats(kind, options, tolerance):
    grey = decode_image(encode(Image.fromarray(gradient()), kind, **options), "a")
    assert grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "CMYK"])
def test_colour_is_its_luminance(mode):
    image = Image.fromarray(gradient()).convert(mode)
    expected = np.asarray(image.convert("L"))
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(decode_image(data, "a"), expected)


def test_colours_weigh_as_the_eye_does():
    image = Image.new("RGB", (3, 1))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert decode_image(encode(image), "a").tolist() == [[76, 150, 29]]  # 0.299, 0.587, 0.114


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, kind):
    """Where the first row and column lie, by the EXIF standard."""
    stored = page(16, 32, 255)
    stored[:8, :8] = 0  # the stored picture's first corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(encode(Image.fromarray(stored), kind, exif=exif), "a")
    assert shown.shape == ((16, 32) if orientation <= 4 else (32, 16))
    corner = {
        1: (0, 0),
        2: (0, 1),
        3: (1, 1),
        4: (1, 0),
        5: (0, 0),
        6: (0, 1),
        7: (1, 1),
        8: (1, 0),
    }
    bottom, right = corner[orientation]
    halves = shown[-4:] if bottom else shown[:4]
    dark = halves[:, -4:] if right else halves[:, :4]
    assert dark.mean() < 40
    assert shown.mean() > 200


def test_transparency_lies_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)  # black, and as opaque as:
    pixels[..., 3] = [[255, 0], [51, 204]]
    assert decode_image(encode(Image.fromarray(pixels)), "a").tolist() == [[0, 255], [204, 51]]
    grey = Image.fromarray(pixels).convert("LA")
    assert decode_image(encode(grey), "a").tolist() == [[0, 255], [204, 51]]


def test_a_palettes_transparent_colour():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 10, 10, 10])
    assert decode_image(encode(image, transparency=0), "a").tolist() == [[255, 10]]


def test_white_ink_on_nothing_is_seen():
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[..., 3] = 0
    pixels[1, 1, 3] = 255
    grey = decode_image(encode(Image.fromarray(pixels)), "a")
    assert (grey[1, 1], grey[0, 0]) == (255, 0)
    pixels[..., 3] = 0
    assert (decode_image(encode(Image.fromarray(pixels)), "a") == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled(kind):
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert decode_image(encode(Image.fromarray(levels), kind), "a").tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_by_their_range(top):
    levels = np.array([[0, 0.5, 1]], np.float32) * top
    assert decode_image(encode(Image.fromarray(levels), "TIFF"), "a").tolist() == [[0, 128, 255]]


def test_odd_floats():
    levels = np.array([[-1, 1, 3]], np.float32)
    assert decode_image(encode(Image.fromarray(levels), "TIFF"), "a").tolist() == [[0, 128, 255]]
    levels = np.array([[np.nan, np.inf, 1]], np.float32)
    assert decode_image(encode(Image.fromarray(levels), "TIFF"), "a").tolist() == [[0, 0, 255]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"GIF", "not a readable picture"),
        (b"\x00" * 5000, "not a readable picture"),
        (encode(Image.new("L", (5, 5)), "GIF"), "allowed are PNG, JPEG"),
        (encode(Image.new("L", (5, 5)), "PPM"), "allowed are PNG, JPEG"),
    ],
)
def test_not_a_picture(data, words):
    with pytest.raises(DigitsError, match=rf"^my\.png: .*{words}"):
        decode_image(data, "my.png")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_frames_are_refused(kind):
    frames = [Image.fromarray(gradient() // n) for n in (1, 2, 3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(DigitsError, match=r"^a\.x: has 3 frames or pages"):
        decode_image(data, "a.x")


def test_too_many_bytes(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    with pytest.raises(DigitsError, match=r"is 101 bytes; 100 are"):
        decode_image(b"x" * 101, "a")


def test_a_name_stays_on_one_line():
    with pytest.raises(DigitsError, match=r"^a\?b: is empty"):
        decode_image(b"", "a\nb")


def png_header(width, height):
    """A PNG that promises a size, and has 4 bytes of it."""
    import zlib

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"1234")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (24_000_001, 1)])
def test_bombs(size):
    with pytest.raises(
        DigitsError, match=r"^a: (is [\d,]+x[\d,]+|has more) pixels.* 24,000,000 are"
    ):
        decode_image(png_header(*size), "a")


def test_a_promise_that_is_not_kept():
    with pytest.raises(DigitsError, match=r"^a: can't be decoded"):
        decode_image(png_header(100, 100), "a")


def test_a_webp_that_promises_much():
    data = b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4
    data += (16382).to_bytes(3, "little") * 2
    with pytest.raises(DigitsError, match="is 16,383x16,383"):
        decode_image(data + b"\0" * 20, "a")


def test_a_large_jpeg_comes_smaller(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 10_000)
    grey = seven(240, 320)
    small = decode_image(encode(Image.fromarray(grey), "JPEG", quality=95), "a")
    assert small.shape == (60, 80)
    assert np.abs(small.mean() - grey.mean()) < 2
    with pytest.raises(DigitsError, match="is 320x240"):
        decode_image(encode(Image.fromarray(grey), "JPEG", progressive=True), "a")


def kinds():
    image, exif = Image.fromarray(seven()[10:110:2, 30:100:2]), Image.Exif()
    exif[0x0112] = 6
    return [
        encode(image),
        encode(image.convert("P"), transparency=3),
        encode(image, "JPEG", quality=60, exif=exif),
        encode(image.convert("RGB"), "JPEG", progressive=True),
        encode(image, "WEBP"),
        encode(image.convert("RGBA"), "WEBP", lossless=True),
        encode(image, "BMP"),
        encode(image, "TIFF", compression="tiff_lzw"),
        encode(image.convert("F"), "TIFF"),
    ]


def check(data):
    """A picture or a line that names it; nothing else, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            grey, message = decode_image(data, "fuzzed.png"), ""
        except DigitsError as error:
            grey, message = None, str(error)
    if grey is None:
        assert message.startswith("fuzzed.png: ")
        assert "\n" not in message
        return False
    assert (grey.dtype, grey.ndim) == (np.uint8, 2)
    if grey.size <= 10_000:
        glyph = read_digit(grey)
        assert glyph is None or glyph.shape == (28, 28)
    return True


@pytest.mark.parametrize("data", kinds(), ids=map(str, range(9)))
def test_truncated_at_every_50th_byte(data):
    assert check(data)
    for stop in range(0, len(data) - 50, 50):
        check(data[:stop])
    with pytest.raises(DigitsError):
        decode_image(data[: len(data) // 2], "a")


def fuzz(count, seed):
    rng, originals = np.random.default_rng(seed), kinds()
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.integers(1, 6)):
            # Headers are at the front: half of the changes go there.
            limit = len(data) if rng.random() < 0.5 else min(len(data), 80)
            where = int(rng.integers(0, limit))
            if rng.random() < 0.2:
                del data[where : where + int(rng.integers(1, 9))]
            else:
                data[where] = int(rng.choice([0, 255, int(rng.integers(0, 256))]))
        check(bytes(data))


def test_fuzzed_bytes():
    fuzz(300, seed=1)


@pytest.mark.slow
def test_fuzzed_bytes_for_long():
    fuzz(10_000, seed=2)


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes(data):
    for start in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"BM",
        b"RIFF\x30\0\0\0WEBP",
    ):
        check(start + data)


MEMORY = """
    import io, resource, sys
    import numpy as np
    from PIL import Image
    from digits_jax.vision.decode import decode_image
    from digits_jax.vision.digit import read_digit
    from digits_jax.errors import DigitsError
    image = Image.new(sys.argv[2], (6000, 4000), (255,) * 4 if sys.argv[2] == "RGBA" else 1)
    if sys.argv[1] == "JPEG":
        image = Image.new("L", (20_000, 20_000), 255)
    stream = io.BytesIO()
    options = {"compression": "tiff_lzw"} if sys.argv[1] == "TIFF" else {}
    image.save(stream, sys.argv[1], **options)
    del image
    sys.stdout.buffer.write(stream.getvalue())
"""
READ = """
    import re, sys
    from pathlib import Path
    from digits_jax.vision.decode import decode_image
    from digits_jax.vision.digit import read_digit
    assert read_digit(decode_image(sys.stdin.buffer.read(), "a")) is None
    # Not ru_maxrss, which starts with that of the process that forked this one.
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("TIFF", "F"), ("JPEG", "L")])
def test_memory_is_bounded(kind, mode):
    """The largest pictures that are read: in a process that does nothing else."""

    def python(code, *arguments, data=None):
        command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
        return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout

    megabytes = int(python(READ, data=python(MEMORY, kind, mode)))
    assert megabytes < 400  # of 512: the rest is for a model


# --- ink -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0), (90, 180), (200, 60)])
def test_polarity(ink, paper):
    grey = seven(ink=ink, paper=paper)
    found = find_ink(grey)
    assert (found.dtype, found.shape) == (np.float32, grey.shape)
    np.testing.assert_array_equal(found, grey == ink)


@pytest.mark.parametrize(
    "grey",
    [
        page(1, 1),
        page(1, 1, 0),
        page(28, 28, 0),
        page(300, 200, 128),
        page(1, 500),
        np.random.default_rng(0).normal(200, 6, (200, 300)).clip(0, 255).astype(np.uint8),
        np.tile(np.linspace(90, 250, 300), (200, 1)).astype(np.uint8),
    ],
    ids=["1x1", "black 1x1", "black", "grey", "1x500", "grain", "shade"],
)
def test_blank(grey):
    assert not find_ink(grey).any()
    assert read_digit(grey) is None


def test_uneven_light():
    shade = np.linspace(1, 0.5, 140)[None, :] * np.linspace(1, 0.8, 120)[:, None]
    ink = find_ink((seven() * 0.9 * shade + 20 * shade).astype(np.uint8))
    assert ink[seven() == 0].min() > 0.85
    assert ink[seven() == 255].max() == 0


@pytest.mark.parametrize("squared", [False, True])
def test_ruled_paper(squared):
    ruled = seven().copy()
    ruled[5::24] = np.minimum(ruled[5::24], 170)
    if squared:
        ruled[:, 7::24] = np.minimum(ruled[:, 7::24], 170)
    expected, ink = seven() == 0, find_ink(ruled)
    assert ink[~expected].max() < 0.1
    assert ink[expected].mean() > 0.98


def test_lines_at_a_tilt():
    y, x = np.mgrid[:120, :140]
    ruled = np.where((y + 0.03 * x) % 30 < 2, 170, 255).astype(np.uint8)
    expected = seven() == 0
    ink = find_ink(np.minimum(seven(), ruled))
    assert (ink[~expected] > 0.1).mean() < 0.002
    assert ink[expected].mean() > 0.97


def test_large_pictures_are_averaged_down():
    large = seven().repeat(20, 0).repeat(20, 1)
    assert find_ink(large).shape == (857, 1000)
    assert np.abs(read_digit(large).astype(int) - read_digit(seven())).mean() < 8


@pytest.mark.parametrize(
    "grey",
    [np.zeros((3, 3)), np.zeros((3, 3, 3), np.uint8), np.zeros((0, 5), np.uint8), [[0]], None],
    ids=["float", "colour", "empty", "list", "None"],
)
def test_not_a_grey_picture(grey):
    for function in (find_ink, read_digit):
        with pytest.raises(DigitsError, match="give a uint8 array"):
            function(grey)


def test_pieces_are_no_specks_and_no_frame():
    ink = np.zeros((100, 100), np.float32)
    ink[:5] = ink[:, :5] = 1  # a frame
    ink[30:70, 40:50] = 1
    ink[80, 80] = 1  # a speck
    assert [piece.box for piece in find_pieces(ink)[1]] == [(40, 30, 50, 70)]


# --- placing -------------------------------------------------------------------------------


def strokes(draw):
    """Some thick strokes by hypothesis, as ink [60, 60] with a border of nothing."""
    ink = np.zeros((60, 60), np.float32)
    for _ in range(draw(st.integers(1, 4))):
        y, x = draw(st.integers(5, 40)), draw(st.integers(5, 40))
        if draw(st.booleans()):
            ink[y : y + 6, x : x + draw(st.integers(12, 15))] = 1
        else:
            ink[y : y + draw(st.integers(12, 15)), x : x + 6] = 1
    return ink


inks = st.composite(strokes)()


@given(inks)
@settings(max_examples=60, deadline=None)
def test_the_box_and_the_centre(ink):
    glyph = place_digit(ink)
    assert (glyph.dtype, glyph.shape, glyph.max()) == (np.uint8, (28, 28), 255)
    rows, columns = (np.flatnonzero(glyph.any(axis=a)) for a in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    # SciPy counts from the middle of the first pixel: the picture's middle is at 13.5. A box
    # of 20 keeps within the picture, which may keep it from there.
    for centre, found in zip(ndimage.center_of_mass(glyph), (rows, columns), strict=True):
        assert abs(centre - 13.5) <= 0.51 or found[0] == 0 or found[-1] == 27


def strokes_are_usual(ink):
    fine = images._scale_to(images.cut_out(ink), images._FINE)
    width = images.stroke_width(fine / fine.max()) * images.BOX / images._FINE
    return images.THIN <= width <= images.THICK


def near(a, b, mean):
    return np.abs(a.astype(int) - b.astype(int)).mean() <= mean


@given(inks, st.integers(0, 20), st.integers(0, 20), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_invariances(ink, down, right, scale):
    glyph = place_digit(ink)
    np.testing.assert_array_equal(place_digit(np.pad(ink, ((down, 9), (right, 3)))), glyph)
    np.testing.assert_array_equal(place_digit(ink * np.float32(0.5)), glyph)
    large = ink.repeat(scale, 0).repeat(scale, 1)
    # Where strokes are measured as usual at one size and as thick at the other, one is changed.
    assume(strokes_are_usual(large) == strokes_are_usual(ink))
    # The centre of mass is put on a whole pixel: two that are nearly halfway may round apart.
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    moved = (np.roll(place_digit(large), shift, (0, 1)) for shift in shifts)
    assert any(near(each, glyph, 8) for each in moved)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 4))
@settings(max_examples=15, deadline=None)
def test_read_digit_is_the_same_anywhere_and_inverted(down, right, scale):
    grey = seven()
    glyph = read_digit(grey)
    moved = np.pad(grey, ((down, 20), (right, 5)), constant_values=255)
    np.testing.assert_array_equal(read_digit(moved), glyph)
    np.testing.assert_array_equal(read_digit(255 - moved), glyph)
    assert near(read_digit(moved.repeat(scale, 0).repeat(scale, 1)), glyph, 3)


def test_a_box_of_20_is_left_alone():
    ink = np.zeros((40, 40), np.float32)
    ink[3:23, 7:10] = np.random.default_rng(0).uniform(0.5, 1, (20, 3)).astype(np.float32)
    ink[3, 7] = 1
    glyph = place_digit(ink)
    rows, columns = (np.flatnonzero(glyph.any(axis=a)) for a in (1, 0))
    inside = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(inside, np.floor(ink[3:23, 7:10] * 255 + 0.5))


def test_averages_are_those_of_blocks():
    ink = np.zeros((120, 120), np.float32)
    ink[10:110, 20:35] = np.random.default_rng(0).uniform(0.95, 1, (100, 15))
    glyph = place_digit(ink)
    blocks = ink[10:110, 20:35].reshape(20, 5, 3, 5).mean((1, 3))
    rows, columns = (np.flatnonzero(glyph.any(axis=a)) for a in (1, 0))
    inside = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_allclose(inside, 255 * blocks / blocks.max(), atol=1)


@pytest.mark.parametrize(("pen", "least", "most"), [(1, 1.4, 3), (3, 1.4, 3), (24, 2.4, 4.5)])
def test_strokes_come_to_a_usual_width(pen, least, most):
    """A ring of 300 pixels, as thin as 1/15 and as thick as 1.6 times a usual pen."""
    y, x = np.mgrid[:320, :320] - 159.5
    ring = (np.abs(np.hypot(y, x) - (150 - pen)) < pen).astype(np.float32)
    glyph = place_digit(ring)
    assert THIN < 2.5 < THICK
    row = glyph[13].astype(float) / 255
    assert least <= row.sum() / 2 <= most  # the row through the middle crosses two strokes
    assert row.max() > 0.85


def test_nothing_to_place():
    assert place_digit(np.zeros((5, 5), np.float32)) is None
    assert place_digit(np.full((5, 5), 0.1, np.float32)) is None
    assert place_digit(np.ones((1, 1), np.float32)).max() == 255


def test_a_digit_in_pieces():
    grey = page(120, 140)
    grey[30:90, 60:68] = 0
    whole = read_digit(grey)
    grey[30:38, 74:100] = 0  # a bar that doesn't touch
    assert (
        np.flatnonzero(read_digit(grey).any(axis=0)).size > np.flatnonzero(whole.any(axis=0)).size
    )
    grey[110:113, 5:8] = 0  # a blot far off
    blot = read_digit(grey)
    grey[110:113, 5:8] = 255
    np.testing.assert_array_equal(blot, read_digit(grey))


# --- photographs -----------------------------------------------------------------------------


def photograph(kind):
    """A drawn 7 on a sheet of 260 x 260, and what else there is on a photograph of it."""
    sheet = np.full((260, 260), 235.0)
    sheet[60:74, 70:180] = sheet[60:200, 166:180] = 40
    if kind == "shadow":
        sheet[:, :120] *= 0.5
    if kind == "thumb":
        sheet[200:, 200:] = 120
    if kind in ("dark desk", "grey desk"):
        desk = np.full((330, 380), 35.0 if kind == "dark desk" else 120.0)
        desk[30:290, 60:320] = sheet
        sheet = desk
    if kind == "bars":
        sheet = np.pad(sheet, ((0, 0), (90, 90)))
    return np.rint(sheet).astype(np.uint8)


@pytest.mark.parametrize("kind", ["shadow", "thumb", "dark desk", "grey desk", "bars"])
def test_what_else_is_on_a_photograph_is_no_ink(kind):
    plain = read_digit(photograph("nothing"))
    found = read_digit(photograph(kind))
    assert near(found, plain, 8)
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 16)  # 140 x 110, by hand


def test_a_digit_cut_out_along_its_strokes():
    """Its border says nothing of the paper."""
    y, x = (np.mgrid[:100, :70] + 0.5 - np.array([[[50]], [[35]]])) / np.array([[[50]], [[35]]])
    radius = np.hypot(y, x)
    ring = np.where((radius < 1) & (radius > 0.6), 20, 250).astype(np.uint8)
    found = read_digit(ring)
    assert found is not None
    assert found[14, 14] == 0
    assert (found > 128).sum() > 100


def test_a_blank_sheet_in_uneven_light_holds_no_digit():
    light = np.linspace(90, 250, 200)[None, :] * np.ones((150, 1))
    assert read_digit(np.rint(light).astype(np.uint8)) is None
