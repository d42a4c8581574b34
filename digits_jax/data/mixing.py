"""Several data sets as one: ``mnist+digits``."""

from collections.abc import Sequence

import numpy as np

from digits_jax.data.splits import SPLITS, Dataset, Split, sha256_of_splits
from digits_jax.errors import DataError

_MOST = 4_000_000  # training images, 3.1 GB


def mix_datasets(datasets: Sequence[Dataset], repetitions: Sequence[int] | None = None) -> Dataset:
    """Makes one data set of several with the same classes.

    Each split is that of the first, then that of the second, ...; training shuffles them.

    Args:
      datasets: in memory.
      repetitions: how often the training images of each are taken; once if None.

    Returns:
      A data set whose `Dataset.parts` says what comes from where.

    Raises:
      DataError: other classes, or not as many repetitions as data sets.

    Examples:
      >>> from digits_jax.data.digits import load_digits
      >>> both = mix_datasets([load_digits(), load_digits()], [1, 3])
      >>> both.name, len(both.train), both.parts
      ('digits+digits', 5028, (('digits', 180, 360), ('digits', 180, 360)))
    """
    times = repetitions or [1] * len(datasets)
    times = tuple(times) if isinstance(times, Sequence) else (times,)
    if len(times) != len(datasets) or not all(type(n) is int and n > 0 for n in times):
        raise DataError(
            f"mix={','.join(map(str, times))}: must be {len(datasets)} numbers from 1, one for "
            f"each data set of {'+'.join(data.name for data in datasets)}"
        )
    if (total := sum(n * len(data.train) for n, data in zip(times, datasets, strict=True))) > _MOST:
        raise DataError(
            f"mix={','.join(map(str, times))}: makes {total:,} training images; {_MOST:,} are "
            "allowed"
        )
    first = datasets[0]
    for data in datasets:
        if data.class_names != first.class_names:
            raise DataError(
                f"dataset={first.name}+{data.name}: the classes differ; give data sets with the "
                f"same ones ({', '.join(first.class_names[:10])})"
            )
        if not isinstance(data.train, Split):
            raise DataError(f"dataset={data.name}: is streamed; only data in memory can be mixed")
    parts = {}
    for name in SPLITS:
        splits = [
            getattr(data, name)
            for data, count in zip(datasets, times, strict=True)
            for _ in range(count if name == "train" else 1)
        ]
        parts[name] = Split(
            np.concatenate([split.images for split in splits]),
            np.concatenate([split.labels for split in splits]),
        )
    shares = [
        f"{data.name} x {n}" if n > 1 else data.name
        for data, n in zip(datasets, times, strict=True)
    ]
    paths = [data.path for data in datasets]
    return Dataset(
        name="+".join(data.name for data in datasets),
        version="+".join(data.version for data in datasets),
        source=" + ".join(shares),
        sha256=sha256_of_splits(parts.values()),
        class_names=first.class_names,
        notice=" ".join(data.notice for data in datasets if data.notice),
        notes=tuple(note for data in datasets for note in data.notes),
        path="+".join(data.path or data.name for data in datasets) if any(paths) else "",
        parts=tuple((data.name, len(data.validation), len(data.test)) for data in datasets),
        **parts,
    )
