"""Writes a data set that is larger than memory: python -m experiments.large_data DIR

Digits, moved about on a background of noise, as a stock tfds data set of array_record files:
``tfds.builder_from_directory`` and ``--dataset=tfds/large_digits`` read it. The same seed gives the
same bytes. It is renamed into place when it is complete.
"""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from digits_jax import ConfigError, load_dataset
from digits_jax.cli import parse, run_program
from digits_jax.files import scratch_folder

NAME, VERSION = "large_digits", "1.0.0"
RECORD_BYTES = 980  # of an uncompressed image, with all that goes around it
TEST_COUNT = 10_000
CHUNK = 4_000
REACH = 3  # pixels that a digit is moved at most


@dataclass(frozen=True)
class Arguments:
    """What to write."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of data sets; large_digits/1.0.0 is made in it."""
    gigabytes: float = 5.0
    """Size on disk, in units of 1,000,000,000 bytes."""
    shard_megabytes: float = 250.0
    """Approximate size of each file."""
    seed: int = 0
    """Seed of the digits, their places and the noise."""


def main(argv: Sequence[str]) -> None:
    """Writes, prints where."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    folder = write_large(arguments)
    print(f"{folder}: train on it with --dataset=tfds/{NAME} --data-dir={arguments.folder}")


def write_large(arguments: Arguments) -> Path:
    """Writes the data set and returns its folder."""
    target = arguments.folder.expanduser().absolute() / NAME / VERSION
    count = int(arguments.gigabytes * 1e9 / RECORD_BYTES) - TEST_COUNT
    if count < 1:
        least = RECORD_BYTES * (TEST_COUNT + 1) / 1e9
        raise ConfigError(f"--gigabytes={arguments.gigabytes:g}: give at least {least:.2g}")
    if target.exists():
        raise ConfigError(f"{target} is there already; delete it, or give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free / 1e9
    if free < 1.05 * arguments.gigabytes:
        raise ConfigError(
            f"--gigabytes={arguments.gigabytes:g}: {target.parent} has {free:.1f} GB free; make "
            "room, or give another folder"
        )
    with scratch_folder(target.parent) as scratch:
        fresh = scratch / VERSION
        fresh.mkdir()
        lengths = {
            split: write_split(fresh, split, size, arguments)
            for split, size in (("train", count), ("test", TEST_COUNT))
        }
        _write_metadata(fresh, lengths)
        fresh.rename(target)
    return target


def write_split(folder: Path, split: str, count: int, arguments: Arguments) -> list[int]:
    """Writes the files of a split; returns the number of images in each."""
    from array_record.python.array_record_module import ArrayRecordWriter

    own = getattr(load_dataset("digits"), split)
    images, labels = own.rows(np.arange(len(own)))
    shards = -(-count // max(1, int(arguments.shard_megabytes * 1e6 / RECORD_BYTES)))
    lengths = [(count + shard) // shards for shard in reversed(range(shards))]
    for shard, length in enumerate(tqdm(lengths, desc=split, unit="file", disable=None)):
        path = folder / f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"
        key = [arguments.seed, 2 * shard + (split == "test")]
        rng = np.random.Generator(np.random.Philox(key=key))
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for start in range(0, length, CHUNK):
            for record in _records(images[..., 0], labels, min(CHUNK, length - start), rng):
                writer.write(record)
        writer.close()
    return lengths


def _records(
    images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator
) -> Iterator[bytes]:
    """Serialized examples of digits that are chosen, moved, faded and put on noise at random."""
    from tensorflow_datasets.proto import tf_example_pb2

    padded = np.pad(images, ((0, 0), (REACH, REACH), (REACH, REACH)))
    rows = rng.integers(0, len(labels), count)
    top, left = rng.integers(0, 2 * REACH + 1, (2, count))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    moved = windows[rows, top, left]
    ink = rng.integers(160, 256, (count, 1, 1), np.uint16)
    noise = rng.integers(0, 64, moved.shape, np.uint8)
    for image, label in zip(
        np.maximum(moved * ink >> 8, noise), labels[rows].tolist(), strict=True
    ):
        png = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(png, "PNG", compress_level=0)
        example = tf_example_pb2.Example()  # pyright: ignore[reportAttributeAccessIssue]
        example.features.feature["image"].bytes_list.value.append(png.getvalue())
        example.features.feature["label"].int64_list.value.append(label)
        yield example.SerializeToString()


def _write_metadata(folder: Any, lengths: dict[str, list[int]]) -> None:
    """Makes a stock data set of the files in a folder."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, filetype_suffix="array_record", split=None
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=shards,
            num_bytes=sum(path.stat().st_size for path in folder.glob(f"*-{split}.*")),
            filename_template=template.replace(split=split),
        )
        for split, shards in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features={
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        },
        split_infos=splits,
        version=VERSION,
        description="Digits moved about on noise, to try what is larger than memory.",
        check_data=False,  # it would, with TensorFlow
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
