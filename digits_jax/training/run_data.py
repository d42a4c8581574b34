"""The user data that a run was trained on."""

import os
from dataclasses import replace
from pathlib import Path

from digits_jax.data.datasets import DATASETS, Dataset, load_dataset
from digits_jax.errors import DataError
from digits_jax.files import read_json
from digits_jax.runs.folder import CONFIG


def load_own_of_run(
    workdir: str | Path, path: str | None = None, data_dir: str | os.PathLike | None = None
) -> Dataset | None:
    """Loads the user data that a run was trained on, or returns None.

    Args:
      workdir: the run's folder, whose ``config.json`` says where the data were and how pictures
        were read.
      path: where they are now, if they have moved.

    Raises:
      DataError: they aren't there.
    """
    if not os.path.isfile(Path(workdir) / CONFIG):
        return None
    described = read_json(Path(workdir) / CONFIG)
    described = described if isinstance(described, dict) else {}
    parts = [described.get(part) for part in ("dataset", "config")]
    saved, config = (part if isinstance(part, dict) else {} for part in parts)
    name, known = str(saved.get("name")), str(saved.get("name")) in DATASETS
    if path is None or path in (name, "auto") or path.startswith("tfds/"):
        path = str(saved.get("path") or "")
        # A run from elsewhere may bring its own data, and genuine MNIST may be found elsewhere.
        inside = Path(path).resolve().is_relative_to(Path(workdir).resolve())
        if not path or inside or (known and not os.path.exists(path)):
            return None
    if "+" not in path and not os.path.exists(os.path.expanduser(path)):
        raise DataError(
            f"dataset={path}: {workdir} was trained on it, and it is gone; "
            "give dataset=PATH, its new place"
        )
    picture, mix = config.get("picture", "ink"), config.get("mix")
    return replace(load_dataset(path, data_dir, picture=picture, mix=mix), name=name)
