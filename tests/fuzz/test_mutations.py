"""The damage is the same each time, is damage, and is of every kind."""

import json
import random

import pytest
from faults_log import VARIABLE, log_faults
from harness import NUMBER_VARIABLE, HangError, Reader, Target, damage, fuzz
from mutations import OPERATIONS, Pairs, mutate_bytes, mutate_json, mutate_lines

from digits_jax.errors import DigitsError

TEXT = json.dumps({"a": [1, 2.5, {"b": None}], "c": "x", "d": True})
SAMPLES = {"bytes": bytes(range(256)), "json": TEXT.encode(), "lines": f"{TEXT}\n".encode() * 3}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_seed_is_a_damage(kind):
    """Whatever was damaged before: a failure can be repeated by its number alone."""
    whole = SAMPLES[kind]
    first = [damage(whole, kind, f"seed {i}") for i in range(200)]
    again = [damage(whole, kind, f"seed {i}") for i in reversed(range(200))]
    assert first == again[::-1]
    assert sum(damaged != whole for damaged in first) > 150
    assert len(set(first)) > 100


@pytest.mark.parametrize("data", [b"", b"x", bytes(2000)])
def test_any_bytes_can_be_damaged(data):
    for operation in set(OPERATIONS):
        for seed in range(50):
            damaged = bytearray(data or b"x")
            operation(damaged, random.Random(seed), data)
    assert isinstance(mutate_bytes(data, random.Random(0)), bytes)


def test_json_of_every_kind_comes_up():
    found = [mutate_json(TEXT, random.Random(seed)) for seed in range(2000)]
    for piece in ("NaN", "Infinity", "1e999", "9" * 400, "\\ud800", "[" * 10_000, "x" * 10_000):
        assert any(piece in text for text in found)
    doubled = 0
    for text in found:
        try:
            pairs = json.loads(text, object_pairs_hook=Pairs)
        except (ValueError, RecursionError):
            continue
        keys = [key for key, _ in pairs] if isinstance(pairs, Pairs) else []
        doubled += len(keys) > len(set(keys))
    assert doubled > 10


def test_no_lines_can_be_damaged():
    assert mutate_lines("", random.Random(0)) == ""


# --- the harness notices -------------------------------------------------------------------


def a_reader(read):
    def make(folder):
        (folder / "file").write_bytes(bytes(100))

    def whole_at_first(folder):
        return 0 if (folder / "file").read_bytes() == bytes(100) else read(folder)

    return Reader(make, whole_at_first, lambda result, *_: None, (Target("file"),))


def raise_(error):
    raise error


WRONG = {
    "a traceback": (lambda folder: raise_(KeyError("x")), "KeyError"),
    "two lines": (lambda folder: raise_(_raw("file\nmore")), "not one printable line"),
    "a long message": (lambda folder: raise_(DigitsError("file" + "x" * 400)), "404 letters"),
    "an unnamed file": (lambda folder: raise_(DigitsError("it is bad")), "names no file"),
    "a hang": (lambda folder: raise_(HangError("took longer than 10 s")), "took longer"),
}


def _raw(message):
    error = DigitsError()
    error.args = (message,)
    return error


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_told_with_its_number(kind, tmp_path, monkeypatch):
    read, said = WRONG[kind]
    monkeypatch.delenv(NUMBER_VARIABLE, raising=False)
    _, wrong = fuzz(kind, a_reader(read), 30, tmp_path)
    assert wrong
    assert said in wrong[0]
    number = wrong[0].split(f"{NUMBER_VARIABLE}=")[1].split()[0]
    monkeypatch.setenv(NUMBER_VARIABLE, number)
    tried, again = fuzz(kind, a_reader(read), 30, tmp_path)
    assert (tried, len(again)) == (1, 1)
    assert again[0].split("input,")[1] == wrong[0].split("input,")[1]


def test_a_hang_is_ended(monkeypatch):
    from harness import time_limit

    def hang():
        while True:
            pass

    with pytest.raises(HangError, match="took longer"), time_limit(0.05):
        hang()


def test_the_log_of_faults(tmp_path, monkeypatch):
    path = tmp_path / "faults.jsonl"
    monkeypatch.delenv(VARIABLE, raising=False)
    log_faults("nothing", 1, 1)
    monkeypatch.setenv(VARIABLE, str(path))
    log_faults("mutated x", 5, 5)
    log_faults("mutated y", 5, 4, 1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    counted = {"fault": "mutated x", "tried": 5, "survived": 5, "lost": 0}
    assert lines[0] == {**counted, "test": lines[0]["test"]}
    assert lines[0]["test"].endswith("test_mutations.py::test_the_log_of_faults")
    assert [line["lost"] for line in lines] == [0, 1]
