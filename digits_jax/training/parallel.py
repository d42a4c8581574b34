"""Which devices a step runs on, and how: jit, shard_map or pmap of the same bare step.

A step is called as ``step(replicated, batch, *replicated)``: the state first, then a batch (a
pytree of arrays whose first axis is sharded over the mesh axis "data"), then whatever else is
the same everywhere.
"""

import contextlib
import ctypes
import hashlib
import os
import platform as platform_module
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.errors import ConfigError
from digits_jax.hardware import cpu_count, processor_features, processor_lines

AXIS = "data"
EVERYWHERE = P()
MODES = ("jit", "shard_map", "pmap")
PLATFORMS = ("auto", "cpu", "gpu", "tpu")


# A CPU may be split into a few more devices than it has cores: to try a step on many.
MOST_CPU_DEVICES = 8
MOST_STEPS_PER_CALL = 256
# Of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def start_backend(platform: str, cpu_devices: int) -> list[jax.Device]:
    """Starts JAX on a platform, the CPU split into several devices, and lists this process's.

    A JAX that runs already (in a notebook, say) stays as it is.

    Args:
      platform: "auto" (what JAX prefers), "cpu", "gpu" or "tpu".
      cpu_devices: devices to split the CPU into, where the CPU it is; no more than there are
        cores, or 8.

    Returns:
      The platform's devices that are this process's own.

    Raises:
      ConfigError: a platform that isn't here.
    """
    if platform not in PLATFORMS:
        raise ConfigError(f"platform is {platform!r}; allowed: {', '.join(PLATFORMS)}")
    # A backend that has started keeps the devices that it has.
    with contextlib.suppress(RuntimeError):
        most = max(MOST_CPU_DEVICES, cpu_count())
        jax.config.update("jax_num_cpu_devices", min(cpu_devices, most))
    try:
        return jax.local_devices(backend=None if platform == "auto" else platform)
    except RuntimeError:
        here = jax.local_devices()[0].platform
        raise ConfigError(
            f"--platform={platform}: JAX finds none here; give --platform={here}, or auto, "
            "or install the jax that is made for it"
        ) from None


def use_compilation_cache() -> None:
    """Keeps what XLA compiles, for the next start of a program, where `compilation_cache` says.

    ``JAX_COMPILATION_CACHE_DIR``, where it is set, is left to JAX.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") is not None:
        return
    path = compilation_cache()
    if path is None:
        return
    jax.config.update("jax_compilation_cache_dir", path)
    # Everything, however quickly compiled: the many small functions add up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def compilation_cache() -> str | None:
    """The folder of this user's for what XLA compiles, made where it isn't there.

    It is named for the jaxlib and the processor: code compiled for one may crash on another.

    Returns:
      ``JAX_COMPILATION_CACHE_DIR`` where that is set; None without a folder to write to.
    """
    if (path := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is not None:
        return path or None
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    processor = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    path = os.path.join(root, "digits_jax", f"xla-{jax.lib.__version__}-{processor}")
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None


def _processor():
    return "".join(processor_lines()) or platform_module.processor() + platform_module.machine()


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, for the next step, instead of giving it back.

    A step's buffers are allocated together. From 32 MiB on, glibc asks the system for new pages at
    each step and gives them back after it; touching 10,000 new pages took as long as the step.
    For a program, not for a library: it changes the whole process. To be called before the
    backend starts: its threads' arenas, once there, stay, and what doesn't fit into their 64 MiB
    is asked of the system anew at each step.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        # The arenas of threads other than the first can't hold more than 64 MiB in one piece.
        mallopt(_M_ARENA_MAX, 1)


def choose_steps_per_call(
    wanted: str, platform: str, *, streamed: bool, processes: int, steps_in_an_epoch: int
) -> int:
    """How many steps a call of the devices takes at most.

    Args:
      wanted: a number, or "auto": one on a CPU, where a convolution's gradient in a loop that XLA
        runs is many times slower (jax issue 12868); elsewhere an epoch's, but no more than 256, so
        that a stop doesn't wait for long.
      platform: of the devices.
      streamed: whether the training images are not in memory.
      processes: that train together.
      steps_in_an_epoch: about.

    Raises:
      ConfigError: several, where only one is possible.

    Example:
      >>> alone = {"streamed": False, "processes": 1, "steps_in_an_epoch": 215}
      >>> [choose_steps_per_call("auto", where, **alone) for where in ("cpu", "gpu")]
      [1, 215]
    """
    obstacle = None
    if streamed:
        obstacle = "--input=stream doesn't hold the images in memory"
    elif processes > 1:
        obstacle = "several processes agree at the end of each call"
    if wanted == "auto":
        alone = platform == "cpu" or obstacle
        return 1 if alone else min(MOST_STEPS_PER_CALL, steps_in_an_epoch)
    if obstacle and int(wanted) > 1:
        raise ConfigError(f"--steps-per-call={wanted}: {obstacle}; give 1, or auto")
    return int(wanted)


def give_back_freed_memory() -> None:
    """Gives the system what compilation used and freed, 100 MB and more, before training grows."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def choose_dtype(wanted: str, platform: str) -> str:
    """The type that products are fastest in.

    Args:
      wanted: "float32", "bfloat16" or "auto".
      platform: of the devices: "cpu", "gpu" or "tpu".

    Returns:
      "float32" or "bfloat16"; for "auto" bfloat16 where the device multiplies it.

    Example:
      >>> choose_dtype("float32", "gpu"), choose_dtype("auto", "tpu")
      ('float32', 'bfloat16')
    """
    if wanted != "auto":
        return wanted
    has = platform != "cpu" or bool(processor_features() & {"avx512_bf16", "amx_bf16"})
    return "bfloat16" if has else "float32"


