"""The order of the data, and what the batches hold."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from prepared_sets import assert_same

from digits_jax.data.pipeline import TrainStream, eval_batches, num_steps, share_size
from digits_jax.data.splits import Split, random_order
from digits_jax.errors import DataError

# Written down once: with another order, a run can't be repeated or resumed.
GOLDEN_ORDERS = {
    (0, 0): [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7],
    (0, 1): [5, 3, 7, 8, 11, 2, 4, 1, 10, 0, 6, 9],
    (17, 3): [6, 5, 10, 4, 2, 3, 8, 0, 1, 9, 7, 11],
}
SEEDS = st.integers(0, 2**31 - 1)
quick = settings(deadline=None, max_examples=40)


def numbered(size):
    """Images that are told apart by every pixel, and labels likewise."""
    labels = np.arange(size, dtype=np.int32)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (size, 2, 3, 1))
    return Split(images, labels)


def joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_orders_are_pinned_permutations_that_differ():
    for key, order in GOLDEN_ORDERS.items():
        assert random_order(12, *key).tolist() == order
    orders = [random_order(50, seed, epoch) for seed in range(10) for epoch in range(10)]
    assert len({tuple(order) for order in orders}) == 100
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(50), (100, 1)))


@quick
@given(
    size=st.integers(1, 40),
    part=st.integers(1, 30),
    count=st.integers(1, 6),
    seed=SEEDS,
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=8),
)
def test_a_batch_is_a_piece_of_the_epochs_laid_end_to_end(size, part, count, seed, steps):
    """Whatever was asked for before, so a resumed run sees it too; the shares are the batch."""
    batch_size, split = part * count, numbered(size)
    whole = TrainStream(split, seed=seed, batch_size=batch_size)
    shares = [
        TrainStream(split, seed=seed, batch_size=batch_size, share=(index, count))
        for index in range(count)
    ]
    for step in steps:
        expected = [
            random_order(size, seed, position // size)[position % size]
            for position in range(step * batch_size, (step + 1) * batch_size)
        ]
        assert whole.indices(step).tolist() == expected
        batch = whole.batch(step)
        assert (batch["image"].shape, batch["image"].dtype) == ((batch_size, 2, 3, 1), np.uint8)
        assert (batch["label"].dtype, batch["mask"].dtype) == (np.int32, np.float32)
        for name, values in (("label", batch["label"]), ("image", batch["image"][:, 1, 2, 0])):
            assert values.tolist() == expected, name
        assert batch["mask"].all()
        batches = [share.batch(step) for share in shares]
        assert [len(each["label"]) for each in batches] == [part] * count
        assert_same(joined(batches), batch)


@quick
@given(size=st.integers(1, 60), part=st.integers(1, 20), count=st.integers(1, 6))
def test_eval_batches_hold_every_image_once(size, part, count):
    split, batch_size = numbered(size), part * count
    batches = list(eval_batches(split, batch_size))
    assert all(len(array) == batch_size for batch in batches for array in batch.values())
    every = joined(batches)
    assert every["mask"].tolist() == [1] * size + [0] * (len(every["mask"]) - size)
    assert every["label"][:size].tolist() == list(range(size))
    assert every["image"][:size, 1, 2, 0].tolist() == list(range(size))
    assert not every["image"][size:].any()
    shares = [list(eval_batches(split, batch_size, (index, count))) for index in range(count)]
    for whole, *parts in zip(batches, *shares, strict=True):
        assert_same(joined(parts), whole)


@pytest.mark.parametrize(
    ("batch_size", "share", "said"),
    [
        (5, (0, 2), "batch_size=5: must be a multiple of 2"),
        (4, (2, 2), "0 <= index < count"),
        (4, (-1, 2), "0 <= index < count"),
        (4, (0, 0), "0 <= index < count"),
    ],
)
def test_invalid_shares_are_refused(batch_size, share, said):
    with pytest.raises(DataError, match=said):
        share_size(batch_size, share)


@pytest.mark.parametrize(
    ("epochs", "size", "batch_size", "steps"),
    [
        (1, 55_000, 256, 215),  # 214.8
        (10, 55_000, 256, 2149),  # 2148.4: rounded once, not in every epoch
        (0.2, 55_000, 256, 43),
        (3, 100, 3, 100),
        (1.1, 10, 11, 1),  # in floating point, a little more than one
        (1e-9, 100, 10, 1),
        (1, 10, 1000, 1),
    ],
)
def test_num_steps(epochs, size, batch_size, steps):
    assert num_steps(epochs, size, batch_size) == steps


def test_empty_batches_are_refused():
    for size, batch_size in ((0, 2), (3, 0)):
        with pytest.raises(DataError, match="at least 1"):
            TrainStream(numbered(size), seed=0, batch_size=batch_size)
