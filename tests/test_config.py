"""The configuration: presets, what is refused and how, and its way to JSON and back."""

import dataclasses
import json
import math
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from digits_jax.config import (
    TrainConfig,
    first_difference,
    from_dict,
    read_config,
    with_later_fields,
)
from digits_jax.config_checks import PRESET_NAMES, check
from digits_jax.errors import DigitsError
from digits_jax.presets import BASE, RECIPES

FIELDS = [field.name for field in dataclasses.fields(TrainConfig)]

# What is given, and what the message must hold: the flag as it was written, and what to do.
BAD = [
    ({"arch": "rnn"}, "--arch=rnn: allowed are cnn, mlp, ann"),
    ({"arch": "CNN"}, "--arch=CNN"),
    ({"preset": "standart"}, "did you mean standard?"),
    ({"dtype": "float16"}, "--dtype=float16: allowed are auto, float32, bfloat16"),
    ({"batch_size": 0}, "--batch-size=0"),
    ({"batch_size": -8}, "--batch-size=-8: give a number that is at least 1"),
    ({"epochs": 0.0}, "--epochs=0.0: give a number that is more than 0"),
    ({"epochs": -1.0}, "--epochs=-1.0"),
    ({"epochs": math.nan}, "--epochs=nan"),
    ({"epochs": math.inf}, "--epochs=inf"),
    ({"learning_rate": 0.0}, "--learning-rate=0.0"),
    ({"learning_rate": -0.1}, "--learning-rate=-0.1"),
    ({"learning_rate": math.inf}, "--learning-rate=inf"),
    ({"weight_decay": -0.1}, "--weight-decay=-0.1"),
    ({"weight_decay": math.nan}, "--weight-decay=nan"),
    ({"label_smoothing": 1.0}, "--label-smoothing=1.0: give a number that is at least 0 and less"),
    ({"label_smoothing": -0.1}, "--label-smoothing=-0.1"),
    ({"dropout": 1.0}, "--dropout=1.0"),
    ({"adversarial": -0.1}, "--adversarial=-0.1: give a number that is at least 0 and at most 1"),
    ({"adversarial": 25.0}, "--adversarial=25.0"),
    ({"dropout": -0.5}, "--dropout=-0.5"),
    ({"dropout": math.nan}, "--dropout=nan"),
    ({"arch": "mlp", "hidden_sizes": (64, 0)}, "--hidden-sizes=0"),
    ({"arch": "mlp", "hidden_sizes": (-1,)}, "--hidden-sizes=-1"),
    ({"channels": (0,)}, "--channels=0"),
    ({"channels": (8, -2)}, "--channels=-2"),
    ({"channels": (8, 8, 8, 8)}, "--channels=8,8,8,8: each block halves the image; give at most 3"),
    ({"convs_per_block": 0}, "--convs-per-block=0"),
    ({"dense_size": -1}, "--dense-size=-1"),
    ({"seed": -1}, "--seed=-1"),
    ({"seed": 2**31}, "--seed=2147483648"),
    ({"seed": 10**400}, "--seed=1000"),
    ({"checkpoint_every_steps": -1}, "--checkpoint-every-steps=-1"),
    ({"devices": "0"}, "--devices=0"),
    ({"devices": "-1"}, "--devices=-1: give a number, or auto"),
    ({"devices": "all"}, "--devices=all"),
    ({"devices": ""}, "--devices="),
    ({"resume": True}, "--resume needs --workdir=RUN"),
    ({"eval_only": True}, "--eval-only needs --workdir=RUN"),
    ({"resume": True, "eval_only": True, "workdir": "run"}, "exclude each other"),
    ({"augment_strength": -1.0}, "--augment-strength=-1.0: give a number that is at least 0"),
    (
        {"augment_strength": 2.0, "preset": "quick", "augment": "none"},
        "--augment-strength=2.0: nothing is augmented here",
    ),
    (
        {"batch_norm": False, "renormalize": True},
        "--renormalize: without BatchNorm (--no-batch-norm) there is nothing to estimate",
    ),
    ({"teacher": ""}, "--teacher is empty; give the folder of a run, or leave the flag out"),
    ({"arch": "cnn", "hidden_sizes": (64,)}, "--hidden-sizes isn't for --arch=cnn"),
    ({"arch": "mlp", "channels": (8,)}, "--channels isn't for --arch=mlp"),
    ({"arch": "ann", "dense_size": 8}, "--dense-size isn't for --arch=mlp"),
    ({"arch": "mlp", "convs_per_block": 2}, "--convs-per-block isn't for --arch=mlp"),
]


