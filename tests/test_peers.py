"""The peers compute what ours computes; and the arithmetic of the comparison."""

import json
from functools import partial

import jax
import numpy as np
import pytest

from digits_jax import CNN, MLP
from digits_jax.config import TrainConfig
from digits_jax.data.augment import POLICIES, make_augment
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import DigitsError
from digits_jax.training.optimizers import make_optimizer
from digits_jax.training.state import create_train_state
from digits_jax.training.steps import predict_step, train_step
from experiments.peers import compare, contenders, measure, mnist, report
from experiments.peers.contenders import SCENARIOS
from experiments.peers.flags import parse_flags

RATE, DECAY, SMOOTHING = 0.01, 0.1, 0.1
NETS = {
    "cnn": (CNN(channels=(8, 16), dense_size=32), ["--channels=8,16", "--dense-size=32"]),
    "deep": (
        CNN(channels=(8, 16), convs_per_block=2, dense_size=32),
        ["--channels=8,16", "--convs-per-block=2", "--dense-size=32"],
    ),
    "mlp": (
        MLP(hidden_sizes=(64, 32), batch_norm=True),
        ["--arch=mlp", "--hidden-sizes=64,32"],
    ),
    "plain mlp": (MLP(hidden_sizes=(64,)), ["--arch=mlp", "--hidden-sizes=64", "--no-batch-norm"]),
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
    ("name", "layout"),
    [*((name, "") for name in NETS), ("cnn", "--channels-last")],
)
def test_the_same_net_and_the_same_step(name, layout):
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_train

    module, flags = NETS[name]
    numbers = [f"--weight-decay={DECAY}", f"--learning-rate={RATE}"]
    args = parse_flags(["--data-dir=.", *flags, *numbers, *([layout] if layout else [])], "")
    tx = make_optimizer("adamw", RATE, DECAY)
    state = create_train_state(module, tx, jax.random.key(0))
    model = torch_train.make_model(args)
    cnn = args.arch == "cnn"
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
        logits = model(torch_train.to_float(theirs_images, args)).numpy()
    np.testing.assert_allclose(logits, jax.jit(predict_step)(state, images), rtol=1e-4, atol=1e-5)

    model.train()
    optimizer = torch_train.make_optimizer(model, args)
    step = torch_train.make_step(model, optimizer, args)
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
    from experiments.peers.torch_nets import warp

    images = np.random.default_rng(0).random((16, 28, 28, 1), np.float32)
    key = jax.random.key(3)
    amounts = jax.random.uniform(jax.random.split(key)[0], (6, 16), minval=-1.0)
    there = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    warped = warp(there, torch.from_numpy(np.array(amounts)), tuple(POLICIES["affine"].values()))
    ours = jax.jit(make_augment("affine"))(key, images)
    np.testing.assert_allclose(warped.numpy().transpose(0, 2, 3, 1), ours, atol=1e-4)


@pytest.mark.mnist
def test_the_same_images(mnist_dir):
    ours = load_dataset("mnist", mnist_dir)
    images, labels, test_images, test_labels = mnist.read_mnist(mnist_dir)
    assert (images == ours.train.images[..., 0]).all()
    assert (labels == ours.train.labels).all()
    assert (test_images == ours.test.images[..., 0]).all()
    assert (test_labels == ours.test.labels).all()


def test_a_peer_is_told_our_recipe():
    for scenario in SCENARIOS.values():
        config = scenario.config()
        args = parse_flags(contenders.peer_flags(config, "here"), "")
        assert args.arch == config.arch
        for name in (
            "epochs",
            "batch_size",
            "learning_rate",
            "weight_decay",
            "label_smoothing",
            "dropout",
        ):
            assert getattr(args, name) == getattr(config, name)
        name = "channels" if config.arch == "cnn" else "hidden_sizes"
        assert getattr(args, name) == getattr(config, name)
        assert args.affine == tuple(POLICIES[config.augment].values())
    averaged = TrainConfig(ema_decay=0.5).resolve("mnist")
    with pytest.raises(DigitsError, match=r"ema_decay is 0.5; the peers know only 0.0"):
        contenders.peer_flags(averaged, "here")
    with pytest.raises(DigitsError, match="no elastic field"):
        contenders.peer_flags(TrainConfig(augment="elastic").resolve("mnist"), "here")


