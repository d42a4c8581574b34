"""Many steps in one call against one step after the other."""

import jax
import numpy as np
import pytest

from digits_jax.config import TrainConfig
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.train import parse_config
from digits_jax.training import calls
from digits_jax.training.loop import fit, resume
from digits_jax.training.parallel import choose_steps_per_call
from digits_jax.training.plan import prepare
from digits_jax.training.record import summarize


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def config(arch, **changes):
    sizes = {"mlp": {"hidden_sizes": (12,)}, "cnn": {"channels": (4,), "dense_size": 8}}[arch]
    return TrainConfig(
        **{"arch": arch, "dataset": "digits", "preset": "quick", "epochs": 1.6, "dtype": "float32"}
        | {"batch_size": 64, "dropout": 0.2, "augment": "shift", "ema_decay": 0.9, "devices": "1"}
        | sizes
        | changes
    )


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    runs = {}

    def get(arch, devices="1"):
        if (arch, devices) not in runs:
            run = config(arch, devices=devices, workdir=str(tmp_path_factory.mktemp(arch) / "run"))
            runs[arch, devices] = fit(run, dataset=digits, quiet=True)
        return runs[arch, devices]

    return get


def assert_same(result, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        result.state.params,
        expected.state.params,
    )
    assert int(result.state.step) == int(expected.state.step)
    for row, other in zip(result.metrics, expected.metrics, strict=True):
        for name in row.keys() - {"train_seconds"}:
            assert row[name] == pytest.approx(other[name], rel=1e-3), name


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize(("steps", "devices"), [(7, "1"), (100, "2")])
def test_many_steps_in_a_call(plain, digits, tmp_path, arch, steps, devices):
    """With a tail of calls that aren't full, an epoch's end within, dropout, warps, an average."""
    run = config(arch, steps_per_call=steps, devices=devices, workdir=str(tmp_path / "run"))
    assert_same(fit(run, dataset=digits, quiet=True), plain(arch, devices))


def test_checkpoints_between_calls_and_resuming_one_by_one(plain, digits, tmp_path, monkeypatch):
    taken, real = [], calls.Resident.take

    def take(self, state, done, count, wish):
        taken.append((done, count))
        if done >= 12:
            raise MemoryError("as good as any")
        return real(self, state, done, count, wish)

    monkeypatch.setattr(calls.Resident, "take", take)
    run = config("mlp", steps_per_call=5, checkpoint_every_steps=6, workdir=str(tmp_path / "run"))
    with pytest.raises(MemoryError):
        fit(run, dataset=digits, quiet=True)
    assert taken == [(0, 5), (5, 1), (6, 5), (11, 1), (12, 5)]
    resumed = resume(run.workdir, dataset=digits, quiet=True, steps_per_call="1")
    assert_same(resumed, plain("mlp"))


def test_a_resumed_run_computes_as_it_did(digits, tmp_path):
    """Another convolution rounds otherwise, and the end wouldn't be the same to the last bit."""
    run = config("cnn", convolution="lax", steps_per_call=3, workdir=str(tmp_path / "run"))
    fit(run, dataset=digits, quiet=True)
    argv = ["--resume", f"--workdir={run.workdir}"]
    found = parse_config(argv)
    assert (found.convolution, found.steps_per_call) == ("lax", "3")
    assert parse_config([*argv, "--convolution=matmul"]).convolution == "matmul"


def test_looking_at_a_finished_run_again_leaves_how_it_was_computed(digits, tmp_path):
    run = config("cnn", convolution="lax", steps_per_call=3, workdir=str(tmp_path / "run"))
    done = fit(run, dataset=digits, quiet=True).results
    assert (done["convolution"], done["steps_per_call"]) == ("lax", 3)
    looked = {"convolution": "matmul", "steps_per_call": "1"}
    again = resume(run.workdir, dataset=digits, quiet=True, **looked).results
    # The scores are computed anew, and their last bits differ.
    names = [name for name in done if not name.endswith("_loss")]
    assert {name: again[name] for name in names} == {name: done[name] for name in names}


def test_the_choice():
    alone = {"streamed": False, "processes": 1, "steps_in_an_epoch": 20}
    assert choose_steps_per_call("auto", "cpu", **alone) == 1
    assert choose_steps_per_call("auto", "gpu", **alone) == 20
    assert choose_steps_per_call("auto", "tpu", **alone | {"steps_in_an_epoch": 10**6}) == 256
    assert choose_steps_per_call("9", "cpu", **alone) == 9
    for changes, said in (({"processes": 2}, "several processes"), ({"streamed": True}, "stream")):
        assert choose_steps_per_call("auto", "gpu", **alone | changes) == 1
        assert choose_steps_per_call("1", "gpu", **alone | changes) == 1
        with pytest.raises(DigitsError, match=rf"--steps-per-call=4: .*{said}.*; give 1, or auto"):
            choose_steps_per_call("4", "gpu", **alone | changes)


def test_what_was_chosen_is_told(digits):
    plan = prepare(config("cnn", steps_per_call=7), digits)
    said = summarize(plan).splitlines()[-1]
    assert said.endswith("; convolutions by matmul; 7 steps in a call")
    assert "steps in a call" not in summarize(prepare(config("mlp"), digits))
