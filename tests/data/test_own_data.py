"""User data: every form gives the same arrays, and every mistake is one line."""

import errno
import gzip
import io
import json
import os
import re
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from pictures import encode
from PIL import Image
from programs import REPOSITORY, assert_refused, here  # noqa: F401 - a fixture
from small_mnist import check, idx_bytes, make_arrays, stand_in, write_files

from digits_jax import DataError, Dataset, TrainConfig, load_dataset, load_trained
from digits_jax import compare as compare_program
from digits_jax import evaluate as evaluate_program
from digits_jax import predict as predict_program
from digits_jax import train as train_program
from digits_jax.data import pictures
from digits_jax.evaluation import plots
from digits_jax.training.run_data import load_own_of_run
from digits_jax.vision.decode import decode_image
from digits_jax.vision.segment import read_digit


def make_digits(count=60, size=28, classes=3, seed=0):
    """Light strokes on dark paper: uint8 [count, size, size], and labels that take turns."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, size, size), np.uint8)
    for image in images:
        top, left = rng.integers(2, size // 2, 2)
        image[top : top + size // 3, left : left + 3] = rng.integers(100, 256)
    images[0, size // 2, size // 2] = 255
    return images, np.arange(count) % classes


IMAGES, LABELS = make_digits()
TEST_IMAGES, TEST_LABELS = make_digits(12, seed=1)


def digest(dataset):
    return dataset.sha256, dataset.class_names


# --- arrays ----------------------------------------------------------------------------------


def test_what_is_not_given_is_taken_from_train(capsys):
    mine = Dataset.from_arrays((IMAGES, LABELS), class_names=("a", "b", "c"))
    assert [len(split) for split in (mine.train, mine.validation, mine.test)] == [48, 6, 6]
    assert (mine.name, mine.class_names) == ("mine", ("a", "b", "c"))
    for split in (mine.train, mine.validation, mine.test):
        assert np.bincount(split.labels).tolist() == [len(split) // 3] * 3
    found = {
        image.tobytes() for s in (mine.train, mine.validation, mine.test) for image in s.images
    }
    assert found == {image.tobytes() for image in IMAGES}
    line = "note: mine: divided 8:1:1 within each class, always in the same way: "
    assert capsys.readouterr().err == line + "48 train, 6 validation, 6 test images\n"
    again = Dataset.from_arrays((IMAGES, LABELS), (TEST_IMAGES, TEST_LABELS))
    assert [len(split) for split in (again.train, again.validation, again.test)] == [54, 6, 12]
    np.testing.assert_array_equal(again.test.images[..., 0], TEST_IMAGES)
    assert "divided 9:1" in capsys.readouterr().err
    Dataset.from_arrays(
        (IMAGES, LABELS), (TEST_IMAGES, TEST_LABELS), validation=(TEST_IMAGES, TEST_LABELS)
    )
    assert capsys.readouterr().err == ""


def test_arrays_of_any_kind_are_the_same_data():
    given = {
        "with channels": IMAGES[..., None],
        "flat": IMAGES.reshape(60, 784),
        "int64": IMAGES.astype(np.int64),
        "from 0 to 1": IMAGES / 255,
        "float32": IMAGES.astype(np.float32),
        "grey in colours": IMAGES[..., None].repeat(3, -1),
        "dark on light": 255 - IMAGES,
        "lists": IMAGES.tolist(),
        "JAX": jnp.array(IMAGES),
        "pandas": pd.DataFrame(IMAGES.reshape(60, -1)),
    }
    expected = digest(Dataset.from_arrays((IMAGES, LABELS)))
    for kind, images in given.items():
        labels = pd.Series(LABELS) if kind == "pandas" else LABELS[:, None].astype(float)
        assert digest(Dataset.from_arrays((images, labels))) == expected, kind


def test_colours_become_grey(capsys):
    colours = np.zeros((60, 28, 28, 3), np.uint8)
    colours[:, 5:20, 14] = [255, 0, 0]
    mine = Dataset.from_arrays((colours, LABELS))
    assert np.unique(mine.train.images).tolist() == [0, 76]  # 0.299 of 255
    assert "note: mine: the colours of train images become grey\n" in capsys.readouterr().err


def test_binary_images_become_0_and_255():
    binary = IMAGES > 50
    for images in (binary, binary.astype(int)):
        mine = Dataset.from_arrays((images, LABELS))
        assert np.unique(mine.train.images).tolist() == [0, 255]


def test_labels_are_numbers_or_text():
    letters = np.array(["10", "9", "b"])[LABELS]
    mine = Dataset.from_arrays((IMAGES, letters))
    assert mine.class_names == ("9", "10", "b")
    order = np.argsort([1, 0, 2])
    assert mine.sha256 == Dataset.from_arrays((IMAGES, order[LABELS])).sha256
    gaps = Dataset.from_arrays((IMAGES, LABELS * 7 + 1))
    assert (gaps.class_names, gaps.train.labels.max()) == (("1", "8", "15"), 2)


def test_other_sizes_and_light_paper_are_said(capsys):
    images = np.full((30, 84, 42), 240, np.uint8)
    images[:, 21:63, 18:24] = 20
    mine = Dataset.from_arrays((images, np.arange(30) % 2))
    notes = capsys.readouterr().err
    assert "note: mine: most images have a light background: all are inverted\n" in notes
    assert "note: mine: 84x42 images are scaled to 28x28\n" in notes
    (image,) = {image.tobytes() for image in mine.train.images}
    image = np.frombuffer(image, np.uint8).reshape(28, 28)
    # A third of the size: rows 7 to 20, columns 6 and 7 of 14, with 7 on either side.
    assert set(image[:, :12].ravel()) == set(image[:, 16:].ravel()) == {15}
    np.testing.assert_allclose(image[9:19, 13:15], 223, atol=13)  # it is blurred a little


WRONG_TRAIN = [
    ((IMAGES[0], LABELS), "train images is [28, 28]: must be [n, height, width]"),
    ((IMAGES[..., None].repeat(4, -1), LABELS), "train images is [60, 28, 28, 4]"),
    ((IMAGES.reshape(60, 784)[:, :780], LABELS), "train images is [60, 780]: must be"),
    ((IMAGES[:0], LABELS[:0]), "train images is [0, 28, 28]: must have 1 to 1,000,000 images"),
    ((IMAGES - 0.5, LABELS), "train images is from -0.5 to 254.5: must be from 0 to 1, or"),
    ((IMAGES.astype(int) * 9, LABELS), "train images is from 0 to 2295: must be from 0 to 1"),
    ((np.where(IMAGES, np.nan, 0), LABELS), "train images holds NaN or infinity: must be"),
    ((IMAGES * 0, LABELS), "train images is 0 everywhere: must hold something"),
    ((IMAGES.astype(str), LABELS), "train images is <U3: must be bool, integers or floats"),
    (([[1, 2], [3]], LABELS), "train images is no array (setting an array element"),
    ((IMAGES, LABELS[:50]), "train labels is [50]: must be [60], one label for each image"),
    ((IMAGES, np.eye(3)[LABELS]), "train labels is [60, 3]: must be [60]"),
    ((IMAGES, LABELS - 1), "train labels is from -1 to 1: must be 0 or more"),
    ((IMAGES, LABELS + 0.5), "train labels holds 0.5: must be whole numbers or text"),
    ((IMAGES, np.where(LABELS, np.nan, 0)), "train labels holds nan: must be whole numbers"),
    ((IMAGES, [None] * 60), "train labels is object: must be whole numbers or text"),
    ((IMAGES, [" "] * 60), "train labels holds an empty text: must name a class"),
    ((IMAGES, LABELS * 0 + 7), "labels: the number of classes is 1 (7): must be 2 to 1,000"),
    (
        (IMAGES.repeat(20, 0), np.arange(1200)),
        "labels: the number of classes is 1,200 (0, 1, 2, 3, 4, ...): must",
    ),
    ((IMAGES[:4], LABELS[:4]), "train has 4 images: too few to take validation from"),
    (IMAGES, "train is a ndarray: must be (images, labels)"),
]
WRONG_OTHERS = [
    (
        {"test": (IMAGES, LABELS), "class_names": "ab"},
        "train labels have 2: must be 0 to 1, as there are 2",
    ),
    ({"class_names": "abcd"}, "train has no example of the class d: must have at least 1"),
    ({"test": (IMAGES[:, :20], LABELS)}, "images have several sizes (train 28x28, test 20x28)"),
    (
        {"test": (255 - IMAGES, LABELS)},
        "images with a light background are 0% of train, 100% of test: splits must be alike",
    ),
    ({"class_names": 3}, "class_names=3: must be a list of names"),
    ({"name": "mnist"}, "name=mnist: must be of letters, digits, - and _, and not another"),
    ({"name": "../up"}, "name=../up: must be of letters"),
]
WRONG_ARRAYS = [({"train": train}, said) for train, said in WRONG_TRAIN] + WRONG_OTHERS


@pytest.mark.parametrize(("given", "said"), WRONG_ARRAYS, ids=range(len(WRONG_ARRAYS)))
def test_wrong_arrays_are_one_line(given, said):
    with pytest.raises(DataError) as caught:
        Dataset.from_arrays(**{"train": (IMAGES, LABELS), **given})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


# --- arrays in files -------------------------------------------------------------------------


def csv_text(images, labels=None):
    rows = images.reshape(len(images), -1).astype(int).tolist()
    if labels is not None:
        rows = [[label, *row] for label, row in zip(labels.tolist(), rows, strict=True)]
    return "\n".join(",".join(map(str, row)) for row in rows)


NPZ = {"npz": "images labels", "npz keras": "x_train y_train", "npz sklearn": "data target"}
IDX = {
    "idx": "{}-{}-idx{}-ubyte",
    "idx gz": "{}-{}-idx{}-ubyte.gz",
    "idx kaggle": "{}-{}.idx{}-ubyte",
    "idx torchvision": "MNIST/raw/{}-{}-idx{}-ubyte",
}


def write_form(form, root, train, test=None):
    """Writes (images, labels) in a form; returns its path."""
    root.mkdir(parents=True, exist_ok=True)
    if form in NPZ:
        arrays = dict(zip(NPZ[form].split(), train, strict=True))
        if test:
            arrays |= {"x_test": test[0], "y_test": test[1]}
        np.savez(root / "some.npz", **arrays)
        return root / "some.npz"
    if form == "csv":
        (root / "train.csv").write_text(csv_text(*train))
        if not test:
            return root / "train.csv"
        (root / "mnist_test.csv").write_text(csv_text(*test))
        (root / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
        return root
    for part, pair in (("train", train), ("t10k", test)):
        for what, rank, array in zip(("images", "labels"), (3, 1), pair or (), strict=False):
            path = root / IDX[form].format(part, what, rank)
            path.parent.mkdir(parents=True, exist_ok=True)
            packed = idx_bytes(array.astype(np.uint8))
            path.write_bytes(packed if path.suffix == ".gz" else gzip.decompress(packed))
    return root


@pytest.mark.parametrize("form", [*NPZ, "csv", *IDX])
def test_every_form_holds_the_same_data(tmp_path, form, capsys):
    path = write_form(form, tmp_path / "Some data", (IMAGES, LABELS))
    mine = load_dataset(path)
    assert digest(mine) == digest(Dataset.from_arrays((IMAGES, LABELS)))
    assert (mine.path, mine.source) == (str(path), str(path))
    assert mine.name == ("some" if form in NPZ else "Some-data")  # no data set is called "train"
    assert "divided 8:1:1" in capsys.readouterr().err
    both = write_form(form, tmp_path / "both", (IMAGES, LABELS), (TEST_IMAGES, TEST_LABELS))
    expected = Dataset.from_arrays((IMAGES, LABELS), (TEST_IMAGES, TEST_LABELS))
    assert digest(load_dataset(both)) == digest(expected)


def test_genuine_mnist_is_recognized(small, tmp_path):
    arrays = make_arrays()
    pairs = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
    for form in ("npz", "csv", "idx"):
        path = write_form(form, tmp_path / form, *pairs)
        mnist = check(load_dataset(path))
        assert (mnist.name, mnist.version, mnist.path) == ("mnist", "3.0.1", str(path))
        assert mnist.notes == ()
    found = check(load_dataset("auto", path))
    assert (found.name, found.path, found.sha256) == ("mnist", "", mnist.sha256)
    x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    whole = (x.reshape(-1, 784) / 255, y.astype(str).astype(float))  # as scikit-learn has it
    assert check(Dataset.from_arrays(whole)).name == "mnist"
    x[3, 14, 14] ^= 1
    assert load_dataset(write_form("npz", tmp_path, (x, y))).name == "some"


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


IDX_FILE = gzip.decompress(idx_bytes(IMAGES))
WRONG_FILES = {
    "a.docx": (b"?", "is a file of another kind; give a folder of class folders, a .csv"),
    "b.npz": (npz(pictures=IMAGES), "holds pictures: must hold images and labels, x_train"),
    "c.npz": (npz(images=IMAGES, labels=LABELS[1:]), "train labels is [59]: must be [60]"),
    "d.npz": (npz(images=np.array([{}]), labels=LABELS), "isn't an intact .npz file"),
    "b.csv": (csv_text(IMAGES).encode(), "has no labels: must have a column label"),
    "train-images-idx3-ubyte": (IDX_FILE, "is one IDX file; give the folder"),
    "idx/train-images-idx3-ubyte": (IDX_FILE, "holds IDX files, but no train labels"),
    "empty/.hidden": (b"", "holds 0 folders and 1 files, but no pictures in class folders"),
    "loose/3.png": (b"", "holds 0 folders and 1 files, but no pictures in class folders"),
    "text/a/3.png": (b"?", "no picture can be read; the first: a/3.png: is not a readable picture"),
    "mixed/train/a.txt": (b"", "holds 1 folders and 0 files, but no pictures in class folders"),
    "parts/test/a/1.png": (b"", "but no pictures in class folders under train"),
    "odd/train-labels-idx1-ubyte": (struct.pack(">4BI", 0, 0, 13, 1, 0), "isn't an IDX file"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_are_one_line(tmp_path, home, name):
    content, said = WRONG_FILES[name]
    path = tmp_path / "given" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    given = tmp_path / "given" / name.split("/")[0]
    before = sorted((tmp_path / "given").rglob("*"))
    with pytest.raises(DataError) as caught:
        load_dataset(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted((tmp_path / "given").rglob("*")) == before
    assert not home.exists()


def test_paths_and_options_that_cannot_be_used(tmp_path):
    for name in (tmp_path / "nowhere", "train.csv", "~/nowhere", "~nobody-of-that-name/x.csv"):
        with pytest.raises(DataError, match="no such file or folder; give a folder of class"):
            load_dataset(name)
    np.savez(tmp_path / "some.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(DataError, match="input=stream: your own data is read into memory"):
        load_dataset(tmp_path / "some.npz", input="stream")
    with pytest.raises(DataError, match="picture=photo: must be ink or resize"):
        load_dataset(tmp_path / "some.npz", picture="photo")
    assert TrainConfig(dataset=tmp_path).dataset == str(tmp_path)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(DataError, match=r"pipe\.npz: can't be read \(not a regular file\)"):
        load_dataset(tmp_path / "pipe.npz")


@pytest.mark.parametrize("name", ["auto", "mnist"])
def test_a_folder_without_mnist_does_not_train_on_something_else(small, tmp_path, name):
    np.savez(tmp_path / "mnist.npz", images=IMAGES, labels=LABELS)
    with pytest.raises(
        DataError, match=r"mnist: .*mnist\.npz isn't the original; for your own data"
    ):
        load_dataset(name, tmp_path)
    (tmp_path / "mnist.npz").rename(tmp_path / "some.npz")
    said = f"data_dir={tmp_path}: holds no mnist; give dataset=" if name == "auto" else "downloaded"
    with pytest.raises(DataError, match=said):
        load_dataset(name, tmp_path)


# --- pictures --------------------------------------------------------------------------------


def drawn(number, kind="PNG", size=(90, 70)):
    """A dark stroke on light, uneven paper."""
    paper = np.broadcast_to(np.linspace(200, 230, size[1]), size).copy()
    paper[15 : 40 + number, 20 + 2 * number : 26 + 2 * number] = 30
    return encode(paper.astype(np.uint8), kind)


def write_pictures(root, count=12, classes=("b", "a", "10", "9")):
    for name in classes:
        for number in range(count):
            path = root / name / ("deeper" if number % 2 else ".") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(drawn(number))
    return root


def test_class_folders(tmp_path, capsys, monkeypatch):
    root = write_pictures(tmp_path / "my pictures")
    (root / "a" / "0.png").write_bytes(drawn(0)[:80])
    (root / "a" / "1.jpg").write_bytes(drawn(1, "JPEG"))
    Image.new("L", (30, 30), 255).save(root / "b" / "white.png")
    (root / "b" / "notes.txt").write_text("not a picture")
    (root / "b" / ".hidden.png").write_bytes(b"")
    (root / "stray.png").write_bytes(drawn(0))
    (root / "README.md").write_text("about")
    secret = tmp_path / "secret.png"
    secret.write_bytes(drawn(0))
    (root / "b" / "link.png").symlink_to(secret)
    (root / "b" / "link").symlink_to(tmp_path)
    (root / "b" / "inside.png").symlink_to(root / "9" / "0.png")
    os.mkfifo(root / "9" / "pipe.png")
    (root / "empty").mkdir()
    mine = load_dataset(root, root)  # where the cache is, too
    assert (mine.name, mine.class_names) == ("my-pictures", ("9", "10", "a", "b"))
    splits = (mine.train, mine.validation, mine.test)
    assert [len(split) for split in splits] == [40, 5, 4]
    found = {(i.tobytes(), int(n)) for s in splits for i, n in zip(s.images, s.labels, strict=True)}
    for number in range(1, 12):  # a/0.png is damaged
        image = read_digit(decode_image(drawn(number), "x")).tobytes()
        assert {label for digit, label in found if digit == image} == {0, 1, 2, 3}
    err = capsys.readouterr().err
    for line in (
        "a/0.png: can't be decoded",
        "b/white.png: holds no ink",
        "b/notes.txt: is not a readable picture",
        "stray.png: is in no class folder",
        "b/link.png: is a link out of the folder",
        "b/link: is a link to a folder",
        "9/pipe.png: is no regular file",
        "empty: holds no picture",
    ):
        assert f"note: my-pictures: left out: {line}" in err
    assert err.count("left out") == 8

    # Again, from the cache: with the same lines, and without decoding.
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "read_digit", None)
        again = load_dataset(root, root)
    assert digest(again) == digest(mine)
    assert capsys.readouterr().err == err
    (root / "a" / "0.png").write_bytes(drawn(0))
    changed = load_dataset(root, root)
    assert len(list((root / "digits_jax_cache").iterdir())) == 1
    assert len(changed.train) + len(changed.validation) + len(changed.test) == 50


def test_resized_pictures_and_given_splits(tmp_path):
    root = tmp_path / "own"
    for part, count in (("Training", 6), ("valid", 2), ("test", 3)):
        for name in ("0", "1"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                page = np.full((56, 56), 250, np.uint8)
                page[20:40, 20 + number : 28 + number] = 10
                Image.fromarray(page).save(root / part / name / f"{number}.png")
    (root / "test/0/link.png").symlink_to("../../Training/0/0.png")  # inside the folder
    mine = load_dataset(root, picture="resize")
    assert [len(split) for split in (mine.train, mine.validation, mine.test)] == [12, 4, 7]
    assert mine.notes == ("most images have a light background: all are inverted",)
    image = mine.test.images[0, ..., 0]
    assert (image[:9] == 5).all()
    np.testing.assert_allclose(image[12:18, 12], 245, atol=1)
    # As predict reads them the strokes are larger, and centred.
    assert load_dataset(root).test.images[0, 6, 14, 0] > 200


def test_what_links_name_is_read_again_when_it_changes(tmp_path):
    """As in the caches of Hugging Face, whose files are links."""
    (tmp_path / "folder").mkdir()
    for link in ("train.csv", "folder/train.csv"):
        (tmp_path / link).symlink_to(tmp_path / "real.csv")
    for labels in (LABELS, LABELS[::-1]):
        table = np.column_stack([labels, IMAGES.reshape(len(labels), -1)])
        np.savetxt(tmp_path / "real.csv", table, "%d", ",")
        for path in (tmp_path / "train.csv", tmp_path / "folder"):
            assert digest(load_dataset(path)) == digest(load_dataset(tmp_path / "real.csv"))


def test_a_picture_that_cannot_be_read_at_the_moment_is_not_left_out(tmp_path, monkeypatch):
    """A data set without it would be cached, and trained on at every later start."""
    write_pictures(tmp_path / "own", count=4, classes=("a", "b"))
    number = errno.ETIMEDOUT

    def fail(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "open_regular", fail)
        with pytest.raises(DataError, match=r"a.0\.png: can't be read \(Connection timed out\)"):
            load_dataset(tmp_path / "own")
    assert load_dataset(tmp_path / "own").notes[0].startswith("divided")


def test_a_folder_that_cannot_be_listed_is_no_missing_class(tmp_path, monkeypatch):
    write_pictures(tmp_path / "own", count=4, classes=("a", "b", "locked"))
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"own.locked: can't be read \(Permission denied\)"):
        load_dataset(tmp_path / "own")
    found = list(predict_program._find_files([str(tmp_path / "own")]))
    assert len(found) == 9
    assert found[-1] == str(tmp_path / "own/locked")


def test_arrays_that_are_not_taken_are_said(tmp_path):
    np.savez(tmp_path / "some.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, extra=LABELS)
    notes = load_dataset(tmp_path / "some.npz").notes
    assert notes[:2] == ("left out: the array x_test", "left out: the array extra")


def test_folders_that_contradict_each_other(tmp_path):
    root = write_pictures(tmp_path / "own", classes=("train", "a"))
    with pytest.raises(DataError, match="own: holds a, train: must hold train, validation and"):
        load_dataset(root)


def test_mixed_with_another_data_set(tmp_path):
    root = write_pictures(tmp_path / "mine", count=6, classes="0123456789")
    both = load_dataset(f"digits+{root}", mix=(1, 2))
    assert (both.name, both.path) == ("digits+mine", f"digits+{root}")
    assert len(both.train) == 1257 + 2 * 40
    describe(tmp_path / "run", name=both.name, path=both.path, mix=[1, 2])
    again = load_own_of_run(tmp_path / "run")
    assert (again.name, again.sha256) == (both.name, both.sha256)


# --- a run on it -----------------------------------------------------------------------------


def describe(run, *, name, path, **config):
    """Writes what is needed of a run's config.json."""
    run.mkdir(exist_ok=True)
    described = {"config": config, "dataset": {"name": name, "path": str(path)}}
    (run / "config.json").write_text(json.dumps(described))
    return run


