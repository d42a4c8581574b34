"""Augmentation against SciPy's interpolation, NumPy's rotations and known statistics."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from digits_jax.data import augment
from digits_jax.data.augment import POLICIES, add_noise, cutout, make_augment, vary_strokes, warp
from digits_jax.errors import DataError

KEY = jax.random.key(0)
sample = jax.jit(augment._sample)


def random_images(count=3, height=28, width=28, channels=1, seed=0):
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.fixture
def extreme(monkeypatch):
    """Lets every amount that `warp` draws be the largest that its strength allows."""

    def ones(key, shape, minval):
        assert minval == -1.0
        return jnp.ones(shape)

    monkeypatch.setattr(jax.random, "uniform", ones)


# --- sampling ------------------------------------------------------------------------------


def test_sampling_is_scipys_bilinear_interpolation():
    images = random_images(count=3, height=9, width=13)
    coordinates = np.random.default_rng(1).uniform(-4, 17, (2, 3, 9, 13)).astype(np.float32)
    sampled = sample(images, *coordinates)
    for i in range(3):
        expected = scipy.ndimage.map_coordinates(
            images[i, :, :, 0], coordinates[:, i], order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(sampled[i, :, :, 0], expected, atol=1e-5)


# --- geometry ------------------------------------------------------------------------------


@pytest.mark.usefixtures("extreme")
@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"rotation_degrees": 90}, lambda x: x, lambda x: np.rot90(x, -1, axes=(1, 2))),
        ({"shift_pixels": 2}, lambda x: x[:, :-2, :-2], lambda x: x[:, 2:, 2:]),
        ({"shift_pixels": 2}, lambda x: x[:, -2:], lambda x: 0 * x[:, -2:]),
        ({"scale_factor": 2}, lambda x: x[:, 2:7, 2:7], lambda x: x[:, ::2, ::2]),
        ({"scale_factor": 2}, lambda x: x[:, 0], lambda x: 0 * x[:, 0]),
        # Each row moves by its height over the middle.
        ({"shear_degrees": 45}, lambda x: x[:, 4], lambda x: x[:, 4]),
        ({"shear_degrees": 45}, lambda x: x[:, 6, :-2], lambda x: x[:, 6, 2:]),
        ({"shear_degrees": 45}, lambda x: x[:, 1, 3:], lambda x: x[:, 1, :-3]),
    ],
)
def test_changes_of_known_size(change, found, expected):
    images = random_images(height=9, width=9)  # odd: the centre is a pixel
    changed = np.asarray(jax.jit(partial(warp, **change))(KEY, images))
    np.testing.assert_allclose(found(changed), expected(images), atol=1e-4)


def test_shifts_are_uniform_in_their_range():
    images = np.zeros((800, 15, 15, 1), np.float32)
    images[:, 7, 7] = 1
    moved = np.asarray(jax.jit(partial(warp, shift_pixels=3))(KEY, images))[..., 0]
    # Bilinear sampling keeps a dot's centre of mass.
    for axis in (1, 2):
        offsets = moved.sum(3 - axis) @ np.arange(15) - 7
        assert np.abs(offsets).max() <= 3 + 1e-5
        assert scipy.stats.kstest(offsets, scipy.stats.uniform(-3, 6).cdf).pvalue > 0.01


def test_elastic_field_has_unit_variance_and_its_smoothness():
    field = np.asarray(
        jax.jit(augment._smooth_field, static_argnums=(1, 2, 3, 4))(KEY, 2000, 20, 20, 4.0)
    )
    assert field.shape == (2, 2000, 20, 20)
    np.testing.assert_allclose(field.std(axis=(0, 1)), 1, atol=0.06)
    # White noise under a Gaussian of standard deviation s: exp(-d^2 / 4s^2) at distance d.
    products = (field[..., 4:] * field[..., :-4]).mean()
    np.testing.assert_allclose(products, np.exp(-16 / 64), atol=0.03)


# --- the contract --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "none"])
def test_augmentation_policies(policy):
    apply = jax.jit(make_augment(policy))
    images = np.tile(random_images(count=1, height=12, width=12), (6, 1, 1, 1))
    out = np.asarray(apply(KEY, images))
    assert (out.shape, out.dtype) == (images.shape, np.float32)
    assert out.min() >= 0
    assert out.max() <= 1
    # The same key gives the same images, and each image of a batch its own change.
    np.testing.assert_array_equal(apply(KEY, images), out)
    assert len({image.tobytes() for image in out}) == 6
    assert (np.asarray(apply(jax.random.key(1), images)) != out).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("size", [1, 4, 9])
def test_cutout_blanks_a_square_and_leaves_the_rest(size):
    images = 1 + random_images(count=400, height=20, width=24)  # no pixel is 0 before
    out = np.asarray(jax.jit(partial(cutout, size_pixels=size))(KEY, images))
    blank = (out == 0)[..., 0]
    np.testing.assert_array_equal(out[~blank], images[~blank])
    rows, columns = blank.any(2), blank.any(1)
    # A rectangle: every blank row is blank in the same columns.
    np.testing.assert_array_equal(blank, rows[:, :, None] & columns[:, None, :])
    heights, widths = rows.sum(1), columns.sum(1)
    assert heights.max() == widths.max() == size
    assert heights.min() >= size // 2
    # Away from the border it is whole, and its place is uniform: each row is blanked as often.
    expected = 400 * size / 20
    middle = rows.sum(0)[size : 20 - size]
    assert np.all(np.abs(middle - expected) < 5 * np.sqrt(expected))


def test_noise_is_gaussian_and_stays_in_the_range():
    images = jnp.full((50, 28, 28, 1), 0.5)
    out = np.asarray(jax.jit(partial(add_noise, noise_sd=0.1))(KEY, images))
    assert scipy.stats.kstest((out.ravel() - 0.5) / 0.1, "norm").pvalue > 1e-3
    strong = np.asarray(add_noise(KEY, images, noise_sd=2.0))
    assert (strong.min(), strong.max()) == (0, 1)


def test_the_strength_multiplies_what_a_policy_does():
    """Ten degrees twice are twenty; 1.1 times the size is a tenth more, and twice that a fifth."""
    assert make_augment("affine", 2.0).keywords == pytest.approx(
        {"rotation_degrees": 20, "scale_factor": 1.2, "shear_degrees": 16, "shift_pixels": 4}
    )
    images = random_images()
    for policy in ("elastic", "cutout", "noise"):
        none = jax.jit(make_augment(policy, 0.0))
        np.testing.assert_array_equal(none(KEY, images), images)
    assert make_augment("none") is None


def test_no_images_and_images_of_other_floats():
    for shape in ((0, 28, 28, 1), (2, 0, 5, 1)):
        empty = np.zeros(shape, np.float32)
        assert warp(KEY, empty, shift_pixels=2.0, elastic_pixels=0.5).shape == shape
    half = np.asarray(random_images(height=5, width=5), np.float16)
    for change in (
        partial(warp, rotation_degrees=5.0),
        partial(cutout, size_pixels=8),
        partial(add_noise, noise_sd=0.1),
    ):
        change = jax.jit(change)
        out = change(KEY, half)
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out, change(KEY, half.astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rotation_degrees", [-1.0, math.nan, "1", None]),
        ("shear_degrees", [-1.0]),
        ("shift_pixels", [-0.5, math.inf, 1e7]),
        ("elastic_pixels", [-2.0]),
        ("scale_factor", [0.9, math.nan, "2"]),
        ("elastic_sigma_pixels", [0, math.nan, None]),
        ("noise_sd", [-0.1]),
        ("size_pixels", [-1, 2.5]),
    ],
)
def test_wrong_strengths_are_refused(name, values):
    change = {"noise_sd": add_noise, "size_pixels": cutout}.get(name, warp)
    for value in values:
        with pytest.raises(DataError, match=f"{name}=.*: must be a"):
            change(KEY, jnp.zeros((1, 4, 4, 1)), **{name: value})


def test_wrong_policies_and_images_are_refused():
    for policy in ("flip", ["affine"]):
        with pytest.raises(DataError, match="must be one of none, shift, affine, elastic"):
            make_augment(policy)
    for strength in (-1.0, [1.0]):
        with pytest.raises(DataError, match="augment_strength="):
            make_augment("affine", strength)
    for images in (jnp.zeros((28, 28, 1)), jnp.zeros((1, 28, 28, 1), jnp.uint8)):
        with pytest.raises(AssertionError):
            warp(KEY, images)


# --- strokes -------------------------------------------------------------------------------


def test_strokes_change_as_scipys_filters(monkeypatch):
    images = random_images(count=2)
    footprint = np.ones((1, 3, 3, 1))
    for sign, rank in ((1.0, scipy.ndimage.maximum_filter), (-1.0, scipy.ndimage.minimum_filter)):
        amounts = jnp.stack([jnp.full((2, 1, 1, 1), sign), jnp.zeros((2, 1, 1, 1))])
        monkeypatch.setattr(jax.random, "uniform", lambda *_, a=amounts, **__: a)
        changed = vary_strokes(KEY, images, stroke_change=0.25, blur=1.0)
        extreme = rank(images, footprint=footprint, mode="constant")
        np.testing.assert_allclose(changed, 0.75 * images + 0.25 * extreme, atol=1e-6)
    amounts = jnp.stack([jnp.zeros((2, 1, 1, 1)), jnp.full((2, 1, 1, 1), -1.0)])
    monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: amounts)
    blurred = vary_strokes(KEY, images, stroke_change=1.0, blur=0.5)
    weights = np.outer([1, 2, 1], [1, 2, 1])[None, :, :, None] / 16
    mean = scipy.ndimage.convolve(images, weights, mode="nearest")
    np.testing.assert_allclose(blurred, (images + mean) / 2, atol=1e-6)
