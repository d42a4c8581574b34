"""The page in a browser: it predicts as Python does, reads what is drawn, and requests nothing."""

import io
import json
import math

import numpy as np
import pytest
from networks import DIGITS, constant_network, numpy_logits, random_network
from pictures import encode
from PIL import Image, ImageDraw

from digits_jax.deploy.network import combine
from digits_jax.deploy.page import write_page
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.rejection import digit_probability
from digits_jax.vision.digit import place_digit
from digits_jax.vision.segment import read_digit

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def open_page(visit, tmp_path):
    """Opens a page of networks from disk, once it is ready."""

    def open_page(*networks, int8=False, **options):
        write_page(networks, tmp_path / "digits.html", int8=int8)
        page = visit(tmp_path / "digits.html", **options)
        page.wait_for_selector("body[data-verdict]")
        return page

    return open_page


def verdict(page):
    """The page's verdict, once it has classified what was drawn."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    return page.inner_text("#verdict")


def on_canvas(page, x, y):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def draw(page, strokes):
    """Draws with the mouse; strokes are lists of (x, y) in shares of the canvas."""
    for stroke in strokes:
        start, *others = [on_canvas(page, x, y) for x, y in stroke]
        page.mouse.move(*start)
        page.mouse.down()
        for place in others:
            page.mouse.move(*place)
        page.mouse.up()


def arc(x, y, width, height, start, stop, points=14):
    """Points of an ellipse about (x, y); angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, points))
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


STROKES = {
    "0": [arc(0.5, 0.5, 0.2, 0.32, -90, 270, 24)],
    "1": [[(0.52, 0.18), (0.5, 0.82)]],
    "2": [[*arc(0.5, 0.35, 0.2, 0.17, -170, 40), (0.3, 0.8), (0.74, 0.8)]],
    "3": [[*arc(0.48, 0.34, 0.19, 0.16, -150, 90), *arc(0.48, 0.66, 0.22, 0.16, -90, 150)]],
    "4": [[(0.36, 0.18), (0.3, 0.52), (0.7, 0.52)], [(0.66, 0.2), (0.62, 0.84)]],
    "5": [
        [(0.38, 0.2), (0.36, 0.45), *arc(0.46, 0.62, 0.2, 0.19, -90, 140)],
        [(0.38, 0.2), (0.7, 0.19)],
    ],
    "6": [[(0.6, 0.17), (0.42, 0.4), (0.34, 0.62), *arc(0.5, 0.66, 0.16, 0.16, 180, 540, 20)]],
    "7": [[(0.3, 0.22), (0.7, 0.22), (0.46, 0.82)]],
    "8": [[*arc(0.5, 0.34, 0.15, 0.15, 90, -270, 27), *arc(0.5, 0.66, 0.18, 0.17, -90, 270, 20)]],
    "9": [[*arc(0.48, 0.36, 0.17, 0.17, 0, -360, 20), (0.64, 0.4), (0.58, 0.84)]],
}


# --- predictions ---------------------------------------------------------------------------


def logits_in_javascript(page, network, images):
    """The logits that the page has for images, uint8 [n, 28, 28, 1]."""
    return page.evaluate(
        "([network, images]) => JSON.parse(images).map("
        "pixels => digits.logits(network, Uint8Array.from(pixels)))",
        # As JSON, because Playwright takes seconds to pass on a long list.
        [network, json.dumps(images.reshape(len(images), 784).tolist())],
    )


def test_the_page_computes_what_numpy_does(open_page):
    ensemble = combine([random_network("mlp", 1), random_network("mlp", 2)])
    networks = [random_network("cnn"), random_network("cnn-deep"), ensemble]
    images = np.random.default_rng(3).integers(0, 256, (20, 28, 28, 1), np.uint8)
    images[0] = 0
    page = open_page(*networks)
    for index, network in enumerate(networks):
        expected = numpy_logits(network, images.astype(np.float32) / 255)
        found = logits_in_javascript(page, index, images)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_page_decodes_int8(open_page, tmp_path):
    """A kernel that is rounded already stays as it is."""
    network = Predictor.pretrained("cnn").network
    images = np.random.default_rng(3).integers(0, 256, (8, 28, 28, 1), np.uint8)
    page = open_page(network, int8=True)
    expected = numpy_logits(network, images.astype(np.float32) / 255)
    np.testing.assert_allclose(logits_in_javascript(page, 0, images), expected, atol=1e-3)
    assert (tmp_path / "digits.html").stat().st_size < 700_000  # 374,410 parameters


@pytest.mark.slow
def test_each_digit_that_is_drawn_is_recognised(open_page):
    page = open_page(Predictor.pretrained("cnn").network)
    answers = {}
    for digit, strokes in STROKES.items():
        draw(page, strokes)
        verdict(page)
        answers[digit] = page.inner_text(".prediction")
        page.click("#clear")
    assert answers == {digit: digit for digit in DIGITS}


