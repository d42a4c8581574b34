"""What can be wrong with files, folders and caches.

All on a data set of 120 + 24 random images that stands in for MNIST (and for EMNIST), in the
original's format and with sums registered as tfds registers them: a case takes milliseconds.
"""

import errno
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults_log import log_faults
from harness import damage, time_limit

from digits_jax.data import datasets, files, splits, tfds_prepare
from digits_jax.data.datasets import load_dataset
from digits_jax.data.originals import read_idx
from digits_jax.data.tfds_prepare import SPECS, UnavailableError
from digits_jax.errors import DigitsError

TRAIN, TEST = 120, 24
NAMES = {  # the four names, written again
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def originals(extra=0, classes=10, first=0):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", TRAIN + extra), ("test", TEST + extra)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes + first).astype(np.uint8)
    return arrays


def idx_bytes(array):
    header = struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), 1, mtime=0)


MNIST_FILES = {NAMES[part]: idx_bytes(array) for part, array in originals().items()}


def stand_in(patch, name="mnist", url="http://127.0.0.1:9/", blobs=MNIST_FILES):
    """Makes ``name`` the small data set, for this process; ``patch`` is a MonkeyPatch."""
    from tensorflow_datasets.core import utils
    from tensorflow_datasets.core.download import checksums

    spec = replace(SPECS[name], url=url, train_count=TRAIN, test_count=TEST)
    sums = {
        address: checksums.UrlInfo(
            size=utils.Size(len(blobs[file])),
            checksum=hashlib.sha256(blobs[file]).hexdigest(),
            filename=file,
        )
        for file, address in spec.urls.items()
    }
    known = checksums.get_all_url_infos()
    patch.setattr(checksums, "get_all_url_infos", lambda: known | sums)
    patch.setitem(SPECS, name, spec)
    return spec


