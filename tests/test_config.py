"""The configuration: presets, values that are refused, and its way to JSON and back."""

import dataclasses
import json
import math
import re
from typing import get_args

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from digits_jax.config import RunOptions, TrainConfig, read_config
from digits_jax.errors import ConfigError
from digits_jax.presets import BASE, RECIPES
from digits_jax.training.same_run import first_difference

FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]
PRESETS = get_args({f.name: f.type for f in dataclasses.fields(TrainConfig)}["preset"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch": "rnn"}, "arch=rnn: allowed: cnn, mlp, ann"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"batch_size": "64"}, "batch_size=64: allowed: a whole number"),
        ({"batch_size": True}, "batch_size=True: allowed: a whole number"),
        ({"epochs": math.nan}, "epochs=nan"),
        ({"epochs": 10**400}, "epochs=inf"),
        ({"learning_rate": math.inf}, "learning_rate=inf: must be more than 0 and finite"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: must be at least 0 and less than 1"),
        ({"adversarial": 25.0}, "adversarial=25.0: must be at least 0 and at most 1"),
        ({"arch": "mlp", "hidden_sizes": (64, 0)}, "hidden_sizes=0"),
        (
            {"arch": "mlp", "hidden_sizes": (1,) * 17},
            "has 17 numbers; give at most 16",
        ),
        ({"arch": "mlp", "hidden_sizes": 8}, "hidden_sizes=8: allowed: a list of whole numbers"),
        ({"channels": (8, 8, 8, 8)}, "channels=8,8,8,8: each block halves the image"),
        ({"seed": None}, "seed=None"),
        ({"seed": 2**31 - 1, "ensemble": 2}, "the last seed is more than 2147483647"),
        ({"arch": "cnn", "hidden_sizes": (64,)}, "hidden_sizes isn't for arch=cnn"),
        ({"arch": "ann", "dense_size": 8}, "dense_size isn't for arch=mlp"),
        ({"augment": "none", "augment_strength": 2.0}, "augment_strength=2.0: augment is none"),
        ({"batch_norm": False, "recalibrate_batch_norm": True}, "needs batch_norm"),
        ({"optimizer": "adam", "weight_decay": 0.1}, "adam has none; use adamw"),
        ({"teacher": ""}, "teacher is empty"),
        ({"teacher_weight": 0.5}, "teacher_weight needs a teacher"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        TrainConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devices": 0}, "devices=0: must be at least 1"),
        ({"devices": "all"}, "devices=all: allowed: a whole number, auto"),
        ({"workdir": ""}, "workdir is empty"),
        ({"workdir": "a\0b"}, "not a possible path"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunOptions(**values)


def test_other_types_that_mean_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = RunOptions(workdir=tmp_path / "run", data_dir="~/data", devices=np.int64(2))
    assert options.workdir == str(tmp_path / "run")
    assert options.data_dir == str(tmp_path / "data")
    assert type(options.devices) is int
    config = TrainConfig(channels=[8, 16], epochs=2, learning_rate=np.float32(0.5))
    assert (config.channels, config.epochs, config.learning_rate) == ((8, 16), 2.0, 0.5)
    assert type(config.epochs) is float


# --- presets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "size"), [("mnist", "large"), ("digits", "small")])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", ["cnn", "mlp", "ann"])
def test_a_preset_fills_in_everything(arch, preset, dataset, size):
    config = TrainConfig(arch=arch, preset=preset).resolve(dataset)
    arch = "cnn" if arch == "cnn" else "mlp"
    for name in BASE[arch]:
        assert getattr(config, name) == RECIPES[arch, size][preset].get(name, BASE[arch][name])
    other = {"cnn": ["hidden_sizes"]}.get(
        arch, ["channels", "convs_per_block", "dense_size", "space_to_depth"]
    )
    empty = {name for name in FIELDS if getattr(config, name) is None}
    optional = {"mix", "init_from", "teacher", "teacher_weight", "teacher_temperature"}
    assert empty == {*other, *optional}
    assert (config.dataset, config.arch) == (dataset, arch)
    assert config.resolve(dataset) == config


def test_given_values_beat_the_preset():
    given_values = {"epochs": 0.5, "dropout": 0.25, "batch_norm": False, "channels": (4,)}
    config = TrainConfig(arch="cnn", **given_values).resolve("mnist")
    assert {name: getattr(config, name) for name in given_values} == given_values
    assert not config.recalibrate_batch_norm  # without BatchNorm there is nothing to estimate
    assert config.weight_decay == BASE["cnn"]["weight_decay"]
    assert TrainConfig(optimizer="adam").resolve("mnist").weight_decay == 0


def test_a_presets_strength_belongs_to_its_own_augmentation():
    strength = {
        augment: TrainConfig(preset="best", augment=augment).resolve("mnist").augment_strength
        for augment in (None, "elastic", "none", "cutout")
    }
    assert strength == {None: 0.7, "elastic": 0.7, "none": 1.0, "cutout": 1.0}
    TrainConfig(preset="standard", augment_strength=2.0).resolve("mnist")
    with pytest.raises(ConfigError, match="augment is none"):
        TrainConfig(preset="quick", augment_strength=2.0).resolve("mnist")


# --- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_round_trip(tmp_path, arch):
    config = TrainConfig(arch=arch, learning_rate=1 / 3).resolve("digits")
    options = RunOptions(workdir="runs/ä b", devices=2)
    values = {"config": config.to_dict(), "options": options.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(values))
    for path in (tmp_path, tmp_path / "config.json"):
        assert read_config(path) == (config, options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 1}, "here: unknown field 'epoch'"),
        ({"channels": [8, "x"]}, "here: channels="),
        ({"seed": -1}, "here: seed=-1"),
        ([], "here: expected an object"),
    ],
)
def test_other_json_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig.from_dict(values, "here")


def test_a_file_that_is_no_configuration(tmp_path):
    for value in ([], {"config": {}}, "text"):
        (tmp_path / "config.json").write_text(json.dumps(value))
        with pytest.raises(ConfigError, match=r"give a run's config\.json"):
            read_config(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
likely = st.sampled_from(["cnn", "mlp", "auto", "quick", "float32", "3", "²", 1, 0.5, [8], True])


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from(FIELDS), likely | json_values, max_size=4) | json_values)
def test_any_json_gives_a_configuration_or_a_config_error(values):
    try:
        config = TrainConfig.from_dict(values, "here")
    except ConfigError:
        return
    assert {name: getattr(config, name) for name in values} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


# --- the same run ----------------------------------------------------------------------------


def test_first_difference():
    run = TrainConfig(arch="mlp", dtype="float32", teacher="runs/a").resolve("digits")
    assert first_difference(run, run) is None
    moved = dataclasses.replace(run, teacher="runs/b")
    assert first_difference(moved, run) is None
    for name, value in {"seed": 1, "epochs": 9.0, "augment": "noise"}.items():
        assert first_difference(dataclasses.replace(run, **{name: value}), run) == name


def test_options_of_a_resumed_run():
    options = RunOptions(workdir="a", devices=4, platform="cpu", input="stream", process_id=1)
    here = options.for_resuming("b", platform="gpu")
    assert here == RunOptions(workdir="b", platform="gpu", input="stream")
    with pytest.raises(ConfigError, match="seed: not a field of RunOptions"):
        options.for_resuming("b", seed=1)


def test_a_run_does_not_bring_its_own_data(tmp_path):
    """A folder from elsewhere could call whatever it holds mnist."""
    options = RunOptions(data_dir=str(tmp_path / "run/data"))
    assert options.for_resuming(tmp_path / "run").data_dir is None
    assert options.for_resuming(tmp_path / "run", data_dir="given").data_dir == "given"
    assert options.for_resuming(tmp_path / "other").data_dir == options.data_dir