@pytest.mark.parametrize(("values", "said"), BAD)
def test_bad_values_are_named(values, said):
    config = TrainConfig(**values)
    for refuse in (check, lambda config: config.resolve("mnist")):
        with pytest.raises(DigitsError, match=re.escape(said)) as caught:
            refuse(config)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"arch": "ann", "hidden_sizes": ()},
        {"channels": (8, 8, 8)},
        {"dropout": 0.0, "label_smoothing": 0.99, "weight_decay": 0.0, "dense_size": 0},
        {"seed": 2**31 - 1, "devices": "8", "epochs": 0.01, "batch_size": 1},
        {"resume": True, "workdir": "run"},
    ],
)
def test_good_values_are_not(values):
    check(TrainConfig(**values))


# --- presets -------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mnist", "digits", "emnist/letters"])
@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("arch", ["cnn", "mlp", "ann"])
def test_every_preset_fills_in_everything(arch, preset, dataset):
    config = TrainConfig(arch=arch, preset=preset).resolve(dataset)
    check(config)
    assert config.dataset == dataset
    assert config.arch == ("cnn" if arch == "cnn" else "mlp")
    other = (
        ["hidden_sizes"]
        if arch == "cnn"
        else ["channels", "convs_per_block", "dense_size", "space_to_depth"]
    )
    empty = [name for name in FIELDS if getattr(config, name) is None]
    of_this_call = ["data_dir", "config", "workdir"]
    of_this_call += ["together", "teacher", "teacher_weight", "teacher_temperature"]
    of_this_call += ["coordinator", "num_processes", "process_id"]
    assert sorted(empty) == sorted([*other, *of_this_call])
    assert config.resolve(dataset) == config  # a second time changes nothing


def test_a_strength_of_nothing_is_refused_where_the_preset_has_nothing():
    TrainConfig(preset="standard", augment_strength=2.0).resolve("mnist")
    with pytest.raises(DigitsError, match="give --augment=NAME too, or leave it out"):
        TrainConfig(preset="quick", augment_strength=2.0).resolve("mnist")


def test_a_presets_strength_goes_with_its_own_augmentation():
    strength = {
        augment: TrainConfig(preset="best", augment=augment).resolve("mnist").augment_strength
        for augment in (None, "elastic", "none", "cutout")
    }
    assert strength == {None: 0.7, "elastic": 0.7, "none": 1.0, "cutout": 1.0}
    given = TrainConfig(preset="best", augment="cutout", augment_strength=0.5)
    assert given.resolve("mnist").augment_strength == 0.5


def test_nothing_is_estimated_where_there_is_no_batch_norm():
    found = TrainConfig(preset="best", batch_norm=False).resolve("mnist")
    assert (found.batch_norm, found.renormalize) == (False, False)
    # A run of before, when both together were accepted, and one of them did nothing.
    old = with_later_fields({**found.to_dict(), "renormalize": True})
    assert from_dict(old, "config.json") == found


def test_what_is_given_beats_the_preset():
    given = {"epochs": 0.5, "dropout": 0.25, "batch_norm": False, "dense_size": 0, "channels": (4,)}
    config = TrainConfig(arch="cnn", **given).resolve("mnist")
    assert {name: getattr(config, name) for name in given} == given
    assert config.weight_decay == BASE["cnn"]["weight_decay"]
    assert config.augment == RECIPES["cnn", "large"]["standard"]["augment"]


