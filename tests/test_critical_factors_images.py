"""The study of critical factors: what it does to images."""

import numpy as np
import pytest

from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from experiments.critical_factors import corruptions, preprocess


@pytest.fixture(scope="module")
def images():
    return np.asarray(load_dataset("digits").test.images[:40])


# --- corruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*corruptions.CORRUPTIONS, "off_centre"])
def test_corruptions_grow_and_are_repeatable(name, images):
    changes = []
    for severity in corruptions.SEVERITIES:
        found = corruptions.corrupt(name, images, severity)
        assert found.shape == images.shape
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, corruptions.corrupt(name, images, severity))
        changes.append(np.abs(found.astype(int) - images).mean())
    assert changes[0] > 0.5
    assert changes == sorted(changes)


def test_another_seed_changes_otherwise(images):
    a, b = (corruptions.corrupt("impulse_noise", images, 3, seed) for seed in (0, 1))
    assert (a != b).any()


@pytest.mark.parametrize("name", list(corruptions.CORRUPTIONS))
def test_an_empty_image_stays_an_image(name):
    """No division by zero; what only moves or smears ink leaves no ink."""
    empty = np.zeros((3, 28, 28, 1), np.uint8)
    found = corruptions.corrupt(name, empty, 5)
    assert found.dtype == np.uint8
    moves = ("blur", "motion_blur", "shear", "scale", "rotation", "translation", "canny_edges")
    if name in moves:
        assert not found.any()


def test_no_image_leaks_into_its_neighbour(images):
    alone = images[:1]
    pair = np.concatenate([alone, np.full_like(alone, 255)])
    for name in ("blur", "scale", "canny_edges"):
        both = corruptions.corrupt(name, pair, 5)
        np.testing.assert_array_equal(both[:1], corruptions.corrupt(name, alone, 5))


def test_inversion_and_shift_by_hand():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 14, 14] = 200
    assert corruptions.corrupt("inversion", image, 1)[0, 14, 14, 0] == 55
    y, x, _ = np.argwhere(corruptions.corrupt("off_centre", image, 3)[0])[0]
    assert max(abs(y - 14), abs(x - 14)) == 3


@pytest.mark.parametrize(("name", "severity"), [("rain", 1), ("blur", 6), ("off_centre", 9)])
def test_unknown_changes_are_named(name, severity, images):
    with pytest.raises(DigitsError, match="allowed: "):
        corruptions.corrupt(name, images, severity)


# --- preprocessing -------------------------------------------------------------------------


def test_deskewing_sets_a_leaning_stroke_upright():
    image = np.zeros((1, 21, 21, 1), np.uint8)
    for row in range(4, 17):
        image[0, row, 10 + (row - 10)] = 255  # 45 degrees, through the centre
    found = preprocess.prepare("deskewing", image)[0, :, :, 0]
    assert found[:, 10].astype(int).tolist() == [0] * 4 + [255] * 13 + [0] * 4
    assert found.sum() == 255 * 13


def test_centring_moves_the_mass_to_the_middle():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, :3, :3] = 100  # its centre is (1, 1); the image's is (4, 4)
    found = preprocess.prepare("centring", image)[0, :, :, 0]
    expected = np.zeros((9, 9))
    expected[3:6, 3:6] = 100
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", preprocess.PREPROCESSING)
def test_preprocessing_of_nothing_is_nothing(name):
    empty = np.zeros((2, 28, 28, 1), np.uint8)
    assert not preprocess.prepare(name, empty).any()
    assert np.isfinite(preprocess.pixel_numbers(name, empty)).all()


def test_standardising_gives_mean_0_and_variance_1(images):
    scale, offset = preprocess.pixel_numbers("standardising", images)
    pixels = images.astype(np.float64) * scale + offset
    assert abs(pixels.mean()) < 1e-9
    assert abs(pixels.var() - 1) < 1e-9
