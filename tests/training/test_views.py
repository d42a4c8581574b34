"""Views of an image: what they are, and their mean."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from digits_jax.data.datasets import load_dataset
from digits_jax.data.splits import Split
from digits_jax.evaluate import main
from digits_jax.training.scoring import score_of
from digits_jax.training.views import score_views, view


def test_views_are_always_the_same_and_each_is_another():
    images = load_dataset("digits").test.images
    found = [view(images, number) for number in range(4)]
    assert found[0] is images
    for number in (1, 2, 3):
        assert (found[number].shape, found[number].dtype) == (images.shape, np.uint8)
        np.testing.assert_array_equal(view(images, number), found[number])
        # A little: the ink is nearly as much, and most of it where it was.
        ink = found[number].sum((1, 2, 3)) / images.sum((1, 2, 3))
        assert 0.8 < ink.min() < ink.max() < 1.25
        overlap = [
            np.corrcoef(a.ravel(), b.ravel())[0, 1]
            for a, b in zip(images, found[number], strict=True)
        ]
        assert 0.6 < np.median(overlap) < 0.99
        assert not any((found[number] == other).all() for other in found[:number])


def test_a_split_longer_than_a_chunk_is_whole():
    images = np.random.default_rng(0).integers(0, 256, (1001, 28, 28, 1), np.uint8)
    images[:, :8] = images[:, -8:] = images[:, :, :8] = images[:, :, -8:] = 0
    found = view(images, 1)
    assert len(found) == 1001
    assert int(found[-1].sum()) == pytest.approx(int(images[-1].sum()), rel=0.2)


def test_their_mean_by_hand():
    split = Split(np.zeros((2, 28, 28, 1), np.uint8), np.array([0, 1], np.int32))
    answers = [np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])]
    given = iter(answers)
    found = score_views(lambda state, part: score_of(part.labels, next(given)), None, split, 2)
    mean = np.mean([softmax(each, -1) for each in answers], 0)
    np.testing.assert_allclose(np.exp(log_softmax(found.logits, -1)), mean, rtol=1e-6)
    assert found.correct == int((mean.argmax(-1) == [0, 1]).sum())


def test_the_program(tmp_path, capsys):
    from digits_jax.config import TrainConfig
    from digits_jax.training.loop import fit

    run = str(tmp_path / "run")
    small = TrainConfig(arch="mlp", dataset="digits", preset="quick", epochs=2.0, workdir=run)
    fit(small, quiet=True)
    assert main([run, "--views=3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["views"], said["members"], said["test_count"]) == (3, 1, 360)
    assert main([run, "--views=3"]) == 0
    assert "; 3 views of each image" in capsys.readouterr().out
    from digits_jax.errors import DigitsError

    with pytest.raises(DigitsError, match="--views=0: give a number that is at least 1"):
        main([run, "--views=0"])


def test_the_images_to_choose_by(tmp_path, capsys):
    from digits_jax.config import TrainConfig
    from digits_jax.errors import DigitsError
    from digits_jax.training.loop import fit

    run = str(tmp_path / "run")
    small = TrainConfig(arch="mlp", dataset="digits", preset="quick", epochs=2.0, workdir=run)
    results = fit(small, quiet=True).results
    assert main([run, "--split=validation", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert not [name for name in said if name.startswith("test")]
    for name in ("validation_accuracy", "validation_errors", "validation_count"):
        assert said[name] == results[name]  # training scored it with code of its own
    assert main([run, "--split=validation"]) == 0
    assert "digits validation accuracy" in capsys.readouterr().out
    with pytest.raises(DigitsError, match="--split=train: give test or validation"):
        main([run, "--split=train"])
