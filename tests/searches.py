"""A search and its rows, as tests make them by hand."""

from experiments.search import space
from experiments.search.halving import TRAINED
from experiments.search.loop import Search

SEARCH = Search("mlp", "digits", seed=3, epochs=9.0, rungs=3)


def row(trial, rung=0, correct=90, *, loss=0.5, seconds=1.0, status=TRAINED, elapsed=1.0):
    """A row as it would be written; all of its time is training."""
    numbers = {"correct": correct, "count": 100, "loss": loss}
    if status != TRAINED:
        numbers = dict.fromkeys(numbers)
    return {
        "trial": trial,
        "rung": rung,
        "epochs": 3.0**rung,
        "status": status,
        **numbers,
        "seconds": seconds,
        "train_seconds": seconds,
        "elapsed_seconds": elapsed,
        "note": "",
        "values": space.sample("mlp", "digits", 3, trial),
    }
