"""Repairs and hardest images, against loops over images and hand-worked lists."""

from itertools import product

import numpy as np
import pytest
import scipy.special

from digits_jax.errors import DigitsError
from digits_jax.evaluation import hardest_images, repairs_by_class, repairs_by_confusion
from digits_jax.evaluation.repairs import PUBLISHED_LABEL_ERRORS, plurality

RNG = np.random.default_rng(11)
LABELS = RNG.integers(0, 4, 120)
A = np.where(RNG.random((3, 120)) < 0.6, LABELS, RNG.integers(0, 4, (3, 120)))
B = np.where(RNG.random((2, 120)) < 0.8, LABELS, RNG.integers(0, 4, (2, 120)))


def test_repairs_by_class_are_those_counted_one_by_one():
    for repair in repairs_by_class(LABELS, A, B):
        pairs = list(product(A, B))
        here = repair.label == LABELS
        repaired = [np.sum(here & (a != LABELS) & (b == LABELS)) for a, b in pairs]
        new = [np.sum(here & (b != LABELS) & (a == LABELS)) for a, b in pairs]
        assert repair.repaired == pytest.approx(np.mean(repaired))
        assert repair.new_errors == pytest.approx(np.mean(new))
        assert repair.gain == pytest.approx(np.mean(repaired) - np.mean(new))
        # Whatever both get wrong cancels: the gain is the difference of the errors.
        assert repair.gain == pytest.approx(repair.errors_a - repair.errors_b)


def test_repairs_by_confusion_are_those_counted_one_by_one():
    found = repairs_by_confusion(LABELS, A, B)
    for repair in found:
        pairs = list(product(A, B))
        here = repair.label == LABELS
        repaired = [np.sum(here & (a == repair.answer) & (b == LABELS)) for a, b in pairs]
        new = [np.sum(here & (b == repair.answer) & (a == LABELS)) for a, b in pairs]
        assert repair.repaired == pytest.approx(np.mean(repaired))
        assert repair.new_errors == pytest.approx(np.mean(new))
    gains = [round(r.gain, 9) for r in found]
    assert gains == sorted(gains, reverse=True)
    assert sum(r.errors_a for r in found) == pytest.approx((A != LABELS).sum() / 3)


def test_permuting_images_keeps_the_order_of_the_list():
    order = RNG.permutation(120)
    for function in (repairs_by_class, repairs_by_confusion):
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
    with pytest.raises(DigitsError, match="at least one"):
        hardest_images([0, 1], [])
    with pytest.raises(DigitsError, match="run 1 has NaN"):
        hardest_images([0, 1], [np.eye(2), np.full((2, 2), np.nan)])


def test_plurality_counts_votes():
    answers, votes = plurality(A, 4)
    for image in range(120):
        counts = np.bincount(A[:, image], minlength=4)
        assert votes[image] == counts.max()
        assert answers[image] == counts.argmax()


def test_the_published_list_is_complete():
    listed = PUBLISHED_LABEL_ERRORS["mnist"]
    assert len(listed) == len(set(listed)) == 15
    assert list(listed) == sorted(listed)