def write_files(folder, blobs=MNIST_FILES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nobody's real data: the default folder is a fresh one, and there is no network."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    monkeypatch.setattr(datasets, "why_unreachable", lambda url: "no connection (a test)")
    return tmp_path / "home"


@pytest.fixture
def spec(monkeypatch):
    return stand_in(monkeypatch)


def forbid(patch, *names):
    for name in names:
        patch.setattr(tfds_prepare, name, lambda *_: pytest.fail("it need not be called"))


def check(dataset):
    arrays = originals()
    train, validation = splits.validation_indices(TRAIN)
    assert np.array_equal(dataset.train.images[..., 0], arrays["train_images"][train])
    assert np.array_equal(dataset.validation.images[..., 0], arrays["train_images"][validation])
    assert np.array_equal(dataset.validation.labels, arrays["train_labels"][validation])
    assert np.array_equal(dataset.test.images[..., 0], arrays["test_images"])
    assert np.array_equal(dataset.test.labels, arrays["test_labels"])
    assert dataset.test.labels.dtype == np.int32
    return dataset


def leftovers(folder):
    # os.walk, not rglob, which fails where a folder of tfds's goes while it looks.
    found = (Path(top, name) for top, folders, _ in os.walk(folder) for name in folders)
    return [path for path in found if path.name.startswith(".digits_jax-")]


# --- where it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "mnist"])
@pytest.mark.parametrize("way", ["argument", "variable"])
def test_original_files(spec, tmp_path, monkeypatch, capsys, folder, way):
    root = tmp_path / "data"
    write_files(root / folder)
    if way == "variable":
        monkeypatch.setenv("DIGITS_JAX_DATA_DIR", str(root))
    first = check(load_dataset("mnist", root if way == "argument" else None))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"preparing mnist in {root} (once) ...\n"
    assert str(root) in first.source
    assert (root / "mnist/3.0.1/dataset_info.json").is_file()
    assert not leftovers(tmp_path)

    forbid(monkeypatch, "prepare", "read_prepared", "find_files")
    second = check(load_dataset("auto", root if way == "argument" else None))
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    assert second.sha256 == first.sha256


def test_cached_start_imports_nothing_heavy(spec, tmp_path):
    load_dataset("mnist", write_files(tmp_path / "data"))
    code = (
        "import sys; from digits_jax.data.datasets import load_dataset\n"
        f"load_dataset('mnist', {str(tmp_path / 'data')!r})\n"
        "assert not {'tensorflow_datasets', 'sklearn', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_prepared_by_others(spec, tmp_path, monkeypatch, file_format):
    root = write_files(tmp_path / "data")
    ours = load_dataset("mnist", root)
    files_of_cache = datasets.cache_folder(spec, root)
    for path in [*files_of_cache.iterdir(), *root.glob("*.gz")]:
        path.unlink()
    if file_format == "tfrecord":
        as_tfrecord(root / "mnist/3.0.1")
    forbid(monkeypatch, "prepare", "find_files")
    theirs = check(load_dataset("mnist", root))
    assert theirs.sha256 == ours.sha256


def as_tfrecord(folder):
    """Rewrites a prepared data set as TensorFlow's tfds would have written it."""
    with tfds_prepare.quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(folder)
        for split in ("train", "test"):
            records = builder.as_data_source(split).data_source
            blobs = records.__getitems__(list(range(len(records))))
            framed = b"".join(struct.pack("<Q4x", len(b)) + b + b"\0\0\0\0" for b in blobs)
            (old,) = folder.glob(f"*{split}.array_record*")
            old.with_name(old.name.replace("array_record", "tfrecord")).write_bytes(framed)
            old.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


def test_stock_reader(spec, tmp_path):
    load_dataset("mnist", write_files(tmp_path / "data"))
    with tfds_prepare.quiet_tfds() as tfds:
        source = tfds.data_source("mnist", data_dir=tmp_path / "data", split="train")
        stored = source.__getitems__(list(range(TRAIN)))
    arrays = originals()
    seen = {example["image"].tobytes(): int(example["label"]) for example in stored}
    pairs = zip(arrays["train_images"], arrays["train_labels"].tolist(), strict=True)
    assert seen == {image.tobytes(): label for image, label in pairs}


@pytest.mark.parametrize("prefix", ["", "emnist"])
def test_emnist_is_turned_upright_and_counted_from_zero(tmp_path, monkeypatch, prefix):
    arrays = originals(extra=5, classes=26, first=1)
    root = tmp_path / "data"
    (root / prefix).mkdir(parents=True)
    archive = root / prefix / "gzip.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for part, array in arrays.items():
            split, kind = part.split("_")
            rank = "idx3" if kind == "images" else "idx1"
            members.writestr(
                f"gzip/emnist-letters-{split}-{kind}-{rank}-ubyte.gz", idx_bytes(array)
            )
    blobs = {"gzip.zip": archive.read_bytes()}
    stand_in(monkeypatch, "emnist/letters", "http://127.0.0.1:9/gzip.zip", blobs)
    letters = load_dataset("emnist/letters", root)
    upright = arrays["test_images"][:TEST].transpose(0, 2, 1)
    assert np.array_equal(letters.test.images[..., 0], upright)
    assert np.array_equal(letters.test.labels, arrays["test_labels"][:TEST].astype(int) - 1)
    assert letters.num_classes == 26
    assert letters.class_names[letters.test.labels[2]] == "C"
    for path in datasets.cache_folder(SPECS["emnist/letters"], root).iterdir():
        path.unlink()
    assert load_dataset("emnist/letters", root).sha256 == letters.sha256


def test_files_of_another_data_set_are_not_taken(spec, tmp_path):
    root = write_files(tmp_path / "data")
    with pytest.raises(UnavailableError, match="fashion_mnist is not in"):
        load_dataset("fashion_mnist", root)


# --- files that are wrong ------------------------------------------------------------------


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["auto", "mnist"])
@pytest.mark.parametrize("damage", ["truncated", "damaged"])
def test_damaged_file(spec, tmp_path, name, damage):
    root = write_files(tmp_path / "data")
    path = root / NAMES["train_images"]
    good = path.read_bytes()
    bad = good[:-100] if damage == "truncated" else good[:500] + b"?" + good[501:]
    path.write_bytes(bad)
    with pytest.raises(DigitsError) as error:
        load_dataset(name, root)
    message = one_line(error)
    assert not isinstance(error.value, UnavailableError)
    assert f"{path} is {damage}" in message
    assert hashlib.sha256(good).hexdigest()[:12] in message
    assert hashlib.sha256(bad).hexdigest()[:12] in message


def test_missing_file_is_named(spec, tmp_path):
    root = write_files(tmp_path / "data")
    (root / NAMES["test_labels"]).unlink()
    with pytest.raises(DigitsError, match="only 3 of the 4") as error:
        load_dataset("auto", root)
    assert NAMES["test_labels"] in one_line(error)
    assert NAMES["test_images"] not in one_line(error)


def test_damaged_prepared_data_set(spec, tmp_path):
    root = write_files(tmp_path / "data")
    load_dataset("mnist", root)
    for path in datasets.cache_folder(spec, root).iterdir():
        path.unlink()
    (path,) = (root / "mnist/3.0.1").glob("*train.array_record*")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(
        DigitsError, match=r"mnist/3\.0\.1 can't be read.*delete that folder"
    ) as error:
        load_dataset("mnist", root)
    one_line(error)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no idx", mtime=0),
        gzip.compress(b"\0\0\x08\x03\0", mtime=0),
        MNIST_FILES[NAMES["train_images"]][:-9],
    ],
)
def test_idx_that_is_none(blob):
    with pytest.raises(DigitsError, match="the file"):
        read_idx(blob, TRAIN, "the file")
    with pytest.raises(DigitsError, match="fewer than 121"):
        read_idx(MNIST_FILES[NAMES["train_images"]], TRAIN + 1, "the file")


# --- the cache -----------------------------------------------------------------------------


