"""The digits of drawn pictures are found, divided and placed as stored."""

import hashlib
import io

import drawing
import numpy as np
import pytest
from scipy.special import softmax

from digits_jax.deploy.predictions import Predictions
from digits_jax.deploy.reading import read_picture
from digits_jax.vision.decode import decode_image

DIGITS = tuple("0123456789")
KEPT_EVERY = 5  # of the pictures of one digit, the 28x28 images of every fifth are stored
LEVELS = 2  # of 255, for sums that another machine rounds elsewhere


def digest(*arrays):
    total = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        total.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize("mode", drawing.COUNTS)
def test_pictures(golden, same_machine, mode):
    score, wrong, skipped = drawing.make_score(), [], 0

    def predict(images):
        logits = score(np.asarray(images)).astype(np.float32)
        return Predictions(DIGITS, logits, softmax(logits, -1), 0.5)

    for index in range(drawing.COUNTS[mode]):
        name, picture, png = f"{mode}-{index}", drawing.picture(mode, index), io.BytesIO()
        picture.save(png, "PNG")
        reading = read_picture(decode_image(png.getvalue(), name), [predict], mode)
        (lines,) = reading.answers
        images = [digit.image for line in lines for digit in line.digits]
        found = {
            "input": digest(np.asarray(picture), np.array(picture.getpalette() or [])),
            "output": digest(*images),
            "text": "\n".join(line.text for line in lines),
        }
        if mode == "digit":
            found["found"] = reading.found
        else:
            found["boxes"] = [[list(digit.box) for digit in line.digits] for line in lines]
        stored = golden(name, found)
        if found["input"] != stored["input"]:
            skipped += 1  # Pillow or NumPy draws another picture
            continue
        if not same_machine:
            found["output"] = stored["output"]
        if found != stored:
            wrong.append((name, found, stored))
        if mode == "digit" and index % KEPT_EVERY == 0:
            image = golden(f"{name}-image", images[0])
            np.testing.assert_allclose(images[0].astype(int), image.astype(int), atol=LEVELS)
    assert not wrong, f"{len(wrong)} pictures differ; the first: {wrong[0]}"
    if skipped:
        pytest.skip(f"Pillow or NumPy draws {skipped} pictures differently here")
