"""The readers, each with a whole file and with what is right of what it reads.

One more is one more entry of `READERS`: what makes a whole folder, what reads it, what is right of
the result, and which files are damaged and how (see `harness.Reader` and `harness.Target`). What
has a checksum is `assert_same`: it is read as it was, or refused.

    "manifest.json": Reader(make_it, read_it, assert_same, (Target("5/manifest.json", "json"),)),
"""

import contextlib
import gzip
import io
import json
import math
import struct
import zipfile
import zlib

import numpy as np
from harness import Reader, Target
from PIL import Image

from digits_jax import compare as compare_program
from digits_jax import config as config_module
from digits_jax.config import TrainConfig, read_config
from digits_jax.data.originals import read_idx
from digits_jax.deploy import network as network_module
from digits_jax.deploy.archive import describe, read_archive, write_archive
from digits_jax.deploy.card import model_card
from digits_jax.deploy.network import Layer, Network, combine, numpy_logits
from digits_jax.deploy.sheet import is_sheet, write_sheet
from digits_jax.errors import DigitsError
from digits_jax.evaluation import compare
from digits_jax.runs import checkpoint as checkpoint_module
from digits_jax.runs.folder import (
    METRICS_FIELDS,
    append_metrics,
    keep_metrics,
    read_metrics,
    read_results,
    read_run,
    write_json,
    write_predictions,
)
from digits_jax.vision.decode import decode_image

CLASSES = tuple("0123456789")
COUNT = 12  # images


def same(result, expected):
    """Whether two results are equal to the last bit, their dtypes too."""
    if isinstance(expected, np.ndarray):
        same_kind = isinstance(result, np.ndarray) and result.dtype == expected.dtype
        return same_kind and np.array_equal(result, expected, equal_nan=False)
    if isinstance(expected, dict):
        return result.keys() == expected.keys() and all(
            same(result[key], expected[key]) for key in expected
        )
    if isinstance(expected, list | tuple):
        return len(result) == len(expected) and all(map(same, result, expected))
    return type(result) is type(expected) and result == expected


def assert_same(result, expected, case):
    """What has a checksum is as it was, or is refused."""
    assert same(result, expected)


# --- configurations, results, metrics ------------------------------------------------------


def make_config(folder):
    """As training writes it."""
    config = TrainConfig(arch="cnn", workdir="runs/é", seed=3).resolve("mnist")
    write_json(
        folder / "config.json",
        {
            "config": config.to_dict(),
            "versions": {"python": "3.11.7", "jax": "0.10.2"},
            "device": {"kind": "cpu", "count": 1},
            "dataset": {"name": "mnist", "sha256": "ab" * 32, "class_names": list(CLASSES)},
        },
    )


def right_config(result, expected, case):
    """It passes its own check, is bounded, and comes back from JSON."""
    config_module.check(result)
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert config_module.from_dict(json.loads(text), "again") == result
    for value in result.to_dict().values():
        for number in value if isinstance(value, tuple) else (value,):
            assert not isinstance(number, int) or 0 <= number < 2**31


RESULTS = {
    "arch": "cnn",
    "preset": "quick",
    "dataset": "mnist",
    "dataset_version": "3.0.1",
    "dataset_sha256": "ab" * 32,
    "dataset_notice": "",
    "num_classes": 10,
    "class_names": list(CLASSES),
    "seed": 3,
    "num_params": 7850,
    "steps": 30,
    "epochs": 1.5,
    "batch_size": 64,
    "validation_accuracy": 0.9,
    "validation_errors": 1,
    "validation_count": COUNT,
    "validation_loss": 0.25,
    "test_accuracy": 0.9,
    "test_errors": 1,
    "test_count": COUNT,
    "test_loss": 0.25,
    "train_seconds": 1.5,
    "compile_seconds": 2.5,
    "total_seconds": 5.0,
    "images_per_second": 1280.0,
    "params_sha256": "cd" * 32,
    "device": "cpu: x",
    "num_devices": 1,
    "jax_version": "0.10.2",
}


def _predictions(random):
    arrays = {}
    for part in ("", "validation_"):
        arrays[f"{part}labels"] = np.arange(COUNT, dtype=np.int32) % 10
        arrays[f"{part}logits"] = random.normal(size=(COUNT, 10)).astype(np.float32)
    return arrays


def make_run(folder):
    """A finished run without its checkpoints."""
    make_config(folder)
    write_json(folder / "results.json", RESULTS)
    write_predictions(folder, **_predictions(np.random.default_rng(0)))


