"""The golden trainings: their flags, and what is recorded of each.

As a program, it runs some of them in this process: python trainings.py OUT.npz NAME...
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import adapter
import numpy as np

# Flags of every training, then name -> flags. A flag that is renamed changes here alone.
COMMON = "--dataset=digits --preset=quick --platform=cpu --seed=3 --epochs=1"
FLOAT32 = "--dtype=float32"
ONE_DEVICE, TWO_DEVICES = "--devices=1", "--devices=2"
MLP = "--arch=mlp --hidden-sizes=32,16"
CNN = "--arch=cnn --channels=6,10 --dense-size=24"
FULL = "--epochs=4 --augment=affine --dropout=0.2 --ema-decay=0.95"
TRAININGS = {
    # Plain: these two are in the default run.
    "mlp": f"{MLP} --epochs=3",
    "cnn": f"{CNN} --epochs=2",
    # The presets as they are.
    "mlp-quick": "--arch=mlp",
    "cnn-quick": "--arch=cnn",
    "mlp-standard": "--arch=mlp --preset=standard",
    "cnn-standard": "--arch=cnn --preset=standard",
    "mlp-tiny": "--arch=mlp --preset=tiny --epochs=3",
    "cnn-tiny": "--arch=cnn --preset=tiny --epochs=2",
    # Augmentation, dropout and averaged weights; interrupted and resumed; on two devices.
    "mlp-full": f"{MLP} {FULL}",
    "cnn-full": f"{CNN} {FULL}",
    "mlp-full-resumed": f"{MLP} {FULL} --checkpoint-every-steps=7",
    "cnn-full-resumed": f"{CNN} {FULL} --checkpoint-every-steps=7",
    "mlp-two-devices": f"{MLP} {FULL} {TWO_DEVICES}",
    "cnn-two-devices": f"{CNN} {FULL} {TWO_DEVICES}",
    # Ensembles and teachers.
    "mlp-ensemble": f"{MLP} --ensemble=2 --no-together",
    "cnn-ensemble": f"{CNN} --ensemble=2 --no-together",
    "mlp-ensemble-together": f"{MLP} --ensemble=2 --together",
    "mlp-distilled": f"{MLP} --teacher=cnn-full",
    "cnn-distilled": f"{CNN} --teacher=mlp-ensemble --teacher-weight=0.5",
    # The loss.
    "mlp-adversarial": f"{MLP} --adversarial=0.1",
    "cnn-adversarial": f"{CNN} --adversarial=0.1",
    "mlp-no-smoothing": f"{MLP} --label-smoothing=0",
    "mlp-smoothing": f"{MLP} --label-smoothing=0.3",
    # Optimizers and schedules.
    "mlp-adam": f"{MLP} --optimizer=adam",
    "mlp-adamw": f"{MLP} --optimizer=adamw --weight-decay=0.1",
    "mlp-sgd": f"{MLP} --optimizer=sgd --learning-rate=0.1",
    "mlp-lion": f"{MLP} --optimizer=lion --learning-rate=0.001",
    "cnn-sgd": f"{CNN} --optimizer=sgd --learning-rate=0.1",
    "mlp-one-cycle": f"{MLP} --schedule=one_cycle --epochs=1.5",
    "mlp-cosine": f"{MLP} --schedule=cosine --epochs=1.5",
    "mlp-constant": f"{MLP} --schedule=constant --epochs=1.5",
    # Augmentations.
    "mlp-shift": f"{MLP} --augment=shift",
    "mlp-affine": f"{MLP} --augment=affine --augment-strength=2",
    "mlp-elastic": f"{MLP} --augment=elastic",
    "mlp-centred": f"{MLP} --augment=centred",
    "mlp-cutout": f"{MLP} --augment=cutout",
    "mlp-noise": f"{MLP} --augment=noise",
    # Architectures.
    "mlp-no-norm": f"{MLP} --no-batch-norm --batch-size=50",
    "cnn-no-norm": f"{CNN} --no-batch-norm --batch-size=50",
    "cnn-pixels": f"{CNN} --no-space-to-depth --convs-per-block=2 --dense-size=0",
    "cnn-lax": f"{CNN} --convolution=lax",
    "cnn-matmul": f"{CNN} --convolution=matmul",
    # How it is computed.
    "mlp-renormalize": f"{MLP} --recalibrate-batch-norm",
    "cnn-renormalize": f"{CNN} --recalibrate-batch-norm --ema-decay=0.9",
    "mlp-several-steps": f"{MLP} --steps-per-call=4",
    "mlp-bfloat16": f"{MLP} --dtype=bfloat16",
}
DEFAULT = ("mlp", "cnn")
# Results that must be equal on every machine: (one, other).
EQUAL = (("mlp-full-resumed", "mlp-full"), ("cnn-full-resumed", "cnn-full"))
INTERRUPTED = tuple(one for one, _ in EQUAL)
ROWS = 20  # of the test set's logits that are recorded


@dataclass(frozen=True)
class Record:
    """What is recorded of a training: JSON values, and logits float32 [ROWS, 10]."""

    numbers: dict
    logits: np.ndarray


def run(names: list[str]) -> dict[str, Record]:
    """Runs trainings as users do: in a new process, with XLA's default optimizations."""
    wanted = list(names)
    for name in names:  # teachers first
        for flag in TRAININGS[name].split():
            teacher = flag.removeprefix("--teacher=")
            if teacher != flag and teacher not in wanted:
                wanted.insert(0, teacher)
    # A process can't change its number of CPU devices once JAX has started.
    groups = [[], []]
    for name in TRAININGS:
        if name in wanted:
            groups[TWO_DEVICES in TRAININGS[name]].append(name)
    found = {}
    with tempfile.TemporaryDirectory() as home:
        for group in filter(None, groups):
            found |= _run_group(group, Path(home))
    return {name: found[name] for name in names}


