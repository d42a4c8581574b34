"""User data from files: pictures in class folders, CSV, npz, IDX, parquet."""

import contextlib
import hashlib
import importlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from digits_jax.data.arrays import (
    MAX_IMAGES,
    dataset_from_arrays,
    print_notes,
)
from digits_jax.data.cache import read_cache, write_cache
from digits_jax.data.idx import MAX_IDX_BYTES, find_idx, read_idx
from digits_jax.data.originals import DATASETS
from digits_jax.data.pictures import read_pictures
from digits_jax.data.splits import SPLITS, Dataset
from digits_jax.data.tables import SUFFIXES, read_csv
from digits_jax.errors import DataError, shown
from digits_jax.files import (
    CACHE,
    MAX_ARRAY_BYTES,
    is_visible,
    natural_key,
    open_regular,
    read_npz,
    walk_visible,
)
from digits_jax.vision.decode import decode_image

KINDS = (
    "a folder of class folders, a .csv, an .npz or a .parquet file, or a folder of IDX files, of "
    "CSV files or of Hugging Face"
)
# Change it with anything that changes the arrays that are read.
_CACHE_VERSION = 2
_MAX_FILES = 2 * MAX_IMAGES
_LISTED = 20  # of the files that are left out
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    **{name: "validation" for name in ("validation", "valid", "val", "dev")},
}
_IMAGE_NAMES = ("images", "data", "x", "image")
_LABEL_NAMES = ("labels", "target", "targets", "y", "label")
_NPZ_PATTERNS = {
    pattern: _SPLIT_NAMES.get(pattern.replace("{}", "").strip("_"), "train")
    for split in ("train", "validation", "valid", "val", "test")
    for pattern in (f"{{}}_{split}", f"{split}_{{}}")
} | {"{}": "train"}


@dataclass
class _Arrays:
    """What was read: (images, labels) of each split."""

    parts: dict[str, Any]
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)


def load_own(path: Path, roots: list[Path], picture: str) -> Dataset:
    """Loads user data.

    What was read from pictures and text is cached, until a file's size or time changes.

    Args:
      path: one of ``KINDS``.
      roots: where the cache may be.
      picture: how pictures become images: "ink", as `digits_jax.predict` reads them, or "resize".

    Raises:
      DataError: the message names the file or the array, what it has and what is allowed.
    """
    path = Path(os.path.expanduser(path)).absolute()
    if not os.path.exists(path):
        raise DataError(f"dataset={path}: no such file or folder; give {KINDS}")
    stem = path.name.split(".")[0]
    if stem.lower() in _SPLIT_NAMES:  # as Kaggle's train.csv
        stem = path.parent.name
    stem = re.sub(r"[^\w-]+", "-", stem).strip("-") or "mine"
    name = f"own-{stem}" if stem in (*DATASETS, "tfds") else stem
    prefix = f"own-{stem}-{_short_sum([path, picture])}"
    key = f"{prefix}-{_short_sum(_states(path))}"
    if cached := read_cache(key, roots):
        return print_notes(cached)
    read = _read(path, picture)
    try:
        dataset = dataset_from_arrays(
            {part: read.parts[part] for part in SPLITS if part in read.parts},
            class_names=read.class_names,
            name=name,
            source=str(path),
            notes=read.notes,
            path=str(path),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    for root in roots:  # what was read before a file was changed
        for old in (root / CACHE).glob(f"{prefix}-*"):
            with contextlib.suppress(OSError):
                old.unlink()
    write_cache(key, roots, dataset)
    return print_notes(dataset)


def _states(path: Path) -> Iterator[object]:
    """What changes with the files: names, sizes and times."""
    yield _CACHE_VERSION
    for file, _ in _files(path) if path.is_dir() else [(path, "")]:
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            # A link stays as it is when the file that it names changes.
            about = os.stat(file) if os.path.isfile(file) else os.lstat(file)
            yield file, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _short_sum(values: Iterable[object]) -> str:
    total = hashlib.sha256()
    for value in values:
        total.update(f"{value}\n".encode(errors="surrogateescape"))
    return total.hexdigest()[:16]


def _read(path: Path, picture: str) -> _Arrays:
    name = path.name.lower()
    if path.is_dir():
        is_saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json"))
        if is_saved or _parquet_files(path):
            return _read_hugging_face(path)
        if idx := find_idx(path):
            return _read_idx_files(path, idx)
        tables = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(SUFFIXES)]
        if any("train" in file.name.lower() for file in tables):
            return _read_tables(tables)
        return _read_folders(path, picture)
    if name.endswith(SUFFIXES):
        return _read_tables([path])
    if name.endswith(".npz"):
        return _read_npz(path)
    if name.endswith(".parquet"):
        return _read_hugging_face(path)
    if re.search("idx|ubyte", name):
        raise DataError(f"dataset={path}: is one IDX file; give the folder of images and labels")
    raise DataError(f"dataset={path}: is a file of another kind; give {KINDS}")