@pytest.mark.parametrize(("dataset", "size"), [("mnist", "large"), ("digits", "small")])
@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_the_preset_beats_the_base_and_small_sets_have_their_own(arch, preset, dataset, size):
    config = TrainConfig(arch=arch, preset=preset).resolve(dataset)
    for name in BASE[arch]:
        wanted = RECIPES[arch, size][preset].get(name, BASE[arch][name])
        assert getattr(config, name) == wanted
    assert config.epochs == RECIPES[arch, size][preset]["epochs"]


# --- JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["cnn", "mlp"])
def test_round_trip(tmp_path, arch):
    config = TrainConfig(arch=arch, learning_rate=1 / 3, workdir="runs/ä b").resolve("digits")
    (tmp_path / "config.json").write_text(json.dumps({"config": config.to_dict()}))
    assert read_config(tmp_path / "config.json") == config


def test_whole_numbers_are_floats_too():
    found = from_dict({"epochs": 2}, "here").epochs
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 1}, "here: unknown field 'epoch'"),
        ({"epochs": 10**400}, "field 'epochs'"),
        ({"epochs": "2"}, "field 'epochs'"),
        ({"epochs": True}, "field 'epochs' is True"),
        ({"batch_size": 2.5}, "field 'batch_size' is 2.5"),
        ({"batch_size": True}, "field 'batch_size'"),
        ({"seed": None}, "field 'seed' is None"),
        ({"channels": 8}, "field 'channels'"),
        ({"channels": [8, "x"]}, "field 'channels'"),
        ({"channels": [8, 2.0]}, "field 'channels'"),
        ({"resume": 1}, "field 'resume'"),
        ({"arch": ["cnn"]}, "field 'arch'"),
        ({"devices": 2}, "field 'devices' is 2"),
        ({"seed": -1}, "--seed=-1"),
        ([], "here: expected an object"),
        ("cnn", "here: expected an object"),
        (None, "here: expected an object"),
    ],
)
def test_other_fields_and_types_are_refused(values, said):
    with pytest.raises(DigitsError, match=re.escape(said)):
        from_dict(values, "here")


def test_a_config_that_is_none(tmp_path):
    path = tmp_path / "config.json"
    for value in ([], {"other": 1}, "text"):
        path.write_text(json.dumps(value))
        with pytest.raises(DigitsError, match=r"config.json: has no field 'config'"):
            read_config(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
likely = st.sampled_from(["cnn", "mlp", "auto", "quick", "float32", "3", "²", 1, 0.5, [8], True])


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), likely | json_values, max_size=4) | json_values)
def test_anything_gives_a_configuration_or_an_input_error(values):
    try:
        config = from_dict(values, "here")
    except DigitsError:
        return
    assert {name: getattr(config, name) for name in values} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    config.resolve("mnist")


# --- the same run --------------------------------------------------------------------------


def test_first_difference():
    run = TrainConfig(arch="mlp", dtype="float32").resolve("digits")
    elsewhere = dataclasses.replace(
        run, workdir="x", data_dir="y", devices="2", platform="cpu", resume=True, eval_only=True
    )
    elsewhere = dataclasses.replace(elsewhere, dry_run=True, checkpoint_every_steps=5)
    elsewhere = dataclasses.replace(elsewhere, coordinator="a:1", num_processes=2, process_id=1)
    elsewhere = dataclasses.replace(
        elsewhere, config="z", input="stream", max_skipped_steps=3, convolution="lax"
    )
    assert first_difference(run, elsewhere) is None
    assert first_difference(dataclasses.replace(run, dtype="auto"), run) is None
    assert first_difference(run, dataclasses.replace(run, dtype="auto")) == "dtype"
    compared = set(FIELDS) - {
        *("workdir", "data_dir", "config", "devices", "platform", "resume", "eval_only", "dry_run"),
        *("coordinator", "num_processes", "process_id", "input"),
        *("checkpoint_every_steps", "max_skipped_steps", "convolution", "steps_per_call"),
        "together",
    }
    for name in compared:
        assert first_difference(run, dataclasses.replace(run, **{name: "other"})) == name


def test_adam_alone_leaves_out_the_recipes_weight_decay():
    assert TrainConfig(optimizer="adam").resolve("mnist").weight_decay == 0
    assert TrainConfig(optimizer="sgd").resolve("mnist").weight_decay > 0
