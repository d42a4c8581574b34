"""Pages in a browser: networks for them, fixtures that open them, and a hand that draws."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from programs import call

from digits_jax.deploy.network import Layer, Network, load_network
from digits_jax.deploy.page import write_page

DIGITS = tuple("0123456789")
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}


# --- networks ------------------------------------------------------------------------------


def random_network(name, seed, threshold=0.0):
    """Every kind of layer, with odd sizes on the way: 28, 14, 7, 3."""
    rng = np.random.default_rng(seed)

    def layer(kind, fan_in, **shapes):
        arrays = {key: rng.normal(size=shape) for key, shape in shapes.items()}
        for key in ("kernel", "factor"):
            if key in arrays:
                arrays[key] /= math.sqrt(fan_in)
        return Layer(kind, {key: a.astype(np.float32) for key, a in arrays.items()})

    layers = (
        Layer("space_to_depth"),
        layer("conv", 36, kernel=(3, 3, 4, 6), bias=6),
        Layer("max_pool"),
        layer("scale", 1, factor=6, offset=6),
        Layer("relu"),
        layer("conv", 54, kernel=(3, 3, 6, 5), bias=5),
        Layer("max_pool"),
        Layer("relu"),
        Layer("flatten"),
        layer("dense", 4, kernel=(45, 10), bias=10),
    )
    return Network(name, DIGITS, (layers,), threshold, {})


def says(digit, name, threshold=0.5):
    """A network that answers one digit whatever it sees, at 90%."""
    bias = np.zeros(10, np.float32)
    bias[digit] = math.log(81)
    layers = (
        Layer("flatten"),
        Layer("dense", {"kernel": np.zeros((784, 10), np.float32), "bias": bias}),
    )
    return Network(name, DIGITS, (layers,), threshold, {})


@pytest.fixture(scope="session")
def cnn(tmp_path_factory, mnist_dir):
    """A CNN that has seen MNIST for some seconds, trained as users do."""
    home = tmp_path_factory.mktemp("cnn")
    flags = ("--arch=cnn", "--dataset=mnist", "--preset=quick", "--epochs=1", "--workdir=cnn")
    status, _, errors = call(home, "train", *flags, f"--data-dir={mnist_dir}")
    assert status == 0, errors
    return load_network(home / "cnn")


# --- the browser ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as started:
        paths = [shutil.which(name) for name in names] + [started.chromium.executable_path]
        path = next((p for p in paths if p and Path(p).exists()), None)
        if path is None:
            pytest.skip("no Chromium is installed")
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a page of networks from disk; at the end, none has complained or asked anybody."""
    contexts, complaints, requests = [], [], []

    def open_page(*networks, **options):
        path = tmp_path / "digits.html"
        write_page(networks, path)
        context = browser.new_context(**{**DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-verdict]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(requests) <= {(tmp_path / "digits.html").as_uri()}


def settle(page):
    """Waits until the page has answered what was drawn."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def verdict(page):
    settle(page)
    return page.inner_text("#verdict")


def on_canvas(page, x, y):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def draw(page, strokes):
    """Draws with the mouse; strokes are lists of (x, y) in shares of the canvas."""
    box = page.locator("#canvas").bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
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
    "8": [
        [
            *arc(0.5, 0.34, 0.15, 0.15, 90, -90),
            *arc(0.5, 0.34, 0.15, 0.15, -90, -270),
            *arc(0.5, 0.66, 0.18, 0.17, -90, 270, 20),
        ]
    ],
    "9": [[*arc(0.48, 0.36, 0.17, 0.17, 0, -360, 20), (0.64, 0.4), (0.58, 0.84)]],
}
