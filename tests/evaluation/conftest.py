"""Comparisons of generated runs."""

from functools import cache

import numpy as np
import pytest

from digits_jax.evaluation import Comparison, Run, compare


def _group(rng, name, labels, rate, seeds, classes):
    runs = []
    for seed in range(seeds):
        answers = np.where(rng.random(labels.size) < rate, (labels + 1) % classes, labels)
        logits = rng.normal(size=(labels.size, classes)) + 6 * np.eye(classes)[answers]
        results = {"arch": name, "seed": seed}
        runs.append(Run(f"{name}-{seed}", labels, logits, labels[:50], logits[:50], results))
    return runs


@cache
def _comparison(seeds=3, rates=(0.1, 0.05), names=("mlp", "cnn"), classes=10) -> Comparison:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 400)
    groups = [
        _group(rng, name, labels, rate, seeds, classes)
        for name, rate in zip(names, rates, strict=True)
    ]
    return compare(*groups, resamples=100)


@pytest.fixture(scope="session")
def comparison():
    """comparison(seeds, rates, names, classes): 400 images, runs with these error rates."""
    return _comparison
