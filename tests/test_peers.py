"""The peers compute what ours computes; and the arithmetic of the comparison."""

import json
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from digits_jax import CNN, MLP
from digits_jax.benchmarks.processes import Finished
from digits_jax.config import TrainConfig
from digits_jax.data.augment import POLICIES, make_augment
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import ConfigError
from digits_jax.training.optimizers import make_optimizer
from digits_jax.training.state import create_train_state
from digits_jax.training.steps import predict_step, train_step
from experiments.peers import common, compare
from experiments.peers.compare import SCENARIOS, peer_recipe

RATE, DECAY, SMOOTHING = 0.01, 0.1, 0.1
_CNN = {"arch": "cnn", "channels": (8, 16), "dense_size": 32}
NETS = {
    "cnn": (CNN(channels=(8, 16), dense_size=32), _CNN),
    "deep": (
        CNN(channels=(8, 16), convs_per_block=2, dense_size=32),
        {**_CNN, "convs_per_block": 2},
    ),
    "mlp": (
        MLP(hidden_sizes=(64, 32), batch_norm=True),
        {"arch": "mlp", "hidden_sizes": (64, 32)},
    ),
    "plain mlp": (
        MLP(hidden_sizes=(64,)),
        {"arch": "mlp", "hidden_sizes": (64,), "batch_norm": False},
    ),
}


def in_their_shapes(params, cnn):
    """Our parameters in the order and the layout of the torch net's."""
    found, conv_side = [], 14
    names = sorted((name for name in params if name.startswith(("conv", "hidden"))), key=str)
    names += ["dense"] if "dense" in params else []
    for name in [*names, "logits"]:
        kernel = np.asarray(params[name]["kernel"])
        if kernel.ndim == 4:
            found.append(kernel.transpose(3, 2, 0, 1))
            channels = kernel.shape[-1]
        elif name == "dense" and cnn:
            side = round((kernel.shape[0] / channels) ** 0.5)
            assert side == conv_side // 4
            # Ours flattens height, width, channels; torch channels, height, width.
            kernel = kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
            found.append(kernel.reshape(kernel.shape[0], -1))
        else:
            found.append(kernel.T)
        if "bias" in params[name]:
            found.append(np.asarray(params[name]["bias"]))
        norm = "norm_" + name.removeprefix("conv_").removeprefix("hidden_")
        if norm in params:
            found += [np.asarray(params[norm][part]) for part in ("scale", "bias")]
    return found


@pytest.mark.parametrize(
    ("name", "channels_last"), [*((name, False) for name in NETS), ("cnn", True)]
)
def test_the_same_network_and_the_same_step(name, channels_last):
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_train

    module, fields = NETS[name]
    numbers = {"weight_decay": DECAY, "learning_rate": RATE, "label_smoothing": SMOOTHING}
    config = TrainConfig(preset="quick", **fields, **numbers).resolve("mnist")
    recipe = SimpleNamespace(**{**peer_recipe(config), "channels_last": channels_last})
    tx = make_optimizer("adamw", RATE, DECAY)
    state = create_train_state(module, tx, jax.random.key(0))
    model = torch_train.make_model(recipe)
    cnn = recipe.arch == "cnn"
    before = in_their_shapes(state.params, cnn)
    assert [p.shape for p in model.parameters()] == [p.shape for p in before]
    with torch.no_grad():
        for theirs, ours in zip(model.parameters(), before, strict=True):
            theirs.copy_(torch.from_numpy(ours.copy()))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 28, 28, 1), np.uint8)
    labels = rng.integers(0, 10, 32).astype(np.int32)
    theirs_images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    model.eval()
    with torch.inference_mode():
        logits = model(torch_train.to_float(theirs_images, recipe)).numpy()
    np.testing.assert_allclose(logits, jax.jit(predict_step)(state, images), rtol=1e-4, atol=1e-5)

    model.train()
    optimizer = torch_train.make_optimizer(model, recipe)
    step = torch_train.make_step(model, optimizer, recipe)
    loss = step(theirs_images, torch.from_numpy(labels.astype(np.int64))).item()
    batch = {"image": images, "label": labels, "mask": np.ones(32, np.float32)}
    apply = jax.jit(partial(state.apply_fn, train=True, mutable=["batch_stats"]))
    logits, _ = apply(state.variables, images / np.float32(255))
    smoothed = np.eye(10)[labels] * (1 - SMOOTHING) + SMOOTHING / 10
    ours = -(smoothed * np.asarray(jax.nn.log_softmax(logits))).sum(1).mean()
    assert loss == pytest.approx(ours, rel=1e-5)
    jitted = jax.jit(partial(train_step, label_smoothing=SMOOTHING))
    state, sums = jitted(state, batch, jax.random.key(1))
    assert not sums["skipped"]
    after = in_their_shapes(state.params, cnn)
    moments = in_their_shapes(state.opt_state[0].mu, cnn)
    for parameter, params, moment in zip(model.parameters(), after, moments, strict=True):
        mine = optimizer.state[parameter]["exp_avg"].numpy()
        np.testing.assert_allclose(mine, moment, rtol=1e-3, atol=2e-6)
        # Adam's first step is the gradient's sign: rounding decides it where there is none.
        clear = np.abs(moment) > 1e-5
        assert clear.mean() > 0.8
        np.testing.assert_allclose(
            parameter.detach().numpy()[clear], params[clear], rtol=1e-4, atol=1e-5
        )


