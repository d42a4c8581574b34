"""Exports a trained model for use elsewhere: python -m digits_jax.export RUN --format=onnx"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.fields import Optional, Switch

if TYPE_CHECKING:
    import numpy as np

    from digits_jax.deploy.network import Network

FORMATS = {
    "html": "one web page that runs up to four models, with no server and no network",
    "onnx": "for onnxruntime and whatever else reads ONNX",
    "stablehlo": "for XLA on cpu, cuda and tpu (jax.export)",
    "npz": "parameters and a JSON of the layers, to be read with NumPy alone",
}
CARD, MANIFEST, PREPROCESS = "MODEL_CARD.md", "manifest.json", "preprocess.py"


@dataclass(frozen=True)
class Arguments:
    """What to export, and how."""

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint=""),
    ]
    """Folders of finished runs, or exported .npz files."""
    format: Literal["html", "onnx", "stablehlo", "npz"]
    """html: a web page for up to four models; onnx; stablehlo: for XLA (jax.export); npz: for NumPy alone."""  # noqa: E501
    output: Annotated[
        str | None,
        tyro.conf.arg(aliases=["-o"], help_behavior_hint="(default: named after the model)"),
    ] = None
    """The page's file, or the folder for the other formats."""
    ensemble: Switch = False
    """Make several runs one model, whose probabilities are averaged."""
    int8: Switch = False
    """onnx: quantize weights and activations; html: weights, for a quarter of the size."""
    data_dir: Optional[str] = None
    """With --int8: folder of the data set."""


def main(argv: Sequence[str]) -> int:
    """Parses, exports, prints."""
    args = parse(Arguments, argv, doc=__doc__ or "")
    if not args.runs:
        raise ConfigError("no RUN is given; give the folder of a finished run")
    if args.int8 and args.format not in ("onnx", "html"):
        raise ConfigError("--int8 goes with --format=onnx or --format=html")
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
        scored = _predictions(args.runs, "validation_")
        if len(args.runs) > 1 and scored:
            networks = [calibrate(networks[0], *scored)]
    if args.format == "html":
        from digits_jax.deploy.page import write_page

        path = Path(args.output or f"{'-and-'.join(_file_name(n.name) for n in networks)}.html")
        size = write_page(networks, path, int8=args.int8)
        print(f"{path}: {size / 1e6:.2f} MB; open it in a browser")
        return 0
    folder = Path(args.output or f"{_file_name(networks[0].name)}-{args.format}")
    _export(networks[0], args, folder)
    print(f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir() if p.name[0] != '.'))}")
    return 0


