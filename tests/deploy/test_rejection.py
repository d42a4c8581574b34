"""What isn't one digit is told from what is, and answered without confidence."""

import dataclasses

import numpy as np
import pytest
from networks import constant_network, numpy_logits, random_images
from PIL import Image, ImageDraw
from scipy.special import softmax

from digits_jax import load_dataset
from digits_jax.deploy.network import load_pretrained
from digits_jax.deploy.predictor import Predictor
from digits_jax.deploy.reading import read_picture
from digits_jax.deploy.rejection import digit_probability, knows_digits, load_rejector
from digits_jax.runs.pretrained import pretrained_names
from experiments import rejector as study
from experiments.drawing import compose
from experiments.out_of_distribution import printed, scribbles


def page_of(ink):
    return np.pad(255 - ink, 20, constant_values=255)


def read(grey, network="cnn"):
    (lines,) = read_picture(grey, [Predictor.load(network).predict], "digit").answers
    return lines[0].digits[0]


def test_its_layers_are_those_of_the_network():
    images = (255 * random_images(300)[..., 0]).astype(np.uint8)  # more than one chunk
    network = load_rejector()
    expected = Predictor(network).predict(images).probabilities[:, 1]
    np.testing.assert_allclose(digit_probability(images), expected, atol=1e-5)
    logits = numpy_logits(network, images[:5, :, :, None].astype(np.float32) / 255)
    found = softmax(logits / network.temperature, -1)[:, 1]
    np.testing.assert_allclose(digit_probability(images[:5]), found, atol=1e-5)
    assert digit_probability(images[:0]).shape == (0,)


def test_digits_of_other_writers_are_digits_and_letters_are_none():
    digits = load_dataset("digits").test.images[..., 0]  # of no training
    assert (digit_probability(digits) >= load_rejector().threshold).mean() > 0.9
    rng = np.random.default_rng(1)
    others = np.stack([study.draw_strange(rng, kind) for kind in range(64)])
    assert (digit_probability(others) >= load_rejector().threshold).mean() < 0.1


@pytest.mark.parametrize("overlap", [None, (0, 2)], ids=["apart", "touching"])
def test_two_digits_where_one_is_asked_for_arent_answered_with_confidence(overlap):
    data, rng = load_dataset("digits").test, np.random.default_rng(2)
    confident = []
    for start in range(0, 60, 2):
        row = compose(data.images[start : start + 2, ..., 0], rng, overlap)
        row = np.asarray(Image.fromarray(row.max(axis=0)).resize((3 * row.shape[2], 168)))
        confident.append(read(page_of(row)).confident)
    assert np.mean(confident) < 0.2


def test_letters_and_scribbles_arent_answered_with_confidence():
    pages = [*list(printed("ABEFHKMRTWX"))[::5], *scribbles(30)]
    assert np.mean([read(page).confident for page in pages]) < 0.2


@pytest.mark.parametrize(
    ("datasets", "of_digits"),
    [
        (["mnist"], True),
        (["mnist+digits+strokes", "emnist/digits"], True),
        (["fashion_mnist"], False),
        (["emnist/balanced"], False),
        (["mnist", "own-mnist"], False),
        (["mnist+forms"], False),
        ([], False),
    ],
)
def test_networks_that_were_trained_on_something_else_are_asked_alone(datasets, of_digits):
    """All have the classes 0 to 9."""
    letter = Image.new("L", (120, 120), 255)
    ImageDraw.Draw(letter).line([(30, 90), (60, 30), (90, 90)], 0, 7)
    facts = {"runs": [{"dataset": name} for name in datasets]}
    network = dataclasses.replace(constant_network(1, "one"), facts=facts)
    assert knows_digits(network) == of_digits
    predictor = Predictor(network)
    (lines,) = read_picture(np.asarray(letter), [predictor.predict], "digit").answers
    assert lines[0].digits[0].confident == (not of_digits)


def test_the_pretrained_networks_were_trained_on_digits():
    assert all(knows_digits(load_pretrained(name)) for name in pretrained_names())


@pytest.mark.mnist
@pytest.mark.slow
def test_the_command_draws_trains_and_writes(here, tmp_path, mnist_dir):
    flags = ("--rows=150", "--runs=runs", "-o", "out", f"--data-dir={mnist_dir}")
    (tmp_path / "out").mkdir()
    status, out, err = here(study, *flags)
    assert status == 0, err
    assert out.splitlines()[-1].startswith("of ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "rejector.json",
        "rejector.npz",
    ]


def test_a_whole_digit_among_touching_ones_is_told_from_its_parts():
    data, rng = load_dataset("digits").test, np.random.default_rng(3)
    row = study.draw_row(data.images[:2, ..., 0], rng, (0, 2))
    labels = [is_digit for _, is_digit in study.split_row(row, rng)]
    images = [image for image, _ in study.split_row(row, rng)]
    assert 1 <= sum(labels) <= 2
    assert labels[-1] is False  # both together
    assert all(image.shape == (28, 28) for image in images)
