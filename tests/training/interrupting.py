"""What happens at a given step of a training in this process."""

import contextlib
import signal

import pytest

from digits_jax import TrainStream
from digits_jax.training.interrupts import Interrupted


@contextlib.contextmanager
def on_batch(act):
    """Within it, ``act(step)`` is called before the batch of each step is made."""
    real = TrainStream.batch

    def batch(stream, step):
        act(step)
        return real(stream, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStream, "batch", batch)
        yield


@contextlib.contextmanager
def interrupted_at(step, number=signal.SIGTERM, match=None):
    """Within it, a signal arrives while the given step is under way, and a training stops there."""

    def act(now):
        if now == step:
            signal.raise_signal(number)

    with on_batch(act), pytest.raises(Interrupted, match=match) as caught:
        yield caught
