"""python -m digits_jax.predict: digits in pictures, one line each."""

import csv
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from digits_jax import load_dataset
from digits_jax import predict as predict_program


@pytest.fixture(scope="module")
def readable(trained):
    """A test image of each digit that the trained network reads, surest first."""
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
    """A folder of pictures: 0.png to 9.png, a blank one, one that is none, and a hidden file."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for digit, image in readable.items():
        paper(image).save(folder / f"{digit}.png")
    Image.new("L", (100, 80), 255).save(folder / "blank.png")
    (folder / "notes.txt").write_text("to do")
    (folder / ".hidden").touch()
    return folder


def test_one_picture(trained, here, pictures):
    status, out, err = here(predict_program, trained[0], "pictures/3.png")
    assert (status, err) == (0, "")
    assert out.startswith("pictures/3.png: 3  ")
    assert ", then " in out


def test_a_folder_as_json(trained, here, pictures):
    status, out, err = here(predict_program, trained[0], "pictures", "--json")
    rows = json.loads(out)
    assert (status, err) == (1, "")  # the text file is none
    by_name = {row["file"].removeprefix("pictures/"): row for row in rows}
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert len(rows) == 12
    right = [by_name[f"{digit}.png"]["digit"] == digit for digit in range(10)]
    assert sum(right) >= 9  # placed anew, one may be read otherwise
    for digit in range(10):
        row = by_name[f"{digit}.png"]
        assert set(row) >= {"file", "digit", "probability", "runner_up", "runner_up_probability"}
        assert row["found"] == 1
        assert 1 >= row["probability"] >= row["runner_up_probability"] >= 0
    assert by_name["blank.png"]["digit"] is None
    assert set(by_name["notes.txt"]) == {"file", "error"}


def test_csv_says_the_same(trained, here, pictures):
    rows = json.loads(here(predict_program, trained[0], "pictures", "--json")[1])
    table = list(
        csv.DictReader(io.StringIO(here(predict_program, trained[0], "pictures", "--csv")[1]))
    )
    assert [row["file"] for row in table] == [row["file"] for row in rows]
    for found, wanted in zip(table, rows, strict=True):
        if "error" in wanted:
            assert found["error"] == wanted["error"]
        elif wanted["digit"] is None:
            assert found["digit"] == ""
        else:
            assert (int(found["digit"]), float(found["probability"])) == (
                wanted["digit"],
                wanted["probability"],
            )


def test_standard_input(trained, here, pictures, monkeypatch):
    data = (pictures / "7.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    status, out, _ = here(predict_program, trained[0], "-")
    assert status == 0
    assert out.startswith("-: 7  ")


def test_models_side_by_side(trained, here, pictures):
    argv = (trained[0], trained[0], "--image", "pictures/1.png", "pictures/blank.png")
    status, out, _ = here(predict_program, *argv)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "pictures/1.png:"
    assert lines[1] == lines[2]
    assert lines[1].startswith("  run: 1  ")
    assert lines[4:] == ["  run: no digit"] * 2
    first, _ = json.loads(here(predict_program, *argv, "--json")[1])
    assert first["agree"] is True
    assert [each["digit"] for each in first["models"]] == [1, 1]


def test_a_line_and_a_page(trained, here, readable, tmp_path):
    row = np.hstack([np.asarray(paper(readable[digit], 3, 100)) for digit in (4, 0, 7)])
    Image.fromarray(row).save(tmp_path / "line.png")
    Image.fromarray(np.vstack([row, row])).save(tmp_path / "page.png")
    status, out, _ = here(predict_program, trained[0], "line.png", "--line", "--json")
    (line,) = json.loads(out)
    assert status == 0
    assert len(line["digits"]) == len(line["text"]) == 3
    lefts = [digit["box"][0] for digit in line["digits"]]
    assert lefts == sorted(lefts)
    assert all(100 * i <= left < 100 * i + 100 for i, left in enumerate(lefts))
    (page,) = json.loads(here(predict_program, trained[0], "page.png", "--page", "--json")[1])
    assert [each["text"] for each in page["lines"]] == [line["text"]] * 2
    assert page["text"] == f"{line['text']}\n{line['text']}"
    (one,) = json.loads(here(predict_program, trained[0], "line.png", "--json")[1])
    assert one["found"] == 3
    assert "3 digits seem to be there" in here(predict_program, trained[0], "line.png")[1]
    text = here(predict_program, trained[0], "line.png", "--line")[1]
    assert text.startswith(f"line.png: {line['text']}  (")


def test_what_was_seen_is_a_picture(trained, here, pictures, tmp_path):
    status, _, err = here(predict_program, trained[0], "pictures", "--show", "--json")
    assert status == 1
    assert "what was read: seen.png" in err
    with Image.open(tmp_path / "seen.png") as sheet:
        assert sheet.size[0] == 900
    assert here(predict_program, trained[0], "pictures/1.png", "-o", "other.png")[0] == 0
    assert (tmp_path / "other.png").is_file()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "required: RUN"),
        (["RUN"], "no picture is given"),
        (["nowhere", "x.png"], "nowhere: no such folder"),
        (["RUN", "pictures/1.png", "--line", "--page"], "not allowed with argument"),
        (["RUN", "pictures/1.png", "--line", "--csv"], "--csv is for one digit an image"),
        (["RUN", "pictures", "-o", "pictures/1.png"], "is there already, and not made by this"),
        (["RUN", "pictures/1.png", "-o", "new.jpg"], "the picture is a PNG"),
        (["RUN", "RUN", "pictures/1.png"], "is a run; to compare runs give RUN_A RUN_B --image"),
        (["RUN", "pictures/1.png", "-o", "pictures"], "can't be written"),
        (["RUN", "pictures/1.png", "-o", "no/where.png"], "can't be written"),
        (["RUN", "pictures/1.png", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line(trained, here, pictures, tmp_path, argv, said):
    (tmp_path / "emptiness").mkdir()
    argv = [trained[0] if word == "RUN" else word for word in argv]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, out, err = here(predict_program, *argv)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("flag", ["--line", "--page", "--json", "--show", "--ensemble"])
def test_flags_may_stand_anywhere(trained, here, pictures, flag):
    for argv in ((flag, trained[0], "pictures/1.png"), (trained[0], flag, "pictures/1.png")):
        status, out, _ = here(predict_program, *argv)
        assert status == 0
        assert "pictures/1.png" in out


def test_a_sheet_may_be_made_again_and_nothing_else_is_replaced(trained, here, pictures, tmp_path):
    for _ in range(2):
        assert here(predict_program, trained[0], "pictures/1.png", "--show")[0] == 0
    (tmp_path / "seen.png").write_bytes((pictures / "2.png").read_bytes())
    status, _, err = here(predict_program, trained[0], "pictures/1.png", "--show")
    assert status == 2
    assert "seen.png: is there already" in err
    assert (tmp_path / "seen.png").read_bytes() == (pictures / "2.png").read_bytes()


def test_names_cannot_speak_to_the_terminal(trained, here, pictures):
    name = "pictures/a\nb\x1b[31m.png"
    (pictures / "1.png").rename(pictures.parent / name)
    status, out, _ = here(predict_program, trained[0], name)
    assert status == 0
    assert out.startswith(r"pictures/a\nb\x1b[31m.png: 1  ")
    assert json.loads(here(predict_program, trained[0], name, "--json")[1])[0]["file"] == name


def test_an_empty_folder_does_not_stop_the_others(trained, here, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = here(predict_program, trained[0], "empty", "pictures/0.png")
    assert status == 1
    assert err == "error: empty: the folder holds no file that can be listed\n"
    assert out.startswith("pictures/0.png: 0  ")


def test_a_picture_that_is_not_there_does_not_stop_the_others(trained, here, pictures):
    status, out, err = here(predict_program, trained[0], "gone.png", "pictures/0.png")
    assert status == 1
    assert err == "error: gone.png: can't be read (No such file or directory)\n"
    assert out.startswith("pictures/0.png: 0  ")