def damage_cache(folder, how):
    array, manifest = folder / "train_images.npy", folder / "manifest.json"
    if how == "truncated":
        array.write_bytes(array.read_bytes()[:-10])
    elif how == "absent":
        array.unlink()
    elif how == "flipped":
        data = bytearray(array.read_bytes())
        data[-1] ^= 1
        array.write_bytes(data)
    elif how == "garbage":
        manifest.write_text("{")
    elif how == "list":
        manifest.write_text("[]")
    elif how == "facts":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"facts": {}}))
    elif how == "old":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 0}))


@pytest.mark.parametrize(
    "how", ["truncated", "absent", "flipped", "garbage", "list", "facts", "old"]
)
def test_damaged_cache_is_rebuilt(spec, tmp_path, how):
    root = write_files(tmp_path / "data")
    before = load_dataset("mnist", root).sha256
    folder = datasets.cache_folder(spec, root)
    damage_cache(folder, how)
    assert datasets._from_cache(spec, root) is None
    assert check(load_dataset("mnist", root)).sha256 == before
    assert datasets._from_cache(spec, root) is not None
    assert not leftovers(tmp_path)


def test_copied_cache_is_verified_once(spec, tmp_path, monkeypatch):
    root = write_files(tmp_path / "data")
    load_dataset("mnist", root)
    for path in datasets.cache_folder(spec, root).glob("*.npy"):
        os.utime(path, (1, 1))
    forbid(monkeypatch, "prepare", "read_prepared")
    check(load_dataset("mnist", root))
    monkeypatch.setattr(files, "sha256_of_arrays", lambda _: pytest.fail("summed again"))
    check(load_dataset("mnist", root))


def test_no_room_for_the_cache(spec, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(datasets, "write_cache", full)
    check(load_dataset("mnist", write_files(tmp_path / "data")))
    assert "notice: no cache in" in capsys.readouterr().err


# --- folders that can't be written ---------------------------------------------------------


def make_read_only(patch, *folders):
    # Not by chmod: it doesn't bind root, as whom containers run.
    real = files.is_writable
    patch.setattr(datasets, "is_writable", lambda folder: folder not in folders and real(folder))


def test_read_only_folder(spec, tmp_path, home, monkeypatch):
    root = write_files(tmp_path / "data")
    make_read_only(monkeypatch, root)
    before = sorted(root.rglob("*"))
    check(load_dataset("mnist", root))
    assert sorted(root.rglob("*")) == before
    assert (home / "mnist/3.0.1").is_dir()
    forbid(monkeypatch, "prepare", "read_prepared")
    check(load_dataset("mnist", root))


def test_nothing_can_be_written(spec, tmp_path, home, monkeypatch, capsys):
    root = write_files(tmp_path / "data")
    make_read_only(monkeypatch, root, home)
    dataset = check(load_dataset("auto", root))
    assert "temporary folder" in dataset.source
    assert "for this run only" in capsys.readouterr().err
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("write() failed: No space left on device; writing x"),  # array_record's
    ],
)
def test_full_disk(spec, tmp_path, monkeypatch, error):
    def full(_):
        raise error

    root = write_files(tmp_path / "data")
    monkeypatch.setattr(tfds_prepare, "encode_png", full)
    with pytest.raises(
        DigitsError, match=r"can't be prepared in .*(No space left|is full)"
    ) as caught:
        load_dataset("mnist", root)
    one_line(caught)
    assert not leftovers(tmp_path)
    assert not tfds_prepare.is_prepared(spec, root)


def test_unpacked_files_are_named(tmp_path, home, monkeypatch):
    """They can't be verified; taking the folder for an empty one would be worse."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-images.idx3-ubyte").touch()
    for name in ("mnist", "auto"):
        with pytest.raises(DigitsError, match=r"train-images.idx3-ubyte is unpacked.* original"):
            load_dataset(name, tmp_path / "data")


# --- damage --------------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_prepared_sets(spec, tmp_path):
    """1,000 damaged files of a prepared set: each is read as it was, or refused by name."""
    tfds_prepare.prepare(spec, tmp_path, write_files(tmp_path / "files"))
    folder = tfds_prepare.prepared_folder(spec, tmp_path)
    wanted = tfds_prepare.read_prepared(spec, tmp_path)
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    tried = 1000
    for number in range(tried):
        path = list(whole)[number % len(whole)]
        kind = "bytes+json" if path.suffix == ".json" else "bytes"
        path.write_bytes(damage(whole[path], kind, f"prepared/{number}"))
        with time_limit(30):
            try:
                found = tfds_prepare.read_prepared(spec, tmp_path)
            except DigitsError as error:
                assert str(folder) in str(error), number  # noqa: PT017 - or it is right
            else:
                for name, array in wanted.items():
                    np.testing.assert_array_equal(found[name], array, str(number))
        path.write_bytes(whole[path])
    log_faults("mutated prepared data set", tried, tried)
