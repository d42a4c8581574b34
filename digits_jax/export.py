"""Takes a trained model out of here: python -m digits_jax.export RUN --format=onnx"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax.cli import Parser, leave, run_program
from digits_jax.errors import ConfigError, DigitsError

FORMATS = {
    "html": "one web page that runs up to four models, with no server and no network",
    "onnx": "for onnxruntime and what else reads ONNX",
    "stablehlo": "for XLA on cpu, cuda and tpu (jax.export)",
    "npz": "weights and a JSON of the layers, to be read with NumPy alone",
}
CARD, MANIFEST = "MODEL_CARD.md", "manifest.json"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(prog="python -m digits_jax.export", description=__doc__.split(":")[0] + ".")
    add = made.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of finished runs, or exported .npz files")
    what = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    add("--format", required=True, choices=FORMATS, help=what)
    add("-o", "--output", metavar="PATH", help="the page's file, or the folder for the others "
        "(default: named for the model)")  # fmt: skip
    add("--ensemble", action="store_true", help="several runs become one model")
    add("--int8", action="store_true", help="onnx: quantize weights and activations")
    add("--data-dir", metavar="DIR", help="with --int8: folder of the data set")
    return made


def main(argv: Sequence[str]) -> int:
    """Parses, exports, prints."""
    args = parser().parse_args(argv)
    if args.int8 and args.format != "onnx":
        raise ConfigError("--int8 goes with --format=onnx")
    if args.format != "html" and len(args.runs) > 1 and not args.ensemble:
        raise ConfigError(
            f"--format={args.format} holds one model, and {len(args.runs)} runs are given; "
            "give one, or --ensemble to make them one"
        )
    from digits_jax.deploy.network import calibrate, combine
    from digits_jax.deploy.predictor import open_network

    networks = [open_network(run) for run in args.runs]
    if args.ensemble:
        networks = [combine(networks)]
        answers = _answers(args.runs, "validation_")
        if len(args.runs) > 1 and answers:
            networks = [calibrate(networks[0], *answers)]
    if args.format == "html":
        from digits_jax.deploy.page import write_page

        path = Path(args.output or f"{'-and-'.join(_file_name(n.name) for n in networks)}.html")
        size = write_page(networks, path)
        print(f"{path}: {size / 1e6:.2f} MB; open it in a browser")
        return 0
    (network,) = networks
    folder = Path(args.output or f"{_file_name(network.name)}-{args.format}")
    _export(network, args, folder)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.name[0] != '.'))}")
    return 0


def _file_name(name):
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return plain[:80].strip("-.") or "model"


def _answers(runs, split=""):
    """The logits of all runs as one, and the labels: None where a run isn't a folder."""
    from digits_jax.runs.ensembles import mean_log_probabilities
    from digits_jax.runs.folder import read_run

    if not all(Path(run).is_dir() for run in runs):
        return None
    found = [vars(read_run(Path(run))) for run in runs]
    logits = [run[f"{split}logits"] for run in found]
    if len(runs) > 1:
        logits = [mean_log_probabilities(logits)]
    return logits[0], found[0][f"{split}labels"]


def _export(network, args, folder: Path) -> None:
    """The model's file first: a card and a manifest speak of one that is there."""
    from digits_jax.deploy import archive
    from digits_jax.deploy.card import model_card
    from digits_jax.runs.folder import replace_file, write_json

    measured: dict[str, str] = {}
    file = folder / f"model.{args.format}"
    _make(folder, file.name)
    if args.format == "npz":
        archive.write_archive(network, file)
    elif args.format == "stablehlo":
        from digits_jax.deploy.stablehlo import PLATFORMS, write_stablehlo

        write_stablehlo(network, file)
    else:
        measured = _write_onnx(network, args, file)
    about: dict[str, Any] = {**archive.describe(network), "file": file.name}
    if args.format == "stablehlo":
        import jax

        about |= {"platforms": PLATFORMS, "jax_version": jax.__version__}
    if args.format == "onnx":
        from digits_jax.deploy.onnx import OPSET

        about |= {"opset": OPSET, "quantized": bool(args.int8)}
        measured |= {"ONNX opset": str(OPSET), "numbers": "int8" if args.int8 else "float32"}
        measured["second output"] = "`probabilities`, float32 [n, classes]"
    write_json(folder / MANIFEST, about)
    files = {file.name: FORMATS[args.format], MANIFEST: "input, output, classes and origin, JSON"}
    text = model_card(
        network,
        files=files,
        metrics=_metrics(network, args.runs),
        seeds=_seeds(args.runs) if len(args.runs) == 1 else (),
        measured={"size": f"{file.stat().st_size:,} bytes", **measured},
    )
    replace_file(folder / CARD, lambda out: out.write(text.encode()))


