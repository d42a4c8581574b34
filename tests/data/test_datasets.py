"""Data sets as a caller sees them: names, splits, digits, MNIST."""

import gzip
import hashlib
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits_jax.data import digits as embedded
from digits_jax.data import splits, tfds_prepare
from digits_jax.data.datasets import DATASETS, load_dataset
from digits_jax.data.tfds_prepare import SPECS
from digits_jax.errors import DigitsError

# Written down once: results on another split, or other pixels, don't compare.
VALIDATION_BEGINS = [1, 5, 35, 37, 69, 84, 97, 107]
DIGITS_SHA256 = "585f91282314e8f2a35371c7fbfe0c905d3b5b566de8b2b88ec1d77b096788fa"
MNIST_SHA256 = "d8c5b5ec8410847a161c24e0ebd79c1e6d540f520fb32462aa8535cb4f348184"


def all_rows(split):
    return {image.tobytes() for image in split.images}


def plain_sha256(dataset):
    """The documented sum, written again."""
    total = hashlib.sha256()
    for split in (dataset.train, dataset.validation, dataset.test):
        total.update(f"|u1[{len(split)}, 28, 28, 1]".encode() + split.images.tobytes())
        total.update(f"<i4[{len(split)}]".encode() + split.labels.tobytes())
    return total.hexdigest()


# --- names and folders ---------------------------------------------------------------------


def test_names():
    assert DATASETS[0] == "auto"
    assert set(DATASETS[1:]) == {
        "mnist",
        "fashion_mnist",
        "kmnist",
        "emnist/letters",
        "emnist/balanced",
        "emnist/digits",
        "digits",
    }


@pytest.mark.parametrize(
    ("given", "hint"),
    [("minst", "mnist"), ("MNIST", "mnist"), ("emnist/leters", "emnist/letters"), ("x", "")],
)
def test_unknown_name_lists_the_allowed(given, hint):
    with pytest.raises(DigitsError) as caught:
        load_dataset(given)
    message = str(caught.value)
    assert f"--dataset={given}:" in message
    assert all(name in message for name in DATASETS)
    assert "\n" not in message
    assert (f"did you mean {hint}?" in message) if hint else ("did you mean" not in message)


@pytest.mark.parametrize("name", ["auto", "mnist", "digits"])
def test_folder_must_be_there(name, tmp_path):
    with pytest.raises(DigitsError, match="does not exist"):
        load_dataset(name, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DigitsError, match="is not a folder"):
        load_dataset(name, tmp_path / "file")


def test_folder_of_the_environment_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DigitsError, match=r"DIGITS_JAX_DATA_DIR.*does not exist"):
        load_dataset("auto")


# --- splits --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, 1000, 60_000])
def test_validation_split(count):
    train, validation = splits.validation_indices(count)
    assert len(validation) == count // 12
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(count))


def test_validation_split_never_changes():
    _, validation = splits.validation_indices(60_000)
    assert validation[:8].tolist() == VALIDATION_BEGINS


def test_stratified_split_is_even_in_every_class():
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 50, 37])[::-1]
    parts = splits.stratified_indices(labels)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, fraction in zip(parts, (0.7, 0.1, 0.2), strict=True):
        for label, count in enumerate((100, 50, 37)):
            assert abs(np.sum(labels[part] == label) - fraction * count) <= 1


# --- digits --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sklearn_digits():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.datasets import load_digits

        return load_digits()


def test_digits_are_those_of_sklearn(sklearn_digits):
    images, labels = embedded._read_digits()
    assert np.array_equal(images, sklearn_digits.images)
    assert np.array_equal(labels, sklearn_digits.target)


def test_digits(sklearn_digits):
    digits = load_dataset("digits")
    parts = digits.train, digits.validation, digits.test
    assert [len(part) for part in parts] == [1257, 180, 360]
    for part in parts:
        assert part.images.dtype == np.uint8
        assert part.images.shape == (len(part), 28, 28, 1)
        assert part.labels.dtype == np.int32
        assert not part.images.flags.writeable
        share = np.bincount(part.labels) / len(part)
        assert np.allclose(share, np.bincount(sklearn_digits.target) / 1797, atol=0.01)
    assert sum(len(all_rows(part)) for part in parts) == len(set().union(*map(all_rows, parts)))
    assert np.array_equal(
        np.sort(np.concatenate([part.labels for part in parts])), np.sort(sklearn_digits.target)
    )
    assert digits.name == "digits"
    assert digits.version == "sklearn-1797"
    assert digits.notice == ""
    assert digits.num_classes == 10
    assert digits.sha256 == plain_sha256(digits) == DIGITS_SHA256


