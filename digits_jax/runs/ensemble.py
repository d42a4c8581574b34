"""An ensemble on disk: a folder with a run for each member, and what they answer together.

config.json        as a run's, with the number of members
member-0, ...      runs, see folder.py
results.json       as a run's, of the members together; "members" names their folders
predictions.npz    as a run's; logits are the logarithm of the mean probability
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_jax.errors import CheckpointError, DigitsError, quoted
from digits_jax.runs import folder

if TYPE_CHECKING:
    import numpy as np


def member_path(path: Path, index: int) -> Path:
    """The folder of a member, from 0."""
    return path / f"member-{index}"


def members_of(path: Path) -> list[Path]:
    """The folders of a finished ensemble's members; none for a run that is no ensemble.

    Raises:
      CheckpointError: an ensemble that isn't finished, or a member that its ``results.json`` names
        isn't in the folder.
    """
    # Without it, nothing says which members are whole, nor that there are no more to come.
    if not (path / folder.RESULTS).exists() and member_path(path, 0).is_dir():
        raise CheckpointError(
            f"{path}: the ensemble isn't finished (no {folder.RESULTS}); finish it with "
            f"python -m digits_jax.train --resume --workdir={path}, or give a member's folder"
        )
    try:
        results = folder.read_json(path / folder.RESULTS)
    except DigitsError:
        return []  # whoever reads the run says what is wrong
    names = results.get("members") if isinstance(results, dict) else None
    if not isinstance(names, list) or not names:
        return []
    for index, name in enumerate(names):
        if name != member_path(path, index).name or not (path / name).is_dir():
            raise CheckpointError(
                f"{path}: {folder.RESULTS} names a member {quoted(name)}, which isn't there; "
                "train the ensemble again"
            )
    return [path / name for name in names]


def mean_log_probabilities(logits: Sequence["np.ndarray"]) -> "np.ndarray":
    """What several networks answer together: the logarithm of their mean probability.

    Args:
      logits: of each network, float [n, classes].

    Returns:
      float32 [n, classes].

    Example:
      >>> import numpy as np
      >>> sure, unsure = np.array([[100.0, 0.0]]), np.array([[0.0, 0.0]])
      >>> np.exp(mean_log_probabilities([sure, unsure])).round(3).tolist()
      [[0.75, 0.25]]
    """
    import numpy as np
    from scipy.special import log_softmax, logsumexp

    shares = log_softmax(np.asarray(logits, np.float64), -1)
    return (logsumexp(shares, 0) - np.log(len(shares))).astype(np.float32)


def ensemble_results(runs: Sequence[folder.Run], arrays: dict[str, "np.ndarray"]) -> dict[str, Any]:
    """What an ensemble's ``results.json`` holds.

    Args:
      runs: of its members, finished, on the same data.
      arrays: what its ``predictions.npz`` holds.
    """
    first, each = runs[0].results, [run.results for run in runs]
    together = "\n".join(results["params_sha256"] for results in each)
    return {
        **first,
        "arch": f"{first['arch']}-ensemble",
        "members": [run.path.name for run in runs],
        "num_params": sum(results["num_params"] for results in each),
        **_scored("validation", arrays["validation_labels"], arrays["validation_logits"]),
        **_scored("test", arrays["labels"], arrays["logits"]),
        "member_test_accuracies": [results["test_accuracy"] for results in each],
        "member_validation_accuracies": [results["validation_accuracy"] for results in each],
        **{
            name: sum(results[name] for results in each)
            for name in ("train_seconds", "compile_seconds", "total_seconds")
        },
        "params_sha256": hashlib.sha256(together.encode()).hexdigest(),
    }


def _scored(split, labels, logits):
    import numpy as np

    errors = int((logits.argmax(-1) != labels).sum())
    return {
        f"{split}_accuracy": 1 - errors / len(labels),
        f"{split}_errors": errors,
        f"{split}_count": len(labels),
        f"{split}_loss": float(-np.mean(logits[np.arange(len(labels)), labels], dtype=np.float64)),
    }
