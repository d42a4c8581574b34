"""Devices and meshes, and one bare step under jit, shard_map or pmap.

A step is called as ``step(replicated, batch, *replicated)``: the state first, then a batch (a
pytree of arrays whose first axis is sharded over the mesh axis "data"), then whatever else is
the same everywhere.
"""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.errors import ConfigError
from digits_jax.hardware import check_backend, cpu_count

Device = Any  # jax.Device, which type checkers take for a variable
AXIS = "data"
MODES = ("jit", "shard_map", "pmap")
# A CPU may be split into a few more devices than it has cores: to try a step on many.
MAX_CPU_DEVICES = 8


def start_backend(platform: str, cpu_devices: int) -> list[Device]:
    """Starts JAX on a platform and returns this process's devices.

    A JAX that runs already (in a notebook, say) stays as it is. A CPU is split into as many as
    ``cpu_devices``, at most its number of cores, or 8.
    """
    # A backend that has started keeps the devices that it has.
    with contextlib.suppress(RuntimeError):
        most = max(MAX_CPU_DEVICES, cpu_count())
        jax.config.update("jax_num_cpu_devices", min(cpu_devices, most))
    check_backend()
    try:
        return jax.local_devices(backend=None if platform == "auto" else platform)
    except RuntimeError:
        here = jax.local_devices()[0].platform
        raise ConfigError(
            f"platform={platform}: JAX finds none here; give platform={here}, or auto, "
            "or install the jax that is made for it"
        ) from None


def check_memory(state: Any, mesh: Mesh) -> None:
    """Raises a ConfigError for a state that the devices can't hold.

    Each device has a copy. XLA's CPU backend doesn't fail where an allocation does: it hangs.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    first = mesh.devices.flat[0]
    if first.platform == "cpu":
        needed *= len(mesh.local_devices)
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if "SC_PHYS_PAGES" not in names:
            return
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        limit = (first.memory_stats() or {}).get("bytes_limit", needed)
    if needed > limit:
        raise ConfigError(
            f"the network and its optimizer take {needed / 2**30:.1f} GiB and there are "
            f"{limit / 2**30:.1f} GiB; give smaller hidden_sizes, channels or dense_size"
        )


def make_mesh(devices: list[Device]) -> Mesh:
    """Makes a mesh with the one axis "data" over the devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def of_every_process(devices: list[Device]) -> list[Device]:
    """Returns as many devices of every process as are given of this one, process by process."""
    of_process: dict[int, list] = {}
    for device in sorted(jax.devices(devices[0].platform), key=lambda d: (d.process_index, d.id)):
        of_process.setdefault(device.process_index, []).append(device)
    return [device for own in of_process.values() for device in own[: len(devices)]]


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device of the mesh; every process passes the same one."""
    sharding = NamedSharding(mesh, P())
    if not mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> jax.Array:
        # Keys can't be put on another process's devices: only arrays of numbers can.
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            as_key = partial(jax.random.wrap_key_data, impl=jax.random.key_impl(leaf))
            data = np.asarray(jax.random.key_data(leaf))
            return jax.jit(as_key, out_shardings=sharding)(data)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def shard(batch: Any, mesh: Mesh) -> Any:
    """Splits the first axis of a pytree's arrays over the devices of the mesh.

    Each of several processes passes its own share of the rows.
    """
    sharding = NamedSharding(mesh, P(AXIS))
    if mesh.is_multi_process:
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), batch)
    return jax.device_put(batch, sharding)


def parallelize(
    step: Callable,
    mesh: Mesh,
    mode: str = "jit",
    *,
    outputs: Any = P(),  # noqa: B008 - it is immutable
    donate_state: bool = False,
) -> Any:
    """Compiles a bare step for the devices of a mesh.

    "jit" gives the compiler the whole, sharded arrays: it inserts the communication, random
    numbers are the same on any number of devices, and ``axis_name`` isn't passed. "shard_map"
    and "pmap" run the step on each device's part with ``axis_name="data"``; pmap is there for
    programs that still use it.

    Args:
      step: ``step(state, batch, *rest, axis_name=...)``.
      mode: "jit", "shard_map" or "pmap".
      outputs: which outputs are per image, like logits (``PartitionSpec("data")``), and which
        are the same everywhere (``PartitionSpec()``): one for all, or a tuple of one for each.
      donate_state: let the new state take the old one's memory.

    Examples:
      >>> mesh = make_mesh(jax.devices()[:1])
      >>> total = parallelize(lambda state, batch: state + batch.sum(), mesh)
      >>> float(total(1.0, np.ones(4)))
      5.0
    """
    donate = (0,) if donate_state else ()
    if mode == "jit":
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), outputs, is_leaf=_is_spec)

        @partial(jax.jit, donate_argnums=donate, out_shardings=shardings)
        def jitted(state: Any, batch: Any, *rest: Any) -> Any:
            # Inputs that weren't placed (NumPy arrays, a state from one device) are placed here.
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P(AXIS)))
            return step(state, batch, *rest)

        return jitted
    named = partial(step, axis_name=AXIS)
    if mode == "shard_map":

        @partial(jax.jit, donate_argnums=donate)
        def mapped(state: Any, batch: Any, *rest: Any) -> Any:
            specs = (P(), P(AXIS), *[P()] * len(rest))
            # Without the replication check, psum's gradient is psum, as the step expects.
            return jax.shard_map(
                named, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=False
            )(state, batch, *rest)

        return mapped
    if mode == "pmap":
        return _pmap(named, mesh, outputs)
    raise ConfigError(f"mode={mode!r}: allowed: {', '.join(MODES)}")


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def _pmap(step: Callable, mesh: Mesh, outputs: Any) -> Callable:
    devices = list(mesh.devices.flat)
    out_axes = jax.tree.map(lambda spec: 0 if spec == P(AXIS) else None, outputs, is_leaf=_is_spec)
    mapped: dict[int, Callable] = {}

    def split(x: Any) -> Any:
        return x.reshape(len(devices), -1, *x.shape[1:])

    def join(spec: P, tree: Any) -> Any:
        if spec == P():
            return tree
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def run(state: Any, batch: Any, *rest: Any) -> Any:
        if len(rest) not in mapped:  # one pmap for all calls: each new one traces again
            axes = (None, 0, *[None] * len(rest))
            mapped[len(rest)] = jax.pmap(
                step, AXIS, in_axes=axes, out_axes=out_axes, devices=devices
            )
        out = mapped[len(rest)](state, jax.tree.map(split, batch), *rest)
        return jax.tree.map(join, outputs, out, is_leaf=_is_spec)

    return run