def test_where_a_runs_data_are(tmp_path):
    np.savez(tmp_path / "some.npz", images=IMAGES, labels=LABELS)
    own = digest(load_dataset(tmp_path / "some.npz"))
    run = describe(tmp_path / "run", name="renamed", path=tmp_path / "some.npz")
    found = load_own_of_run(run)
    assert (found.name, digest(found)) == ("renamed", own)
    inside = (tmp_path / "some.npz").rename(run / "some.npz")
    with pytest.raises(DataError, match="was trained on it, and it is gone"):
        load_own_of_run(run)
    assert digest(load_own_of_run(run, str(inside))) == own
    # A run from elsewhere may bring its own data; and genuine MNIST may be found elsewhere.
    assert load_own_of_run(describe(run, name="some", path=inside)) is None
    assert load_own_of_run(describe(run, name="mnist", path=tmp_path / "gone")) is None
    assert load_own_of_run(describe(run, name="digits", path="")) is None
    assert load_own_of_run(tmp_path) is None
    # An untrusted config.json may hold anything.
    (run / "config.json").write_text("[]")
    assert load_own_of_run(run) is None
    (run / "config.json").write_text('{"dataset": {"path": "digits+digits"}, "config": 1}')
    assert len(load_own_of_run(run).train) == 2 * 1257


