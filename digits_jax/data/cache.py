"""Decoded arrays in one file, so that later starts take milliseconds."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.splits import SPLITS, Dataset, Split
from digits_jax.files import CACHE, first_writable, scratch_folder

_FACTS = ("name", "version", "source", "sha256", "class_names", "notes", "path")


def cache_path(name: str, root: Path) -> Path:
    """Returns the path of the decoded arrays of a data set under ``root``."""
    return root / CACHE / f"{name.replace('/', '-')}.npz"


def read_cache(name: str, roots: list[Path]) -> Dataset | None:
    """Reads a cached data set; None if it is absent or, with a notice, if it is damaged.

    An uncompressed npz holds a CRC-32 of each array, which is verified here: MNIST's 55 MB take
    27 ms, checksum included. The arrays are in memory, so what happens to the file later can't
    change or end a training (a memory map of a file that is cut ends in SIGBUS).
    """
    for path in (cache_path(name, root) for root in roots):
        if os.path.isfile(path):
            try:
                # NumPy doesn't close the file of an archive that it can't read.
                with path.open("rb") as stream, np.load(stream) as file:
                    facts = json.loads(str(file["facts"]))
                    facts |= {key: tuple(facts[key]) for key in ("class_names", "notes")}
                    splits: Any = {
                        s: Split(file[f"{s}_images"], file[f"{s}_labels"]) for s in SPLITS
                    }
                return Dataset(**facts, **splits)
            except Exception:  # zipfile's, NumPy's and json's errors, depending on what is damaged
                print(f"notice: {path}: is damaged, and made again", file=sys.stderr)
    return None


def write_cache(name: str, roots: list[Path], dataset: Dataset) -> None:
    """Writes a data set into the first folder that can be written, or says why there is none."""
    members: dict[str, Any] = {f: getattr(dataset, f) for f in _FACTS}
    members = {"facts": np.array(json.dumps(members))}
    for split in SPLITS:
        part: Any = getattr(dataset, split)
        members |= {f"{split}_images": part.images, f"{split}_labels": part.labels}
    reason = "no folder can be written; set DIGITS_JAX_DATA_DIR to one"
    try:
        if root := first_writable(roots):
            path = cache_path(name, root)
            path.parent.mkdir(exist_ok=True)
            with scratch_folder(path.parent) as scratch:
                with (scratch / path.name).open("wb") as file:
                    np.savez(file, **members)
                    file.flush()
                    os.fsync(file.fileno())
                (scratch / path.name).replace(path)
            return
    except OSError as error:
        reason = str(error.strerror or error)
    print(f"notice: {dataset.name} isn't cached: {reason}", file=sys.stderr)
