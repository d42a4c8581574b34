"""What only a GPU can show: python -m pytest -m gpu tests/test_gpu.py

Left out unless asked for, and skipped where JAX finds none. Each program runs in a process of its
own, as a user would start it: the JAX of the tests' process has the CPU alone.
"""

import json
import re
import signal

import numpy as np
import programs
import pytest
from programs import stop, training

pytestmark = pytest.mark.gpu

GPU = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
CPU = {"JAX_PLATFORMS": "cpu"}
CNN = ("--arch=cnn", "--dataset=digits", "--preset=quick")
# With everything that draws random numbers or keeps an average.
MLP = ("--arch=mlp", "--dataset=digits", "--preset=quick", "--epochs=200", "--hidden-sizes=64")
MLP = (*MLP, "--dropout=0.2", "--augment=elastic", "--ema-decay=0.99")
SUMS = """
import sys, json
import jax, jax.numpy as jnp, numpy as np, optax
from digits_jax import CNN, MLP, create_train_state, train_step
from digits_jax.data.augment import make_augment

random = np.random.default_rng(0)
batch = {"image": random.integers(0, 256, (64, 28, 28, 1), np.uint8),
         "label": random.integers(0, 10, 64).astype(np.int32), "mask": np.ones(64, np.float32)}
found = {}
for platform in ("gpu", "cpu"):
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        images = jnp.asarray(batch["image"] / np.float32(255))
        found[platform, "elastic"] = jax.jit(make_augment("elastic"))(jax.random.key(3), images)
        for name, module in {"cnn": CNN(channels=(8, 16)), "mlp": MLP(hidden_sizes=(32,))}.items():
            state = create_train_state(module, optax.sgd(0.1), jax.random.key(1))
            state, sums = jax.jit(train_step)(state, batch, jax.random.key(2))
            found[platform, name] = jax.flatten_util.ravel_pytree(state.params)[0]
            found[platform, name + " loss"] = sums["loss"]
print(json.dumps({name: float(jnp.max(jnp.abs(np.asarray(found["gpu", name]) - value)))
                  for (platform, name), value in found.items() if platform == "cpu"}))
"""


@pytest.fixture(scope="module", autouse=True)
def gpu(home):
    """What JAX finds where it may choose; skips where that is no GPU."""
    script = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
    out = call(home, None, script=script)
    if not out.startswith("gpu "):
        pytest.skip(f"JAX finds no GPU here, but: {out.strip()}")
    return out.removeprefix("gpu ").strip()


def call(home, program, *argv, env=GPU, script=None):
    status, out, err = programs.call(home, program, *argv, env=env, script=script)
    assert status == 0, out + err
    assert "Traceback" not in err
    return out


def results(home, run):
    return json.loads((home / run / "results.json").read_text())


@pytest.fixture(scope="module")
def cnn(home, gpu):
    call(home, "train", *CNN, "--workdir=cnn")
    return "cnn"


@pytest.fixture(scope="module")
def mlp(home, gpu):
    call(home, "train", *MLP, "--workdir=mlp")
    return "mlp"


def test_an_epoch_is_one_call_of_the_gpu(home, cnn, gpu):
    found = results(home, cnn)
    assert found["device"] == f"gpu: {gpu}"
    assert (found["dtype"], found["convolution"]) == ("bfloat16", "lax")
    assert found["steps_per_call"] == 20  # 1,257 images in batches of 64
    assert found["test_accuracy"] > 0.95


@pytest.mark.parametrize("run", ["cnn", "mlp"])
def test_a_cpu_scores_what_a_gpu_trained(home, run, request):
    request.getfixturevalue(run)
    scores = [json.loads(call(home, "evaluate", run, "--json", env=env)) for env in (GPU, CPU)]
    # float32 is float32 on both: sums are taken in another order.
    assert scores[0]["test_errors"] == scores[1]["test_errors"]
    assert scores[0]["test_loss"] == pytest.approx(scores[1]["test_loss"], rel=1e-5)


def test_the_same_run_has_the_same_bits(home, mlp, cnn):
    for run, flags in ((mlp, MLP), (cnn, CNN)):
        call(home, "train", *flags, f"--workdir={run}-again")
        assert results(home, run)["params_sha256"] == results(home, f"{run}-again")["params_sha256"]


def test_interrupted_and_resumed_it_has_the_same_bits(home, mlp):
    with training(home, *MLP, "--workdir=cut", until="epoch 1/", env=GPU) as process:
        assert stop(process, signal.SIGINT)[0] == 130
    assert not (home / "cut" / "results.json").exists()
    assert "resuming at step" in call(home, "train", "--resume", "--workdir=cut")
    assert results(home, "cut")["params_sha256"] == results(home, mlp)["params_sha256"]


def test_a_step_and_a_warp_are_those_of_a_cpu(home, gpu):
    differences = json.loads(call(home, None, script=SUMS).splitlines()[-1])
    # float32 with sums in another order; the loss is a sum over 64 images.
    assert {name: bound for name, bound in differences.items() if bound > 2e-4} == {}


def test_an_ensemble_is_trained_in_one_vmapped_step(home, mlp):
    out = call(home, "train", *MLP, "--ensemble=3", "--workdir=three")
    # One line for an epoch of all: the mean, and the range.
    assert re.search(r"^epoch 200/200: .* \(\d+\.\d+% to \d+\.\d+%\)$", out, re.MULTILINE)
    members = [results(home, f"three/member-{index}") for index in range(3)]
    assert [member["seed"] for member in members] == [0, 1, 2]
    assert len({member["params_sha256"] for member in members}) == 3
    # The first is the run of its own, up to rounding differences.
    alone, together = (np.load(home / run / "predictions.npz") for run in (mlp, "three/member-0"))
    same = alone["logits"].argmax(-1) == together["logits"].argmax(-1)
    assert same.mean() > 0.97
    assert results(home, "three")["test_accuracy"] > 0.9