def right_results(result, expected, case):
    """An object that JSON can hold."""
    assert isinstance(result, dict)
    json.dumps(result, allow_nan=False)


def make_metrics(folder):
    """Six epochs, with what later versions may add."""
    for i in range(6):
        row = {**dict.fromkeys(METRICS_FIELDS, 0.25), "step": 10 * i + 10, "epoch": i + 1.0}
        append_metrics(folder, {**row, "skipped_steps": 0, "note": "é"})


def right_metrics(rows, expected, case):
    """Whole rows in order, and every line that wasn't touched is among them."""
    for row in rows:
        assert all(type(row[name]) in (int, float) for name in METRICS_FIELDS)
        assert all(math.isfinite(row[name]) for name in METRICS_FIELDS)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    lines = case.after.split(b"\n")
    for line, row in zip(case.before.splitlines(), expected, strict=True):
        # Unless another line says something else of the same step.
        if line in lines and not any(r["step"] == row["step"] and r != row for r in rows):
            assert row in rows


def right_kept_metrics(rows, expected, case):
    """As above, and the file holds what was returned, to be gone on with."""
    right_metrics(rows, expected, case)
    assert read_metrics(case.folder) == rows
    later = {**expected[0], "step": max([row["step"] for row in rows], default=0) + 1}
    append_metrics(case.folder, later)
    assert read_metrics(case.folder)[-1] == later


# --- NumPy's archives ----------------------------------------------------------------------


def _members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def inside(file, member, kind="bytes"):
    """A member of a zip file; around it the archive is whole, its checksum too."""
    name = f"{member}.npy"

    def rebuild(data, damaged):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as made:
            for each, content in _members(data).items():
                made.writestr(each, damaged if each == name else content)
        return stream.getvalue()

    return Target(file, kind, lambda data: _members(data)[name], rebuild)


def inside_text(file, member):
    """The JSON in a member that is NumPy's array of one string."""
    outer = inside(file, member)

    def payload(data):
        return str(np.load(io.BytesIO(outer.payload(data)))).encode()

    def rebuild(data, damaged):
        stream = io.BytesIO()
        np.save(stream, np.array(damaged.decode("utf-8", "replace")))
        return outer.rebuild(data, stream.getvalue())

    return Target(file, "json", payload, rebuild)


def right_run(run, expected, case):
    """Labels int32 [n] below the number of classes, logits float32 [n, classes], finite."""
    right_results(run.results, None, case)
    for part in ("", "validation_"):
        labels, logits = getattr(run, f"{part}labels"), getattr(run, f"{part}logits")
        assert (labels.dtype, logits.dtype) == (np.int32, np.float32)
        assert (labels.ndim, logits.ndim, len(labels)) == (1, 2, len(logits))
        assert np.isfinite(logits).all()
        assert ((labels >= 0) & (labels < logits.shape[1])).all()


def make_predictions(folder):
    """Two files, as another framework may write them: the first is the one that is damaged."""
    for i, name in enumerate(("a.npz", "b.npz")):
        arrays = _predictions(np.random.default_rng(i))
        arrays["labels"] = arrays["labels"].astype(np.int64)
        np.savez(folder / name, **arrays)


def read_two_predictions(folder):
    """As the program of comparisons does."""
    one, two = (
        compare_program.read_predictions(folder / name, name) for name in ("a.npz", "b.npz")
    )
    compare([one], [two], resamples=100)
    return one


def right_source(source, expected, case):
    """Labels int64 [n], logits [n, classes] of finite numbers."""
    assert source.labels.dtype == np.int64
    assert source.logits.shape == (len(source.labels), 10)
    assert np.isfinite(source.logits).all()
    assert source.labels.min() >= 0
    assert source.labels.max() < 10


def read_compared_run(folder):
    """A run of ours, to be compared with itself."""
    return compare_program.read_run(folder, "run")


# --- networks ------------------------------------------------------------------------------


def _network(facts):
    random = np.random.default_rng(0)

    def floats(*shape):
        return random.normal(size=shape).astype(np.float32)

    member = (
        Layer("space_to_depth"),
        Layer("conv", {"kernel": floats(3, 3, 4, 2), "bias": floats(2)}),
        Layer("max_pool"),
        Layer("scale", {"factor": floats(2), "offset": floats(2)}),
        Layer("relu"),
        Layer("flatten"),
        Layer("dense", {"kernel": floats(98, 10), "bias": floats(10)}),
    )
    return Network("cnn-é", CLASSES, (member, member), 0.5, facts, 0.7)


FACTS = {"runs": [{**RESULTS, "config": {"optimizer": "adamw"}, "versions": {"jax": "1"}}]}
FACTS = {**FACTS, "threshold_cost": 0.02}


