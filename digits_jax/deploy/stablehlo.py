"""A network as StableHLO: what XLA compiles, on a CPU, a GPU or a TPU, in years to come too.

A folder with ``model.stablehlo`` (bytes of `jax.export`, with the weights in them) and
``manifest.json``.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax import export

from digits_jax.deploy.extras import need
from digits_jax.deploy.forward import jax_logits, weights_of
from digits_jax.deploy.network import Network
from digits_jax.errors import DataError
from digits_jax.runs.folder import replace_file

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(network: Network) -> bytearray:
    """A network, serialized for any batch size and the platforms in ``PLATFORMS``.

    Returns:
      What `jax.export.deserialize` reads: a function of images, float32 [n, 28, 28, 1] in
      [0, 1], that gives logits, float32 [n, classes].

    Raises:
      DataError: flatbuffers isn't installed.

    Reference:
      https://docs.jax.dev/en/latest/export/export.html: read by JAX for at least 6 months after
      it was written, and by what runs StableHLO for 5 years.
    """
    need("flatbuffers")  # jax.export writes with it, and doesn't declare it
    weights = weights_of(network)

    def logits(images):
        return jax_logits(network, weights, images)

    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, 28, 28, 1), np.float32)
    return export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize()


def write_stablehlo(network: Network, path: Path) -> None:
    """Writes a network, whole or not at all."""
    data = to_stablehlo(network)
    replace_file(path, lambda file: file.write(data))


def read_stablehlo(path: Path) -> Callable[[np.ndarray], jax.Array]:
    """The function in a file: images, float32 [n, 28, 28, 1] in [0, 1], to logits.

    Raises:
      DataError: no such file, or not one that `write_stablehlo` wrote.
    """
    need("flatbuffers")
    try:
        return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except Exception as error:  # flatbuffers' and MLIR's
        raise DataError(f"{path}: isn't a function of jax.export ({error})") from None