def test_the_page_tells_digits_from_other_ink_as_python_does(open_page):
    page = open_page(constant_network(8, "eight"))
    images = np.random.default_rng(3).integers(0, 256, (9, 28, 28), np.uint8)
    images[1:, :4] = images[1:, 24:] = images[1:, :, :9] = images[1:, :, 19:] = 0
    images[2, 4:24, 13:16] = 255
    found = page.evaluate(
        "images => images.map(pixels => digits.digitProbability(Uint8Array.from(pixels)))",
        images.reshape(9, 784).tolist(),
    )
    np.testing.assert_allclose(found, digit_probability(images), atol=1e-4)
    draw(page, STROKES["8"])
    assert verdict(page) == "It is 8."
    page.click("#clear")
    draw(page, [[(0.2, 0.8), (0.5, 0.2), (0.8, 0.8), (0.25, 0.6), (0.75, 0.5)]])
    assert verdict(page) == "Not confident: it may be 8."


PLACE = "([ink, w, h]) => [...digits.placeDigit(Float32Array.from(JSON.parse(ink)), w, h)]"
FIND = "([grey, w, h]) => [...digits.findDigit(JSON.parse(grey), w, h)]"


def test_javascript_places_digits_as_python_does(open_page):
    page = open_page(constant_network(1, "one"))

    def in_javascript(function, image):
        height, width = image.shape
        pixels = json.dumps(image.ravel().tolist())
        found = page.evaluate(function, [pixels, width, height])
        return np.reshape(found, (28, 28))

    for width, height, left, right in ((90, 60, 40, 42), (60, 90, 10, 50), (100, 100, 45, 55)):
        ink = np.zeros((height, width), np.float32)
        ink[10:50, left:right] = 1
        ink[30:36, 5:60] = 0.7
        expected = place_digit(ink).astype(int)
        np.testing.assert_allclose(in_javascript(PLACE, ink), expected, atol=1)
    grey = np.array(Image.open(io.BytesIO(picture(STROKES["3"], paper="#ccc"))).convert("L"))
    expected = read_digit(grey).astype(int)
    np.testing.assert_allclose(in_javascript(FIND, grey), expected, atol=2)
    frames = {
        "box": lambda pen: pen.rectangle((30, 20, 150, 180), outline=60, width=3),
        "circle": lambda pen: pen.ellipse((20, 20, 180, 185), outline=60, width=3),
        "touched": lambda pen: pen.rectangle((68, 20, 180, 180), outline=60, width=3),
        "dotted": lambda pen: pen.ellipse((90, 85, 98, 93), fill=40),
    }
    for name, frame in frames.items():
        image = Image.new("L", (240, 200), 230)
        pen = ImageDraw.Draw(image)
        if name == "dotted":  # a 0, which is no frame
            pen.ellipse((60, 40, 130, 140), outline=40, width=9)
        else:
            pen.line([(70, 50), (120, 50), (90, 140)], 40, 9)
        alone = read_digit(np.array(image))
        frame(pen)
        grey = np.array(image)
        expected = read_digit(grey)
        if name in ("box", "circle"):
            np.testing.assert_allclose(expected.astype(int), alone.astype(int), atol=2)
        np.testing.assert_allclose(in_javascript(FIND, grey), expected.astype(int), atol=2)


# --- drawing -------------------------------------------------------------------------------


def test_each_verdict_is_shown(open_page):
    page = open_page(constant_network(4, "a"), constant_network(4, "b"))
    assert verdict(page) == "No digit: the drawing area is blank."
    draw(page, STROKES["1"])
    assert verdict(page) == "It is 4: both models agree."
    assert page.inner_text(".state >> nth=0").startswith("90.0%; then ")
    page = open_page(constant_network(4, "a"), constant_network(9, "b", threshold=0.95))
    draw(page, STROKES["1"])
    assert verdict(page) == "The models disagree: a predicts 4, b predicts 9 (not confident)."
    page.wait_for_selector("#live:has-text('disagree')", state="attached")


def test_undo_and_clear(open_page):
    page = open_page(constant_network(1, "one"))
    draw(page, STROKES["4"])
    page.click("#clear")
    assert verdict(page).startswith("No digit")
    page.keyboard.press("Control+z")
    assert verdict(page) == "It is 1."
    for _ in range(2):
        page.click("#undo")
    assert verdict(page).startswith("No digit")
    assert page.is_disabled("#undo")


def test_drawing_by_keyboard(open_page):
    page = open_page(constant_network(1, "one"))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "canvas"
    page.keyboard.press("ArrowDown")
    assert verdict(page).startswith("No digit")
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    assert verdict(page) == "It is 1."
    pixels = page.evaluate(
        "[...document.querySelector('#seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
    )
    rows, columns = np.nonzero(np.reshape(pixels, (28, 28, 4))[..., 0] > 100)
    assert np.ptp(rows) == 19
    assert np.ptp(columns) <= 5
    page.keyboard.press("Delete")
    assert verdict(page).startswith("No digit")


