"""Several data sets as one."""

import numpy as np
import pytest

from digits_jax.data.mixing import mix_datasets
from digits_jax.data.splits import Dataset, Split
from digits_jax.errors import DataError


def dataset(name, value, sizes, class_names=("a", "b")):
    parts = {
        split: Split(np.full((n, 28, 28, 1), value, np.uint8), np.arange(n) % 2)
        for split, n in zip(("train", "validation", "test"), sizes, strict=True)
    }
    return Dataset(name, "1", "made here", name, class_names, **parts)


def test_splits_follow_each_other_and_training_images_are_repeated():
    mixed = mix_datasets([dataset("one", 1, (4, 2, 2)), dataset("two", 2, (2, 3, 2))], [1, 3])
    assert mixed.train.images[:, 0, 0, 0].tolist() == [1] * 4 + [2] * 6
    assert mixed.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert mixed.validation.images[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert mixed.test.labels.tolist() == [0, 1, 0, 1]
    assert (mixed.name, mixed.parts) == ("one+two", (("one", 2, 2), ("two", 3, 2)))


def test_what_cannot_be_mixed_is_named():
    one = dataset("one", 1, (4, 2, 2))
    with pytest.raises(DataError, match=r"^dataset=one\+two: the classes differ; give .* \(a, b\)"):
        mix_datasets([one, dataset("two", 2, (4, 2, 2), ("a", "c"))])
    with pytest.raises(DataError, match=r"^mix=1,2,3: must be 2 numbers, one for each data set of"):
        mix_datasets([one, one], [1, 2, 3])
