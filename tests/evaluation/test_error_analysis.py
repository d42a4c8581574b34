"""Changed errors and hardest images, against loops over images and hand-worked lists."""

from itertools import product

import numpy as np
import pytest
import scipy.special

from digits_jax.errors import DataError
from digits_jax.evaluation import errors_by_class, errors_by_confusion, hardest_images
from digits_jax.evaluation.error_analysis import PUBLISHED_LABEL_ERRORS, plurality_vote

RNG = np.random.default_rng(11)
LABELS = RNG.integers(0, 4, 120)
A = np.where(RNG.random((3, 120)) < 0.6, LABELS, RNG.integers(0, 4, (3, 120)))
B = np.where(RNG.random((2, 120)) < 0.8, LABELS, RNG.integers(0, 4, (2, 120)))


@pytest.mark.parametrize("function", [errors_by_class, errors_by_confusion])
def test_errors_are_those_counted_one_by_one(function):
    found = function(LABELS, A, B)
    for change in found:
        here, answer = change.label == LABELS, change.answer
        of_a, of_b = ((r != LABELS if answer is None else r == answer) & here for r in (A, B))
        pairs = list(product(range(3), range(2)))
        repaired = np.mean([np.sum(of_a[i] & (B[j] == LABELS)) for i, j in pairs])
        new = np.mean([np.sum(of_b[j] & (A[i] == LABELS)) for i, j in pairs])
        assert change.repaired == pytest.approx(repaired)
        assert change.new_errors == pytest.approx(new)
        assert change.gain == pytest.approx(repaired - new)
        if answer is None:  # what both get wrong cancels
            assert change.gain == pytest.approx(change.errors_a - change.errors_b)
    gains = [round(change.gain, 9) for change in found]
    assert gains == sorted(gains, reverse=True)
    assert sum(change.errors_a for change in found) == pytest.approx((A != LABELS).sum() / 3)


def test_permuting_images_keeps_the_order_of_the_list():
    order = RNG.permutation(120)
    for function in (errors_by_class, errors_by_confusion):
        first = function(LABELS, A, B)
        second = function(LABELS[order], A[:, order], B[:, order])
        assert [(r.label, r.answer) for r in first] == [(r.label, r.answer) for r in second]


def test_hardest_images_by_hand():
    labels = [0, 1, 2]
    first = [[0.0, 3.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 9.0]]
    second = [[0.0, 2.0, 1.0], [5.0, 0.0, 0.0], [0.0, 9.0, 0.0]]
    found = hardest_images(labels, [first, second], known=[1])
    # Image 2 is right once. Image 1's two wrong answers share the probability.
    assert [image.index for image in found] == [0, 1]
    assert [(image.wrong_label, image.votes) for image in found] == [(1, 2), (0, 1)]
    assert [image.known for image in found] == [False, True]
    p = scipy.special.softmax([first[0], second[0]], axis=1)[:, 1].mean()
    assert found[0].confidence == pytest.approx(p)


def test_no_image_is_hard_for_a_perfect_run():
    assert hardest_images([0, 1], [np.eye(2)]) == []


def test_hardest_images_need_a_run_and_finite_logits():
    with pytest.raises(DataError, match="at least one"):
        hardest_images([0, 1], [])
    with pytest.raises(DataError, match="run 1 has NaN"):
        hardest_images([0, 1], [np.eye(2), np.full((2, 2), np.nan)])


def test_plurality_counts_votes():
    answers, votes = plurality_vote(A, 4)
    for image in range(120):
        counts = np.bincount(A[:, image], minlength=4)
        assert votes[image] == counts.max()
        assert answers[image] == counts.argmax()


def test_the_published_list_is_complete():
    listed = PUBLISHED_LABEL_ERRORS["mnist"]
    assert len(listed) == len(set(listed)) == 15
    assert list(listed) == sorted(listed)
