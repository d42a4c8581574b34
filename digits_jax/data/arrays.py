"""Arrays of images and labels -> a `Dataset`: checked, scaled to 28x28, divided."""

import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from digits_jax.data.originals import DATASETS, REGISTERED
from digits_jax.data.splits import (
    IMAGE_SIZE,
    MAX_CLASSES,
    OWN,
    SPLITS,
    Dataset,
    Split,
    sha256_of_splits,
    stratified_indices,
    validation_indices,
)
from digits_jax.errors import DataError, shown
from digits_jax.files import natural_key
from digits_jax.formatting import plain
from digits_jax.vision.decode import as_array, check_levels

MAX_IMAGES = 1_000_000  # 784 MB as they are trained
MAX_SIDE = 4096
_CHUNK = 10_000


def to_grey(images: Any, name: str) -> np.ndarray:
    """Converts images to grey levels.

    Args:
      images: [n, height, width], with a last axis of 1 (grey) or 3 (colours) channels or none; or
        [n, height * width] of square images; levels as of `check_levels`.
      name: of the array, for the message.

    Returns:
      uint8 [n, height, width].

    Raises:
      DataError: another shape or type, or values out of range.

    Examples:
      >>> to_grey(np.array([[0, 0.5, 1, 0]]), "x").tolist()
      [[[0, 128], [255, 0]]]
    """
    array, white = check_levels(images, name)
    shape = array.shape
    if array.ndim == 2 and (side := math.isqrt(shape[1])) ** 2 == shape[1]:
        array = array.reshape(-1, side, side)
    elif array.ndim == 4 and shape[-1] == 1:
        array = array[..., 0]
    elif not (array.ndim == 3 or (array.ndim == 4 and shape[-1] == 3)):
        raise DataError(
            f"{name} is {list(shape)}: must be [n, height, width], with a last axis of 1 or 3 "
            "channels or none, or [n, height * width] of square images"
        )
    if not 1 <= len(array) <= MAX_IMAGES or not min(array.shape[1:3]) >= 1:
        raise DataError(f"{name} is {list(shape)}: must have 1 to {MAX_IMAGES:,} images")
    if max(array.shape[1:3]) > MAX_SIDE:
        raise DataError(f"{name} is {list(shape)}: images have at most {MAX_SIDE:,} pixels a side")
    if array.min() == array.max():
        raise DataError(f"{name} is {float(array.min()):g} everywhere: must hold something")
    # A part at a time, as float32 of all images would take four times their memory.
    parts = range(0, len(array), _CHUNK)
    return np.concatenate([_levels(array[i : i + _CHUNK], 255 // white) for i in parts])


def _levels(chunk: np.ndarray, scale: int) -> np.ndarray:
    if chunk.ndim == 4:  # ITU-R BT.601, as Pillow has it
        chunk = chunk @ np.array([0.299, 0.587, 0.114], np.float32)
    if chunk.dtype != np.uint8 or scale != 1:
        chunk = np.floor(chunk.astype(np.float32) * scale + 0.5)
    return chunk.astype(np.uint8)


def to_labels(labels: Any, count: int, name: str) -> np.ndarray:
    """Converts labels to int64 or text: [count].

    Raises:
      DataError: another shape, or values that are no labels.
    """
    array = as_array(labels, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise DataError(
            f"{name} is {list(array.shape)}: must be [{count}], one label for each image"
        )
    if array.dtype.kind == "f":
        odd = array[~(np.isfinite(array) & (array == np.floor(array)))]
        if len(odd):
            raise DataError(f"{name} holds {odd[0]:g}: must be whole numbers or text")
    elif array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    elif array.dtype.kind not in "biuU":
        raise DataError(f"{name} is {array.dtype}: must be whole numbers or text")
    if array.dtype.kind != "U":
        if not (np.abs(array.astype(np.float64)) < 2**53).all():
            raise DataError(f"{name} holds numbers that are too large: must be whole numbers")
        array = array.astype(np.int64)
        if array.min() < 0:
            raise DataError(f"{name} is from {array.min()} to {array.max()}: must be 0 or more")
    elif not np.char.strip(array).all():
        raise DataError(f"{name} holds an empty text: must name a class")
    return array


def dataset_from_arrays(
    parts: dict[str, tuple[Any, Any]],
    *,
    class_names: Sequence[str] | None = None,
    name: str = "mine",
    source: str = "arrays",
    notes: Sequence[str] = (),
    path: str = "",
) -> Dataset:
    """Makes a data set; see `Dataset.from_arrays`.

    Args:
      parts: images and labels of "train", and perhaps of "validation" and "test".
      notes: what was done before, for `Dataset.notes`.
      path: where the arrays were read.
    """
    name = str(name)
    if name in DATASETS or not re.fullmatch(r"[\w.-]+", name):
        raise DataError(
            f"name={shown(name)}: must be of letters, digits, - and _, and not another data set's"
        )
    if "train" not in parts:
        raise DataError(f"{source}: has no training images: must have images and labels for train")
    images, labels, notes = {}, {}, [*notes]
    for part in parts:
        if not (isinstance(parts[part], tuple | list) and len(parts[part]) == 2):
            raise DataError(f"{part} is a {type(parts[part]).__name__}: must be (images, labels)")
        given = as_array(parts[part][0], f"{part} images")
        images[part] = to_grey(given, f"{part} images")
        if given.ndim == 4 and given.shape[-1] == 3:
            notes.append(f"the colours of {part} images become grey")
        labels[part] = to_labels(parts[part][1], len(images[part]), f"{part} labels")
    shapes = {part: array.shape[1:] for part, array in images.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{part} {h}x{w}" for part, (h, w) in shapes.items())
        raise DataError(f"images have several sizes ({sizes}): must have one")
    if known := _recognized(images, labels, source, path):
        return known
    if not (class_names is None or hasattr(class_names, "__iter__")):
        raise DataError(f"class_names={shown(class_names)}: must be a list of names")
    names, numbers = _number(labels, class_names)
    lights = {part: _is_light(array) for part, array in images.items()}
    shares = {part: light.mean() for part, light in lights.items()}
    if min(shares.values()) < 0.1 and max(shares.values()) > 0.9:
        found = ", ".join(f"{share:.0%} of {part}" for part, share in shares.items())
        raise DataError(
            f"images with a light background are {found}: splits must be alike; invert one"
        )
    if np.mean(np.concatenate([*lights.values()])) > 0.5:
        images = {part: 255 - array for part, array in images.items()}
        notes.append("most images have a light background: all are inverted")
    (size,) = set(shapes.values())
    if size != IMAGE_SIZE:
        images = {part: to_size(array) for part, array in images.items()}
        notes.append(f"{size[0]}x{size[1]} images are scaled to 28x28")
    splits, note = _divided(images, numbers)
    for label in set(range(len(names))) - set(splits["train"].labels.tolist()):
        raise DataError(
            f"train has no example of the class {shown(names[label])}: must have at least 1 of each"
        )
    return Dataset(
        name=name,
        version=OWN,
        source=source,
        sha256=sha256_of_splits(splits[part] for part in SPLITS),
        class_names=names,
        **splits,
        notes=(*notes, *note),
        path=path,
    )


def print_notes(dataset: Dataset) -> Dataset:
    """Prints what was done to a data set, on stderr; returns it."""
    for note in dataset.notes:
        print(plain(f"note: {dataset.name}: {note}"), file=sys.stderr)
    return dataset


def is_dark_on_light(images: np.ndarray) -> bool:
    """Whether the border is light in most images: uint8 [n, height, width]."""
    return float(_is_light(images).mean()) > 0.5


def _is_light(images: np.ndarray) -> np.ndarray:
    """uint8 [n, height, width] -> whether the border of each is light, bool [n]."""
    return np.median(_border(images), 1) > 127


def _border(images: np.ndarray) -> np.ndarray:
    """uint8 [n, height, width] -> [n, pixels]."""
    sides = (images[:, [0, -1]], images[:, :, [0, -1]])
    return np.concatenate([side.reshape(len(images), -1) for side in sides], 1)


def to_size(images: np.ndarray) -> np.ndarray:
    """Scales images to 28x28: uint8 [n, height, width] -> [n, 28, 28].

    The longer side becomes 28 pixels; the shorter one is padded with the median of the border.
    """
    height, width = images.shape[1:]
    scale = IMAGE_SIZE[0] / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (IMAGE_SIZE[0] - h) // 2, (IMAGE_SIZE[1] - w) // 2
    result = np.empty((len(images), *IMAGE_SIZE), np.uint8)
    result[:] = np.median(_border(images), 1).astype(np.uint8)[:, None, None]
    for out, image in zip(result, images, strict=True):
        # Bilinear; where it shrinks, Pillow averages.
        small = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
        out[top : top + h, left : left + w] = np.asarray(small)
    return result


def _recognized(
    images: dict[str, np.ndarray], labels: dict[str, np.ndarray], source: str, path: str
) -> Dataset | None:
    """The registered data set that these are, in its own order; test may follow train."""
    x, y = images["train"], labels["train"]
    for data in REGISTERED.values():
        n, both = data.train_count, (data.train_count, data.test_count)
        if images.keys() == {"train", "test"} and (len(x), len(images["test"])) == both:
            pairs = [(x, y), (images["test"], labels["test"])]
        elif images.keys() == {"train"} and len(x) == sum(both):
            pairs = [(x[:n], y[:n]), (x[n:], y[n:])]
        else:
            continue
        is_like_it = x.shape[1:] == IMAGE_SIZE and all(
            y.dtype.kind == "i" and y.max() < len(data.class_names) for _, y in pairs
        )
        if data.arrays_sha256 and is_like_it:
            train, test = (Split(x[..., None], y) for x, y in pairs)
            splits = [*(Split(*train.rows(part)) for part in validation_indices(n)), test]
            if sha256_of_splits(splits) == data.arrays_sha256:
                return Dataset(
                    name=data.name,
                    version=data.version,
                    source=f"{data.name} {data.version} from {source}",
                    sha256=data.arrays_sha256,
                    class_names=data.class_names,
                    **dict(zip(SPLITS, splits, strict=True)),
                    path=path,
                )
    return None


def _number(
    labels: dict[str, np.ndarray], class_names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes' names, and each label as the number of its class."""
    if class_names is None:
        if len({array.dtype.kind for array in labels.values()}) > 1:
            labels = {part: array.astype(str) for part, array in labels.items()}
        values = np.unique(np.concatenate(list(labels.values()))).tolist()
        values.sort(key=natural_key)
    else:
        class_names = [str(each) for each in class_names]
        is_text = labels["train"].dtype.kind == "U"
        values = class_names if is_text else list(range(len(class_names)))
    if not 2 <= len(values) <= MAX_CLASSES:
        names = ", ".join(shown(str(value)) for value in values[:5])
        raise DataError(
            f"{'labels' if class_names is None else 'class_names'}: the number of classes is "
            f"{len(values):,} ({names}{', ...' if len(values) > 5 else ''}): must be 2 to "
            f"{MAX_CLASSES:,}"
        )
    numbers = {value: number for number, value in enumerate(values)}
    found = {}
    for part, array in labels.items():
        unknown = [value for value in np.unique(array).tolist() if value not in numbers]
        if unknown:
            allowed = f"0 to {len(values) - 1}" if type(values[0]) is int else "among class_names"
            raise DataError(
                f"{part} labels have {shown(str(unknown[-1]))}: must be {allowed}, as there are "
                f"{len(values)} class_names"
            )
        different, places = np.unique(array, return_inverse=True)
        found[part] = np.array([numbers[v] for v in different.tolist()], np.int32)[places]
    return tuple(map(str, class_names or values)), found


def _divided(
    images: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> tuple[dict[str, Any], list[str]]:
    """The splits, and a line that says how they were divided."""
    splits = {part: Split(images[part][..., None], labels[part]) for part in images}
    missing = [part for part in SPLITS if part not in splits]
    if not missing:
        return splits, []
    parts = ["train"] * 10
    parts[2 : 2 + len(missing)] = missing
    train = splits["train"]
    for part, rows in stratified_indices(train.labels, parts).items():
        if not len(rows):
            raise DataError(
                f"train has {len(train)} images: too few to take {part} from; give at least 4 of a "
                f"class, or give {part}"
            )
        splits[part] = Split(*train.rows(rows))
    sizes = ", ".join(f"{len(splits[part]):,} {part}" for part in SPLITS)
    ratio = f"{10 - len(missing)}{':1' * len(missing)}"
    return splits, [f"divided {ratio} within each class, always in the same way: {sizes} images"]
