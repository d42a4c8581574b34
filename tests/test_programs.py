"""The programs as users start them: what they print, write and return."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from programs import TINY, assert_refused, call, stop, training

from digits_jax import evaluate as evaluate_program
from digits_jax import load_dataset
from digits_jax import train as train_program
from digits_jax.deploy import Predictor
from digits_jax.runs.folder import read_results

RESULTS = """
arch preset dataset dataset_sha256 seed num_params steps epochs batch_size validation_accuracy
test_accuracy test_errors test_count test_loss train_seconds compile_seconds total_seconds
images_per_second params_sha256 device num_devices num_cores jax_version
"""


# --- a training and its scores -------------------------------------------------------------


def test_a_training_writes_its_results(trained):
    workdir, (status, out, err) = trained
    assert (status, err) == (0, "")
    files = {path.name for path in workdir.iterdir()}
    wanted = {"config.json", "metrics.jsonl", "results.json", "predictions.npz", "curves.png"}
    assert wanted | {"checkpoints"} <= files
    results = read_results(workdir)
    assert set(RESULTS.split()) - set(results) == set()
    assert (results["steps"], results["test_count"], results["epochs"]) == (30, 360, 1.5)
    assert results["num_params"] == 784 * 16 + 2 * 16 + 16 * 10 + 10
    last, errors = out.splitlines()[-1], results["test_errors"]
    assert last.startswith(
        f"digits test accuracy {(360 - errors) / 360:.2%}: {errors} errors of 360"
    )
    assert re.search(r"in \d+\.\d s; run$", last)
    assert len(re.findall(r"^epoch .* validation accuracy", out, re.M)) == 2
    curves = (workdir / "curves.png").read_bytes()
    assert curves.startswith(b"\x89PNG\r\n\x1a\n")
    assert curves.endswith(b"IEND\xaeB`\x82")


def test_evaluate_repeats_the_scores_of_the_training(trained, home):
    """As compiled for a user, all of them are equal to the last bit."""
    workdir, _ = trained
    before = sorted(path.name for path in workdir.iterdir())
    status, out, err = call(home, "evaluate", workdir, "--json")
    assert (status, err) == (0, "")
    found, results = json.loads(out), read_results(workdir)
    names = ("test_accuracy", "test_errors", "test_count", "test_loss")
    assert {name: found[name] for name in names} == {name: results[name] for name in names}
    with np.load(workdir / "predictions.npz") as file:
        labels, right = file["labels"], file["labels"] == file["logits"].argmax(-1)
    for digit in range(10):
        np.testing.assert_allclose(
            found["class_accuracy"][str(digit)], right[labels == digit].mean()
        )
    assert sorted(path.name for path in workdir.iterdir()) == before


def test_evaluate_prints_the_errors_of_each_class(trained, here):
    results = read_results(trained[0])
    status, out, _ = here(evaluate_program, trained[0], "--devices=3")  # no divisor of the batch
    assert status == 0
    assert f"digits test accuracy {results['test_accuracy']:.2%} " in out
    assert f"{results['test_errors']} errors of 360" in out
    errors = re.findall(r"^ +\d  +[\d.]+%  +(\d+) errors of \d+$", out, re.M)
    assert (len(errors), sum(map(int, errors))) == (10, results["test_errors"])


def test_evaluate_scores_a_network_of_the_package(here):
    status, out, err = here(evaluate_program, "tiny", "--dataset=digits", "--json")
    assert (status, err) == (0, "")
    test = load_dataset("digits").test
    wrong = Predictor.pretrained("tiny").predict(test.images).labels != test.labels
    assert json.loads(out)["test_errors"] == wrong.sum()
    status, _, err = here(evaluate_program, "nothing")
    assert status == 2
    assert "nothing: no such folder; give the folder of a run, or cnn or mlp or tiny" in err


def test_a_dry_run_writes_nothing(here, tmp_path):
    status, out, err = here(train_program, *TINY, "--workdir=run", "--dry-run")
    assert (status, err) == (0, "")
    assert "12,746 parameters" in out
    assert "30 steps" in out
    assert out.endswith("dry run: no run was written\n")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_and_resume(trained, home):
    """A training stopped within an epoch and resumed has the parameters of one never stopped."""
    # Saving each step takes a while: the signal comes before the last.
    argv = [*TINY, "--workdir=stopped", "--checkpoint-every-steps=1"]
    with training(home, *argv, until="epoch") as process:
        status, err = stop(process, signal.SIGINT)
    assert status == 130, err
    step = int(re.match(r"stopped at step (\d+) of 30, saved; resume with\n", err)[1])
    assert 20 <= step < 30
    command = err.splitlines()[1].split()
    assert command == ["python", "-m", "digits_jax.train", "--resume", "--workdir=stopped"]
    assert (home / "stopped" / "checkpoints" / str(step)).is_dir()
    assert not (home / "stopped" / "results.json").exists()

    status, out, err = call(home, "train", *command[3:])
    assert (status, err) == (0, "")
    assert f"stopped: resuming at step {step} of 30" in out
    straight, resumed = read_results(trained[0]), read_results(home / "stopped")
    for name in ("params_sha256", "test_loss"):
        assert resumed[name] == straight[name]


# --- bad input -----------------------------------------------------------------------------

# test_config.py and test_cli.py have values and spellings, test_loop.py has devices and batches.
BAD = [
    (["--dataset=minst"], "--dataset=minst: must be one of auto, mnist"),
    (["--data-dir=nowhere", "--dataset=mnist"], "does not exist"),
    (["--data-dir=cut", "--dataset=mnist"], "train-images-idx3-ubyte"),
    (["--workdir=file/run"], "can't be written"),
    (["--resume"], "--resume needs --workdir"),
    (["--resume", "--workdir=nowhere"], "no such folder"),
    (["--resume", "--workdir=cut"], "holds no run"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line(here, tmp_path, argv, said):
    (tmp_path / "file").touch()
    (tmp_path / "cut").mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "cut" / f"{part}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    before = sorted(tmp_path.rglob("*"))
    dataset = [] if any(flag.startswith("--dataset") for flag in argv) else ["--dataset=digits"]
    assert_refused(here(train_program, *dataset, *argv), said)
    assert sorted(tmp_path.rglob("*")) == before  # nothing was made


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        ([], "RUN is missing"),
        (["run", "--jsn"], "did you mean --json?"),
        (["unfinished"], "has no checkpoint yet"),
    ],
)
def test_bad_input_to_evaluate_is_one_line(trained, here, tmp_path, argv, said):
    (tmp_path / "unfinished").mkdir()
    shutil.copy(trained[0] / "config.json", tmp_path / "unfinished")
    assert_refused(here(evaluate_program, *argv), said)


def test_a_second_run_in_the_same_folder(trained, here):
    workdir, _ = trained
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != ".lock"}
    for extra in ("--devices=1", "--dry-run"):
        assert_refused(
            here(train_program, *TINY, f"--workdir={workdir}", extra),
            "already holds a run; give another folder",
        )
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != ".lock"}
    assert after == before


OTHER = "--seed=1 --arch=cnn --batch-size=32 --hidden-sizes=8 --augment=affine --dataset=kmnist"


@pytest.mark.parametrize("flag", OTHER.split())
def test_resuming_as_another_run_names_the_field(trained, here, flag):
    """Before another data set is downloaded, and also what the run's other fields depend on."""
    assert_refused(
        here(train_program, "--resume", f"--workdir={trained[0]}", flag, "--devices=1"),
        f"error: {flag.partition('=')[0]}",
    )


