"""Many steps in one call against one step after the other."""

import dataclasses

import jax
import numpy as np
import pytest

from digits_jax.config import TrainConfig
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import InputError
from digits_jax.training import calls
from digits_jax.training.calls import choose_steps_per_call
from digits_jax.training.loop import fit, resume
from digits_jax.training.plan import prepare


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


def test_the_choice(digits):
    plan = prepare(config("mlp"), digits)
    assert choose_steps_per_call(plan, processes=1) == 1  # a CPU

    def on(platform, processes=1, **changes):
        class Elsewhere:
            config = dataclasses.replace(plan.config, **changes)
            dataset = plan.dataset

        Elsewhere.platform = platform
        return choose_steps_per_call(Elsewhere, processes)

    in_an_epoch = -(-len(digits.train) // 64)
    assert on("gpu") == in_an_epoch
    assert on("gpu", batch_size=1) == calls.MOST_STEPS_PER_CALL
    assert on("tpu", input="stream") == on("tpu", processes=2) == 1
    assert on("cpu", steps_per_call="9") == 9
    for changes, said in (({"processes": 2}, "several processes"), ({"input": "stream"}, "stream")):
        with pytest.raises(InputError, match=rf"--steps-per-call=4: .*{said}.*; give 1, or auto"):
            on("gpu", steps_per_call="4", **changes)