def make_archive(folder):
    """A small ensemble."""
    write_archive(_network(FACTS), folder / "model.npz")


def read_used_archive(folder):
    """As `digits_jax.export` and `digits_jax.predict` take it."""
    network = read_archive(folder / "model.npz")
    model_card(network, files={}).encode()
    # Other classes or other data: refused, by the networks' names.
    with contextlib.suppress(DigitsError):
        combine([network, _network(FACTS)])
    return network


def right_network(network, expected, case):
    """It answers, and JSON can say what it is."""
    json.dumps(describe(network), allow_nan=False)
    assert all(type(name) is str for name in (network.name, *network.class_names))
    with np.errstate(all="ignore"):
        logits = numpy_logits(network, np.zeros((2, 28, 28, 1), np.float32))
    assert logits.shape == (2, len(network.class_names))
    assert logits.dtype == np.float32
    assert 0 < network.temperature < np.inf
    assert 0 <= network.threshold <= 1


def _weights():
    random = np.random.default_rng(0)
    layer = {"kernel": random.normal(size=(784, 10)).astype(np.float32), "bias": np.zeros(10)}
    return {"params": {"logits": layer}, "batch_stats": {}}


def make_trained(folder):
    """A run whose checkpoint is replaced by the arrays above."""
    make_run(folder)
    config = TrainConfig(arch="mlp", hidden_sizes=(), seed=3).resolve("mnist")
    whole = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**whole, "config": config.to_dict()})
    digest = network_module.tree_sha256(_weights()["params"])
    results = {**RESULTS, "arch": "mlp", "params_sha256": digest}
    write_json(folder / "results.json", results)


def read_trained(folder):
    """A run as a network; what reads its checkpoint has tests of its own."""
    original = network_module.read_weights
    network_module.read_weights = lambda path: (30, _weights(), {})
    try:
        network = network_module.load_network(folder)
    finally:
        network_module.read_weights = original
    model_card(network, files={}).encode()
    return network


# --- data sets -----------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), np.uint8)


def make_idx(folder):
    """Images and labels, gzipped, as MNIST's four files."""
    header = struct.pack(">4B3I", 0, 0, 8, 3, *IMAGES.shape)
    (folder / "images.gz").write_bytes(gzip.compress(header + IMAGES.tobytes(), mtime=0))
    header = struct.pack(">4BI", 0, 0, 8, 1, COUNT)
    (folder / "labels.gz").write_bytes(gzip.compress(header + bytes(range(COUNT)), mtime=0))


def read_idx_file(file):
    """A reader of that many entries of one file."""
    return lambda folder: read_idx((folder / file).read_bytes(), COUNT, file)


def right_idx(result, expected, case):
    """What the header says, where it was damaged; else as it was: gzip has a checksum."""
    if case.target.rebuild is None:
        assert_same(result, expected, case)
        return
    raw = case.after
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    assert result.dtype == np.uint8
    assert result.shape == (COUNT, *shape[1:])
    assert raw[4 + 4 * rank :].startswith(result.tobytes())


def in_gzip(file):
    """What is unpacked; the packing is whole."""
    return Target(
        file, "bytes", gzip.decompress, lambda _, damaged: gzip.compress(damaged, 1, mtime=0)
    )


# --- pictures ------------------------------------------------------------------------------


def _picture(name, **options):
    def make(folder):
        image = Image.fromarray(IMAGES[0])
        if name.endswith("webp"):
            image = image.convert("RGB")
        image.save(folder / name, **options)

    return make


def picture(name, *targets, **options):
    """A reader of one format."""

    def read(folder):
        return decode_image((folder / name).read_bytes(), str(folder / name))

    return Reader(_picture(name, **options), read, right_picture, (Target(name), *targets))


def right_picture(grey, expected, case):
    """Grey levels."""
    assert grey.dtype == np.uint8
    assert grey.ndim == 2
    assert grey.size > 0


def make_sheet(folder):
    """What `digits_jax.predict` draws."""
    write_sheet(folder / "sheet.png", [])


def right_answer(result, expected, case):
    """Yes or no: whatever lies there, it is a sheet or it isn't."""
    assert result in (True, False)


def _chunks(data):
    position = 8
    while position < len(data):
        (size,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + size]
        position += size + 12