def test_damaged_checkpoints_are_one_line(trained, home):
    """Orbax reads in threads, which must not print tracebacks after the line."""
    workdir = shutil.copytree(trained[0], home / "damaged")
    found = [path for path in (workdir / "checkpoints").rglob("d/*") if path.is_file()]
    assert found
    for path in found:
        path.write_bytes(path.read_bytes()[:10])
    assert_refused(call(home, "evaluate", "damaged"), "no checkpoint can be restored")


# --- MNIST ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.mnist
def test_mnist_through_tfds(mnist_dir, home):
    data = home / "data"
    data.mkdir()
    for path in mnist_dir.glob("*-ubyte.gz"):
        (data / path.name).symlink_to(path)
    argv = ["--arch=cnn", "--preset=quick", "--dataset=mnist", "--epochs=0.2", "--input=stream"]
    status, out, err = call(home, "train", *argv, f"--data-dir={data}", "--workdir=mnist")
    assert status == 0, err
    results = read_results(home / "mnist")
    assert (results["test_count"], results["dataset"]) == (10_000, "mnist")
    assert results["validation_count"] == 5_000
    assert results["test_accuracy"] > 0.95
    assert (data / "mnist" / "3.0.1").is_dir()  # prepared by tfds
    assert "55,000 training, 5,000 validation, 10,000 test" in out
