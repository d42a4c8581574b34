"""Small data sets, as tfds prepares them."""

import numpy as np
from pictures import encode


def made_images(count, seed=0):
    """Images and labels that are all different."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
    return images, rng.integers(0, 10, count).astype(np.int32)


def png(image):
    """PNG bytes of an image [height, width, channels]."""
    return encode(image.squeeze())


def write_prepared(
    root, name="own", version="1.0.0", counts=None, shards=3, features=None, encode=png
):
    """Writes a data set in the array_record format with tfds's own tools.

    Returns:
      Its folder, and {split: (images, labels)} in the order in which they are stored.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    counts = counts or {"train": 150, "test": 24}
    folder = root / name / version
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix="array_record", split=None
    )
    arrays, infos = {}, []
    for number, (split, count) in enumerate(counts.items()):
        images, labels = arrays[split] = made_images(count, number)
        lengths = [len(part) for part in np.array_split(labels, shards)]
        rows = iter(zip(images, labels.tolist(), strict=True))
        for shard, length in enumerate(lengths):
            path = folder / f"{name}-{split}.array_record-{shard:05d}-of-{shards:05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for _ in range(length):
                image, label = next(rows)
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(encode(image))
                example.features.feature["label"].int64_list.value.append(label)
                writer.write(example.SerializeToString())
            writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=1,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features
        or {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        },
        split_infos=infos,
        version=version,
        check_data=False,
    )
    return folder, arrays


def assert_same(one, other):
    """Two batches are the same, bit for bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])
