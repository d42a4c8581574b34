"""The order of the data, and what the batches hold."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from digits_jax.data.pipeline import (
    BatchOrder,
    TrainStream,
    epoch_order,
    eval_batches,
    num_steps,
    open_stream,
    share_size,
)
from digits_jax.data.splits import Split
from digits_jax.errors import DataError

# Written down once: with another order, a run can't be repeated or resumed.
GOLDEN_ORDERS = {
    (0, 0): [0, 2, 11, 9, 1, 8, 5, 4, 3, 10, 6, 7],
    (0, 1): [5, 3, 7, 8, 11, 2, 4, 1, 10, 0, 6, 9],
    (17, 3): [6, 5, 10, 4, 2, 3, 8, 0, 1, 9, 7, 11],
}

quick = settings(deadline=None, max_examples=40)


def numbered(size):
    """Images that are told apart by every pixel, and labels likewise."""
    labels = np.arange(size, dtype=np.int32)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (size, 2, 3, 1)).copy()
    return images, labels


def stream(size, batch_size, seed=0):
    images, labels = numbered(size)
    return TrainStream(images, labels, seed=seed, batch_size=batch_size)


@pytest.mark.parametrize(("seed", "epoch"), GOLDEN_ORDERS)
def test_order_is_pinned(seed, epoch):
    assert epoch_order(seed, epoch, 12).tolist() == GOLDEN_ORDERS[seed, epoch]


@quick
@given(st.integers(0, 2**31 - 1), st.integers(0, 10_000), st.integers(1, 300))
def test_order_is_a_permutation(seed, epoch, size):
    assert sorted(epoch_order(seed, epoch, size).tolist()) == list(range(size))


def test_orders_differ_by_seed_and_epoch():
    orders = {tuple(epoch_order(seed, epoch, 50)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


@quick
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 90),
    seed=st.integers(0, 2**31 - 1),
    epochs=st.integers(1, 4),
)
def test_every_image_comes_once_per_epoch(size, batch_size, seed, epochs):
    batches = stream(size, batch_size, seed)
    steps = -(-epochs * size // batch_size)
    seen = np.concatenate([batches.indices(step) for step in range(steps)])
    assert len(seen) == steps * batch_size
    for epoch in range(epochs):
        part = seen[epoch * size : (epoch + 1) * size]
        assert sorted(part.tolist()) == list(range(size))


@quick
@given(
    size=st.integers(1, 30),
    batch_size=st.integers(1, 70),
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=8),
)
def test_a_batch_depends_on_its_step_alone(size, batch_size, steps):
    """Whatever was asked for before: a resumed run sees what it would have seen."""
    jumping = stream(size, batch_size)
    for step in steps:
        expected = [
            epoch_order(0, position // size, size)[position % size]
            for position in range(step * batch_size, (step + 1) * batch_size)
        ]
        assert jumping.indices(step).tolist() == expected


def test_batch_holds_the_images_of_its_indices():
    batches = stream(size=10, batch_size=4)
    batch = batches.batch(3)
    np.testing.assert_array_equal(batch["label"], batches.indices(3))
    np.testing.assert_array_equal(batch["image"][:, 1, 2, 0], batches.indices(3))
    np.testing.assert_array_equal(batch["mask"], [1, 1, 1, 1])
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    assert (batch["image"].shape, batch["mask"].dtype) == ((4, 2, 3, 1), np.float32)


@quick
@given(size=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_eval_batches_hold_every_image_once(size, batch_size):
    batches = list(eval_batches(*numbered(size), batch_size))
    assert all(len(array) == batch_size for batch in batches for array in batch.values())
    kept = [batch["mask"] == 1 for batch in batches]
    labels = np.concatenate([b["label"][keep] for b, keep in zip(batches, kept, strict=True)])
    pixels = np.concatenate([b["image"][keep] for b, keep in zip(batches, kept, strict=True)])
    assert labels.tolist() == list(range(size))
    assert pixels[:, 0, 0, 0].tolist() == list(range(size))
    assert sum(batch["mask"].sum() for batch in batches) == size
    assert len(batches) == -(-size // batch_size)


@quick
@given(
    size=st.integers(1, 40),
    part=st.integers(1, 20),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**31 - 1),
    step=st.integers(0, 100),
)
def test_shares_laid_end_to_end_are_the_batch(size, part, count, seed, step):
    images, labels = numbered(size)
    order = {"seed": seed, "batch_size": part * count}
    whole = TrainStream(images, labels, **order)
    shares = [TrainStream(images, labels, share=(index, count), **order) for index in range(count)]
    indices = [share.indices(step) for share in shares]
    assert [len(rows) for rows in indices] == [part] * count
    np.testing.assert_array_equal(np.concatenate(indices), whole.indices(step))
    expected = whole.batch(step)
    batches = [share.batch(step) for share in shares]
    for name, array in expected.items():
        found = np.concatenate([batch[name] for batch in batches])
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@quick
@given(size=st.integers(1, 60), part=st.integers(1, 20), count=st.integers(1, 6))
def test_shares_of_eval_batches_laid_end_to_end_are_the_batches(size, part, count):
    arrays, batch_size = numbered(size), part * count
    shares = [list(eval_batches(*arrays, batch_size, (index, count))) for index in range(count)]
    for whole, *parts in zip(eval_batches(*arrays, batch_size), *shares, strict=True):
        for name, array in whole.items():
            found = np.concatenate([batch[name] for batch in parts])
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("batch_size", "share", "said"),
    [
        (5, (0, 2), "batch_size=5: must be a multiple of 2"),
        (4, (2, 2), "0 <= index < count"),
        (4, (-1, 2), "0 <= index < count"),
        (4, (0, 0), "0 <= index < count"),
    ],
)
def test_shares_that_cannot_be(batch_size, share, said):
    with pytest.raises(DataError, match=said):
        share_size(batch_size, share)
    with pytest.raises(DataError, match=said):
        TrainStream(*numbered(9), seed=0, batch_size=batch_size, share=share)
    with pytest.raises(DataError, match=said):
        list(eval_batches(*numbered(9), batch_size, share))


def test_padding_is_black_and_masked():
    *_, last = eval_batches(*numbered(5), 3)
    np.testing.assert_array_equal(last["mask"], [1, 1, 0])
    assert not last["image"][2].any()


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


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((4, 28, 28), np.uint8), np.zeros(4)),
        (np.zeros((4, 2, 2, 1), np.uint8), np.zeros(2)),
        (np.zeros((4, 2, 2, 1)), np.zeros(4)),
    ],
)
def test_wrong_arrays_are_refused(images, labels):
    with pytest.raises(DataError, match="must be"):
        TrainStream(images, labels, seed=0, batch_size=2)
    with pytest.raises(DataError, match="must be"):
        list(eval_batches(images, labels, 2))


def test_batches_of_nothing_are_refused():
    for size, batch_size in ((0, 2), (3, 0)):
        with pytest.raises(DataError, match="at least 1"):
            BatchOrder(size, seed=0, batch_size=batch_size)


def test_open_stream_of_arrays():
    images, labels = numbered(9)
    with open_stream(Split(images, labels), seed=1, batch_size=4, share=(1, 2)) as stream:
        assert stream.batch(3)["label"].tolist() == stream.indices(3).tolist()
