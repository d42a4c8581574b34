"""Picture files of every kind against Pillow's own answers."""

import io

import numpy as np
import pytest
from pictures import encode
from PIL import Image, ImageOps

from digits_jax.errors import DataError
from digits_jax.vision import decode
from digits_jax.vision.decode import decode_image

GRADIENT = np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 6),
    ],
)
def test_each_format_gives_the_grey_levels(kind, options, tolerance):
    grey = decode_image(encode(GRADIENT, kind, **options), "a")
    assert grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - GRADIENT).max() <= tolerance


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "CMYK"])
def test_colour_is_its_luminance(mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(decode_image(data, "a"), np.asarray(image.convert("L")))


def test_colours_have_the_weights_of_the_standard():
    colours = np.diag([255, 255, 255]).astype(np.uint8)[None]
    assert decode_image(encode(colours), "a").tolist() == [[76, 150, 29]]  # 0.299, 0.587, 0.114


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation, kind):
    stored = np.repeat([[0], [90], [180], [255]], 32, 1).astype(np.uint8).repeat(4, 0)
    stored[:, 16:] //= 2
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L"))
    assert expected.shape == ((16, 32) if orientation <= 4 else (32, 16))
    np.testing.assert_array_equal(decode_image(data, "a"), expected)


def test_transparency_lies_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)  # black, and as opaque as:
    pixels[..., 3] = [[255, 0], [51, 204]]
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("LA")):
        assert decode_image(encode(image), "a").tolist() == [[0, 255], [204, 51]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 10, 10, 10])
    assert decode_image(encode(palette, transparency=0), "a").tolist() == [[255, 10]]


def test_white_ink_on_nothing_lies_on_black():
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[..., 3] = 0
    assert (decode_image(encode(pixels), "a") == 255).all()
    pixels[1, 1, 3] = 255
    grey = decode_image(encode(pixels), "a")
    assert (grey[1, 1], grey[0, 0]) == (255, 0)


def test_nearly_white_ink_lies_on_black_and_a_page_with_clear_corners_on_white():
    pixels = np.full((8, 8, 4), 240, np.uint8)
    pixels[..., 3] = 0
    pixels[1:3, 1:3, 3] = 255
    pixels[7, 7] = (60, 60, 60, 255)  # a dark speck
    grey = decode_image(encode(pixels), "a")
    assert (grey[1, 1], grey[0, 0], grey[7, 7]) == (240, 0, 60)
    pixels[:, 1:, 3] = 255
    assert decode_image(encode(pixels), "a")[0, 0] == 255


@pytest.mark.parametrize(
    ("levels", "dtype", "expected"),
    [
        ([0, 257, 32896, 65535], np.uint16, [0, 1, 128, 255]),
        ([0, 7, 128, 255], np.uint16, [0, 7, 128, 255]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 127.5, 255], np.float32, [0, 128, 255]),
        ([0, 32767.5, 65535], np.float32, [0, 128, 255]),
        ([-1, 1, 3], np.float32, [0, 128, 255]),
        ([np.nan, np.inf, 1], np.float32, [0, 0, 255]),
    ],
)
def test_more_than_8_bits_are_scaled_by_their_range(levels, dtype, expected):
    for kind in ("TIFF", "PNG") if dtype is np.uint16 else ("TIFF",):
        data = encode(np.array([levels], dtype), kind)
        assert decode_image(data, "a").tolist() == [expected]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\x00" * 5000, "not a readable picture"),
        (encode(GRADIENT, "GIF"), "allowed are PNG, JPEG"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(data, said):
    with pytest.raises(DataError, match=rf"^my\\npicture: .*{said}"):
        decode_image(data, "my\npicture")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_frames_are_refused(kind):
    frames = [Image.fromarray(GRADIENT // n) for n in (1, 2, 3)]
    with pytest.raises(DataError, match="has 3 frames or pages"):
        decode_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]), "a")


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"is 101 bytes; 100 are"):
        decode_image(b"x" * 101, "a")


def test_a_large_jpeg_is_decoded_smaller(monkeypatch):
    monkeypatch.setattr(decode, "MAX_PIXELS", 10_000)
    grey = GRADIENT.repeat(10, 0).repeat(8, 1)
    small = decode_image(encode(grey, "JPEG", quality=95), "a")
    assert small.shape == (60, 80)
    assert np.abs(small.mean() - grey.mean()) < 2
    with pytest.raises(DataError, match="is 320x240"):  # kept whole by the decoder
        decode_image(encode(grey, "JPEG", progressive=True), "a")
