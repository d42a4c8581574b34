"""What each preset costs on a device: python -m experiments.sizes

Parameters, file sizes, multiply-adds, and the latency of one image and of many on one core, of
every preset's network, with the accuracy of its trained runs (see experiments.training_table and
experiments.accuracy).
Writes ``experiments/results/sizes.json`` and ``sizes.md``. The whole process keeps to one core.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.config import TrainConfig
from digits_jax.config_checks import PRESET_NAMES
from digits_jax.errors import ConfigError
from digits_jax.runs import folder
from digits_jax.runs.ensembles import members_of
from experiments.training_table import RESULTS

SINGLE_CALLS, MANY = 300, 4096


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    runs: Path = Path("runs/table")
    """Folder of the trained runs, named ARCH-DATASET-PRESET-seedN."""
    ensembles: Path = Path("runs/accuracy")
    """Folder of the ensembles, named ARCH-PRESET, whose members are taken where no run is."""
    dataset: str = "mnist"
    """Their data set."""
    data_dir: str | None = None
    """Its folder, for what int8 reaches."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of sizes.json and sizes.md."""


def main(argv: Sequence[str]) -> None:
    """Measures, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    for name in ("runs", "ensembles"):  # Without the usual ones, untrained networks are measured.
        path = getattr(arguments, name)
        if path != getattr(Arguments(), name) and not path.is_dir():
            raise ConfigError(f"--{name}={path}: no such folder; leave it out to do without")
    if hasattr(os, "sched_setaffinity"):  # before JAX starts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from tqdm import tqdm

    names = [(arch, preset) for arch in ("cnn", "mlp") for preset in PRESET_NAMES]
    rows = [measure(arch, preset, arguments) for arch, preset in tqdm(names, disable=None)]
    arguments.output.mkdir(parents=True, exist_ok=True)
    folder.write_json(arguments.output / "sizes.json", rows)
    text = markdown(rows)
    (arguments.output / "sizes.md").write_text(text)
    print(text)


def measure(arch: str, preset: str, arguments: Arguments) -> dict[str, Any]:
    """One row: of trained runs where they are, else of a network as it is initialised."""
    import jax
    import numpy as np

    from digits_jax.data.datasets import load_dataset
    from digits_jax.deploy.archive import write_archive
    from digits_jax.deploy.onnx import onnx_logits, write_onnx
    from digits_jax.deploy.predictor import Predictor, check_images
    from digits_jax.runs.checkpoint import list_steps

    data = load_dataset(arguments.dataset, arguments.data_dir)
    runs = sorted(arguments.runs.glob(f"{arch}-{arguments.dataset}-{preset}-seed*"))
    runs = runs or members_of(arguments.ensembles / f"{arch}-{preset}")
    # What was trained elsewhere may have come without its checkpoints.
    whole = [run for run in runs if list_steps(run / folder.CHECKPOINTS)]
    network = _trained(whole) or _initial(TrainConfig(arch=arch, preset=preset), data)
    predictor = Predictor(network)
    images = np.asarray(data.test.images)
    one = _seconds(lambda: predictor.predict(images[0]), SINGLE_CALLS)
    row = {
        "arch": arch,
        "preset": preset,
        "parameters": network.num_params,
        "multiply_adds": network.multiply_adds,
        "one_image_milliseconds": 1e3 * one,
        "images_per_second": MANY / _seconds(lambda: predictor.predict(images[:MANY]), 5),
        "seeds": len(runs),
        "jax_version": jax.__version__,
    }
    with tempfile.TemporaryDirectory() as scratch:
        plain, small = Path(scratch) / "model.npz", Path(scratch) / "model.onnx"
        write_archive(network, plain)
        write_onnx(network, small, check_images(np.asarray(data.train.images[:5000:5])))
        row |= {"npz_bytes": plain.stat().st_size, "int8_bytes": small.stat().st_size}
        if runs:
            row["accuracies"] = [folder.read_results(run)["test_accuracy"] for run in runs]
        if whole:
            answers = onnx_logits(small, check_images(images)).argmax(-1)
            row["int8_accuracy"] = float((answers == data.test.labels).mean())
            row["same_run_accuracy"] = float(
                (predictor.predict(images).labels == data.test.labels).mean()
            )
    return row


def _trained(runs):
    from digits_jax.deploy.network import load_network

    return load_network(runs[0]) if runs else None


def _initial(config, data):
    """Sizes and speeds don't ask for training."""
    import jax
    import jax.numpy as jnp

    from digits_jax.deploy.network import Member, Network
    from digits_jax.models.build import build_model

    own = dataclasses.asdict(config.resolve(data.name))
    settings = {**own, "dtype": "float32", "convolution": "lax"}
    module = build_model(settings, data.num_classes)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    members = (Member(settings, jax.device_get(variables)),)
    return Network("untrained", data.class_names, members, 0.5, {})


def _seconds(call, times):
    """The median, after one call that compiles."""
    call()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table, a line per preset."""
    lines = [
        "| preset | parameters | multiply-adds | npz, float32 | ONNX, int8 "
        "| one image, one core "
        "| images/s, one core | test accuracy | float32 to int8, seed 0 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.get("accuracies", [])
        accuracy = "not measured" if len(found) < 2 else (
            f"{statistics.mean(found):.2%} ± {100 * statistics.stdev(found):.2f}"
        )  # fmt: skip
        int8 = ""
        if "int8_accuracy" in row:
            int8 = f"{row['same_run_accuracy']:.2%} to {row['int8_accuracy']:.2%}"
        lines.append(
            f"| {row['arch']} {row['preset']} | {row['parameters']:,} | {row['multiply_adds']:,} "
            f"| {row['npz_bytes'] / 1e3:,.0f} kB | {row['int8_bytes'] / 1e3:,.0f} kB "
            f"| {row['one_image_milliseconds']:.2f} ms | {row['images_per_second']:,.0f} "
            f"| {accuracy} | {int8} |"
        )
    lines += ["", "Accuracy: mean ± standard deviation over the seeds, last step. Speeds: medians "
              "in one process on one core, with the preparation of the answer."]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_program(main))
