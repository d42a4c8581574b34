"""Where it was measured: processor, cores, device, versions."""

import platform
from typing import Any

from digits_jax.hardware import cpu_count, processor_name, version_of

_PACKAGES = (
    *("digits_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow-datasets", "array_record", "grain"),
)


def describe_machine(device: dict[str, Any] | None = None) -> dict[str, Any]:
    """The machine, and the device that was measured.

    Args:
      device: of `describe_device`; None where only the processor worked.

    Example:
      >>> describe_machine()["device"]
      'cpu'
    """
    found = device or {"platform": "cpu", "kind": "cpu"}
    name = found["platform"]
    if name != "cpu":
        name = f"{name}: {found['kind']}"
    return {
        "device": name,
        "processor": processor_name(),
        "cores": cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_device(mesh: Any) -> dict[str, Any]:
    """What kind a mesh's devices are of: {"platform", "kind"}."""
    first = mesh.devices.flat[0]
    return {"platform": first.platform, "kind": first.device_kind}


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that do the work.

    Example:
      >>> {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= versions().keys()
      True
    """
    return {"python": platform.python_version(), **{name: version_of(name) for name in _PACKAGES}}
