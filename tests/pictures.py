"""Picture files."""

import io

import numpy as np
from PIL import Image


def encode(image, kind="PNG", **options):
    """The bytes of a picture, or of an array [height, width] or [height, width, channels]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
