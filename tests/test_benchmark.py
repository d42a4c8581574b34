"""The benchmark as users call it: tables, files, and what can't be used."""

import json

import pytest
from prepared_sets import write_prepared
from programs import assert_one_error_line

from digits_jax import benchmark
from digits_jax.data import datasets

SHORT = ("--batch-sizes=8,32", "--threads=1,2", "--repeats=1", "--seconds=0.01")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a small prepared data set."""
    root = tmp_path_factory.mktemp("prepared")
    write_prepared(root)
    return root


def called(here, own, *argv):
    return here(benchmark, "input", "--dataset=tfds/own", f"--data-dir={own}", *argv)


def test_input_prints_a_table_and_writes_json(here, own, tmp_path):
    status, out, _ = called(here, own, *SHORT, "-o", tmp_path / "input.json")
    assert status == 0
    head, table, starts = out.split("\n\n")
    assert head.startswith("tfds/own:1.0.0: 138 training images")
    lines = table.splitlines()
    assert [len(line.split("|")) for line in lines] == [8] * 8  # two of the head, six ways
    ways = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines[2:]]
    assert ways == [
        [way, threads, size]
        for size in ("8", "32")
        for way, threads in (("memory", "-"), ("stream", "1"), ("stream", "2"))
    ]
    assert [line.split()[1] for line in starts.splitlines()[2:]] == ["memory", "stream"]
    result = json.loads((tmp_path / "input.json").read_text())
    assert result["settings"]["batch_sizes"] == [8, 32]
    assert "--batch-sizes=8,32" in result["command"]
    assert result["machine"]["processor"]
    assert {"python", "numpy", "grain", "array_record"} <= result["versions"].keys()
    assert result["dataset"]["train_count"] == 138
    for row in result["rows"]:
        assert len(row["images_per_second"]) == 1
        assert min(*row["images_per_second"], row["first_batch_seconds"]) > 0
    assert all(min(start["seconds"]) > 0 for start in result["cold_starts"])


def test_quick_has_settings_of_its_own():
    args = benchmark.parser().parse_args(["input", "--quick", "--repeats=9"])
    settings = benchmark.settings_of(args)
    assert (settings["repeats"], settings["batch_sizes"], settings["quick"]) == (3, [256], True)


def test_what_is_too_large_for_memory_is_only_streamed(here, own, monkeypatch):
    monkeypatch.setattr(benchmark, "MEMORY_IMAGES", 137)
    real = datasets.load_dataset

    def load(name, data_dir, *, input="memory"):
        assert input == "stream"
        return real(name, data_dir, input=input)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(benchmark, "_cold_start", lambda way, settings: 0.5)
    status, out, _ = called(here, own, *SHORT, "--evict")
    assert status == 0
    assert "| memory" not in out
    assert out.count("| stream |") == 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--batch-sizes=8,x"], "--batch-sizes=x: give numbers like 1,2"),
        (["--threads=0"], "--threads=0: give numbers like 1,2"),
        (["--repeats=-1"], "--repeats=-1: give a number"),
        (["--seconds=nan"], "--seconds=nan: give a number"),
        (["--batch-sizes=139"], "has 138 training images"),
        (["-o", "nowhere/x.json"], "nowhere can't be written"),
        (["--dataset=tfds/other"], "no such prepared data set"),
        (["--dataset=digits"], "give --input=memory, or another --dataset"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_used_is_one_line(here, own, argv, said):
    status, out, err = called(here, own, *argv)
    assert_one_error_line(status, out, err)
    assert said in err


def test_without_a_word(here):
    assert_one_error_line(*here(benchmark))
