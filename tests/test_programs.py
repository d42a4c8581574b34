"""The programs as users start them: what they print, write and return."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from programs import TIMEOUT_SECONDS, TINY, assert_one_error_line, call, start

from digits_jax import evaluate as evaluate_program
from digits_jax import train as train_program

RESULTS = """
arch preset dataset dataset_sha256 seed num_params steps epochs batch_size validation_accuracy
test_accuracy test_errors test_count test_loss train_seconds compile_seconds total_seconds
images_per_second params_sha256 device num_devices num_cores jax_version
"""


# --- a training and its scores -------------------------------------------------------------


def test_a_training(trained):
    workdir, (status, out, err) = trained
    assert (status, err) == (0, "")
    files = {path.name for path in workdir.iterdir()}
    wanted = {"config.json", "metrics.jsonl", "results.json", "predictions.npz", "curves.png"}
    assert wanted | {"checkpoints"} <= files
    results = json.loads((workdir / "results.json").read_text())
    assert set(RESULTS.split()) - set(results) == set()
    assert (results["steps"], results["test_count"], results["epochs"]) == (30, 360, 1.5)
    assert results["num_params"] == 784 * 16 + 2 * 16 + 16 * 10 + 10
    last = out.splitlines()[-1]
    errors = results["test_errors"]
    assert last.startswith(
        f"digits test accuracy {(360 - errors) / 360:.2%}: {errors} errors of 360"
    )
    assert re.search(r"in \d+\.\d s; run$", last)
    assert len(re.findall(r"^epoch .* validation accuracy", out, re.M)) == 2
    assert "NOT MNIST" not in out


def test_the_curves_are_a_picture(trained):
    data = (trained[0] / "curves.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")


def test_evaluate_gives_the_numbers_of_the_training(trained, here):
    workdir, _ = trained
    status, out, err = here(evaluate_program, workdir, "--json", "--devices=1")
    assert (status, err) == (0, "")
    found, results = json.loads(out), json.loads((workdir / "results.json").read_text())
    for name in ("test_accuracy", "test_errors", "test_count"):
        assert found[name] == results[name]
    np.testing.assert_allclose(found["test_loss"], results["test_loss"], rtol=1e-6)
    with np.load(workdir / "predictions.npz") as file:
        labels, right = file["labels"], file["labels"] == file["logits"].argmax(-1)
    for digit in range(10):
        np.testing.assert_allclose(
            found["class_accuracy"][str(digit)], right[labels == digit].mean()
        )


def test_evaluate_in_a_process_of_its_own(trained, home):
    """As compiled for a user, all numbers are equal to the last bit."""
    status, out, err = call(home, "evaluate", "run", "--json")
    assert (status, err) == (0, "")
    found, results = json.loads(out), json.loads((trained[0] / "results.json").read_text())
    names = ("test_accuracy", "test_errors", "test_count", "test_loss")
    assert {name: found[name] for name in names} == {name: results[name] for name in names}


def test_eval_only_says_the_same_in_words(trained, here):
    workdir, _ = trained
    results = json.loads((workdir / "results.json").read_text())
    before = sorted(path.name for path in workdir.iterdir())
    status, out, _ = here(train_program, "--eval-only", f"--workdir={workdir}", "--devices=1")
    assert status == 0
    assert f"digits test accuracy {results['test_accuracy']:.2%} " in out
    assert f"{results['test_errors']} errors of 360" in out
    errors = re.findall(r"^ +\d  +[\d.]+%  +(\d+) errors of \d+$", out, re.M)
    assert len(errors) == 10
    assert sum(map(int, errors)) == results["test_errors"]
    assert sorted(path.name for path in workdir.iterdir()) == before


def test_a_dry_run_writes_nothing(here, tmp_path):
    status, out, err = here(train_program, *TINY, "--workdir=run", "--dry-run")
    assert (status, err) == (0, "")
    assert "12,746 parameters" in out
    assert "30 steps" in out
    assert out.endswith("dry run: no run was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_resumed_after_its_end(trained, here, tmp_path):
    before = json.loads((trained[0] / "results.json").read_text())
    workdir = shutil.copytree(trained[0], tmp_path / "copy")
    (workdir / "results.json").unlink()
    status, out, _ = here(train_program, "--resume", f"--workdir={workdir}", "--devices=1")
    assert status == 0
    assert "already finished at step 30 of 30" in out
    after = json.loads((workdir / "results.json").read_text())
    for name in ("params_sha256", "test_errors", "steps", "train_seconds"):
        assert after[name] == before[name]


def test_ctrl_c_and_resume(trained, home):
    """Stopped in the middle and resumed, the parameters are those of the run never stopped."""
    # Saving each step takes a while: the signal comes before the last.
    argv = [*TINY, "--workdir=stopped", "--checkpoint-every-steps=1"]
    with start(home, "train", *argv) as process:
        try:
            line = process.stdout.readline()
            while not line.startswith("epoch"):
                assert line, process.stderr.read()
                line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130, err
    step = int(re.match(r"stopped at step (\d+) of 30, saved; go on with\n", err)[1])
    assert 20 <= step < 30
    command = err.splitlines()[1].split()
    assert command == ["python", "-m", "digits_jax.train", "--resume", "--workdir=stopped"]
    assert (home / "stopped" / "checkpoints" / str(step)).is_dir()
    assert not (home / "stopped" / "results.json").exists()

    status, out, err = call(home, "train", *command[3:])
    assert (status, err) == (0, "")
    assert f"stopped: going on at step {step} of 30" in out
    straight, resumed = (
        json.loads((home / name / "results.json").read_text()) for name in ("run", "stopped")
    )
    assert resumed["params_sha256"] == straight["params_sha256"]
    assert resumed["test_loss"] == straight["test_loss"]


# --- bad input -----------------------------------------------------------------------------

BAD = [
    (["--arch=rnn"], "--arch=rnn: allowed are cnn, mlp, ann"),
    (["--dataset=minst"], "did you mean mnist?"),
    (["--preset=fast"], "--preset=fast: allowed are quick, standard, best"),
    (["--batch-size=0"], "--batch-size=0"),
    (["--batch-size=-64"], "--batch-size=-64"),
    (["--epochs=0"], "--epochs=0"),
    (["--epochs=-1"], "--epochs=-1"),
    (["--epochs=nan"], "--epochs=nan"),
    (["--epochs=three"], "three"),
    (["--learning-rate=0"], "--learning-rate=0"),
    (["--dropout=1.5"], "--dropout=1.5"),
    (["--label-smoothing=1"], "--label-smoothing=1"),
    (["--seed=-1"], "--seed=-1"),
    (["--optimizer=rmsprop"], "allowed are adam, adamw, sgd, lion"),
    (["--optimizer=adam", "--weight-decay=0.1"], "use 'adamw'"),
    (["--schedule=linear"], "allowed are one_cycle, cosine, constant"),
    (["--augment=flip"], "allowed are none, shift, affine, elastic"),
    (["--dtype=float64"], "allowed are auto, float32, bfloat16"),
    (["--channels=0,8"], "--channels=0"),
    (["--channels=8,8,8,8"], "--channels=8,8,8,8: each block halves the image"),
    (["--arch=mlp", "--channels=8"], "--channels isn't for --arch=mlp"),
    (["--devices=99"], "JAX has 8 here"),
    (["--devices=3", "--batch-size=64"], "3 devices don't divide"),
    (["--devices=some"], "--devices=some"),
    (["--platform=abacus"], "allowed are auto, cpu, gpu, tpu"),
    (["--platform=tpu"], "--platform=tpu: JAX finds none here; give --platform=cpu"),
    (["--workdir=file/run"], "can't be written"),
    (["--data-dir=nowhere", "--dataset=mnist"], "does not exist"),
    (["--data-dir=cut", "--dataset=mnist"], "train-images-idx3-ubyte"),
    (["--resume"], "--resume needs --workdir"),
    (["--resume", "--workdir=nowhere"], "no such folder"),
    (["--resume", "--workdir=empty"], "holds no run"),
    (["--eval-only"], "--eval-only needs --workdir"),
    (["--eval-only", "--workdir=empty"], "holds no run"),
    (["--epoch=1"], "did you mean --epochs?"),
    (["--batch-size"], "batch-size"),
    (["cnn"], "cnn"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line(here, tmp_path, argv, said):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "cut" / f"{part}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    before = sorted(tmp_path.rglob("*"))
    dataset = [] if any(flag.startswith("--dataset") for flag in argv) else ["--dataset=digits"]
    status, out, err = here(train_program, *dataset, *argv)
    assert_one_error_line(status, out, err)
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing was made


def test_a_second_run_in_the_same_folder(trained, here):
    workdir, _ = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != ".lock"}
    for extra in ([], ["--dry-run"], ["--seed=1"]):
        said = here(train_program, *TINY, f"--workdir={workdir}", "--devices=1", *extra)
        assert_one_error_line(*said)
        assert "already holds a run; give another folder, or --resume" in said[2]
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != ".lock"}
    assert after == before


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--seed=1", "--seed=1: the run in"),
        ("--arch=cnn", "--arch=cnn: the run in"),
        ("--batch-size=32", "--batch-size=32"),
        ("--hidden-sizes=8", "--hidden-sizes=(8,): the run in"),
        ("--augment=affine", "--augment=affine: the run in"),
        ("--ema-decay=0.5", "--ema-decay=0.5: the run in"),
        ("--dataset=kmnist", "has dataset=digits; leave the flag out"),  # nothing is downloaded
    ],
)
def test_resuming_as_another_run_names_the_field(trained, here, flag, said):
    workdir, _ = trained
    ending = here(train_program, "--resume", f"--workdir={workdir}", flag, "--devices=1")
    assert_one_error_line(*ending)
    assert said in ending[2]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no run"),
        ([], "RUN is missing: folder of the run"),
        (["run", "--jsn"], "did you mean --json?"),
        (["unfinished"], "has no checkpoint yet"),
    ],
)
def test_bad_input_to_evaluate_is_one_line(trained, here, tmp_path, argv, said):
    (tmp_path / "unfinished").mkdir()
    shutil.copy(trained[0] / "config.json", tmp_path / "unfinished")
    ending = here(evaluate_program, *argv)
    assert_one_error_line(*ending)
    assert said in ending[2]


def test_damaged_checkpoints_are_one_line(trained, here, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "copy")
    for path in (workdir / "checkpoints" / "30").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    for program, argv in (
        (evaluate_program, [workdir, "--devices=1"]),
        (train_program, ["--resume", f"--workdir={workdir}", "--devices=1"]),
    ):
        ending = here(program, *argv)
        assert_one_error_line(*ending)
        assert "no checkpoint can be restored" in ending[2]


def test_damage_prints_nothing_else(trained, home):
    """Orbax reads in threads, which mustn't print tracebacks after the line."""
    workdir = shutil.copytree(trained[0], home / "damaged")
    found = [path for path in (workdir / "checkpoints").rglob("d/*") if path.is_file()]
    assert found
    for path in found:
        path.write_bytes(path.read_bytes()[:10])
    said = call(home, "evaluate", "damaged")
    assert_one_error_line(*said)
    assert "no checkpoint can be restored" in said[2]


def test_bad_input_to_a_process_of_its_own(home):
    said = call(home, "train", "--dataset=digits", "--devices=2", "--batch-size=3")
    assert_one_error_line(*said)
    assert "--batch-size=3: 2 devices don't divide it" in said[2]


# --- the real thing ------------------------------------------------------------------------


@pytest.mark.mnist
def test_mnist_through_tfds(mnist_dir, home):
    data = home / "data"
    data.mkdir()
    for path in mnist_dir.iterdir():
        if path.name.endswith("-ubyte.gz"):
            (data / path.name).symlink_to(path)
    argv = ["--arch=cnn", "--preset=quick", "--dataset=mnist", "--epochs=0.2"]
    status, out, err = call(home, "train", *argv, f"--data-dir={data}", "--workdir=mnist")
    assert status == 0, err
    results = json.loads((home / "mnist" / "results.json").read_text())
    assert (results["test_count"], results["dataset"]) == (10_000, "mnist")
    assert results["validation_count"] == 5_000
    assert results["test_accuracy"] > 0.95
    assert (data / "mnist" / "3.0.1").is_dir()  # prepared by tfds
    assert "55,000 training, 5,000 validation, 10,000 test" in out