def test_digits_look_like_mnist(sklearn_digits):
    small = sklearn_digits.images[:50].astype(np.uint8)
    large = embedded.enlarge_digits(small)[..., 0]
    rows, columns = np.mgrid[:28, :28] + 0.5
    for image, digit in zip(small, large, strict=True):
        mass = digit.sum()
        centre = (digit * rows).sum() / mass, (digit * columns).sum() / mass
        assert np.abs(np.subtract(centre, 14)).max() <= 0.5 + 1e-9
        # Pillow's bicubic has the same weights, but for the edges.
        stretched = Image.fromarray(image * np.float32(255 / 16))
        expected = np.asarray(stretched.resize((20, 20), Image.Resampling.BICUBIC))
        inner = np.clip(expected[4:16, 4:16], 0, 255)
        differences = [
            np.abs(digit[top + 4 : top + 16, left + 4 : left + 16] - inner).max()
            for top in range(9)
            for left in range(9)
        ]
        assert min(differences) < 0.51


def test_blank_digit_is_blank():
    assert not embedded.enlarge_digits(np.zeros((1, 8, 8), np.uint8)).any()


def test_digits_come_without_heavy_imports(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert len(load_dataset("digits").test) == 360


# --- tfds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_table_agrees_with_tfds(name, tmp_path):
    spec = SPECS[name]
    with tfds_prepare.quiet_tfds() as tfds:
        stock = getattr(tfds.image_classification, spec.builder)
        assert str(stock.VERSION) == spec.version
        assert stock.name == spec.base_name
        assert set(tfds_prepare.expected_sums(spec)) == set(spec.urls)
        builder = tfds_prepare._builder_class(spec, tfds)(data_dir=tmp_path, config=spec.config)
        label = builder.info.features["label"]
        if spec.config:
            assert builder.builder_config.train_examples == spec.train_count
            assert builder.builder_config.test_examples == spec.test_count
        if name == "emnist/letters":
            assert spec.class_names[0] + spec.class_names[-1] == "AZ"  # tfds declares 37
        else:
            assert label.num_classes == len(spec.class_names)
        if name in ("fashion_mnist", "kmnist"):
            assert tuple(label.names) == spec.class_names
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="session")
def mnist_root(mnist_dir, tmp_path_factory):
    """A folder with the original files, prepared once."""
    root = tmp_path_factory.mktemp("mnist_root")
    for path in Path(mnist_dir).glob("*.gz"):
        (root / path.name).symlink_to(path)
    load_dataset("mnist", root)
    return root


def read_idx_plainly(path, header):
    with gzip.open(path) as stream:
        return np.frombuffer(stream.read(), np.uint8)[header:]


@pytest.mark.mnist
def test_mnist_is_the_original(mnist_root, mnist_dir):
    mnist = load_dataset("mnist", mnist_root)
    assert mnist.class_names == tuple("0123456789")
    assert mnist.version == "3.0.1"
    assert mnist.sha256 == plain_sha256(mnist) == MNIST_SHA256
    assert [len(part) for part in (mnist.train, mnist.validation, mnist.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    trained = np.bincount(mnist.train.labels) + np.bincount(mnist.validation.labels)
    assert trained.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    tested = np.bincount(mnist.test.labels).tolist()
    assert tested == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]

    folder = Path(mnist_dir)
    test_images = read_idx_plainly(folder / "t10k-images-idx3-ubyte.gz", 16)
    assert np.array_equal(mnist.test.images.reshape(-1), test_images)
    images = read_idx_plainly(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
    labels = read_idx_plainly(folder / "train-labels-idx1-ubyte.gz", 8)
    rows = splits.validation_indices(60_000)
    for part, index in zip((mnist.train, mnist.validation), rows, strict=True):
        assert np.array_equal(part.images, images[index])
        assert np.array_equal(part.labels, labels[index])
        assert isinstance(part.images, np.memmap)


@pytest.mark.mnist
def test_auto_takes_mnist(mnist_root, monkeypatch):
    monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(mnist_root))
    mnist = load_dataset()
    assert (mnist.name, mnist.notice) == ("mnist", "")


@pytest.mark.mnist
def test_stock_tfds_reads_what_was_prepared(mnist_root):
    mnist = load_dataset("mnist", mnist_root)
    with tfds_prepare.quiet_tfds() as tfds:
        source = tfds.data_source("mnist", data_dir=mnist_root, split="test")
        assert len(source) == 10_000
        stored = source.__getitems__(list(range(200)))
    # The first labels of the stock test split as tfds publishes it.
    assert [int(example["label"]) for example in stored[:4]] == [2, 0, 4, 8]
    order = tfds_prepare.stored_order("test", 10_000)[:200]
    assert np.array_equal([example["image"] for example in stored], mnist.test.images[order])
