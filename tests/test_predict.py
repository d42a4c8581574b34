"""python -m digits_jax.predict: digits in pictures, one line each."""

import csv
import io
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from programs import assert_refused

from digits_jax import load_dataset
from digits_jax import predict as predict_program


@pytest.fixture(scope="module")
def readable(trained):
    """A test image of each digit: the one that the network classifies most confidently."""
    with np.load(trained[0] / "predictions.npz") as file:
        labels, logits = file["labels"], file["logits"]
    margin = np.sort(logits, -1)[:, -1] - np.sort(logits, -1)[:, -2]
    images = load_dataset("digits").test.images[..., 0]
    found = {}
    for digit in range(10):
        right = np.flatnonzero((labels == digit) & (logits.argmax(-1) == digit))
        found[digit] = images[right[np.argmax(margin[right])]]
    return found


def paper(image, scale=6, size=300):
    """A digit drawn in black, large, off the centre of a white page."""
    large = Image.fromarray(image).resize((28 * scale, 28 * scale), Image.Resampling.BICUBIC)
    page = np.full((size, size), 255, np.uint8)
    page[-28 * scale :, : 28 * scale] -= np.asarray(large)
    return Image.fromarray(page)


@pytest.fixture
def pictures(readable, tmp_path):
    """A folder of pictures: 0.png to 9.png, a blank one, one that is none, files of the system."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for digit, image in readable.items():
        paper(image).save(folder / f"{digit}.png")
    Image.new("L", (100, 80), 255).save(folder / "blank.png")
    (folder / "notes.txt").write_text("to do")
    for name in (".hidden", "Thumbs.db", "desktop.ini"):
        (folder / name).touch()
    return folder


def test_pictures_are_read_one_line_each(trained, here, pictures):
    for argv in (
        (trained[0], "pictures/3.png"),
        ("--show", trained[0], "pictures/3.png"),
        (trained[0], "--show", "pictures/3.png"),
    ):
        status, out, _ = here(predict_program, *argv)
        assert status == 0
        assert out.startswith("pictures/3.png: 3  ")
        assert ", then " in out


def test_json_and_csv_say_the_same_of_a_folder(trained, here, pictures):
    status, out, err = here(predict_program, trained[0], "pictures", "--json")
    rows = json.loads(out)
    assert (status, err) == (1, "")  # the text file is none
    assert len(rows) == 12
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    digits = [row for row in rows if row.get("found")]
    assert sum(f"{row['digit']}.png" in row["file"] for row in digits) >= 9
    for row in digits:
        assert row["found"] == 1
        assert 1 >= row["probability"] >= row["runner_up_probability"] >= 0
    by_name = {row["file"].removeprefix("pictures/"): row for row in rows}
    fields = ["file", "digit", "probability", "runner_up", "runner_up_probability", "sure", "found"]
    assert list(by_name["0.png"]) == list(by_name["blank.png"]) == fields
    assert by_name["blank.png"]["digit"] is None
    assert list(by_name["notes.txt"]) == ["file", "error"]
    text = here(predict_program, trained[0], "pictures", "--csv")[1]
    table = list(csv.DictReader(io.StringIO(text)))
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    for row, expected in zip(table, as_text, strict=True):
        assert {k: v for k, v in row.items() if v} == {k: v for k, v in expected.items() if v}


def test_without_a_run_the_pretrained_cnn_reads(here, pictures, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (pictures / "3.png").rename(tmp_path / "a" / "b" / "3.png")
    (tmp_path / "a" / ".hidden").mkdir()
    (tmp_path / "a" / ".hidden" / "x.png").touch()
    for argv in (["a"], ["--image", "a"], ["cnn", "a/b/3.png"]):
        status, out, err = here(predict_program, *argv)
        assert (status, err) == (0, "")
        assert out.startswith("a/b/3.png: 3  ")


def test_a_table_of_pixels_becomes_a_table_of_answers(trained, here, readable, tmp_path):
    images = [readable[digit].ravel() for digit in (7, 2, 1)]
    for name, head, lead in (("test", [], []), ("train", ["label"], ["5"])):
        lines = [[*head, *(f"pixel{i}" for i in range(784))]]
        lines += [[*lead, *map(str, image)] for image in images]
        text = "\n".join(",".join(line) for line in lines)
        (tmp_path / f"{name}.csv").write_text(text)
        for _ in range(2):  # a table of answers is replaced
            status, out, err = here(predict_program, trained[0], f"{name}.csv", "-o", "answers.csv")
            assert (status, out, err) == (0, "answers.csv: 3 labels\n", "")
        assert (tmp_path / "answers.csv").read_text() == "ImageId,Label\n1,7\n2,2\n3,1\n"
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would never end
    os.mkfifo(tmp_path / "pipe.png")
    for argv, message in (
        (["test.csv"], "for a table of pixels give RUN test.csv -o submission.csv"),
        (["test.csv", "-o", "a.csv", "--json"], "for a table of pixels give"),
        (["test.csv", "-o", "train.csv"], "train.csv: exists, and is no table of answers"),
        (["test.csv", "-o", "pipe.csv"], "pipe.csv: exists, and is no table of answers"),
        (["test.csv", "-o", "no/a.csv"], "no/a.csv: can't be written; give a file in an existing"),
        (["test.png", "-o", "pipe.png"], "pipe.png: exists, and isn't a sheet of this program"),
        (["answers.csv", "-o", "b.csv"], "answers.csv"),
    ):
        assert_refused(here(predict_program, trained[0], *argv), message)


def test_standard_input_is_a_dash(trained, here, pictures, monkeypatch):
    data = (pictures / "7.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    status, out, _ = here(predict_program, trained[0], "-")
    assert status == 0
    assert out.startswith("-: 7  ")


def test_models_answer_side_by_side_or_as_one(trained, here, pictures):
    argv = (trained[0], trained[0], "--image", "pictures/1.png", "pictures/blank.png")
    status, out, _ = here(predict_program, *argv)
    assert status == 0
    name, first, second, *blank = out.splitlines()
    assert name == "pictures/1.png:"
    assert first == second
    assert first.startswith("  run: 1  ")
    assert blank == ["pictures/blank.png:", "  run: no digit", "  run: no digit"]
    row, _ = json.loads(here(predict_program, *argv, "--json")[1])
    assert row["agree"] is True
    assert [each["digit"] for each in row["models"]] == [1, 1]
    row, _ = json.loads(here(predict_program, *argv, "--json", "--ensemble")[1])
    assert row["digit"] == 1


def test_a_line_and_a_page(trained, here, readable, tmp_path):
    row = np.hstack([np.asarray(paper(readable[digit], 3, 100)) for digit in (4, 0, 7)])
    Image.fromarray(row).save(tmp_path / "line.png")
    Image.fromarray(np.vstack([row, row])).save(tmp_path / "page.png")
    status, out, _ = here(predict_program, trained[0], "line.png", "--line", "--json")
    (line,) = json.loads(out)
    assert status == 0
    assert len(line["digits"]) == len(line["text"]) == 3
    for i, digit in enumerate(line["digits"]):
        assert 100 * i <= digit["box"][0] < 100 * i + 100
    (page,) = json.loads(here(predict_program, trained[0], "page.png", "--page", "--json")[1])
    assert [each["text"] for each in page["lines"]] == [line["text"]] * 2
    assert page["text"] == f"{line['text']}\n{line['text']}"
    (one,) = json.loads(here(predict_program, trained[0], "line.png", "--json")[1])
    assert one["found"] == 3
    assert "3 digits seem to be there" in here(predict_program, trained[0], "line.png")[1]
    text = here(predict_program, trained[0], "line.png", "--line")[1]
    assert text.startswith(f"line.png: {line['text']}  (")


def test_marks_that_are_too_small_are_counted(trained, here, tmp_path):
    page = np.full((1000, 1000), 255, np.uint8)
    for row in range(0, 1000, 100):
        page[row : row + 4, 50:54] = 0
    Image.fromarray(page).save(tmp_path / "far.png")
    status, out, err = here(predict_program, trained[0], "far.png")
    assert (status, out) == (0, "far.png: no digit\n")
    assert err == "warning: far.png: 10 marks are too small to read; give a part of the picture\n"


def test_a_sheet_shows_what_was_read_and_replaces_only_sheets(trained, here, pictures, tmp_path):
    for _ in range(2):
        status, _, err = here(predict_program, trained[0], "pictures", "--show", "--json")
        assert status == 1
        assert "what was read: seen.png" in err
    with Image.open(tmp_path / "seen.png") as sheet:
        assert sheet.size[0] == 900
    assert here(predict_program, trained[0], "pictures/1.png", "-o", "other.png")[0] == 0
    assert (tmp_path / "other.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["RUN"], "no picture is given"),
        (["RUN", "pictures/1.png", "--line", "--page"], "exclude each other"),
        (["RUN", "pictures/1.png", "--line", "--csv"], "--csv is for one digit an image"),
        (["RUN", "pictures", "-o", "pictures/1.png"], "exists, and isn't a sheet of this program"),
        (
            ["RUN", "pictures/1.png", "-o", "new.jpg"],
            "new.jpg: --output is for the picture of --show",
        ),
        (["RUN", "RUN", "pictures/1.png"], "is a run; to compare runs give RUN_A RUN_B --image"),
        (["RUN", "pictures/1.png", "-o", "no/where.png"], "can't be written"),
    ],
)
def test_bad_input_is_one_line(trained, here, pictures, tmp_path, argv, message):
    argv = [trained[0] if word == "RUN" else word for word in argv]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert_refused(here(predict_program, *argv), message)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_cannot_be_read_does_not_stop_the_others(trained, here, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = here(predict_program, trained[0], "empty", "gone.png", "pictures/0.png")
    assert status == 1
    assert err.splitlines() == [
        "error: empty: the folder holds no file that can be listed",
        "error: gone.png: can't be read (No such file or directory)",
    ]
    assert out.startswith("pictures/0.png: 0  ")
