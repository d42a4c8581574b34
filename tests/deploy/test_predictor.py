"""Answers, their ranks, and what is refused."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from random_networks import random_images, random_network
from scipy.special import softmax

from digits_jax import DigitsError, load_dataset, read_run
from digits_jax.deploy import predictor as predictor_module
from digits_jax.deploy.archive import write_archive
from digits_jax.deploy.network import numpy_logits
from digits_jax.deploy.predictor import CHUNK, SIZES, Predictions, Predictor, check_images


@pytest.fixture(scope="module")
def predictor():
    return Predictor(random_network())


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 65, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_any_number_of_images(predictor, count):
    images = random_images(count)
    answers = predictor.predict(images)
    wanted = numpy_logits(predictor.network, images) if count else np.zeros((0, 10))
    np.testing.assert_allclose(answers.logits, wanted, atol=1e-3)
    np.testing.assert_allclose(answers.probabilities, softmax(wanted / 0.7, -1), atol=1e-3)
    assert answers.labels.tolist() == wanted.argmax(-1).tolist()
    assert len(answers) == len(answers.names) == count


def test_ranks_by_hand():
    shares = np.array([[0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    answers = Predictions(("a", "b", "c"), np.log(shares), shares, 0.5)
    assert (answers.labels.tolist(), answers.runners_up.tolist()) == ([1, 0], [2, 1])
    assert (answers.confidence.tolist(), answers.runner_up_confidence.tolist()) == (
        [0.6, 0.4],
        [0.3, 0.4],
    )
    assert (answers.sure.tolist(), answers.names) == ([True, False], ["b", "a"])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (2, 28, 28), (2, 28, 28, 1)])
def test_kinds_of_arrays(shape, dtype):
    images = np.full(shape, 255 if dtype == np.uint8 else 1, dtype)
    found = check_images(images)
    assert (found.dtype, found.shape[1:], found.min(), found.max()) == (
        np.float32,
        (28, 28, 1),
        1,
        1,
    )


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((27, 28)), r"shape \[27, 28\]; give \[28, 28\]"),
        (np.zeros((1, 28, 28, 3)), r"shape \[1, 28, 28, 3\]"),
        (np.zeros(784), r"shape \[784\]"),
        (np.zeros((28, 28), np.int64), "images are int64; give uint8"),
        (np.zeros((28, 28), bool), "images are bool"),
        (np.zeros((28, 28), complex), "images are complex128"),
        (np.full((28, 28), "x"), "images are <U1"),
        (np.full((28, 28), np.nan), "values from nan to nan"),
        (np.full((28, 28), 255.0), "values from 255 to 255; floating-point images are in"),
        (np.full((28, 28), -0.1), "values from -0.1"),
        (np.full((28, 28), np.inf), "inf"),
        (None, "shape"),
        ([[1, 2], [3]], "aren't an array"),
        ("picture.png", "shape"),
    ],
)
def test_other_arrays_are_refused(predictor, images, said):
    with pytest.raises(DigitsError, match=said):
        predictor.predict(images)


def test_threads_share_it_and_it_compiles_once(monkeypatch):
    traced = []
    real = predictor_module.jax_logits

    def count(network, weights, images):
        traced.append(images.shape[0])
        return real(network, weights, images)

    monkeypatch.setattr(predictor_module, "jax_logits", count)
    network = random_network("mlp")
    shared, images = Predictor(network), random_images(40)
    wanted = numpy_logits(network, images)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(shared.predict, images[i]) for i in range(40)]
        batches = [pool.submit(shared.predict, images) for _ in range(4)]
        for i, job in enumerate(jobs):
            np.testing.assert_allclose(job.result().logits[0], wanted[i], atol=1e-3)
        for job in batches:
            np.testing.assert_allclose(job.result().logits, wanted, atol=1e-3)
    assert sorted(traced) == [1, 64]


def test_a_few_images_cost_what_a_few_cost(monkeypatch):
    answered = []
    predictor = Predictor(random_network("mlp"))
    code = predictor._code
    monkeypatch.setattr(predictor, "_code", lambda size: answered.append(size) or code(size))
    for count in (1, 2, 8, 9, 64, 65, CHUNK):
        predictor.predict(random_images(count))
    assert answered == [1, 8, 8, 64, 64, CHUNK, CHUNK]
    assert SIZES == (1, 8, 64, CHUNK)


def test_a_run_an_archive_and_an_ensemble(run, tmp_path):
    images, labels = load_dataset("digits").test.images, load_dataset("digits").test.labels
    from_run = Predictor.load(run).predict(images)
    np.testing.assert_allclose(from_run.logits, read_run(run).logits, atol=1e-4)
    write_archive(Predictor.load(run).network, tmp_path / "model.npz")
    from_file = Predictor.load(str(tmp_path / "model.npz")).predict(images)
    np.testing.assert_array_equal(from_file.logits, from_run.logits)
    # An ensemble of twice the same is the same.
    twice = Predictor.load([run, shutil.copytree(run, tmp_path / "again")]).predict(images)
    np.testing.assert_allclose(twice.probabilities, from_run.probabilities, atol=1e-5)
    assert (from_run.labels == labels).mean() > 0.9


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(DigitsError, match="no such folder"):
        Predictor.load(tmp_path / "nothing")
    with pytest.raises(DigitsError, match="an ensemble needs a network"):
        Predictor.load([])
    for path in (None, 3, b"/x"):
        with pytest.raises(DigitsError, match="is no path"):
            Predictor.load(path)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.4}, {"temperature": float("nan")}, {"threshold": 7.0}]
)
def test_numbers_that_cannot_be_are_refused(tmp_path, wrong):
    write_archive(random_network(**wrong), tmp_path / "model.npz")
    with pytest.raises(DigitsError, match="is damaged"):
        Predictor.load(tmp_path / "model.npz")


def test_the_room_has_the_name():
    import digits_jax.deploy

    assert digits_jax.deploy.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        digits_jax.deploy.Other  # noqa: B018
