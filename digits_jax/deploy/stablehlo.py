"""A network as StableHLO, which XLA compiles for a CPU, a GPU or a TPU: bytes of `jax.export`."""

from pathlib import Path

import jax
import numpy as np
from jax import export

from digits_jax.deploy.network import Network, make_logits
from digits_jax.deploy.onnx import import_extra
from digits_jax.files import replace_file

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(network: Network, path: Path) -> None:
    """Writes a network, parameters included, for any batch size and all ``PLATFORMS``.

    `jax.export.deserialize` reads the file's bytes as a function of images, float32 [n, 28, 28, 1]
    in [0, 1], that gives logits, float32 [n, classes]. It appears complete or not at all.

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
    data = export.export(jax.jit(logits), platforms=PLATFORMS)(images).serialize()
    replace_file(path, bytes(data))
