"""The splits, and the embedded digits."""

import hashlib
import sys
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from digits_jax.data.datasets import load_dataset
from digits_jax.data.digits import enlarge_digits
from digits_jax.data.splits import Dataset, Split, stratified_indices, validation_indices
from digits_jax.errors import DataError

# Written down once: results on another split, or other pixels, don't compare.
VALIDATION_BEGINS = [1, 5, 35, 37, 69, 84, 97, 107]
DIGITS_SHA256 = "585f91282314e8f2a35371c7fbfe0c905d3b5b566de8b2b88ec1d77b096788fa"


def test_validation_split_never_changes():
    train, validation = validation_indices(60_000)
    assert (len(train), len(validation)) == (55_000, 5_000)
    assert validation[:8].tolist() == VALIDATION_BEGINS


@settings(deadline=None)
@given(count=st.integers(0, 400), most=st.none() | st.integers(0, 40))
def test_validation_takes_the_lowest_random_words(count, most):
    train, validation = validation_indices(count, most)
    size = min(count // 12, count if most is None else most)
    words = np.random.Philox(key=1998).random_raw(count)
    assert validation.tolist() == sorted(sorted(range(count), key=lambda i: words[i])[:size])
    assert sorted([*train, *validation]) == list(range(count))


PARTS = ["test", "train", "train", "validation", "train"] + ["test"] + ["train"] * 4


@pytest.mark.parametrize("begin_again", [True, False])
def test_stratified_split_is_even_in_every_class(begin_again):
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 37])[::-1]
    parts = stratified_indices(labels, PARTS, begin_again=begin_again)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for part, fraction in {"train": 0.7, "validation": 0.1, "test": 0.2}.items():
        for label, count in enumerate((100, 50, 37)):
            assert abs(np.sum(labels[parts[part]] == label) - fraction * count) <= 1.4
    one = stratified_indices(np.arange(12), PARTS, begin_again=begin_again)
    assert len(one["test"]) == (12 if begin_again else 3)


IMAGES, LABELS = np.zeros((4, 28, 28, 1), np.uint8), np.array([0, 1, 2, 1], np.int32)


def test_a_split_is_read_only_and_leaves_its_arrays_alone():
    images, labels = IMAGES.copy(), LABELS.copy()
    split = Split(images, labels)
    assert np.shares_memory(split.images, images)
    for array in (split.images, split.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    images[0] = labels[0] = 1
    assert repr(split) == "Split(4 images of [28, 28, 1])"
    assert Split(images, LABELS.astype(">i8")).labels.dtype == np.int32


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES[..., 0], LABELS, r"images are uint8 \[4, 28, 28\]: must be uint8 \[n, height"),
        (IMAGES.astype(float), LABELS, "images are float64"),
        (IMAGES, LABELS[:2], r"labels are int32 \[2\]: must be integers \[4\], as the images"),
        (IMAGES, LABELS.astype(np.float32), "labels are float32"),
        (IMAGES, LABELS - 1, "labels are from -1 to 1: must be from 0"),
        (IMAGES, LABELS + 999, "labels are from 999 to 1001: must be from 0 to at most 999"),
    ],
    ids=range(6),
)
def test_invalid_arrays_make_no_split(images, labels, said):
    with pytest.raises(DataError, match=said):
        Split(images, labels)


SPLIT, NONE = Split(IMAGES, LABELS), Split(IMAGES[:0], LABELS[:0])


def test_a_data_set_computes_its_sum():
    given = {"train": SPLIT, "validation": SPLIT, "test": SPLIT, "class_names": "abc"}
    mine = Dataset("mine", "1", "here", "", **given)
    arrays = (b"|u1[4, 28, 28, 1]" + IMAGES.tobytes()) + (b"<i4[4]" + LABELS.tobytes())
    assert mine.sha256 == hashlib.sha256(3 * arrays).hexdigest()
    assert Dataset("mine", "1", "here", "known", **given).sha256 == "known"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": NONE}, "train has no images: must have at least 1"),
        ({"validation": NONE}, "validation has no images"),
        ({"train": (IMAGES, LABELS)}, "train is a tuple: must be a digits_jax.Split"),
        ({"test": Split(IMAGES, LABELS + 1)}, "test has labels up to 3: must be from 0 to 2"),
        ({"class_names": ("a", "b")}, "train has labels up to 2: .* as class_names has 2"),
        ({"class_names": ("a", "b", "a")}, "class_names are 3, 2 of them different"),
        ({"class_names": ("a",)}, "must be 2 to 1,000 different names"),
        (
            {"validation": Split(IMAGES[:, :20, :20], LABELS)},
            r"validation has images of \[20, 20, 1\]: must be \[28, 28, 1\]",
        ),
    ],
    ids=range(8),
)
def test_invalid_splits_make_no_data_set(changes, said):
    given = {"train": SPLIT, "validation": SPLIT, "test": SPLIT, "class_names": "abc"} | changes
    with pytest.raises(DataError, match=said) as caught:
        Dataset("mine", "1", "here", "", **given)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def sklearn_digits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.datasets import load_digits

        return load_digits()


def test_embedded_digits_are_those_of_sklearn(sklearn_digits, monkeypatch):
    for name in ("sklearn", "tensorflow_datasets", "PIL", "scipy"):  # it needs NumPy alone
        monkeypatch.setitem(sys.modules, name, None)
    digits = load_dataset("digits")
    splits = digits.train, digits.validation, digits.test
    assert (digits.name, digits.num_classes, digits.notice) == ("digits", 10, "")
    assert digits.sha256 == DIGITS_SHA256
    rows = stratified_indices(sklearn_digits.target, PARTS, begin_again=False)
    images = enlarge_digits(sklearn_digits.images.astype(np.uint8))
    assert [len(split) for split in splits] == [1257, 180, 360]
    for split, part in zip(splits, ("train", "validation", "test"), strict=True):
        index = rows[part]
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.images, images[index])
        np.testing.assert_array_equal(split.labels, sklearn_digits.target[index])


def test_digits_look_like_mnist(sklearn_digits):
    small = sklearn_digits.images[:50].astype(np.uint8)
    large = enlarge_digits(small)[..., 0]
    rows, columns = np.mgrid[:28, :28] + 0.5
    for image, digit in zip(small, large, strict=True):
        mass = digit.sum()
        centre = (digit * rows).sum() / mass, (digit * columns).sum() / mass
        assert np.abs(np.subtract(centre, 14)).max() <= 0.5 + 1e-9
        # Pillow's bicubic has the same weights, except at the edges.
        stretched = Image.fromarray(image * np.float32(255 / 16))
        expected = np.asarray(stretched.resize((20, 20), Image.Resampling.BICUBIC))
        inner = np.clip(expected[4:16, 4:16], 0, 255)
        windows = np.lib.stride_tricks.sliding_window_view(digit, (12, 12))[4:13, 4:13]
        assert np.abs(windows - inner).max((2, 3)).min() < 0.51
    assert not enlarge_digits(np.zeros((1, 8, 8), np.uint8)).any()
