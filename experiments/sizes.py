"""Measures the size and the latency of each preset: python -m experiments.sizes

Parameters, file sizes, multiply-adds, and the latency of one image and of many, on one core, of
every preset's network, with the accuracy of its trained runs (see experiments.accuracy). A preset
without runs is measured after a few steps. Writes sizes.json and sizes.md.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.benchmarks.timing import repeated, spread, time_in_turn
from digits_jax.cli import parse, run_program
from digits_jax.config import RunOptions, TrainConfig
from digits_jax.files import read_json
from digits_jax.formatting import duration, fixed, markdown_table, mean_sd, percent
from digits_jax.runs.folder import hold_folder
from experiments.study import RESULTS, write_results

PRESETS = ("quick", "standard", "best", "tiny")
MANY = 4096
REPEATS, SECONDS = 7, 0.5  # of each call that is timed


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    runs: Path = Path("runs/table")
    """Folder of the trained runs, named ARCH-DATASET-PRESET-seedN."""
    ensembles: Path = Path("runs/accuracy")
    """Folder of the ensembles, named ARCH-PRESET, whose networks are taken where no run is."""
    dataset: str = "mnist"
    """Data set of the runs."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of sizes.json and sizes.md."""


def main(argv: Sequence[str]) -> None:
    """Measures, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    if hasattr(os, "sched_setaffinity"):  # before JAX starts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with hold_folder(arguments.output):
        rows = [measure(arch, preset, arguments) for arch in ("cnn", "mlp") for preset in PRESETS]
        write_results(arguments.output / "sizes.json", rows, markdown(rows))


def measure(arch: str, preset: str, arguments: Arguments) -> dict[str, Any]:
    """Measures a preset's first trained network."""
    import numpy as np

    from digits_jax import fit, load_dataset
    from digits_jax.deploy.archive import write_archive
    from digits_jax.deploy.onnx import onnx_logits, write_onnx
    from digits_jax.deploy.predictor import Predictor, check_images

    data = load_dataset(arguments.dataset, arguments.data_dir)
    runs = sorted(arguments.runs.glob(f"{arch}-{arguments.dataset}-{preset}-seed*"))
    runs = runs or sorted(arguments.ensembles.glob(f"{arch}-{preset}/member-*"))
    # Runs from another machine may lack their checkpoints.
    kept = [run for run in runs if (run / "checkpoints").exists()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept[0] if kept else Path(scratch) / "run"
        if not kept:
            config = TrainConfig(arch=arch, preset=preset, dataset=data.name, epochs=0.01)  # type: ignore[arg-type]
            fit(config, RunOptions(workdir=str(folder)), dataset=data, quiet=True)
        predictor = Predictor.load(folder)
        network, images = predictor.network, np.asarray(data.test.images)
        calls = [lambda: predictor.predict(images[0]), lambda: predictor.predict(images[:MANY])]
        blocks = time_in_turn([repeated(call) for call in calls], repeats=REPEATS, seconds=SECONDS)
        one, many = (spread(each)["median"] for each in blocks)
        plain, small = Path(scratch) / "model.npz", Path(scratch) / "model.onnx"
        write_archive(network, plain)
        examples, _ = data.train.rows(np.arange(0, min(5000, len(data.train)), 5))
        write_onnx(network, small, check_images(examples))
        row = {
            "arch": arch,
            "preset": preset,
            "parameters": network.num_params,
            "multiply_adds": network.multiply_adds,
            "one_image_milliseconds": 1e3 * one,
            "images_per_second": len(images[:MANY]) / many,
            "seeds": len(runs),
            "npz_bytes": plain.stat().st_size,
            "int8_bytes": small.stat().st_size,
        }
        if runs:
            results = [read_json(run / "results.json") for run in runs]
            row["accuracies"] = [each["test_accuracy"] for each in results]
        if kept:
            answers = onnx_logits(small, check_images(images)).argmax(-1)
            row["int8_accuracy"] = float((answers == data.test.labels).mean())
            own = predictor.predict(images).labels
            row["same_run_accuracy"] = float((own == data.test.labels).mean())
        return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """Makes the table, a line per preset."""
    lines = []
    for row in rows:
        accuracies = row.get("accuracies", [])
        int8 = None
        if "int8_accuracy" in row:
            int8 = f"{percent(row['same_run_accuracy'])} to {percent(row['int8_accuracy'])}"
        lines.append(
            (
                f"{row['arch']} {row['preset']}",
                f"{row['parameters']:,}",
                f"{row['multiply_adds']:,}",
                *(f"{row[name] / 1e3:,.0f} kB" for name in ("npz_bytes", "int8_bytes")),
                duration(row["one_image_milliseconds"] / 1e3),
                fixed(row["images_per_second"], 0),
                f"{mean_sd(accuracies, factor=100)}%" if len(accuracies) > 1 else "not measured",
                int8,
            )
        )
    columns = ["preset", "parameters", "multiply-adds", "npz, float32"]
    columns += ["ONNX, int8", "one image", "images/s", "test accuracy", "float32 to int8, seed 0"]
    note = (
        "Accuracy: mean ± standard deviation over the seeds, last step. Speeds: medians in one "
        "process on one core, with the preparation of the answer."
    )
    return f"{markdown_table(lines, columns)}\n\n{note}"


if __name__ == "__main__":
    sys.exit(run_program(main))
