"""The digits of drawn pictures are found, divided and placed as stored."""

import dataclasses
import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import softmax

from digits_jax import load_dataset
from digits_jax.deploy.predictions import Predictions
from digits_jax.deploy.reading import read_picture
from digits_jax.vision.decode import decode_image
from experiments.drawing import CONDITIONS, compose, draw

DIGITS = load_dataset("digits")
COUNTS = {"digit": 120, "line": 30, "page": 8}
KEPT_EVERY = 5  # of the pictures of one digit, the 28x28 images of every fifth are stored
LEVELS = 2  # of 255, for sums that another machine rounds elsewhere


def drawn(mode, index):
    """A picture's bytes: test images under one of the conditions of `experiments.handwriting`."""
    rng = np.random.Generator(np.random.Philox(key=[list(COUNTS).index(mode), index]))
    how = list(CONDITIONS.values())[index % len(CONDITIONS)]
    images = DIGITS.test.images[..., 0]
    if mode == "digit":
        return draw(images[rng.integers(len(images))], how, rng)
    how = dataclasses.replace(how, scale=(1, 3))  # larger ones take a second each
    count = 1 if mode == "line" else 3
    chosen = [images[rng.integers(len(images), size=rng.integers(2, 7))] for _ in range(count)]
    overlap = (0, 2) if index % 3 == 0 else None
    rows = [compose(each, rng, overlap).max(axis=0) for each in chosen]
    width = max(row.shape[1] for row in rows)
    return draw(np.vstack([np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in rows]), how, rng)


def blurred(images):
    """Sums over 3x3 pixels, flat: whole numbers, which all machines add alike."""
    sums = ndimage.convolve(images.astype(np.float64), np.ones((1, 3, 3)), mode="constant")
    return sums.reshape(len(images), -1)


def predict(images, known=blurred(DIGITS.train.images[:300, :, :, 0])):  # noqa: B008
    """Divides lines: logits by the distance to the nearest training image of each digit."""
    found, labels = blurred(np.asarray(images)), DIGITS.train.labels[:300]
    squared = (found**2).sum(-1)[:, None] + (known**2).sum(-1) - 2 * found @ known.T
    nearest = [squared[:, labels == digit].min(-1) for digit in range(10)]
    logits = -np.stack(nearest, -1).astype(np.float32) / (9 * 255) ** 2 / 4
    return Predictions(DIGITS.class_names, logits, softmax(logits, -1), 0.5, of_digits=True)


def digest(*arrays):
    total = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        total.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize("mode", COUNTS)
def test_pictures(golden, same_machine, mode):
    wrong, skipped = [], 0
    for index in range(COUNTS[mode]):
        name, data = f"{mode}-{index}", drawn(mode, index)
        reading = read_picture(decode_image(data, name), [predict], mode)
        (lines,) = reading.answers
        images = [digit.image for line in lines for digit in line.digits]
        found = {
            "input": digest(np.asarray(Image.open(io.BytesIO(data)))),
            "output": digest(*images),
            "text": "\n".join(line.text for line in lines),
        }
        if mode == "digit":
            found["found"] = reading.found
        else:
            found["boxes"] = [[list(digit.box) for digit in line.digits] for line in lines]
        stored = golden(name, found)
        if not same_machine and found["input"] != stored["input"]:
            skipped += 1  # Pillow or NumPy draws another picture
            continue
        if not same_machine:
            found["output"] = stored["output"]
        if found != stored:
            wrong.append((name, found, stored))
        if images and mode == "digit" and index % KEPT_EVERY == 0:
            image = golden(f"{name}-image", images[0])
            np.testing.assert_allclose(images[0].astype(int), image.astype(int), atol=LEVELS)
    assert not wrong, f"{len(wrong)} pictures differ; the first: {wrong[0]}"
    if skipped:
        pytest.skip(f"Pillow or NumPy draws {skipped} pictures differently here")
