"""CSV files of images: read as a stream, or refused with the line that is wrong."""

import gzip

import numpy as np
import pytest

from digits_jax.data import tables
from digits_jax.data.tables import read_csv, read_csv_images
from digits_jax.errors import DataError

# Dark paper, light ink, 3x3.
IMAGES = np.zeros((5, 3, 3), np.uint8)
IMAGES[:, 1, 1] = [255, 200, 150, 7, 1]
LABELS = [3, 0, 1, 2, 3]
HEADER = ",".join(f"pixel{i}" for i in range(9))


def rows(images=IMAGES, labels=None, separator=","):
    lines = [separator.join(map(str, image.ravel().tolist())) for image in images]
    if labels is not None:
        lines = [f"{label}{separator}{line}" for label, line in zip(labels, lines, strict=True)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (rows(), None),
        (rows(labels=LABELS), LABELS),
        (rows(labels=LABELS, separator=";"), LABELS),
        (rows(labels="abcda"), list("abcda")),
        (f"{HEADER}\r\n" + rows().replace("\n", "\r\n"), None),
        (f"\ufefflabel,{HEADER}\n\n" + rows(labels=[f'"{n}.0"' for n in LABELS]), LABELS),
        (f"id,{HEADER}\n" + rows(labels=[5, 6, 7, 8, 9]), None),
        (f"{HEADER},class\n" + rows().replace("\n", ",up\n"), ["up"] * 5),
    ],
    ids=range(8),
)
def test_csv_layouts(tmp_path, text, labels):
    path = tmp_path / "some.csv"
    path.write_text(text, encoding="utf-8", newline="")
    images, found = read_csv(path)
    np.testing.assert_array_equal(images, IMAGES)
    assert (found if found is None else found.tolist()) == labels
    (tmp_path / "some.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_csv(tmp_path / "some.csv.gz")[0], IMAGES)


@pytest.mark.parametrize("block", [20, 6_000_000])
def test_floats_are_from_0_to_1_or_from_0_to_255(tmp_path, monkeypatch, block):
    monkeypatch.setattr(tables, "_CHARACTERS", block)
    path = tmp_path / "some.csv"
    path.write_text(rows(IMAGES / np.float64(255)))
    np.testing.assert_array_equal(read_csv(path)[0], IMAGES)
    path.write_text(rows(IMAGES + np.float64(0)))
    np.testing.assert_array_equal(read_csv(path)[0], IMAGES)


def test_images_for_a_network(tmp_path):
    """As Kaggle's test.csv, and inverted."""
    images = np.zeros((3, 28, 28), np.uint8)
    images[:, 5:20, 14] = 200
    for written in (images, 255 - images):
        (tmp_path / "test.csv").write_text(rows(written))
        np.testing.assert_array_equal(read_csv_images(tmp_path / "test.csv")[..., 0], images)
    small = rows(IMAGES)
    (tmp_path / "test.csv").write_text(small)
    assert read_csv_images(tmp_path / "test.csv").shape == (5, 28, 28, 1)


BAD = rows(labels=LABELS)
MISTAKES = [
    ("", "is empty; give rows of pixels"),
    (f"label,{HEADER}\n", "has no rows"),
    ("1,2,3\n4,5,6\n", "has 3 columns: must be the pixels of square images (784 of 28x28)"),
    ("label,a,b,c\n1,2,3,4\n", "has 4 columns, 3 without label and id"),
    (BAD.replace("200", "2oo"), "line 2, column 6 is 2oo: must be a number from 0 to 255"),
    (BAD.replace("200", ""), "line 2, column 6 is empty: must be a number"),
    (BAD.replace("200", "nan"), "line 2, column 6 is nan: must be a number"),
    (BAD.replace("200", "-1"), "line 2, column 6 is -1: must be"),
    (BAD.replace("200", "256"), "line 2, column 6 is 256: must be"),
    (BAD + "1,2\n", "line 6 has 2 cells: must be 10, as above"),
    (f"label,{HEADER}\n{BAD}".replace("\n1,", "\n,"), "row 3 has no label"),
    ("\0" * 300, "has 1 columns"),
    ("7" * 2_000_001, "line 1 is too long"),
    (f"label,{HEADER}\n" + rows(labels=["x" * 300] * 5), "the label xxx"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_one_line(tmp_path, text, said):
    path = tmp_path / "some.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "most"), [("MAX_IMAGES", 4000), ("MAX_ARRAY_BYTES", 36_000)])
def test_too_many_rows_are_refused_at_once(tmp_path, monkeypatch, name, most):
    path = tmp_path / "some.csv"
    path.write_text(rows(labels=LABELS) * 1000)
    monkeypatch.setattr(tables, name, most)
    parsed = []
    real = tables._pixels
    monkeypatch.setattr(tables, "_pixels", lambda *args: parsed.append(1) or real(*args))
    with pytest.raises(DataError, match="has more than 4,000 rows, which is what fits"):
        read_csv(path)
    assert len(parsed) == 1
    (tmp_path / "some.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="has more than 4,000 rows"):
        read_csv(tmp_path / "some.csv.gz")
    (tmp_path / "some.csv.gz").write_bytes(gzip.compress(path.read_bytes())[:-50])
    with pytest.raises(DataError, match="can't be read"):
        read_csv(tmp_path / "some.csv.gz")


def test_a_packed_file_of_large_images_takes_no_more_memory_than_they_do(tmp_path, monkeypatch):
    """Were 2,000 rows of a million pixels parsed at once, 18 MB would take 16 GB."""
    monkeypatch.setattr(tables, "MAX_ARRAY_BYTES", 10 * 500**2)
    monkeypatch.setattr(tables, "_CHARACTERS", 1_000_000)
    path = tmp_path / "large.csv.gz"
    path.write_bytes(gzip.compress(b"\n".join([b",".join([b"1"] * 500**2)] * 12), 1))
    blocks = []
    real = tables._pixels
    monkeypatch.setattr(tables, "_pixels", lambda *args: blocks.append(len(args[1])) or real(*args))
    with pytest.raises(DataError, match="has more than 10 rows, which is what fits in memory"):
        read_csv(path)
    assert blocks == [3, 3, 3, 3]


def test_labels_beyond_whole_numbers_are_no_warning(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text(rows(labels=["1e300", *LABELS[1:]]))
    assert read_csv(path)[1].tolist() == [1e300, *LABELS[1:]]