# --- arrays in files -----------------------------------------------------------------------


def _read_npz(path: Path) -> _Arrays:
    try:
        arrays = {name.lower(): array for name, array in read_npz(path).items()}
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: isn't an intact .npz file ({error}); write it again") from None
    read, used = _Arrays({}), set()
    for pattern, split in _NPZ_PATTERNS.items():
        pair = [
            next((name for word in words if (name := pattern.format(word)) in arrays), "")
            for words in (_IMAGE_NAMES, _LABEL_NAMES)
        ]
        if all(pair) and split not in read.parts:
            read.parts[split] = arrays[pair[0]], arrays[pair[1]]
            used |= {*pair}
    if "train" not in read.parts:
        raise DataError(
            f"{path}: holds {', '.join(map(shown, arrays)) or 'nothing'}: must hold images and "
            "labels, x_train and y_train (and x_test and y_test), or data and target"
        )
    read.notes += [f"left out: the array {shown(name)}" for name in arrays if name not in used]
    return read


def _read_idx_files(folder: Path, files: dict[str, Path]) -> _Arrays:
    arrays = {}
    for part, path in files.items():
        try:
            with open_regular(path) as file:
                arrays[part] = read_idx(file.read(MAX_IDX_BYTES + 100), str(path))
        except OSError as error:
            raise DataError(f"{path}: can't be read ({error.strerror})") from None
        rank = 3 if part.endswith("images") else 1
        if arrays[part].ndim != rank:
            raise DataError(f"{path}: has {arrays[part].ndim} axes: {part} must have {rank}")
    parts = {}
    for split in SPLITS:
        names = [f"{split} {what}" for what in ("images", "labels")]
        missing = [name for name in names if name not in arrays]
        if len(missing) == 1 or (split == "train" and missing):
            raise DataError(f"{folder}: holds IDX files, but no {' and no '.join(missing)}")
        if not missing:
            parts[split] = arrays[names[0]], arrays[names[1]]
    return _Arrays(parts)


def _read_tables(paths: list[Path]) -> _Arrays:
    """CSV files, by their names the training, validation and test images."""
    read = _Arrays({})
    for path in paths:
        split = _split_in(path.name) if len(paths) > 1 else "train"
        if split is None or split in read.parts:
            read.notes.append(f"left out: {path.name}: it isn't train, validation or test")
            continue
        images, labels = read_csv(path)
        if labels is not None:
            read.parts[split] = images, labels
        elif split == "train":
            raise DataError(f"{path}: has no labels: must have a column label, or it first")
        else:
            read.notes.append(f"left out: {path.name}: it has no labels")
    return read


def _split_in(name: str) -> str | None:
    """The split that the name of a file holds."""
    found = re.search("train|val|test", name.lower())
    return _SPLIT_NAMES[found[0]] if found else None


def _parquet_files(path: Path) -> list[Path]:
    """A parquet file, or those of a folder, as Hugging Face's repositories hold them."""
    if path.is_dir():
        return [*sorted(path.glob("*.parquet")), *sorted(path.glob("*/*.parquet"))]
    return [path] if path.suffix == ".parquet" else []


def _read_hugging_face(path: Path) -> _Arrays:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"dataset={path}: is read by Hugging Face's library, which isn't installed; "
            'pip install "digits_jax[huggingface]"'
        ) from None
    tables: dict[str, list[str]] = {}
    for file in _parquet_files(path):
        tables.setdefault(_split_in(file.name) or "train", []).append(str(file))
    try:
        with tempfile.TemporaryDirectory() as cache:
            loaded = (
                datasets.load_dataset(
                    "parquet", data_files=tables, cache_dir=cache, keep_in_memory=True
                )
                if tables
                else datasets.load_from_disk(str(path), keep_in_memory=True)
            )
    except Exception as error:  # of that library and of pyarrow
        raise DataError(f"{path}: can't be read ({shown(str(error))})") from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    parts, names = {}, None
    for split, rows in splits.items():
        part = _SPLIT_NAMES.get(str(split).lower())
        kinds = {name: type(kind).__name__ for name, kind in rows.features.items()}
        image = next((n for n in kinds if kinds[n] == "Image" or n in _IMAGE_NAMES), None)
        label = next((n for n in kinds if kinds[n] == "ClassLabel" or n in _LABEL_NAMES), None)
        if part is None or image is None or label is None:
            raise DataError(
                f"{path}: its split {shown(split)} has the columns {', '.join(map(shown, kinds))}: "
                "must be train, validation or test with an image and a label"
            )
        names = getattr(rows.features[label], "names", None)
        if kinds[image] == "Image":  # that library would open what a file names, also a URL
            rows = rows.cast_column(image, datasets.Image(decode=False))
        images: list[np.ndarray] = []
        for each in tqdm(rows[image], leave=False, disable=None):
            images.append(_decoded(each, f"{path}: image {len(images) + 1}"))
            first = images[0]
            if len(rows) > MAX_IMAGES or len(rows) * first.nbytes > MAX_ARRAY_BYTES:
                raise DataError(
                    f"{path}: has {len(rows):,} images of {list(first.shape)}: allowed are "
                    f"{MAX_IMAGES:,} and {MAX_ARRAY_BYTES:,} bytes"
                )
            if images[-1].shape != first.shape:
                raise DataError(f"{path}: its images have several sizes: must have one")
        parts[part] = np.array(images), np.array(rows[label])
    return _Arrays(parts, names)


