"""Picture files on the page in a browser: what is read, and what is refused in one line."""

import io

import numpy as np
import pytest
from paged import STROKES, draw, says, settle, verdict
from PIL import Image, ImageDraw

from digits_jax.vision.segment import read_digit

pytestmark = pytest.mark.browser


def picture(strokes, *, size=(300, 400), ink="black", paper="white", mode="RGB", form="PNG"):
    """Strokes as a picture file, small and off the centre of a page."""
    image = Image.new(mode, size, paper)
    pen = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(120 + 140 * x, 30 + 140 * y) for x, y in stroke]
        pen.line(points, fill=ink, width=9, joint="curve")
        for x, y in points:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ink)
    return encode(image, form)


def encode(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def choose(page, name, data):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    page.wait_for_selector("main[aria-busy=false]")


def drop(page, files):
    """Drops files, given as bytes by name, on the page."""
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, bytes] of files) {
            transfer.items.add(new File([new Uint8Array(bytes)], name));
          }
          return transfer;
        }""",
        [[name, list(data)] for name, data in files.items()],
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("main[aria-busy=false]")


@pytest.mark.mnist
def test_pictures_are_read(open_page, cnn):
    page = open_page(cnn)
    colours = {
        "dark.png": {},
        "light.jpg": {"ink": "white", "paper": "black", "form": "JPEG"},
        "grey.webp": {"ink": "#335", "paper": "#b0a898", "form": "WEBP"},
        "clear.png": {"mode": "RGBA", "paper": (0, 0, 0, 0)},
        "chalk.png": {"mode": "RGBA", "paper": (0, 0, 0, 0), "ink": "white"},
        "plain.bmp": {"form": "BMP"},
    }
    for digit in "257":
        for name, options in colours.items():
            choose(page, name, picture(STROKES[digit], **options))
            settle(page)
            assert page.inner_text("#problem") == ""
            assert (name, page.inner_text(".answer")) == (name, digit)


def damaged():
    good = picture(STROKES["5"], form="JPEG")
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99, 255)]
    animated = {"save_all": True, "append_images": frames[1:]}
    bomb = bytearray(picture(STROKES["5"]))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bent = bytearray(picture(STROKES["5"]))
    bent[60:80] = bytes(20)
    return {
        "empty.png": (b"", "is empty"),
        "text.png": (b"a letter", "is not a picture"),
        "cut.jpg": (good[: len(good) // 2], "cut off"),
        "head.jpg": (good[:3], "cut off"),
        "cut.png": (picture(STROKES["5"])[:60], "cut off"),
        "bent.png": (bytes(bent), "damaged"),
        "bomb.png": (bytes(bomb), "60,000 x 60,000 pixels"),
        "film.gif": (encode(frames[0], "GIF", **animated), "is not a picture"),
        "film.png": (encode(frames[0], "PNG", **animated), "is animated"),
        "film.webp": (encode(frames[0], "WEBP", **animated), "is animated"),
        "blank.png": (encode(Image.new("L", (90, 90), 200)), "no ink"),
        "dot.png": (encode(Image.new("L", (1, 1), 0)), "no ink"),
    }


def test_bad_files_are_one_line(open_page):
    page = open_page(says(1, "one"))
    draw(page, STROKES["1"])
    for name, (data, problem) in damaged().items():
        drop(page, {name: data})
        said = page.inner_text("#problem")
        assert problem in said
        assert "\n" not in said
        assert verdict(page) == "It is 1."  # the drawing is still there


def test_a_drop_without_a_file_is_one_line(open_page):
    page = open_page(says(1, "one"))
    page.dispatch_event(
        "body", "drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")}
    )
    assert "holds no picture" in page.inner_text("#problem")


def test_of_several_files_the_first_is_read(open_page):
    page = open_page(says(1, "one"))
    drop(page, {f"{digit}.png": picture(STROKES[digit]) for digit in "57"})
    assert verdict(page) == "It is 1."
    assert page.inner_text("#problem") == "5.png is read, the others are not."


def test_ink_follows_the_colour_scheme(open_page):
    """Dark on light, and light on dark; what the models see is the same."""
    page = open_page(says(1, "one"), color_scheme="light")
    draw(page, STROKES["1"])
    settle(page)
    middle = """([x, y]) => {
      const canvas = document.querySelector("#canvas");
      const side = canvas.width;
      return canvas.getContext("2d").getImageData(x * side, y * side, 1, 1).data[0];
    }"""
    seen = "document.querySelector('#seen').toDataURL()"
    light, before = page.evaluate(middle, [0.51, 0.5]), page.evaluate(seen)
    page.emulate_media(color_scheme="dark")
    settle(page)
    assert light < 60 < 200 < page.evaluate(middle, [0.51, 0.5])
    assert page.evaluate(seen) == before


def test_a_dropped_picture_can_be_drawn_on_and_undone(open_page):
    page = open_page(says(1, "one"))
    drop(page, {"five.png": picture(STROKES["5"])})
    page.wait_for_selector("body[data-verdict=sure]")
    draw(page, STROKES["1"])
    page.click("#undo")
    assert verdict(page) == "It is 1."
    page.click("#undo")
    assert verdict(page).startswith("No digit")


def test_a_picture_is_found_as_python_finds_it(open_page):
    page = open_page(says(1, "one"))
    grey = np.array(Image.open(io.BytesIO(picture(STROKES["3"], paper="#ccc"))).convert("L"))
    height, width = grey.shape
    found = page.evaluate(
        "([grey, w, h]) => [...digits.findDigit(grey, w, h)]",
        [grey.ravel().tolist(), width, height],
    )
    expected = read_digit(grey).astype(int)
    np.testing.assert_allclose(np.reshape(found, (28, 28)), expected, atol=2)
