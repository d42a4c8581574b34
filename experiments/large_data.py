"""Writes a data set that is larger than memory: python -m experiments.large_data DIR

Digits, moved about on a background of noise, as a stock tfds data set of array_record files with
a train and a test split: ``tfds.builder_from_directory`` and ``--dataset=tfds/large_digits`` read
it. The same seed gives the same bytes. It is written aside and renamed when it is whole, so that
what lies in DIR is never half a data set.
"""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from digits_jax.cli import parse, run_program
from digits_jax.data.files import scratch_folder
from digits_jax.errors import ConfigError

NAME, VERSION = "large_digits", "1.0.0"
RECORD_BYTES = 980  # of an image that isn't compressed, with all that goes around it
TEST_COUNT = 10_000
CHUNK = 4_000
REACH = 3  # pixels a digit is moved at most


@dataclass(frozen=True)
class Arguments:
    """What to write."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Folder of data sets; large_digits/1.0.0 is made in it."""
    gigabytes: float = 5.0
    """Size on disk, in units of 1,000,000,000 bytes."""
    shard_megabytes: float = 250.0
    """Size of each file, about."""
    seed: int = 0
    """Seed of which digits come, where they are moved and what noise they get."""
    dataset: str = "digits"
    """Whose digits: digits, mnist, or another data set of 10 classes."""
    data_dir: str | None = None
    """Folder of that data set."""


def main(argv: Sequence[str]) -> None:
    """Writes, prints where."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    folder = write_large(arguments)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e9:.2f} GB")
    print(f"train on it with --dataset=tfds/{NAME} --data-dir={arguments.folder} --input=stream")


def write_large(arguments: Arguments) -> Path:
    """Writes the data set.

    Returns:
      Its folder.

    Raises:
      ConfigError: it is there already, or there is no room for it.
    """
    from digits_jax.data.datasets import load_dataset

    target = arguments.folder.expanduser().absolute() / NAME / VERSION
    count = int(arguments.gigabytes * 1e9 / RECORD_BYTES) - TEST_COUNT
    if count < 1 or arguments.shard_megabytes <= 0 or arguments.seed < 0:
        least = RECORD_BYTES * (TEST_COUNT + 1) / 1e9
        raise ConfigError(
            f"--gigabytes={arguments.gigabytes:g} --shard-megabytes={arguments.shard_megabytes:g} "
            f"--seed={arguments.seed}: give at least {least:.2g} GB, files of more than 0 MB, "
            "and a seed of 0 or more"
        )
    if target.exists():
        raise ConfigError(f"{target} is there already; delete it, or give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < 1.05e9 * arguments.gigabytes:
        raise ConfigError(
            f"{target.parent} has {free / 1e9:.1f} GB free, and {1.05 * arguments.gigabytes:.1f} "
            "GB are needed; make room, give another folder, or fewer --gigabytes"
        )
    digits = load_dataset(arguments.dataset, arguments.data_dir)
    if digits.num_classes != 10:
        raise ConfigError(
            f"--dataset={digits.name} has {digits.num_classes} classes; give one of 10"
        )
    with scratch_folder(target.parent) as scratch:
        fresh = scratch / VERSION
        fresh.mkdir()
        per_shard = max(1, int(arguments.shard_megabytes * 1e6 / RECORD_BYTES))
        lengths = {
            "train": write_split(fresh, "train", digits.train, count, per_shard, arguments.seed),
            "test": write_split(fresh, "test", digits.test, TEST_COUNT, per_shard, arguments.seed),
        }
        write_metadata(fresh, lengths)
        fresh.rename(target)
    return target


def write_split(folder, split, digits, count, per_shard, seed) -> list[int]:
    """Writes the files of a split; the number of images in each."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tqdm import tqdm

    shards = -(-count // per_shard)
    lengths = [len(part) for part in np.array_split(np.empty(count, np.bool_), shards)]
    # Images of 28x28 fit a fold of [0, 255] with room to move.
    padded = np.pad(digits.images[..., 0], ((0, 0), (REACH, REACH), (REACH, REACH)))
    with tqdm(total=count, desc=split, unit="image", unit_scale=True, disable=None) as bar:
        for shard, length in enumerate(lengths):
            path = folder / f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"
            # A stream of random numbers for each file; noise can't be compressed anyhow.
            random = np.random.Generator(
                np.random.Philox(key=[seed, 2 * shard + (split == "test")])
            )
            writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            for start in range(0, length, CHUNK):
                size = min(CHUNK, length - start)
                for record in records(padded, digits.labels, size, random):
                    writer.write(record)
                bar.update(size)
            writer.close()
    return lengths


def records(
    padded: np.ndarray, labels: np.ndarray, count: int, random: np.random.Generator
) -> Iterator[bytes]:
    """Serialised examples of digits chosen, moved, paled and put on noise at random.

    Args:
      padded: uint8 [n, 34, 34], the digits with room around them.
      labels: int32 [n].
      count: how many examples.
      random: where chance comes from.
    """
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    rows = random.integers(0, len(labels), count)
    top, left = random.integers(0, 2 * REACH + 1, (2, count))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    images = windows[rows, top, left]
    ink = random.integers(160, 256, (count, 1, 1), np.uint16)
    noise = random.integers(0, 64, images.shape, np.uint8)
    images = np.maximum((images * ink >> 8).astype(np.uint8), noise)
    for image, label in zip(images, labels[rows].tolist(), strict=True):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG", compress_level=0)
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(png.getvalue())
        feature["label"].int64_list.value.append(label)
        yield example.SerializeToString()


def write_metadata(folder: Path, lengths: dict[str, list[int]]) -> None:
    """Makes a stock data set of the files in a folder."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, filetype_suffix="array_record", split=None
    )
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
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
        features=features,
        split_infos=splits,
        version=VERSION,
        description="Digits moved about on noise, to try what is larger than memory.",
        check_data=False,  # it would, with TensorFlow
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
