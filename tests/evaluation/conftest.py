"""Comparisons of made-up runs."""

import numpy as np
import pytest

from digits_jax.evaluation.comparison import Comparison, Group, Run, compare


def _group(rng, name, labels, rates, classes=10):
    runs = []
    for i, rate in enumerate(rates):
        answers = np.where(rng.random(labels.size) < rate, (labels + 1) % classes, labels)
        logits = rng.normal(size=(labels.size, classes)) + 6 * np.eye(classes)[answers]
        runs.append(Run(f"{name}-{i}", logits, labels[:50], logits[:50]))
    return Group(name, tuple(runs))


def _comparison(seeds=3, rates=(0.1, 0.05), names=("MLP", "CNN"), classes=10) -> Comparison:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 400)
    groups = [
        _group(rng, n, labels, [r] * seeds, classes) for n, r in zip(names, rates, strict=True)
    ]
    return compare(labels, *groups, resamples=100)


@pytest.fixture(scope="session")
def comparison():
    """comparison(seeds, rates, names, classes): 400 images, runs with these error rates."""
    return _comparison