def _make(folder, name):
    """A folder of our own: new, empty, or an earlier export of the same format."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written ({error.strerror}); give another") from None
    if there - {name, MANIFEST, CARD}:
        raise ConfigError(f"{folder}: holds other files; give a new folder with --output")


def _write_onnx(network, args, file):
    from digits_jax.deploy.onnx import onnx_logits, write_onnx

    if not args.int8:
        write_onnx(network, file)
        return {}
    import numpy as np

    from digits_jax.data.datasets import load_dataset
    from digits_jax.deploy.predictor import Predictor, check_images

    if not network.facts.get("runs"):
        raise ConfigError(f"{network.name}: doesn't say what it was trained on; --int8 needs that")
    name = network.facts["runs"][0]["dataset"]
    way = "stream" if name.startswith("tfds/") else "memory"  # it may be larger than memory
    data = load_dataset(name, args.data_dir, input=way)
    some = np.arange(0, min(5000, len(data.train)), 5)
    write_onnx(network, file, check_images(data.train.rows(some)[0]))
    answers = onnx_logits(file, check_images(data.test.images)).argmax(-1)
    plain = Predictor(network).predict(data.test.images).labels
    right = {"int8": answers == data.test.labels, "float32": plain == data.test.labels}
    said = {f"test accuracy, {name}": f"{each.mean():.2%}" for name, each in right.items()}
    said["answers that differ"] = f"{int((answers != plain).sum())} of {len(plain):,}"
    for name, text in said.items():
        print(f"{name}: {text}")
    return said


def _metrics(network, runs) -> dict[str, str]:
    """What the network's own probabilities reach on the test set; an archive has no predictions."""
    from digits_jax.evaluation.calibration import calibration

    answers = _answers(runs)
    if answers is None:
        return {}
    logits, labels = answers
    found = calibration(labels, logits / network.temperature)
    errors = int((logits.argmax(-1) != labels).sum())
    return {
        "accuracy": f"{found.accuracy:.2%} ({errors:,} errors of {len(labels):,})",
        "mean probability of the answer": f"{found.mean_confidence:.2%}",
        "expected calibration error (15 bins of equal mass)": f"{found.ece_equal_mass:.2%}",
        "negative log likelihood, nats": f"{found.nll:.4f}",
        "Brier score, 0 to 2": f"{found.brier:.4f}",
    }


def _seeds(runs) -> list[float]:
    """Test accuracies of the runs beside this one that differ in their seed alone."""
    from digits_jax.config import read_config
    from digits_jax.runs.folder import RESULTS, read_json

    own = Path(runs[0]).resolve()
    if not own.is_dir():
        return []
    config = read_config(own)[0]
    by_seed = {config.seed: read_json(own / RESULTS)["test_accuracy"]}
    for path in sorted(own.parent.iterdir()):
        try:
            other, results = read_config(path)[0], read_json(path / RESULTS)
            same = dataclasses.replace(other, seed=config.seed) == config
            if same and results["dataset_sha256"] == read_json(own / RESULTS)["dataset_sha256"]:
                by_seed.setdefault(other.seed, float(results["test_accuracy"]))
        except (DigitsError, KeyError, TypeError, ValueError):
            continue  # not a finished run
    return [by_seed[seed] for seed in sorted(by_seed)]


if __name__ == "__main__":
    leave(run_program(main))
