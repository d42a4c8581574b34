"""What holds of every configuration, JSON value, row of metrics and array, by hypothesis."""

import json
import math
import string

import numpy as np
import pytest
from digits_jax.config_checks import (
    AUGMENTS,
    DTYPES,
    OPTIMIZERS,
    PRESET_NAMES,
    SCHEDULES,
    check,
)
from harness import assert_clear, time_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from digits_jax.config import TrainConfig, from_dict, read_config
from digits_jax.data.originals import read_idx
from digits_jax.deploy.archive import read_archive
from digits_jax.errors import DigitsError, quoted, shown
from digits_jax.runs.folder import (
    METRICS_FIELDS,
    append_metrics,
    keep_metrics,
    read_json,
    read_metrics,
    read_npz,
    write_json,
)

EXAMPLES = settings(max_examples=50, deadline=None)

# What JSON can hold, and what Python's json takes beyond that.
texts = st.text(st.characters(codec="utf-8"))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)
wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for all examples of a test: each writes its file anew."""
    return tmp_path_factory.mktemp("examples")


def maybe(strategy):
    return st.none() | strategy


sizes = st.integers(1, 2**31 - 1)
shares = st.floats(0, 1, exclude_max=True)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
OF_BOTH = {
    "preset": st.sampled_from(PRESET_NAMES),
    "dataset": texts,
    "data_dir": maybe(paths),
    "workdir": maybe(paths),
    "epochs": maybe(st.floats(0, 1e6, exclude_min=True)),
    "batch_size": maybe(sizes),
    "learning_rate": maybe(st.floats(0, exclude_min=True, allow_infinity=False)),
    "schedule": maybe(st.sampled_from(SCHEDULES)),
    "optimizer": maybe(st.sampled_from(OPTIMIZERS)),
    "weight_decay": maybe(st.floats(0, allow_infinity=False)),
    "label_smoothing": maybe(shares),
    "dropout": maybe(shares),
    "batch_norm": maybe(st.booleans()),
    "augment": maybe(st.sampled_from(AUGMENTS)),
    "seed": st.integers(0, 2**31 - 1),
    "dtype": st.sampled_from(DTYPES),
    "devices": st.just("auto") | st.integers(1, 999).map(str),
    "checkpoint_every_steps": st.integers(0, 2**31 - 1),
    "dry_run": st.booleans(),
}
OF_CNN = {
    "channels": maybe(st.lists(sizes, max_size=3).map(tuple)),
    "convs_per_block": maybe(st.integers(1, 16)),
    "dense_size": maybe(st.integers(0, 2**31 - 1)),
}
OF_MLP = {"hidden_sizes": maybe(st.lists(sizes, max_size=64).map(tuple))}
CNN, MLP = ({"arch": st.sampled_from(archs)} for archs in (("cnn",), ("mlp", "ann")))
configs = st.fixed_dictionaries(CNN, optional={**OF_BOTH, **OF_CNN}) | st.fixed_dictionaries(
    MLP, optional={**OF_BOTH, **OF_MLP}
)


# --- configurations ------------------------------------------------------------------------


@EXAMPLES
@given(configs)
def test_a_configuration_comes_back_from_its_file(place, fields):
    config = TrainConfig(**fields)
    check(config)
    resolved = config.resolve("mnist")
    check(resolved)
    for each in (config, resolved):
        assert from_dict(each.to_dict(), "here") == each
        write_json(place / "config.json", {"config": each.to_dict()})
        assert read_config(place / "config.json") == each


@EXAMPLES
@given(configs, st.dictionaries(st.sampled_from(list(TrainConfig().to_dict())) | st.text(), wild))
def test_other_values_are_refused_or_right(fields, others):
    try:
        config = from_dict({**fields, **others}, "config.json")
    except DigitsError as error:
        refusal = error
    else:
        check(config)
        assert from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False)), "x") == config
        return
    assert_clear(refusal, "no folder", "config.json")


@EXAMPLES
@given(configs, st.sampled_from(list(TrainConfig().to_dict())), wild)
def test_the_library_refuses_as_the_file_does(fields, name, value):
    """`TrainConfig(...)` raises nothing but an DigitsError, of one line."""
    try:
        TrainConfig(**{**fields, name: value}).resolve("mnist")
    except DigitsError as error:
        refusal = error
    else:
        return
    assert str(refusal).isprintable()
    assert len(str(refusal)) < 300


# --- JSON and metrics ----------------------------------------------------------------------


@EXAMPLES
@given(values)
def test_json_comes_back(place, value):
    write_json(place / "value.json", value)
    assert read_json(place / "value.json") == value


@EXAMPLES
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_refused(place, data):
    (place / "bytes.json").write_bytes(data)
    try:
        value = read_json(place / "bytes.json")
    except DigitsError as error:
        refusal = error
    else:
        json.dumps(value, allow_nan=False)
        return
    assert_clear(refusal, place, "bytes.json")


@EXAMPLES
@given(wild)
def test_nan_and_infinity_are_refused(place, value):
    """As Python writes them, beyond JSON."""
    (place / "wild.json").write_text(json.dumps(value))
    try:
        again = read_json(place / "wild.json")
    except DigitsError as error:
        assert "isn't JSON" in str(error)  # noqa: PT017 - or it is right
    else:
        assert again == value


finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
rows = st.fixed_dictionaries(
    dict.fromkeys(METRICS_FIELDS, finite), optional={"note": st.text(), "skipped": values}
)


@EXAMPLES
@given(st.lists(rows, max_size=5), st.binary() | wild.map(json.dumps).map(str.encode), finite)
def test_rows_come_back_whatever_follows(place, whole, more, last_step):
    (place / "metrics.jsonl").unlink(missing_ok=True)
    for row in whole:
        append_metrics(place, row)
    by_step = {row["step"]: row for row in whole}  # the later of two counts
    assert read_metrics(place) == [by_step[step] for step in sorted(by_step)]
    with open(place / "metrics.jsonl", "ab") as file:
        file.write(more)
    found = read_metrics(place)
    steps = [row["step"] for row in found]
    assert set(by_step) <= set(steps)
    assert steps == sorted(set(steps))
    kept = [row for row in found if row["step"] <= last_step]
    assert keep_metrics(place, last_step) == kept
    assert read_metrics(place) == kept


# --- arrays --------------------------------------------------------------------------------

plain = (
    hnp.boolean_dtypes() | hnp.integer_dtypes() | hnp.unsigned_integer_dtypes()
) | hnp.floating_dtypes(sizes=(16, 32, 64))
names = st.text(string.ascii_letters + string.digits + "._", min_size=1, max_size=8)
arrays = hnp.arrays(plain, hnp.array_shapes(min_dims=0, min_side=0, max_side=5))


@EXAMPLES
@given(st.dictionaries(names.filter(lambda name: not name.endswith(".npy")), arrays))
def test_arrays_come_back(place, saved):
    np.savez(place / "a.npz", **{name: value for name, value in saved.items() if name != "file"})
    found = read_npz(place / "a.npz")
    for name, array in found.items():
        assert array.dtype == saved[name].dtype
        np.testing.assert_array_equal(array, saved[name])


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes_are_no_archive(place, data):
    path = place / "any.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^[^\n]{1,200}$"):
        read_npz(path)
    with pytest.raises(DigitsError, match=r"any\.npz: isn't a network"):
        read_archive(path)
    with pytest.raises(DigitsError, match=r"images\.gz "):
        read_idx(data, 1, "images.gz")


# --- messages ------------------------------------------------------------------------------


@EXAMPLES
@given(wild | st.integers(10**4000, 10**4400) | st.lists(st.text(min_size=99), min_size=99))
def test_messages_are_short_lines(value):
    with time_limit():
        for text in (quoted(value), shown(value)):
            assert len(str(DigitsError(text))) <= 100 * (1 if text.isprintable() else 10)
            assert str(DigitsError(text)).isprintable()
        assert shown(value).isprintable()
        assert DigitsError(str(quoted(value))).args[0] == str(DigitsError(quoted(value)))


def test_numbers_are_shown_as_they_are():
    assert [shown(value) for value in (0.5, 3, -1, True, None, (24, 48))] == [
        "0.5",
        "3",
        "-1",
        "True",
        "None",
        "(24, 48)",
    ]
    assert math.isclose(float(shown(1e300)), 1e300)