QUICK = ("--arch=mlp", "--preset=quick", "--hidden-sizes=16", "--epochs=1")


def test_a_run_on_ones_own_data(here, tmp_path, monkeypatch):  # noqa: F811
    root = write_pictures(tmp_path / "pictures")
    status, out, err = here(train_program, "--dataset=pictures", *QUICK, "--workdir=run")
    assert (status, err) == (0, "note: pictures: " + err.partition("note: pictures: ")[2])
    assert "data     pictures: 40 training, 4 validation, 4 test images" in out
    assert "2 steps of 32 images" in out  # fewer images than the preset's batch has
    described = json.loads((tmp_path / "run/config.json").read_text())
    assert described["config"]["dataset"] == described["dataset"]["name"] == "pictures"
    assert described["dataset"]["path"] == str(root)
    results = json.loads((tmp_path / "run/results.json").read_text())
    pictures = load_dataset(root)
    assert results["dataset_sha256"] == described["dataset"]["sha256"] == pictures.sha256
    status, out, _ = here(evaluate_program, "run", "--json")
    assert json.loads(out)["test_accuracy"] == results["test_accuracy"]
    status, out, _ = here(train_program, "--config=run", "--seed=1", "--workdir=other")
    assert (status, "pictures: 40 training" in out) == (0, True)
    compare = (compare_program, "run", "other", "--resamples=100")
    shown = []  # the images from which a report draws figures
    monkeypatch.setattr(plots, "comparison_figures", lambda *given: shown.append(given[1]) or {})
    assert here(*compare, "-o", "shown")[::2] == (0, err)
    np.testing.assert_array_equal(shown.pop(), pictures.test.images)

    moved = root.rename(tmp_path / "elsewhere")
    setup, state = load_trained("run", devices=1)
    assert (setup.total_steps, len(setup.dataset.test)) == (int(state.step), 4)
    assert "it is gone" in setup.dataset.notice
    status, _, said = here(*compare, "-o", "not shown")
    assert (status, said.startswith("note: The misclassified images aren't shown: ")) == (0, True)
    assert shown == [None]
    for program, flags in (
        (evaluate_program, ["run"]),
        (train_program, ["--resume", "--workdir=run"]),
    ):
        assert_refused(
            here(program, *flags), f"{root}: run was trained on it, and it is gone; give"
        )
        status, out, err = here(program, *flags, f"--dataset={moved}")
        assert (status, "error" in err) == (0, False)
    (moved / "a/0.png").unlink()
    status, out, err = here(evaluate_program, "run", f"--dataset={moved}")
    assert "was trained on another version of 'pictures'" in err


