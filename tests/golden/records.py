"""Everything that `generate.py` stores but the trainings, as functions that compute it."""

import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import adapter
import drawing
import numpy as np

# --- comparison ----------------------------------------------------------------------------

RESAMPLES = "--resamples=500"


def _answers(rng, labels, rate):
    wrong = rng.random(labels.size) < rate
    answers = np.where(wrong, (labels + rng.integers(1, 10, labels.size)) % 10, labels)
    noise = rng.integers(-2000, 2001, (labels.size, 10)) / 1000
    return (noise + 5 * np.eye(10)[answers]).astype(np.float32)


def _write_pair(root):
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 10, 500).astype(np.int32)
    paths = []
    for name, rate in (("first", 0.12), ("second", 0.06)):
        paths.append(root / f"{name}.npz")
        known = rng.integers(0, 10, 100).astype(np.int32)
        np.savez(
            paths[-1],
            labels=labels,
            logits=_answers(rng, labels, rate),
            validation_labels=known,
            validation_logits=_answers(rng, known, rate),
        )
    return ["--predictions", *map(str, paths)]


def _write_groups(root):
    labels, known, sha256 = adapter.digits_data()
    rng = np.random.default_rng(12)
    groups = {}
    for arch, rate in (("mlp", 0.1), ("cnn", 0.05)):
        for seed in range(3):
            folder = root / f"{arch}-{seed}"
            folder.mkdir()
            results = {"arch": arch, "dataset": "digits", "dataset_sha256": sha256, "seed": seed}
            (folder / "results.json").write_text(json.dumps(results))
            (folder / "config.json").write_text("{}")
            np.savez(
                folder / "predictions.npz",
                labels=labels,
                logits=_answers(rng, labels, rate),
                validation_labels=known,
                validation_logits=_answers(rng, known, rate),
            )
            groups.setdefault(arch, []).append(str(folder))
    return ["--a", *groups["mlp"], "--b", *groups["cnn"]]


COMPARISONS = {"pair": _write_pair, "groups": _write_groups}


def comparison(name: str) -> dict:
    """Two groups of made-up predictions: the values of overlap.json and report.md's numbers."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        root = Path(folder)
        argv = [*COMPARISONS[name](root), "-o", str(root / "report"), RESAMPLES]
        status = adapter.compare(argv)
        if status:
            raise RuntimeError(f"compare: status {status}")
        overlap = json.loads((root / "report" / "overlap.json").read_text(encoding="utf-8"))
        report = (root / "report" / "report.md").read_text(encoding="utf-8")
        text = json.dumps(overlap).replace(str(root), "")
    overlap = {adapter.OLD_KEYS.get(key, key): value for key, value in json.loads(text).items()}
    return {"overlap": overlap, "report": report_numbers(report)}


def report_numbers(text: str) -> list[str]:
    """The distinct decimal numbers and percentages of a report, in order of appearance."""
    kept = [line for line in text.splitlines() if "Made with:" not in line]
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?%?", "\n".join(kept))
    return list(dict.fromkeys(found))


# --- pictures ------------------------------------------------------------------------------

KEPT_EVERY = 5  # of the single pictures, the outputs of every fifth are stored as they are


def inputs(mode: str) -> Iterator[tuple[str, str, str, bytes]]:
    """The pictures of a mode: kind, text, digest of the pixels, PNG file."""
    for index in range(drawing.COUNTS[mode]):
        kind, text, image = drawing.picture(mode, index)
        yield kind, text, *drawing.encoded(image)


def read(data: bytes, mode: str, score) -> tuple[dict, list[np.ndarray]]:
    """What is stored of one picture, and its uint8 [28, 28] images."""
    found = adapter.read_picture(data, mode, score)
    images = [image for line in found["lines"] for image, _ in line]
    boxes = [[box for _, box in line] for line in found["lines"]]
    row = {"output": drawing.digest(*images), "boxes": boxes, "text": found["text"]}
    if mode == "digit":
        row["found"] = found["found"]
    return row, images


# --- exports -------------------------------------------------------------------------------

_SHARED = {"dropout": 0.1, "batch_norm": True, "dtype": "float32"}
SETTINGS = {
    "mlp": {**_SHARED, "arch": "mlp", "hidden_sizes": (24, 16)},
    "cnn": {
        **_SHARED, "arch": "cnn", "channels": (5, 7), "convs_per_block": 2, "dense_size": 12,
        "space_to_depth": True, "convolution": "lax",
    },
    "cnn-pixels": {
        **_SHARED, "arch": "cnn", "channels": (4, 6), "convs_per_block": 1, "dense_size": 0,
        "space_to_depth": False, "convolution": "matmul",
    },
}  # fmt: skip
NETWORKS = {**{name: [name] for name in SETTINGS}, "ensemble": ["mlp", "cnn"]}
TEMPERATURE = 0.7


def variables(name: str) -> dict[str, np.ndarray]:
    """A network's variables by a NumPy seed, in the order of their names; none is trivial."""
    rng = np.random.default_rng(list(name.encode()))
    made = {}
    for path, shape in sorted(adapter.variable_shapes(SETTINGS[name]).items()):
        kind = path.rsplit("/", 1)[-1]
        if kind in ("var", "scale"):
            values = 0.5 + 1.5 * rng.random(shape)
        else:
            spread = np.sqrt(36 / np.prod(shape[:-1])) if kind == "kernel" else 1.0
            values = spread * (rng.random(shape) - 0.5)
        made[path] = values.astype(np.float32)
    return made


def export_images(count: int, seed: int) -> np.ndarray:
    """Images for the exported networks: float32 [n, 28, 28, 1] in [0, 1], coarse blobs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 7, 7)) * (rng.random((count, 7, 7)) < 0.4)
    levels = np.kron(coarse, np.ones((1, 4, 4), np.int64))
    return (levels[..., None] / 255).astype(np.float32)


def exports(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Logits float32 [16, 10] of a network by every way out, and its predictor's probabilities."""
    parts = [(SETTINGS[part], variables(part)) for part in NETWORKS[name]]
    images = export_images(16, 21)
    network = adapter.make_network(parts, TEMPERATURE)
    found = {}
    if len(parts) == 1:
        found["module"] = adapter.module_logits(*parts[0], images)
    found["predictor"], found["probabilities"] = adapter.predictor_answers(network, images)
    found["npz"] = adapter.npz_logits(network, folder / f"{name}.npz", images)
    found["onnx"] = adapter.onnx_logits(network, folder / f"{name}.onnx", images)
    calibration = export_images(64, 22)
    found["int8"] = adapter.onnx_logits(network, folder / f"{name}-8.onnx", images, calibration)
    found["stablehlo"] = adapter.stablehlo_logits(network, folder / f"{name}.stablehlo", images)
    found["page"] = adapter.page_logits(network, images)
    return {way: np.asarray(values, np.float32) for way, values in found.items()}