def _decoded(value: Any, name: str) -> np.ndarray:
    """An image as Hugging Face's files hold it: an array, or a picture's bytes."""
    if not isinstance(value, dict):
        return np.asarray(value)
    if not value.get("bytes"):
        raise DataError(f"{name}: isn't in the file, which names another; save the set with it")
    return decode_image(value["bytes"], name)


# --- pictures in folders -------------------------------------------------------------------


def _read_folders(root: Path, picture: str) -> _Arrays:
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and is_visible(path)]
    splits = [name for name in folders if name.lower() in _SPLIT_NAMES]
    if splits and len(splits) < len(folders):
        raise DataError(
            f"{root}: holds {', '.join(map(shown, folders[:10]))}: must hold train, validation and "
            "test, each with a folder for each class, or class folders alone"
        )
    pictures, left_out = _find_pictures(root, depth=2 if splits else 1)
    held = {path.relative_to(root).parts[: 2 if splits else 1] for _, _, path in pictures}
    for path in sorted(root.glob("*/*" if splits else "*")):
        parts = path.relative_to(root).parts
        if parts not in held and path.is_dir() and not path.is_symlink() and is_visible(path):
            left_out.append(f"{'/'.join(parts)}: holds no picture")
    classes = sorted({label for _, label, _ in pictures}, key=natural_key)
    if not any(part == "train" for part, *_ in pictures):
        loose = sum(path.is_file() for path in root.iterdir())
        raise DataError(
            f"{root}: holds {len(folders)} folders and {loose} files, but no pictures in class "
            f"folders{' under train' if splits else ''}; give {KINDS}"
        )
    if len(pictures) > MAX_IMAGES:
        raise DataError(f"{root}: holds {len(pictures):,} pictures; {MAX_IMAGES:,} are allowed")
    found: dict[str, list[tuple[np.ndarray, str]]] = {part: [] for part, *_ in pictures}
    images = read_pictures([path for _, _, path in pictures], picture, root.name)
    for (part, label, file), image in zip(pictures, images, strict=True):
        if isinstance(image, str):
            left_out.append(f"{file.relative_to(root)}: {image}")
        else:
            found[part].append((image, label))
    if not found["train"]:
        raise DataError(f"{root}: no picture can be read; the first: {left_out[0]}")
    notes = [f"left out: {text}" for text in left_out[:_LISTED]]
    if len(left_out) > _LISTED:
        notes.append(f"left out: {len(left_out) - _LISTED:,} more")
    return _Arrays(
        {part: tuple(zip(*pairs, strict=True)) for part, pairs in found.items() if pairs},
        classes,
        notes,
    )


def _find_pictures(root: Path, depth: int) -> tuple[list[tuple[str, str, Path]], list[str]]:
    """The split, class and path of each file, and a line for each that isn't taken."""
    pictures, left_out = [], []
    for path, problem in _files(root):
        inside = path.relative_to(root)
        if problem:
            left_out.append(f"{inside}: {problem}")
        elif len(inside.parts) > depth:
            part = _SPLIT_NAMES[inside.parts[0].lower()] if depth > 1 else "train"
            pictures.append((part, inside.parts[depth - 1], path))
        elif not path.name.lower().endswith((".txt", ".md", ".csv", ".json")):
            left_out.append(f"{inside}: is in no class folder")
    return pictures, left_out


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """The files in a folder and below, in a fixed order, and why one can't be taken, or ""."""
    real = os.path.realpath(root)
    for count, (path, is_folder) in enumerate(walk_visible(root, _refuse), 1):
        if count > _MAX_FILES:
            raise DataError(f"{root}: holds more than {_MAX_FILES:,} files; give fewer")
        problem = ""
        if is_folder:
            problem = "is a link to a folder"
        elif path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real):
            problem = "is a link out of the folder"
        elif not os.path.isfile(path):
            problem = "is no regular file"
        yield path, problem


def _refuse(error: OSError) -> None:
    # Else a class would be missing.
    raise DataError(f"{error.filename}: can't be read ({error.strerror})") from None
