"""A network as StableHLO, which XLA compiles for a CPU, a GPU or a TPU: bytes of `jax.export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from digits_jax.deploy.network import Network, make_logits
from digits_jax.deploy.onnx import import_extra
from digits_jax.errors import DataError
from digits_jax.runs.folder import replace_file

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(network: Network) -> bytearray:
    """Serializes a network, parameters included, for any batch size and all ``PLATFORMS``.

    Returns:
      What `jax.export.deserialize` reads: a function of images, float32 [n, 28, 28, 1] in
      [0, 1], that gives logits, float32 [n, classes].

    Reference:
      https://docs.jax.dev/en/latest/export/export.html: read by JAX for at least 6 months after
      it was written, and by what runs StableHLO for 5 years.
    """
    import_extra("flatbuffers")  # jax.export writes with it, and doesn't declare it
    apply, variables = make_logits(network), [member.variables for member in network.members]

    def logits(images: jax.Array) -> jax.Array:
        return apply(variables, images)

    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, 28, 28, 1), np.float32)
    return export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize()


def write_stablehlo(network: Network, path: Path) -> None:
    """Writes a network; the file appears complete or not at all."""
    data = to_stablehlo(network)
    replace_file(path, lambda file: file.write(data))


def read_stablehlo(path: Path) -> Callable[[Any], jax.Array]:
    """Reads the function in a file: images, float32 [n, 28, 28, 1] in [0, 1], to logits.

    Raises:
      DataError: it doesn't exist, or isn't a function of `jax.export`.
    """
    import_extra("flatbuffers")
    try:
        return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except Exception as error:  # flatbuffers' and MLIR's
        raise DataError(f"{path}: isn't a function of jax.export ({error})") from None
