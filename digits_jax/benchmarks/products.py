"""How fast the devices multiply matrices: the rate that a network's operations are compared with.

A rate that was measured says more than a data sheet's: it has the clock, the library and the
number of cores that the step has as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from digits_jax.benchmarks.timing import spread, time_in_turn
from digits_jax.models.matmul_conv import precision_of
from digits_jax.training import parallel

# Rows and columns of the square matrices: enough to keep a device of that kind busy.
_SIZES = {"cpu": (2048, 1024)}
_ACCELERATOR_SIZES = (8192, 4096)


def product_flops_per_second(mesh: Mesh, dtype: str, *, quick: bool) -> float:
    """Measures floating-point operations a second of matrix products, on all devices at once.

    Each device multiplies its own matrices; a product of n x n takes 2 n^3 operations. Factors
    in float32 stay float32, and sums are, as in training.

    Args:
      mesh: of the devices.
      dtype: "float32" or "bfloat16".
      quick: smaller matrices, for a shorter time.

    Returns:
      The median over five blocks.
    """
    size = _SIZES.get(mesh.devices.flat[0].platform, _ACCELERATOR_SIZES)[quick]
    right = parallel.replicate(jnp.full((size, size), 1 / size, dtype), mesh)
    left = parallel.shard(jnp.ones((mesh.size * size, size), dtype), mesh)
    # Sums are float32, as in training: XLA's CPU backend widens bfloat16 for any other.
    product = parallel.parallelize(
        lambda b, a: jnp.matmul(
            a, b, precision=precision_of(dtype), preferred_element_type=jnp.float32
        ),
        mesh,
        outputs=P(parallel.AXIS),
    )

    def run(count: int) -> None:
        for _ in range(count):  # each awaited: none run side by side
            jax.block_until_ready(product(right, left))

    [blocks] = time_in_turn([run], repeats=5, seconds=0.05 if quick else 0.3)
    return mesh.size * 2 * size**3 / spread(blocks)["median"]


def flops(lowered: jax.stages.Lowered) -> float | None:
    """Counts floating-point operations of one call, as XLA's cost analysis has it.

    The lowered program computes whole arrays, on all devices, and calls no library yet, whose
    operations wouldn't be counted. Additions and comparisons count, too.

    Returns:
      None where a backend can't analyse it.

    Examples:
      >>> flops(jax.jit(jnp.dot).lower(jnp.ones((2, 3)), jnp.ones((3, 5))))
      60.0
    """
    try:
        costs: Any = lowered.cost_analysis()
    except (NotImplementedError, RuntimeError):  # a plug-in may not have it
        return None
    return float((costs or {}).get("flops", 0)) or None
