"""Which processes train together: what the flags say, or what the cluster says."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from digits_jax.errors import ConfigError

FLAGS = ("--coordinator", "--num-processes", "--process-id")
DETECT_SECONDS = 20


@dataclass(frozen=True)
class Place:
    """Of a process among several.

    Attributes:
      host: of process 0.
      port: that process 0 listens on.
      count: of all processes.
      index: of this process.
      local_device_ids: the GPUs of this machine that are this process's; None for all.
    """

    host: str
    port: int
    count: int
    index: int
    local_device_ids: tuple[int, ...] | None = None

    @property
    def address(self) -> str:
        """Of process 0, as JAX writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def find_place(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Place | None:
    """Where this process stands, or None where it is the only one.

    Args:
      coordinator: HOST:PORT of process 0; all three, or none, for what the cluster says (Slurm,
        Open MPI, a Kubernetes job, cloud TPU); ``num_processes=1`` alone means no others.
      num_processes: of all processes.
      process_id: of this one, from 0.

    Raises:
      ConfigError: some are missing or impossible, or the cluster doesn't tell enough.

    Example:
      >>> find_place("10.0.0.1:1234", num_processes=4, process_id=3).address
      '10.0.0.1:1234'
      >>> find_place(num_processes=1) is None
      True
    """
    given = (coordinator, num_processes, process_id)
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"--num-processes={num_processes}: give 1 or more")
    if num_processes == 1 and process_id in (None, 0):
        return None
    if any(value is None for value in given):
        if all(value is None for value in given):
            return _ask_cluster(os.environ)
        missing = " and ".join(
            flag for flag, value in zip(FLAGS, given, strict=True) if value is None
        )
        verb = "are" if " and " in missing else "is"
        raise ConfigError(f"{missing} {verb} missing: give {', '.join(FLAGS)} together, or none")
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            f"--process-id={process_id}: --num-processes={num_processes} have the numbers "
            f"0 to {num_processes - 1}"
        )
    return Place(*_parse(coordinator), num_processes, process_id)


def _parse(coordinator):
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([\w.-]+)):(\d{1,5})", coordinator.strip())
    if not found or not 1 <= int(found[3]) <= 65535:
        raise ConfigError(
            f"--coordinator={coordinator}: give HOST:PORT of process 0, like 10.0.0.1:1234"
        )
    return found[1] or found[2], int(found[3])


def _ask_cluster(environment: Mapping[str, str]) -> Place | None:
    """What JAX finds out, but only where a cluster shows that it started more than one."""
    if not (_many_tasks(environment) or _in_indexed_job(environment) or _many_tpus(environment)):
        return None
    # Not public; `jax.distributed.initialize` asks it too, but joins in the same breath.
    from jax._src import clusters

    try:
        address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, DETECT_SECONDS
        )
    except Exception as error:
        raise ConfigError(
            f"the cluster doesn't say where process 0 is ({_first_line(error)}); {_ADVICE}"
        ) from None
    if count == 1:
        return None
    if address is None or count is None or index is None:
        raise ConfigError(
            f"the cluster started several processes but doesn't say where process 0 is; {_ADVICE}"
        )
    if _owns_its_devices(environment):
        local = None
    return Place(*_parse(address), count, index, tuple(local) if local else None)


_ADVICE = f"give {', '.join(FLAGS)}, or --num-processes=1 where each is to train alone"


def _many_tasks(environment):
    """Slurm or Open MPI started several; an allocation alone, or a batch script, isn't a task."""
    count = 1
    if "SLURM_STEP_NODELIST" in environment:
        count = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 1))
    elif "OMPI_COMM_WORLD_SIZE" in environment:
        count = environment["OMPI_COMM_WORLD_SIZE"]
    return str(count).isdecimal() and int(count) > 1


def _in_indexed_job(environment):
    return "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment


def _many_tpus(environment):
    """Several hosts with TPUs; Google's metadata server is asked only on a machine with one."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts or environment.get("MEGASCALE_NUM_SLICES", "1") != "1"
    if "TPU_SKIP_MDS_QUERY" in environment or not _has_tpu_driver():
        return False
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster

    try:
        return GceTpuCluster.is_env_present() and GceTpuCluster.get_process_count() > 1
    except Exception:
        return False  # a TPU without its metadata server, as in a notebook


def _has_tpu_driver():
    import importlib.util

    if importlib.util.find_spec("libtpu") is None:
        return False
    from jax._src import cloud_tpu_init

    return bool(cloud_tpu_init.running_in_cloud_tpu_vm)


def _owns_its_devices(environment):
    """Whether a process sees no other's GPUs: JAX would give it one by its number."""
    seen = environment.get("CUDA_VISIBLE_DEVICES", environment.get("ROCR_VISIBLE_DEVICES", ","))
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "2")
    return "," not in seen or re.fullmatch(r"1(\(x\d+\))?", per_node) is not None


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