def test_the_same_augmentation():
    torch = pytest.importorskip("torch")
    from experiments.peers.torch_train import warp

    images = np.random.default_rng(0).random((16, 28, 28, 1), np.float32)
    key = jax.random.key(3)
    amounts = jax.random.uniform(jax.random.split(key)[0], (6, 16), minval=-1.0)
    there = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    warped = warp(there, torch.from_numpy(np.array(amounts)), tuple(POLICIES["affine"].values()))
    ours = jax.jit(make_augment("affine"))(key, images)
    np.testing.assert_allclose(warped.numpy().transpose(0, 2, 3, 1), ours, atol=1e-4)


def test_a_peer_drops_where_ours_drops():
    torch = pytest.importorskip("torch")
    from experiments.peers.torch_train import make_model

    for fields, expected in (({"arch": "cnn"}, 1), ({"arch": "mlp"}, 2)):
        config = TrainConfig(preset="quick", dropout=0.25, **fields).resolve("mnist")
        net = make_model(SimpleNamespace(**peer_recipe(config)))
        drops = [i for i, layer in enumerate(net) if isinstance(layer, torch.nn.Dropout)]
        assert [net[i].p for i in drops] == [0.25] * expected
        # Behind the activation, before the next matrix: as in `digits_jax.models`.
        assert all(isinstance(net[i - 1], torch.nn.ReLU) for i in drops)
        assert all(isinstance(net[i + 1], torch.nn.Linear) for i in drops)


@pytest.mark.mnist
def test_the_same_images(mnist_dir):
    ours = load_dataset("mnist", mnist_dir)
    images, labels, test_images, test_labels = common.read_mnist(mnist_dir)
    assert (images == ours.train.images[..., 0]).all()
    assert (labels == ours.train.labels).all()
    assert (test_images == ours.test.images[..., 0]).all()
    assert (test_labels == ours.test.labels).all()


def test_a_peer_is_told_our_recipe():
    for scenario in SCENARIOS.values():
        config = scenario.config()
        recipe = peer_recipe(config)
        assert recipe["affine"] == list(POLICIES[config.augment].values())
        names = recipe.keys() & config.to_dict().keys() - {"dtype", "seed"}
        assert {"batch_size", "epochs", "learning_rate", "weight_decay", "dropout"} < names
        assert {name: recipe[name] for name in names} == {n: getattr(config, n) for n in names}
    for fields, message in {
        "ema_decay": (0.5, "ema_decay=0.5: the peers know only 0.0"),
        "augment": ("elastic", "augment=elastic: the peers know only"),
    }.items():
        config = TrainConfig(arch="mlp", preset="quick", **{fields: message[0]}).resolve("mnist")
        with pytest.raises(ConfigError, match=message[1]):
            peer_recipe(config)


