"""Changed errors and hardest images, against loops over images and hand-worked lists."""

from itertools import product

import numpy as np
import pytest
import scipy.special

from digits_jax.evaluation import error_changes, hardest_images
from digits_jax.evaluation.error_analysis import PUBLISHED_LABEL_ERRORS

RNG = np.random.default_rng(11)
LABELS = RNG.integers(0, 4, 120)
A = np.where(RNG.random((3, 120)) < 0.6, LABELS, RNG.integers(0, 4, (3, 120)))
B = np.where(RNG.random((2, 120)) < 0.8, LABELS, RNG.integers(0, 4, (2, 120)))


@pytest.mark.parametrize("by", ["class", "confusion"])
def test_errors_are_those_counted_one_by_one(by):
    found = error_changes(LABELS, A, B, by)
    for change in found:
        here, answer = change.label == LABELS, change.answer
        of_a, of_b = ((r != LABELS if answer is None else r == answer) & here for r in (A, B))
        pairs = list(product(range(3), range(2)))
        repaired = np.mean([np.sum(of_a[i] & (B[j] == LABELS)) for i, j in pairs])
        new = np.mean([np.sum(of_b[j] & (A[i] == LABELS)) for i, j in pairs])
        assert (change.repaired, change.new_errors) == pytest.approx((repaired, new))
        assert change.gain == pytest.approx(repaired - new)
        if answer is None:  # what both get wrong cancels
            assert change.gain == pytest.approx(change.errors_a - change.errors_b)
    gains = [round(change.gain, 9) for change in found]
    assert gains == sorted(gains, reverse=True)
    assert sum(change.errors_a for change in found) == pytest.approx((A != LABELS).sum() / 3)
    order = RNG.permutation(120)
    again = error_changes(LABELS[order], A[:, order], B[:, order], by)
    assert [(r.label, r.answer) for r in found] == [(r.label, r.answer) for r in again]


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
    assert hardest_images([0, 1], [np.eye(2)]) == []


def test_the_published_list_is_complete():
    listed = PUBLISHED_LABEL_ERRORS["mnist"]
    assert len(set(listed)) == 15
    assert list(listed) == sorted(listed)