def test_ratios_by_hand():
    assert measure.ratio([[10, 5], [9, 6], [8, 2]]) == {"median": 2, "low": 1.5, "high": 4}
    assert measure.is_reached(1.3, 1.3, "step")
    assert not measure.is_reached(1.29, 1.3, "step")
    assert measure.is_reached(0.8, 0.8, "process")
    assert not measure.is_reached(0.81, 0.8, "process")
    assert measure.is_reached(9, None, "step") is None
    order = []
    for number in (0, 1):
        pair = measure.in_turn(
            lambda: order.append("a") or 1, lambda: order.append("b") or 2, number
        )
        assert pair == [1, 2]
    assert order == ["a", "b", "b", "a"]


def test_the_table_and_the_picture():
    row = compare._row("cnn-quick", "PyTorch", "step", [[3000, 2000], [2600, 2000]], 1.3)
    other = compare._row("process", "PyTorch", "process", [[9.0, 10.0]], 0.8)
    other["ours"]["accuracy"] = other["theirs"]["accuracy"] = 0.9912
    result = {
        "rows": [row, other, {**row, "disturbed": True}],
        "notes": ["Keras"],
        "machine": {"processor": "a CPU", "cores": 2},
        "versions": {"torch": "2.9"},
        "settings": {"rounds": 2, "seconds": 0.7, "processes": 1},
    }
    text = report.markdown(result)
    assert "| 2,800 images/s | 2,000 images/s | **1.40** | 1.30 to 1.50 | ≥ 1.3: yes |" in text
    assert "| 1.40 | 1.30 to 1.50 | ≥ 1.3: not told, see the note |" in text
    assert "| 9.0 s (99.12%) | 10.0 s (99.12%) | **0.90** | 0.90 to 0.90 | ≤ 0.8: no |" in text
    assert "Note: Keras." in text
    assert report.picture(result).startswith(b"\x89PNG")


def test_what_cannot_be_compared(tmp_path, monkeypatch):
    (tmp_path / "peers.png").mkdir()
    for flags, words in {
        "--only=gru": "--only=gru: give some of cnn-quick,",
        "--rounds=0": "--rounds=0: give a number that is at least 1",
        "--seconds=nan": "--seconds=nan: give a number more than 0",
        "--output=peers.txt": "ends with .json",
        f"--output={tmp_path}": "peers.png is a folder; give another place",
    }.items():
        with pytest.raises(DigitsError, match=words):
            compare.main([flags])
    monkeypatch.setattr(contenders, "installed", lambda peer: "Keras" not in peer)
    with pytest.raises(DigitsError, match="has no train-images"):
        compare.main([f"--data-dir={tmp_path}"])
    monkeypatch.delenv("DIGITS_JAX_DATA_DIR", raising=False)
    with pytest.raises(DigitsError, match="no data is given; set DIGITS_JAX_DATA_DIR"):
        compare.main([])
    assert compare._missing(["mlp-128"], False) == [
        'left out: Keras on JAX, not installed (pip install "digits_jax[peers]")'
    ]
    assert compare._missing(["mlp-128"], True) == []
    monkeypatch.setattr(contenders, "installed", lambda peer: False)
    monkeypatch.setattr(contenders, "find_data", lambda folder: "data")
    with pytest.raises(DigitsError, match=r'PyTorch isn.t installed; pip install "digits_jax\['):
        compare.main([])


def test_a_machine_that_others_use():
    assert 0 <= measure.busy_cores(0.05) < 1000
    assert compare._disturbance("cnn-quick", [0.0, 0.2]) == []
    (note,) = compare._disturbance("cnn-quick", [0.0, 1.04, 0.5])
    assert note.startswith("cnn-quick: others kept up to 1.0 cores busy before 2 of 3 rounds")


def test_a_contender_that_stops():
    env = contenders.environment()
    command = measure.python("json.tool", "/nothing/there.json")
    with measure.started({"one": (command, env)}) as (workers, reasons):
        assert workers == {}
        assert "a contender stopped" in reasons["one"]
    with pytest.raises(DigitsError, match=r"-m json.tool .* ended with"):
        measure.run_process(command, env)


