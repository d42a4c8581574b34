"""Images in a CSV file: one a row, a pixel a cell, perhaps with a label. Read as a stream."""

import gzip
import itertools
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.arrays import MAX_IMAGES, is_dark_on_light, to_grey, to_size
from digits_jax.data.splits import IMAGE_SIZE
from digits_jax.errors import DataError, shown
from digits_jax.files import MAX_ARRAY_BYTES, open_regular

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_LABELS = ("label", "labels", "class", "target", "digit", "y")
_NUMBERS = ("id", "imageid", "image_id", "index", "")
_CHARACTERS = 6_000_000  # parsed at once, or a line: 2,000 rows of 28x28
_MAX_LINE = 2_000_000
_MAX_LABEL = 200


def read_csv_images(path: str | Path) -> np.ndarray:
    """Reads the images of a CSV file as a network takes them; a column of labels is passed over.

    Args:
      path: ``pixel0, pixel1, ...`` with or without a header, such as Kaggle's ``test.csv``; it may
        be packed by gzip.

    Returns:
      uint8 [n, 28, 28, 1], in the order of the rows, with light ink on dark paper.

    Raises:
      DataError: the file can't be read; the message names the line.
    """
    images = to_grey(read_csv(Path(path))[0], f"{path}: images")
    if is_dark_on_light(images):
        images = 255 - images
    return (images if images.shape[1:] == IMAGE_SIZE else to_size(images))[..., None]


def read_csv(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the images and labels of a CSV file.

    The cells of a row are pixels from 0 to 255 or from 0 to 1, after a label where their number
    isn't a square. With a header, the label is in the column of that name.

    Returns:
      uint8 [n, h, w], and the labels as int64 or text [n], or None where there are none.

    Raises:
      DataError: the file can't be read; the message names the line.
    """
    try:
        with open_regular(path) as raw:
            size = os.fstat(raw.fileno()).st_size
            packed = path.suffix == ".gz"
            with gzip.open(raw) if packed else raw as file:
                return _read(path, file, None if packed else size)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or shown(str(error))
        raise DataError(f"{path}: can't be read ({reason})") from None


def _read(path: Path, file: Any, size: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    lines = _lines(path, file)
    if (first := next(lines, None)) is None:
        raise DataError(f"{path}: is empty; give rows of pixels")
    separator = max(",;\t", key=first[1].count)
    cells = _cells(first[1], separator)
    # A label alone may be text, too.
    has_header = sum(not _is_number(cell) for cell in cells) > 1
    label, pixels = _columns(path, [cell.lower() for cell in cells] if has_header else len(cells))
    if not has_header:
        lines = itertools.chain([first], lines)
    texts: list[str] = []
    images, scales, count = [], [], 0
    most = min(MAX_IMAGES, MAX_ARRAY_BYTES // len(pixels))
    for block in _blocks(lines):
        values = _pixels(path, block, separator, len(cells), pixels)
        scale = 1 if values.max() > 1 else 255
        images.append(np.floor(values * np.float32(scale) + 0.5).astype(np.uint8))
        scales.append(scale)
        if label is not None:
            texts += [_cells(line, separator, label + 1)[label] for _, line in block]
            if len(longest := max(texts[count:], key=len)) > _MAX_LABEL:
                raise DataError(
                    f"{path}: the label {shown(longest)} has {len(longest):,} characters; "
                    f"{_MAX_LABEL} are allowed"
                )
        about = size / file.tell() * len(block) if size and not count else 0
        count += len(block)
        if max(count, 0.9 * about) > most:
            raise DataError(
                f"{path}: has more than {most:,} rows, which is what fits in memory; give "
                "fewer, or prepare a tfds set and give input=stream"
            )
    if not count:
        raise DataError(f"{path}: has no rows; give rows of pixels")
    if 1 in scales:  # from 0 to 255: a block that seemed to be from 0 to 1 holds 0 and 1 alone
        images = [part // scale for part, scale in zip(images, scales, strict=True)]
    side = math.isqrt(len(pixels))
    if label is not None and "" in texts:
        raise DataError(f"{path}: row {texts.index('') + 1} has no label; each row needs one")
    found = None if label is None else _as_numbers(texts)
    return np.concatenate(images).reshape(count, side, side), found


def _lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    """The lines that aren't empty, with their numbers from 1."""
    for number in itertools.count(1):
        line = file.readline(_MAX_LINE)
        if not line:
            return
        if len(line) == _MAX_LINE:
            raise DataError(f"{path}: line {number} is too long; a row is a line of pixels")
        if text := line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip():
            yield number, text


def _blocks(lines: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Lines in groups of bounded size, however long they are."""
    block, size = [], 0
    for line in lines:
        block.append(line)
        size += len(line[1])
        if size >= _CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _cells(line: str, separator: str, count: int = -1) -> list[str]:
    return [cell.strip().strip("\"'") for cell in line.split(separator, count)]


def _columns(path: Path, columns: int | list[str]) -> tuple[int | None, Sequence[int]]:
    """Where the label is, if any, and the pixels: of the names in a header, or of a number."""
    if isinstance(columns, int):
        label = None if math.isqrt(columns) ** 2 == columns else 0
        pixels = range(0 if label is None else 1, columns)
    else:
        label = next((i for i, name in enumerate(columns) if name in _LABELS), None)
        pixels = [i for i, name in enumerate(columns) if i != label and name not in _NUMBERS]
    if len(pixels) < 4 or math.isqrt(len(pixels)) ** 2 != len(pixels):
        named = "" if isinstance(columns, int) else f"{len(pixels)} without label and id"
        total = columns if isinstance(columns, int) else len(columns)
        raise DataError(
            f"{path}: has {total} columns{named and f', {named}'}: must be the pixels of square "
            "images (784 of 28x28), perhaps after a label; a header may name the column label"
        )
    return label, pixels


def _pixels(
    path: Path, block: list[tuple[int, str]], separator: str, width: int, pixels: Sequence[int]
) -> np.ndarray:
    """float32 [rows, pixels] of some lines."""
    for number, line in block:
        if (found := line.count(separator) + 1) != width:
            raise DataError(f"{path}: line {number} has {found} cells: must be {width}, as above")
    options: Any = {"delimiter": separator, "usecols": pixels, "comments": None, "ndmin": 2}
    lines = [line.replace('"', "") for _, line in block]
    try:
        try:  # six times as fast
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # that 0.5 becomes 0
                values = np.loadtxt(lines, np.int16, **options).astype(np.float32)
        except (ValueError, DeprecationWarning):
            values = np.loadtxt(lines, np.float32, **options)
        if values.min() >= 0 and values.max() <= 255:  # not of NaN
            return values
    except ValueError:
        pass
    for number, line in block:
        cells = _cells(line, separator)
        for column in pixels:
            if not _is_number(cells[column]) or not 0 <= float(cells[column]) <= 255:
                cell = shown(cells[column]) or "empty"
                raise DataError(
                    f"{path}: line {number}, column {column + 1} is {cell}: must be a number from "
                    "0 to 255"
                )
    raise DataError(f"{path}: lines {block[0][0]} to {block[-1][0]} can't be read as numbers")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
        return True
    except ValueError:
        return False


def _as_numbers(texts: list[str]) -> np.ndarray:
    try:
        numbers = np.array(texts).astype(np.float64)
    except ValueError:
        return np.array(texts)
    whole = (np.abs(numbers) < 2**53).all() and (numbers == np.floor(numbers)).all()
    return numbers.astype(np.int64) if whole else numbers
