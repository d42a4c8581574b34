"""An ensemble's folder: a run's folder for each member, and the answers of all together.

config.json        as a run's, with the number of members
member-0, ...      runs, see folder.py
results.json       as a run's, of the members together; "members" names their folders
predictions.npz    as a run's; logits are the logarithm of the mean probability
"""

from pathlib import Path

from digits_jax.errors import CheckpointError, quoted
from digits_jax.files import read_json
from digits_jax.runs.folder import RESULTS, resume_command


def member_path(path: Path, index: int) -> Path:
    """Returns the folder of a member, from 0."""
    return path / f"member-{index}"


def members_of(path: Path) -> list[Path]:
    """Lists the folders of a finished ensemble's members; none for a run that is no ensemble.

    Raises:
      CheckpointError: an ensemble that isn't finished, or a member that its ``results.json`` names
        isn't in the folder.
    """
    # Without it, nothing says which members are finished, nor that there are no more to come.
    if not (path / RESULTS).exists() and member_path(path, 0).is_dir():
        raise CheckpointError(
            f"{path}: the ensemble isn't finished (no {RESULTS}); "
            f"finish it with {resume_command(path)}, or give a member's folder"
        )
    try:
        names = read_json(path / RESULTS)["members"]
    except (CheckpointError, KeyError, TypeError):
        return []  # no ensemble, or the reader of the run says what is wrong
    if not isinstance(names, list):
        return []
    for index, name in enumerate(names):
        if name != member_path(path, index).name or not (path / name).is_dir():
            raise CheckpointError(
                f"{path}: {RESULTS} names a member {quoted(name)}, which isn't there; "
                "train the ensemble again"
            )
    return [path / name for name in names]