def test_ratios_and_the_table_by_hand():
    steps = compare.make_row("a step", "PyTorch", "images/s", [(3000, 2000), (2600, 2000)])
    assert steps["ratio"] == {"median": 1.4, "low": 1.3, "high": 1.5}
    process = compare.make_row("a process", "PyTorch", "s", [(9.0, 10.0)])
    process["accuracies"] = [0.9912, 0.9915]
    memory = compare.make_row("memory", "PyTorch", "MB", [(500, 250)])
    result = {
        "rows": [steps, process, memory],
        "notes": ["Keras"],
        "machine": {"processor": "a CPU", "cores": 2},
        "versions": {"torch": "2.9", "keras": None},
        "settings": {"rounds": 2, "seconds": 0.7, "processes": 1},
    }
    text = compare.markdown(result)
    assert "| 2,800 images/s | 2,000 images/s | 1.40 | 1.30 to 1.50 |" in text
    assert "| 9.0 s (99.12%) | 10.0 s (99.15%) | 0.90 | 0.90 to 0.90 |" in text
    assert "| 500 MB | 250 MB | 2.00 |" in text
    assert "a CPU, 2 cores; torch 2.9.\n\nNote: Keras." in text


def test_a_comparison(monkeypatch, tmp_path, capsys):
    """Workers and whole processes are replaced: a step of a peer takes 2 ms, one of ours 1 ms."""

    class Worker:
        def __init__(self, command):
            self.milliseconds = 1 if "experiments.peers.ours" in command else 2
            self.facts = {"dtype": "float32"}

        def seconds(self, steps):
            return 0.001 * self.milliseconds * steps

        def close(self):
            pass

    def timed(command, environment):
        ours = command[2] == "digits_jax.train"
        seconds = (6.0 if "JAX_COMPILATION_CACHE_DIR" in environment else 4.0) if ours else 8.0
        return Finished(seconds, "test accuracy 99.10%: it was good\n", 10**9)

    order = []
    for number in (0, 1):
        compare.in_turn(partial(order.append, "a"), partial(order.append, "b"), number)
    assert order == ["a", "b", "b", "a"]
    monkeypatch.setattr(compare, "Worker", Worker)
    monkeypatch.setattr(compare, "timed_process", timed)
    monkeypatch.setattr(compare, "busy_cores", lambda: 0.5)
    monkeypatch.setattr(compare, "is_installed", lambda peer: "PyTorch" in peer)
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    path = tmp_path / "new" / "peers.json"
    flags = [f"--data-dir={tmp_path}", f"--output={path}", "--cold", "--processes=2"]
    compare.main(["--only=mlp-128,process", "--rounds=2", *flags])
    result = json.loads(path.read_text())
    found = [
        (row["unit"], round(row["ours"]), round(row["theirs"]), round(row["ratio"]["median"], 4))
        for row in result["rows"]
    ]
    assert found[:2] == [("images/s", 128_000, 64_000, 2.0)] * 2
    warm, memory = ("s", 4.0, 8.0, 0.5), ("MB", 1000.0, 1000.0, 1.0)
    assert found[2:] == [warm, memory, warm, memory, ("s", 6.0, 8.0, 0.75)]
    out = capsys.readouterr().out
    assert out.startswith(path.with_suffix(".md").read_text())
    assert "left out: Keras on JAX, not installed" in out
    assert "mlp-128: others kept up to 0.5 cores busy" in out
    assert "cold compilation cache" in out


def test_a_worker_takes_steps_and_may_stop():
    code = "import sys; from experiments.peers.common import serve; serve(int, dtype='x')"
    worker = compare.Worker([compare.sys.executable, "-c", code])
    assert worker.facts == {"ready": True, "dtype": "x"}
    assert worker.seconds(3) >= 0
    worker.close()
    with pytest.raises(ConfigError, match="a contender stopped: No module named nothing_like_it"):
        compare.Worker(
            [compare.sys.executable, "-c", "raise SystemExit('No module named nothing_like_it')"]
        )


def test_what_cannot_be_compared(tmp_path, monkeypatch):
    for flags, message in {
        "--only=gru": "only=gru: give some of cnn-quick,",
        "--rounds=0": "rounds=0: must be at least 1",
        "--seconds=nan": "seconds=nan: must be at least",
        "--output=peers.txt": "ends with .json",
        f"--data-dir={tmp_path}": "no train-images-idx3-ubyte.gz there",
    }.items():
        with pytest.raises(ConfigError, match=message):
            compare.main([flags])
    monkeypatch.setattr(compare, "is_installed", lambda peer: False)
    monkeypatch.setattr(compare, "find_data", lambda folder: "data")
    with pytest.raises(ConfigError, match=r'PyTorch isn.t installed: pip install "digits_jax\['):
        compare.main([])