def test_a_mistake_writes_nothing(here, tmp_path):  # noqa: F811
    np.savez(tmp_path / "bad.npz", images=IMAGES, labels=LABELS - 1)
    np.savez(tmp_path / "few.npz", images=IMAGES, labels=LABELS)
    for flags, said in (
        (["--dataset=bad.npz"], "train labels is from -1 to 1"),
        (["--dataset=few.npz", "--batch-size=64"], "error: --batch-size=64: few has 48 training"),
    ):
        status, out, err = here(train_program, *flags, *QUICK, "--workdir=run")
        assert (status, "Traceback" in out + err, said in err) == (2, False, True)
        assert not (tmp_path / "run").exists()


def test_the_same_names_mean_the_same_data(tmp_path, monkeypatch):
    """A folder that is called as a known data set is given by its path."""
    stand_in(monkeypatch)
    write_files(tmp_path / "data")
    write_pictures(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    check(load_dataset("mnist", "data"))
    assert load_dataset("./mnist").name == "own-mnist"


def test_hugging_faces_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    pairs = [(IMAGES, LABELS), (TEST_IMAGES, TEST_LABELS)]
    train, test = (
        datasets.Dataset.from_dict(
            {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()},
            features=datasets.Features(kinds),
        )
        for images, labels in pairs
    )
    train.save_to_disk(tmp_path / "one")
    train.to_parquet(tmp_path / "one.parquet")
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "both")
    for name, rows in (("train", train), ("test", test)):
        rows.to_parquet(tmp_path / f"hub/mnist/{name}-00000-of-00001.parquet")
    one = digest(Dataset.from_arrays(pairs[0], class_names="abc"))
    both = digest(Dataset.from_arrays(*pairs, class_names="abc"))
    for name, expected in {"one": one, "one.parquet": one, "both": both, "hub": both}.items():
        assert digest(load_dataset(tmp_path / name)) == expected
    (tmp_path / "bad.parquet").write_bytes(b"?")
    with pytest.raises(DataError, match=r"bad\.parquet: can't be read"):
        load_dataset(tmp_path / "bad.parquet")
    train.remove_columns("label").save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match="has the columns image: must be train, validation or test"):
        load_dataset(tmp_path / "none")