def _run_group(names, home):
    drop = ("JAX_", "XLA_", "DIGITS_JAX", "TFDS_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    root = str(Path(__file__).resolve().parents[2])
    env |= {
        "HOME": str(home),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(home / "xla"),
        "MPLBACKEND": "Agg",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    out = home / f"{names[0]}.npz"
    command = [sys.executable, os.path.abspath(__file__), str(out), *names]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"the trainings ended with {done.returncode}:\n{done.stderr[-3000:]}")
    with np.load(out) as arrays:
        numbers = json.loads(str(arrays["numbers"]))
        return {name: Record(numbers[name], arrays[name]) for name in names}


def _arguments(name):
    """Later flags of one name replace earlier ones."""
    flags = f"{COMMON} {FLOAT32} {ONE_DEVICE} {TRAININGS[name]} --workdir={name}".split()
    return list({flag.partition("=")[0]: flag for flag in flags}.values())


@contextlib.contextmanager
def _interrupted_at_first_checkpoint(workdir):
    """Sends SIGTERM to this process when the training has a checkpoint."""
    done = threading.Event()

    def watch():
        while not done.is_set():
            if adapter.has_checkpoint(workdir):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _train(name):
    argv, workdir = _arguments(name), Path(name)
    if name in INTERRUPTED:
        with _interrupted_at_first_checkpoint(workdir):
            status = adapter.train(argv)
        if status != 128 + signal.SIGTERM or (workdir / "results.json").exists():
            raise RuntimeError(f"{name}: was not interrupted (status {status})")
        argv.append("--resume")
    if status := adapter.train(argv):
        raise RuntimeError(f"{name}: status {status}")
    return _record(workdir)


def _record(workdir):
    results = _results(workdir)
    members = [_results(path)["params_sha256"] for path in adapter.member_folders(workdir)]
    kept = ("num_params", "steps", "batch_size", "test_count", "validation_count")
    kept += ("validation_accuracy", "test_accuracy", "validation_loss", "test_loss")
    numbers = {key: results[key] for key in kept if key in results}
    numbers["params_sha256"] = members or [results["params_sha256"]]
    with np.load(workdir / "predictions.npz") as predictions:
        return Record(numbers, np.asarray(predictions["logits"][:ROWS], np.float32))


def _results(workdir):
    found = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    return {adapter.OLD_KEYS.get(key, key): value for key, value in found.items()}


def _main():
    out, *names = sys.argv[1:]
    found = {name: _train(name) for name in names}
    numbers = {name: record.numbers for name, record in found.items()}
    logits = {name: record.logits for name, record in found.items()}
    np.savez(out, numbers=np.array(json.dumps(numbers)), **logits)


if __name__ == "__main__":
    _main()