def in_png(wanted, file="picture.png"):
    """A chunk of a PNG file, its checksum made right again."""

    def payload(data):
        return next(body for kind, body in _chunks(data) if kind == wanted)

    def rebuild(data, damaged):
        parts = [data[:8]]
        for kind, body in _chunks(data):
            new = damaged if kind == wanted else body
            parts += [struct.pack(">I", len(new)), kind, new]
            parts.append(struct.pack(">I", zlib.crc32(kind + new)))
        return b"".join(parts)

    return Target(file, "bytes", payload, rebuild)


def _reader(make, read, right, *targets, **options):
    return Reader(make, read, right, targets, **options)


NPZ = ("labels", "logits", "validation_labels", "validation_logits")
# --- checkpoints ----------------------------------------------------------------------------


def make_checkpoint(folder):
    """A step's folder as saving leaves it, with a few bytes in place of the arrays."""
    state = folder / "5" / "state"
    state.mkdir(parents=True)
    (state / "_METADATA").write_text("{}")
    (state / "array").write_bytes(bytes(range(200)))
    write_json(folder / "5" / "values.json", {"loss": 0.25, "run": {"seed": 0, "name": "é"}})
    (folder / "5" / "SHA256SUMS").write_bytes(checkpoint_module._sums(folder / "5", 5))


def read_step(folder):
    damage = checkpoint_module.find_damage(folder, 5)
    if damage is not None:
        raise DigitsError(f"{folder / '5'}: {damage}")
    return checkpoint_module.read_values(folder, 5)


READERS = {
    "checkpoint": _reader(
        make_checkpoint,
        read_step,
        assert_same,
        Target("5/values.json", "json"),
        Target("5/SHA256SUMS"),
        Target("5/state/array"),
        Target("5/state/_METADATA"),
    ),
    "config.json": _reader(
        make_config,
        lambda folder: read_config(folder / "config.json"),
        right_config,
        Target("config.json", "json"),
        Target("config.json", "bytes+json"),
    ),
    "results.json": _reader(
        make_run, read_results, right_results, Target("results.json", "bytes+json")
    ),
    "metrics.jsonl": _reader(
        make_metrics,
        read_metrics,
        right_metrics,
        Target("metrics.jsonl", "lines"),
        Target("metrics.jsonl"),
        refuses=False,
    ),
    "metrics.jsonl, kept": _reader(
        make_metrics,
        lambda folder: keep_metrics(folder, 60),
        right_kept_metrics,
        Target("metrics.jsonl", "lines"),
        Target("metrics.jsonl"),
        refuses=False,
    ),
    "predictions.npz": _reader(
        make_run,
        read_run,
        right_run,
        Target("predictions.npz"),
        *(inside("predictions.npz", name) for name in NPZ),
    ),
    "predictions to compare": _reader(
        make_predictions,
        read_two_predictions,
        right_source,
        Target("a.npz"),
        *(inside("a.npz", name) for name in NPZ),
    ),
    "run to compare": _reader(
        make_run,
        read_compared_run,
        right_source,
        Target("results.json", "json"),
        Target("predictions.npz"),
        inside("predictions.npz", "labels"),
    ),
    "model.npz": _reader(
        make_archive,
        read_used_archive,
        right_network,
        Target("model.npz"),
        inside_text("model.npz", "network"),
        inside("model.npz", "network"),
        inside("model.npz", "0.1.kernel"),
        inside_text("model.npz", "network"),
        inside("model.npz", "1.6.bias"),
    ),
    "run as a network": _reader(
        make_trained,
        read_trained,
        right_network,
        Target("config.json", "json"),
        Target("results.json", "json"),
        Target("predictions.npz"),
        inside("predictions.npz", "validation_labels"),
        inside("predictions.npz", "validation_logits"),
    ),
    "IDX images": _reader(
        make_idx,
        read_idx_file("images.gz"),
        right_idx,
        Target("images.gz"),
        in_gzip("images.gz"),
    ),
    "IDX labels": _reader(
        make_idx,
        read_idx_file("labels.gz"),
        right_idx,
        Target("labels.gz"),
        in_gzip("labels.gz"),
    ),
    "PNG": picture("picture.png", in_png(b"IHDR"), in_png(b"IDAT")),
    "sheet of pictures": _reader(
        make_sheet,
        lambda folder: is_sheet(folder / "sheet.png"),
        right_answer,
        Target("sheet.png"),
        in_png(b"IHDR", "sheet.png"),
        in_png(b"tEXt", "sheet.png"),
        refuses=False,
    ),
    "JPEG": picture("picture.jpg"),
    "WebP": picture("picture.webp"),
    "BMP": picture("picture.bmp"),
    "TIFF": picture("picture.tif"),
    "TIFF, packed": picture("packed.tif", compression="tiff_lzw"),
}
