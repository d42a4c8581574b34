"""The page in a browser: it answers as Python does, reads what is drawn, and asks nobody."""

import gzip
from base64 import b64encode

import numpy as np
import pytest
from paged import (
    DESKTOP,
    DIGITS,
    PHONE,
    STROKES,
    draw,
    on_canvas,
    random_network,
    says,
    settle,
    verdict,
)

from digits_jax.deploy.network import combine, numpy_logits

pytestmark = pytest.mark.browser

# --- answers -------------------------------------------------------------------------------


def page_logits(page, index, images):
    """What the page's own functions answer to uint8 images."""
    answers = page.evaluate(
        """([index, text]) => {
          const pixels = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const answers = [];
          for (let i = 0; i < pixels.length; i += 784) {
            answers.push(digits.logits(index, pixels.subarray(i, i + 784)));
          }
          return answers;
        }""",
        [index, b64encode(images.tobytes()).decode()],
    )
    return np.array(answers)


def test_the_page_answers_as_numpy_does(open_page):
    networks = [random_network("a", 0), combine([random_network("b", 1), random_network("c", 2)])]
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (50, 28, 28, 1), np.uint8)
    images[0] = 0
    page = open_page(*networks)
    for index, network in enumerate(networks):
        expected = numpy_logits(network, images.astype(np.float32) / 255)
        np.testing.assert_allclose(page_logits(page, index, images), expected, atol=1e-4)


@pytest.mark.mnist
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_page_answers_mnist_as_numpy_does(open_page, cnn, mnist_dir, count):
    data = gzip.decompress((mnist_dir / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:count]
    parts = np.split(images, max(count // 1000, 1))
    expected = np.concatenate([numpy_logits(cnn, part.astype(np.float32) / 255) for part in parts])
    page = open_page(cnn)
    found = np.concatenate([page_logits(page, 0, part) for part in parts])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


@pytest.mark.mnist
def test_each_digit_that_is_drawn_is_read(open_page, cnn):
    page = open_page(cnn)
    read = {}
    for digit, strokes in STROKES.items():
        draw(page, strokes)
        settle(page)
        read[digit] = page.inner_text(".answer")
        page.click("#clear")
    assert read == {digit: digit for digit in DIGITS}


def test_ink_is_placed_as_python_places_it(open_page):
    images = pytest.importorskip("digits_jax.vision.digit")
    page = open_page(says(1, "one"))
    for width, height, left, right in ((90, 60, 40, 42), (60, 90, 10, 50), (100, 100, 45, 55)):
        ink = np.zeros((height, width), np.float32)
        ink[10:50, left:right] = 1
        ink[30:36, 5:60] = 0.7
        found = page.evaluate(
            "([ink, w, h]) => [...digits.placeDigit(Float32Array.from(ink), w, h)]",
            [ink.ravel().tolist(), width, height],
        )
        expected = images.place_digit(ink).astype(int)
        np.testing.assert_allclose(np.reshape(found, (28, 28)), expected, atol=1)


# --- drawing -------------------------------------------------------------------------------


def test_blank_sure_unsure_and_disagreement_are_said(open_page):
    page = open_page(says(4, "a"), says(4, "b"))
    assert verdict(page) == "No digit: the drawing area is blank."
    draw(page, STROKES["1"])
    assert verdict(page) == "It is 4, say both models."
    assert page.inner_text(".state >> nth=0").startswith("90.0%; then ")
    page = open_page(says(4, "a"), says(9, "b", threshold=0.95))
    draw(page, STROKES["1"])
    assert verdict(page) == "The models disagree: a reads 4, b reads 9 (not sure)."
    page.wait_for_selector("#live:has-text('disagree')", state="attached")


def test_undo_and_clear(open_page):
    page = open_page(says(1, "one"))
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
    page = open_page(says(1, "one"))
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
    """A finger from one place on the screen to another."""
    session = page.context.new_cdp_session(page)
    for i in range(11):
        x, y = (a + (b - a) * i / 10 for a, b in zip(start, stop, strict=True))
        kind = "touchMove" if i else "touchStart"
        points = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", points)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(100)


def test_a_finger_draws_and_does_not_scroll(open_page):
    page = open_page(says(1, "one"), says(2, "two"), **PHONE)
    swipe(page, on_canvas(page, 0.5, 0.9), on_canvas(page, 0.5, 0.1))
    assert page.evaluate("scrollY") == 0
    assert verdict(page).startswith("The models disagree")
    swipe(page, (180, 700), (180, 500))
    assert page.evaluate("scrollY") > 100  # beside the canvas it does


@pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_is_too_wide_or_too_small(open_page, options):
    networks = [says(i, f"a-long-name-of-a-model-{i}") for i in range(4)]
    page = open_page(*networks, **options)
    draw(page, STROKES["2"])
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    sizes = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => e.innerText && e.offsetWidth > 1)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 14
