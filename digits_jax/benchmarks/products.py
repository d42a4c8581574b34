"""How fast the devices multiply matrices: the rate that a training step is compared with.

A rate that was measured says more than a data sheet's: it has the clock, the library and the
number of cores that the step has as well.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from digits_jax.benchmarks.timing import time_blocks
from digits_jax.models.matmul_conv import precision_of
from digits_jax.training import parallel

# Rows and columns of the square matrices: enough to keep a device of that kind busy.
_SIZES = {"cpu": 2048}
_ACCELERATOR_SIZE = 8192
_QUICK_SIZES = {"cpu": 1024}
_QUICK_ACCELERATOR_SIZE = 4096


def matrix_size(platform: str, *, quick: bool) -> int:
    """Rows, and columns, of the matrices.

    Example:
      >>> matrix_size("cpu", quick=False), matrix_size("gpu", quick=False)
      (2048, 8192)
    """
    if quick:
        return _QUICK_SIZES.get(platform, _QUICK_ACCELERATOR_SIZE)
    return _SIZES.get(platform, _ACCELERATOR_SIZE)


def product_rates(
    mesh: Mesh, dtype: str, size: int, *, repeats: int, seconds: float
) -> list[float]:
    """Floating-point operations a second of matrix products, on all devices of a mesh at once.

    Each device multiplies matrices of its own; a product of n x n takes 2 n^3 operations. Factors
    in float32 stay float32, and sums are, as in training.

    Args:
      mesh: of the devices.
      dtype: "float32" or "bfloat16".
      size: n.
      repeats: blocks that are measured.
      seconds: that each takes, about.

    Returns:
      The rate of each block, over all devices.

    Example:
      >>> mesh = parallel.make_mesh(jax.devices()[:1])
      >>> len(product_rates(mesh, "float32", 16, repeats=2, seconds=0.001))
      2
    """
    right = parallel.replicate(jnp.full((size, size), 1 / size, dtype), mesh)
    left = parallel.shard(jnp.ones((mesh.size * size, size), dtype), mesh)
    # Sums are float32, as in training: XLA's CPU backend widens bfloat16 for any other.
    product = parallel.parallelize(
        lambda b, a: jnp.matmul(
            a, b, precision=precision_of(dtype), preferred_element_type=jnp.float32
        ),
        mesh,
        outputs=jax.sharding.PartitionSpec(parallel.AXIS),
    )

    def run(count):
        for _ in range(count):  # each awaited: none run side by side
            product(right, left).block_until_ready()

    blocks = time_blocks(run, repeats=repeats, seconds=seconds)
    return [mesh.size * 2 * size**3 / each for each in blocks]


def measured_products(
    mesh: Mesh, dtypes: Sequence[str], settings: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The rates of each type, measured as a benchmark's settings ask for.

    Args:
      mesh: of the devices.
      dtypes: of `product_rates`.
      settings: of the benchmark.

    Returns:
      For each type its "size" and "rates".
    """
    size = settings.get("matrix_size") or matrix_size(
        mesh.devices.flat[0].platform, quick=settings["quick"]
    )
    block = {"repeats": min(settings["repeats"], 5), "seconds": min(settings["seconds"], 0.3)}
    return {
        dtype: {"size": size, "rates": product_rates(mesh, dtype, size, **block)}
        for dtype in dtypes
    }


def limit(before: Sequence[float], after: Sequence[float]) -> float:
    """What the device can do: of two measurements' medians the one that less else disturbed.

    Example:
      >>> limit([1.0, 5.0, 6.0], [4.0])
      5.0
    """
    return max(statistics.median(before), statistics.median(after))