def choose_devices(
    devices: list[jax.Device], wanted: str | int, batch_size: int, *, heavy: bool
) -> list[jax.Device]:
    """The devices to train on.

    Args:
      devices: those that there are.
      wanted: a number, or "auto": as many as divide the batch; but one for a light step on a
        CPU, whose few large matrix products use all cores by themselves.
      batch_size: images in each batch.
      heavy: whether the step has convolutions.

    Returns:
      The first devices of the list.

    Raises:
      ConfigError: more devices than there are, or a batch that they don't divide.

    Example:
      >>> choose_devices(["cpu:0", "cpu:1", "cpu:2"], "auto", batch_size=256, heavy=True)
      ['cpu:0', 'cpu:1']
    """
    if wanted == "auto":
        if not heavy and getattr(devices[0], "platform", "cpu") == "cpu":
            return devices[:1]
        return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]
    count = int(wanted)
    if not 1 <= count <= len(devices):
        raise ConfigError(
            f"--devices={count}: JAX has {len(devices)} here ({devices[0].platform}); "
            f"give 1 to {len(devices)}, or auto"
        )
    if batch_size % count:
        fitting = {max(1, batch_size // count) * count, -(-batch_size // count) * count}
        raise ConfigError(
            f"--batch-size={batch_size}: {count} devices don't divide it; "
            f"give {' or '.join(map(str, sorted(fitting)))}"
        )
    return devices[:count]


def check_memory(state: Any, mesh: Mesh) -> None:
    """Raises an DigitsError for a state that the devices can't hold.

    XLA on CPU doesn't fail where an allocation does: it waits for ever.

    Args:
      state: arrays or `jax.ShapeDtypeStruct`; each device has a copy.
      mesh: of the devices.
    """
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    first = mesh.devices.flat[0]
    if first.platform == "cpu":
        needed *= mesh.size
        names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
        if "SC_PHYS_PAGES" not in names:
            return
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        limit = (first.memory_stats() or {}).get("bytes_limit", needed)
    if needed > limit:
        raise ConfigError(
            f"the network and its optimizer take {needed / 2**30:.1f} GiB and there are "
            f"{limit / 2**30:.1f} GiB: give smaller --hidden-sizes, --channels or --dense-size"
        )


def make_mesh(devices: list[jax.Device]) -> Mesh:
    """A mesh with the one axis "data" over the devices."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def of_every_process(devices: list[jax.Device]) -> list[jax.Device]:
    """As many devices of every process as these are of this one, process by process.

    Example:
      >>> of_every_process(jax.devices()[:1]) == jax.devices()[:1]  # there is one process
      True
    """
    of_process: dict[int, list] = {}
    for device in sorted(jax.devices(devices[0].platform), key=lambda d: (d.process_index, d.id)):
        of_process.setdefault(device.process_index, []).append(device)
    return [device for own in of_process.values() for device in own[: len(devices)]]


def connect(mesh: Mesh) -> None:
    """Has the devices of several processes find each other now, rather than at the first step."""
    if mesh.is_multi_process:
        ones = np.ones(len(mesh.local_devices), np.float32)
        jax.block_until_ready(parallelize(lambda _, x: x.sum(), mesh)(0.0, shard(ones, mesh)))
        multihost_utils.sync_global_devices("connected")


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device of the mesh; each process gives the same one."""
    sharding = NamedSharding(mesh, P())
    if not mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def put(leaf):
        # Keys can't be put on another process's devices: only arrays made of numbers can.
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            as_key = jax.jit(jax.random.wrap_key_data, out_shardings=sharding)
            return as_key(np.asarray(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def shard(batch: Any, mesh: Mesh) -> Any:
    """Splits the first axis of a batch's arrays over the devices of the mesh.

    Args:
      batch: pytree of arrays; of several processes each gives its own share of the rows.
      mesh: of the devices.
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
    outputs: Any = EVERYWHERE,
    donate_state: bool = False,
) -> Callable:
    """Compiles a bare step for the devices of a mesh.

    "jit" gives the compiler the whole, sharded arrays: it inserts the communication, random
    numbers are the same on any number of devices, and ``axis_name`` isn't passed. "shard_map"
    and "pmap" run the step on each device's part with ``axis_name="data"``; pmap is there for
    programs that still use it.

    Args:
      step: ``step(state, batch, *rest, axis_name=...)``.
      mesh: of one axis, "data".
      mode: "jit", "shard_map" or "pmap".
      outputs: which outputs are per image, like logits (``PartitionSpec("data")``), and which
        are the same everywhere (``PartitionSpec()``): one for all, or a tuple of one for each.
      donate_state: let the new state take the old one's memory.

    Returns:
      The compiled step, called like the bare one.

    Raises:
      ConfigError: an unknown mode.

    Example:
      >>> mesh = make_mesh(jax.devices()[:1])
      >>> total = parallelize(lambda state, batch: state + batch.sum(), mesh)
      >>> float(total(1.0, np.ones(4)))
      5.0
    """
    donate = (0,) if donate_state else ()
    if mode == "jit":
        shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), outputs, is_leaf=_is_spec)

        @partial(jax.jit, donate_argnums=donate, out_shardings=shardings)
        def whole(state, batch, *rest):
            # Inputs that weren't placed (NumPy arrays, a state from one device) are placed here.
            batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, P(AXIS)))
            return step(state, batch, *rest)

        return whole
    named = partial(step, axis_name=AXIS)
    if mode == "shard_map":

        @partial(jax.jit, donate_argnums=donate)
        def mapped(state, batch, *rest):
            specs = (P(), P(AXIS), *[P()] * len(rest))
            # Without the check of replication, psum's gradient is psum, as the step expects.
            return jax.shard_map(
                named, mesh=mesh, in_specs=specs, out_specs=outputs, check_vma=False
            )(state, batch, *rest)

        return mapped
    if mode == "pmap":
        return _pmap(named, mesh, outputs)
    raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")


def _is_spec(x):
    return isinstance(x, P)


def _pmap(step, mesh, outputs):
    devices = list(mesh.devices.flat)
    out_axes = jax.tree.map(lambda spec: 0 if spec == P(AXIS) else None, outputs, is_leaf=_is_spec)
    mapped = {}

    def split(x):
        return x.reshape(len(devices), -1, *x.shape[1:])

    def join(spec, tree):
        return (
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree) if spec == P(AXIS) else tree
        )

    def run(state, batch, *rest):
        if len(rest) not in mapped:  # one pmap for all calls: each traces anew
            axes = (None, 0, *[None] * len(rest))
            mapped[len(rest)] = jax.pmap(
                step, AXIS, in_axes=axes, out_axes=out_axes, devices=devices
            )
        out = mapped[len(rest)](state, jax.tree.map(split, batch), *rest)
        return jax.tree.map(join, outputs, out, is_leaf=_is_spec)

    return run