def _file_name(name: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return plain[:80].strip("-.") or "model"


def _predictions(runs: Sequence[str], split: str = "") -> "tuple[np.ndarray, np.ndarray] | None":
    """The labels, and the logits of all runs as one; None for archives, which hold neither."""
    import numpy as np

    from digits_jax.models.mean_probability import mean_log_probabilities
    from digits_jax.runs.ensembles import members_of
    from digits_jax.runs.folder import read_run

    if not all(Path(run).is_dir() for run in runs):
        return None
    # An ensemble counts as its members, as in the exported network.
    members = [path for run in runs for path in members_of(Path(run)) or [Path(run)]]
    found = [vars(read_run(path)) for path in members]
    together = mean_log_probabilities([run[f"{split}logits"] for run in found])
    return found[0][f"{split}labels"], np.asarray(together)


def _export(network: "Network", args: Arguments, folder: Path) -> None:
    """Writes the model's file first: the card and the manifest describe one that exists."""
    from digits_jax.deploy import archive
    from digits_jax.deploy.model_card import model_card
    from digits_jax.deploy.preprocessing import preprocess_source
    from digits_jax.files import replace_file, write_json

    file = folder / f"model.{args.format}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written ({error.strerror}); give another") from None
    if present - {file.name, MANIFEST, CARD, PREPROCESS}:
        raise ConfigError(f"{folder}: holds other files; give a new folder with --output")
    about: dict[str, Any] = {**archive.describe(network), "file": file.name}
    measured: dict[str, str] = {}
    if args.format == "npz":
        archive.write_archive(network, file)
    elif args.format == "stablehlo":
        import jax

        from digits_jax.deploy.stablehlo import PLATFORMS, write_stablehlo

        write_stablehlo(network, file)
        about |= {"platforms": PLATFORMS, "jax_version": jax.__version__}
    else:
        from digits_jax.deploy.onnx import OPSET, write_onnx

        if args.int8:
            measured = _write_int8(network, args.runs[0], args.data_dir, file)
        else:
            write_onnx(network, file)
        about |= {"opset": OPSET, "quantized": args.int8}
        about["outputs"].append({**about["outputs"][0], "name": "probabilities"})
        measured |= {"ONNX opset": str(OPSET), "numbers": "int8" if args.int8 else "float32"}
        measured["second output"] = "`probabilities`, float32 [n, classes]"
    write_json(folder / MANIFEST, about)
    replace_file(folder / PREPROCESS, preprocess_source().encode())
    text = model_card(
        network,
        files={
            file.name: FORMATS[args.format],
            MANIFEST: "input, outputs, classes, origin: JSON",
            PREPROCESS: "makes the input of a picture: NumPy, SciPy and Pillow",
        },
        metrics=_metrics(network, args.runs),
        measured={"size": f"{file.stat().st_size:,} bytes", **measured},
    )
    replace_file(folder / CARD, text.encode())


def _write_int8(network: "Network", run: str, data_dir: str | None, file: Path) -> dict[str, str]:
    """Writes the quantized network; prints and returns what it costs on the test set."""
    import numpy as np

    from digits_jax.data.datasets import load_dataset
    from digits_jax.deploy.onnx import onnx_logits, write_onnx
    from digits_jax.deploy.predictor import Predictor, check_images
    from digits_jax.training.run_data import load_own_of_run

    if not network.facts.get("runs"):
        raise ConfigError(f"{network.name}: names no data set, which --int8 needs; give a run")
    name = network.facts["runs"][0]["dataset"]
    how = "stream" if name.startswith("tfds/") else "memory"  # it may be larger than memory
    data = load_own_of_run(run, None, data_dir) or load_dataset(name, data_dir, input=how)
    some = np.arange(0, min(5000, len(data.train)), 5)
    write_onnx(network, file, check_images(data.train.rows(some)[0]))
    int8 = onnx_logits(file, check_images(data.test.images)).argmax(-1)
    float32 = Predictor(network).predict(data.test.images).labels
    measured = {
        f"test accuracy, {kind}": f"{(labels == data.test.labels).mean():.2%}"
        for kind, labels in (("int8", int8), ("float32", float32))
    }
    measured["predictions that differ"] = f"{int((int8 != float32).sum())} of {len(int8):,}"
    print(*(f"{what}: {text}" for what, text in measured.items()), sep="\n")
    return measured


def _metrics(network: "Network", runs: Sequence[str]) -> dict[str, str]:
    from digits_jax.evaluation.calibration import calibration
    from digits_jax.formatting import plural

    scored = _predictions(runs)
    if scored is None:
        return {}
    labels, logits = scored
    found = calibration(labels, logits / network.temperature)
    errors = int((logits.argmax(-1) != labels).sum())
    return {
        "accuracy": f"{found.accuracy:.2%} ({plural(errors, 'error')} of {len(labels):,})",
        "mean probability of the prediction": f"{found.mean_confidence:.2%}",
        "expected calibration error (15 bins of equal mass)": f"{found.ece_equal_mass:.2%}",
        "negative log likelihood, nats": f"{found.nll:.4f}",
        "Brier score, 0 to 2": f"{found.brier:.4f}",
    }


if __name__ == "__main__":
    leave(run_program(main))