def swipe(page, start, stop):
    """Moves a finger from one point of the screen to another."""
    session = page.context.new_cdp_session(page)
    for i in range(11):
        x, y = (a + (b - a) * i / 10 for a, b in zip(start, stop, strict=True))
        kind = "touchMove" if i else "touchStart"
        points = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", points)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_draws_and_does_not_scroll(open_page):
    page = open_page(constant_network(1, "one"), constant_network(2, "two"), **PHONE)
    swipe(page, on_canvas(page, 0.5, 0.9), on_canvas(page, 0.5, 0.1))
    assert verdict(page).startswith("The models disagree")
    assert page.evaluate("scrollY") == 0
    swipe(page, (180, 700), (180, 500))
    page.wait_for_function("scrollY > 100")  # beside the canvas it scrolls


def test_a_phone_shows_everything_readable(open_page):
    networks = [constant_network(i, f"a-long-name-of-a-model-{i}") for i in range(4)]
    page = open_page(*networks, **PHONE)
    draw(page, STROKES["2"])
    verdict(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.innerText && e.offsetWidth > 1)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 14


# --- picture files --------------------------------------------------------------------------


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


def drop(page, files):
    """Drops files, given as bytes by name, on the page."""
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const [name, bytes] of JSON.parse(files)) {
            transfer.items.add(new File([new Uint8Array(bytes)], name));
          }
          return transfer;
        }""",
        json.dumps([[name, list(data)] for name, data in files.items()]),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("main[aria-busy=false]")


@pytest.mark.slow
def test_pictures_are_read(open_page):
    page = open_page(Predictor.pretrained("cnn").network)
    colours = {
        "light.jpg": {"ink": "white", "paper": "black", "form": "JPEG"},
        "grey.webp": {"ink": "#335", "paper": "#b0a898", "form": "WEBP"},
        "chalk.png": {"mode": "RGBA", "paper": (0, 0, 0, 0), "ink": "#f0f0f0"},
        "plain.bmp": {"form": "BMP"},
    }
    for digit in "257":
        for name, options in colours.items():
            file = {"name": name, "mimeType": "", "buffer": picture(STROKES[digit], **options)}
            page.set_input_files("#file", file)
            page.wait_for_selector("main[aria-busy=false]")
            verdict(page)
            assert page.inner_text("#problem") == ""
            assert (name, page.inner_text(".prediction")) == (name, digit)


def damaged():
    """Files, and what the page says of each."""
    good = picture(STROKES["5"])
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 99, 255)]
    film = {"save_all": True, "append_images": frames[1:]}
    yield "empty.png", b"", "is empty"
    yield "text.png", b"a letter", "is not a picture"
    yield "cut.jpg", picture(STROKES["5"], form="JPEG")[:500], "cut off"
    yield "cut.png", good[:60], "cut off"
    yield "bent.png", good[:60] + bytes(20) + good[80:], "damaged"
    yield "bomb.png", good[:16] + (60_000).to_bytes(4) * 2 + good[24:], "60,000 x 60,000 pixels"
    yield "film.png", encode(frames[0], "PNG", **film), "is animated"
    yield "film.webp", encode(frames[0], "WEBP", **film), "is animated"
    yield "blank.png", encode(Image.new("L", (90, 90), 200)), "no ink"


def test_bad_files_are_one_line(open_page):
    page = open_page(constant_network(1, "one"))
    draw(page, STROKES["1"])
    for name, data, problem in damaged():
        drop(page, {name: data})
        message = page.inner_text("#problem")
        assert problem in message
        assert "\n" not in message
        assert verdict(page) == "It is 1."  # the drawing is still there


def test_a_drop_of_no_file_and_of_several(open_page):
    page = open_page(constant_network(1, "one"))
    nothing = {"dataTransfer": page.evaluate_handle("new DataTransfer()")}
    page.dispatch_event("body", "drop", nothing)
    assert "No picture file was given" in page.inner_text("#problem")
    drop(page, {f"{digit}.png": picture(STROKES[digit]) for digit in "57"})
    assert verdict(page) == "It is 1."
    assert page.inner_text("#problem") == "5.png is read; the other files are ignored."
    draw(page, STROKES["1"])  # on the picture
    for expected in ("It is 1.", "No digit: the drawing area is blank."):
        page.click("#undo")
        assert verdict(page) == expected


def test_ink_follows_the_colour_scheme(open_page):
    """Dark on light, and light on dark; the input of the models is the same."""
    page = open_page(constant_network(1, "one"), color_scheme="light")
    draw(page, STROKES["1"])
    verdict(page)
    middle = """([x, y]) => {
      const canvas = document.querySelector("#canvas");
      const side = canvas.width;
      return canvas.getContext("2d").getImageData(x * side, y * side, 1, 1).data[0];
    }"""
    seen = "document.querySelector('#seen').toDataURL()"
    light, before = page.evaluate(middle, [0.51, 0.5]), page.evaluate(seen)
    page.emulate_media(color_scheme="dark")
    verdict(page)
    assert light < 60 < 200 < page.evaluate(middle, [0.51, 0.5])
    assert page.evaluate(seen) == before
