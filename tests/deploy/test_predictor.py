"""Predictions, their ranks, and images that are refused."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from networks import constant_network, numpy_logits, random_images, random_network
from PIL import Image
from programs import call
from scipy.special import softmax

from digits_jax import ConfigError, DigitsError
from digits_jax.data.arrays import to_grey
from digits_jax.deploy import Predictions, Predictor
from digits_jax.deploy.archive import write_archive
from digits_jax.deploy.predictor import CHUNK, check_images


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_network("mlp"))


@pytest.mark.parametrize("count", [0, 1, 9, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_any_number_of_images(predictor, count):
    images = random_images(count)
    found = predictor.predict(images)
    expected = numpy_logits(predictor.network, images)
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)
    np.testing.assert_allclose(found.probabilities, softmax(expected / 0.7, -1), atol=1e-4)
    assert found.labels.tolist() == expected.argmax(-1).tolist()
    assert len(found) == len(found.names) == count


def test_ranks_by_hand():
    shares = np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    found = Predictions(("a", "b", "c"), np.log(shares), shares, 0.5)
    assert (found.labels.tolist(), found.runners_up.tolist()) == ([1, 0], [2, 1])
    assert found.confidence.tolist() == [0.6, 0.4]
    assert found.runner_up_confidence.tolist() == [0.3, 0.4]
    assert (found.confident.tolist(), found.names) == ([True, False], ["b", "a"])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (2, 28, 28), (2, 28, 28, 1)])
def test_images_of_any_shape_and_dtype_are_those_of_training(shape, white, dtype):
    images = np.zeros(shape, dtype)
    ink = images[..., 0] if shape[-1] == 1 else images
    ink[..., 4:20, 9:12] = white
    found = check_images(images)
    assert (found.dtype, found.shape[1:]) == (np.float32, (28, 28, 1))
    trained = to_grey(images.reshape(-1, 28, 28), "images")
    np.testing.assert_array_equal(found[..., 0] * 255, trained)
    assert trained.max() == 255


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((27, 28)), r"shape \[27, 28\]: give \[28, 28\]"),
        (np.zeros((1, 28, 28, 3)), r"shape \[1, 28, 28, 3\]"),
        (
            np.full((28, 28), 256),
            "images is from 256 to 256: must be from 0 to 1",
        ),
        (np.full((28, 28), "x"), "images is <U1: must be bool, integers or floats"),
        (np.full((28, 28), np.nan), "images holds NaN or infinity"),
        (np.full((28, 28), -0.1), "images is from -0.1 to -0.1"),
        ([[1, 2], [3]], "images is no array"),
        ("picture.png", "images is <U11"),
        (np.ma.zeros((28, 28)), "the mask would be ignored"),
    ],
)
def test_other_arrays_are_refused(images, message):
    with pytest.raises(DigitsError, match=message):
        check_images(images)


def test_threads_share_a_predictor_that_compiles_once():
    network = random_network("linear")
    shared, images = Predictor(network), random_images(40)
    expected = numpy_logits(network, images)
    compiled = []

    def count(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(threading.get_ident())

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with ThreadPoolExecutor(8) as pool:
            ones = list(pool.map(shared.predict, images))
            batches = list(pool.map(shared.predict, [images] * 4))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    for i, found in enumerate(ones):
        np.testing.assert_allclose(found.logits[0], expected[i], atol=1e-4)
    for found in batches:
        np.testing.assert_allclose(found.logits, expected, atol=1e-4)
    assert len(compiled) == 2  # for 1 image and for 64


@pytest.mark.parametrize("path", [5, None, [5]])
def test_what_names_no_network_is_one_line(path):
    with pytest.raises(ConfigError, match=r"path=(5|None): must be a run's folder"):
        Predictor.load(path)


# --- pictures ----------------------------------------------------------------------------------


def seven(size=120):
    page = np.full((size, 200), 255, np.uint8)
    page[20:28, 40:90] = page[20:100, 82:90] = 0
    return page


def test_one_picture_in_every_form(tmp_path):
    predictor, page = Predictor(constant_network(7, "seven")), seven()
    image = Image.fromarray(page)
    image.save(tmp_path / "a.png")
    pictures = [
        str(tmp_path / "a.png"),
        tmp_path / "a.png",
        (tmp_path / "a.png").read_bytes(),
        image,
        image.convert("RGBA"),
        page,
        page / 255,
        np.stack([page] * 3, -1),
        page[..., None],
    ]
    for picture in pictures:
        digit = predictor.read(picture)
        assert (digit.name, digit.box, digit.confident) == ("7", (40, 20, 90, 100), True)
        assert (digit.probability, digit.runner_up) == (pytest.approx(0.9), "0")
        assert digit.image.shape == (28, 28)
    assert "image" not in repr(digit)
    assert str(digit) == "7  90.0%, then 0 1.1%"  # 1 / 90
    assert predictor.read(np.full((50, 60), 200, np.uint8)) is None
    (line,) = predictor.read_page(np.hstack([page, page]))
    one = predictor.read(np.hstack([page, page]))
    assert all(digit.confident for digit in line.digits)
    assert not one.confident
    assert [digit.box for digit in line.digits] == [(40, 20, 90, 100), (240, 20, 290, 100)]
    assert repr(line) == "Line('77', probability=0.81)"
    assert str(line) == "77  (90.0% 90.0%)"
    assert repr(predictor) == "Predictor('seven', 7,850 parameters)"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("gone.png", r"gone.png: can't be read \(No such file"),
        (b"no picture", "picture: is not a readable picture"),
        (np.ma.zeros((9, 9)), "a picture is masked, and the mask would be ignored"),
        (np.zeros((9, 9, 2), np.uint8), r"a picture of shape \[9, 9, 2\]"),
        (None, "a picture is object: must be"),
    ],
)
def test_pictures_that_cannot_be_read(picture, message):
    with pytest.raises(DigitsError, match=message):
        Predictor(constant_network(7, "seven")).read(picture)


FORK = """
import os, sys
from digits_jax import DigitsError
from digits_jax.deploy import Predictor
predictor = Predictor.load(sys.argv[1])
if os.fork():
    os.wait()
else:
    for use in (lambda: predictor.predict([[0.0] * 28] * 28), lambda: Predictor.load(sys.argv[1])):
        try:
            use()
        except DigitsError as error:
            print(error, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")
def test_a_forked_process_is_refused_in_one_line(tmp_path):
    write_archive(random_network("linear"), tmp_path / "model.npz")
    status, out, _ = call(tmp_path, None, "model.npz", script=FORK)
    lines = out.splitlines()
    assert (status, len(lines)) == (0, 2)
    assert all(
        'load the Predictor in the child alone, or start processes by "spawn"' in line
        for line in lines
    )