def test_a_peer_drops_where_ours_drops():
    torch = pytest.importorskip("torch")
    from experiments.peers import torch_nets

    share, size = 0.25, 16
    cnn = torch_nets.cnn((4,), 1, size, dropout=share)
    mlp = torch_nets.mlp((size, size), dropout=share)
    for net, expected in ((cnn, 1), (mlp, 2)):
        drops = [i for i, layer in enumerate(net) if isinstance(layer, torch.nn.Dropout)]
        assert [net[i].p for i in drops] == [share] * expected
        # Behind the activation, before the next matrix: as in `digits_jax.models`.
        assert all(isinstance(net[i - 1], torch.nn.ReLU) for i in drops)
        assert all(isinstance(net[i + 1], torch.nn.Linear) for i in drops)


def measured(dtype):
    """In place of `compare._steps`: a row, of a step in that type; Ctrl-C at mlp-512."""

    def steps(name, arguments, data_dir):
        if name == "mlp-512":
            raise KeyboardInterrupt
        row = compare._row(name, "PyTorch", "step", [[3000, 2000], [2600, 2000]], 1.0)
        return [row | {"processes": {"ours": {"dtype": dtype}}}], [], [0.0]

    return steps


@pytest.fixture
def peers_here(monkeypatch):
    monkeypatch.setattr(contenders, "installed", lambda peer: True)
    monkeypatch.setattr(contenders, "find_data", lambda folder: "data")


def test_what_was_measured_before_ctrl_c_is_there(peers_here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "_steps", measured("float32"))
    flags = [f"--output={tmp_path}/new/peers.json", "--keep"]
    with pytest.raises(KeyboardInterrupt):
        compare.main(["--only=cnn-quick,mlp-512,mlp-128", flags[0]])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "peers.json",
        "peers.md",
        "peers.png",
    }
    assert "peers.json has what was measured; go on with --only=mlp-512,mlp-128 --keep" in (
        capsys.readouterr().err
    )
    compare.main(["--only=mlp-128", *flags])
    found = json.loads((tmp_path / "new" / "peers.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["cnn-quick", "mlp-128"]


@pytest.mark.parametrize(("dtype", "rows"), [("float32", 1), ("bfloat16", 2)])
def test_float32_is_measured_once(peers_here, tmp_path, monkeypatch, capsys, dtype, rows):
    monkeypatch.setattr(compare, "_steps", measured(dtype))
    compare.main(["--only=mlp-128,mlp-128-float32", f"--output={tmp_path}"])
    out = capsys.readouterr().out
    assert out.count("| PyTorch |") == rows
    assert ("mlp-128-float32: left out, as mlp-128 is in float32 here" in out) == (rows == 1)
    assert "Medians of 7 rounds of 0.7 s for steps" in out
    assert "whole processes" not in out


def test_rows_that_are_not_measured_now_may_stay(tmp_path):
    def result(*names, cores=2, command="first"):
        return {
            "command": command,
            "machine": {"cores": cores},
            "versions": {"torch": "2.9"},
            "settings": {"rounds": 2},
            "scenarios": {name: {} for name in names},
            "rows": [{"name": name, "by": command} for name in names],
            "notes": [f"{name}: disturbed" for name in names],
        }

    path = tmp_path / "peers.json"
    path.write_text(json.dumps(result("cnn-quick", "mlp-128", "process")))
    now = result("mlp-128", command="second")
    now = compare._kept(compare._before(path, now), now)
    rows = [(row["name"], row["by"]) for row in now["rows"]]
    assert rows == [("cnn-quick", "first"), ("mlp-128", "second"), ("process", "first")]
    assert now["notes"] == ["cnn-quick: disturbed", "process: disturbed", "mlp-128: disturbed"]
    assert now["commands"] == ["first", "second"]
    with pytest.raises(DigitsError, match="was measured with cores 2, here it is 4"):
        compare._before(path, result("mlp-128", cores=4))
    with pytest.raises(DigitsError, match=r"none\.json"):
        compare._before(tmp_path / "none.json", now)