def test_hugging_faces_pictures_are_decoded_by_us(tmp_path):
    """That library opens any file or URL that a parquet file names, and Pillow's errors escape."""
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    kinds = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    about = {"huggingface": json.dumps({"info": {"features": kinds}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    outside = tmp_path / "outside.png"
    outside.write_bytes(encode(IMAGES[0]))
    pictures = [{"bytes": encode(image)} for image in IMAGES]
    for last, message in (
        (pictures[-1], None),
        ({"path": str(outside)}, "image 60: isn't in the file, which names another"),
        (None, "its images have several sizes"),
        ({"bytes": b"?"}, "image 60: is not a readable picture"),
    ):
        columns = [pa.array([*pictures[:-1], last], kind), pa.array(LABELS % 2)]
        table = pa.table(columns, ["image", "label"]).replace_schema_metadata(about)
        parquet.write_table(table, tmp_path / "some.parquet")
        if message is None:
            wanted = Dataset.from_arrays((IMAGES, LABELS % 2), class_names="ab")
            assert digest(load_dataset(tmp_path / "some.parquet")) == digest(wanted)
        else:
            with pytest.raises(DataError, match=rf"some\.parquet: {message}"):
                load_dataset(tmp_path / "some.parquet")


def test_libraries_that_are_not_installed_are_named(tmp_path, monkeypatch):
    (tmp_path / "some.parquet").write_bytes(b"?")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "digits_jax\[huggingface\]"'):
        load_dataset(tmp_path / "some.parquet")
    monkeypatch.delitem(sys.modules, "digits_jax.data.tfds", raising=False)
    monkeypatch.delattr("digits_jax.data.tfds", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r'pip install "digits_jax\[tfds\]"'):
        load_dataset("tfds/own", tmp_path)


@pytest.mark.slow
def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    """User arrays, and a custom tfds set without TensorFlow."""
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
    arrays, prepare = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(arrays, {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "1.0"
    exec(prepare, {"__name__": "__main__"})
    data = load_dataset("tfds/my_digits", tmp_path / "data", input="stream")
    assert (len(data.train), len(data.validation), len(data.test)) == (92, 8, 20)
