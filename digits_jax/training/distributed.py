"""Training in several processes: `jax.distributed`, and what the loop asks of it.

JAX's runtime ends a process within seconds when another one dies or its machine stops answering
(it sends no heartbeat). A process that is alive but makes no progress is ended by its own watchdog.
Everything here is a no-op for a single process, and no function but `initialize` starts a backend
then.
"""

import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from digits_jax.errors import ConfigError, DigitsError, shown
from digits_jax.training.interrupts import Interrupted

T = TypeVar("T")

# The runtime aborts five seconds later if a process is still missing.
INITIALIZATION_SECONDS = 60
# A stopped process (SIGSTOP) was noticed after 13 to 15 s with a timeout of 15 s.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 30
NOTICE_SECONDS = 5.0


@contextlib.contextmanager
def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> Iterator[None]:
    """Joins the processes of one training; they end together.

    With no arguments JAX takes them from Slurm, Open MPI, a Kubernetes job or a TPU slice, where
    the environment shows that it started several processes. Call it before anything starts JAX's
    backend. Where the caller has called ``jax.distributed.initialize`` itself, it does nothing.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" to have JAX ask the cluster in any case.
      num_processes: 1 ignores the cluster.

    Raises:
      ConfigError: JAX can't join the processes, or another process has ended.
    """
    arguments = _arguments(coordinator, num_processes, process_id)
    if arguments is None or jax.distributed.is_initialized():
        yield
        return
    _join(arguments)
    try:
        yield
    except Interrupted:  # all processes stop at the same step
        _leave()
        raise
    except jax.errors.JaxRuntimeError as error:
        if not re.search("Gloo|NCCL|UNAVAILABLE|peer|heartbeat|coordination", str(error)):
            raise
        lost = ConfigError(
            f"the connection to another process is lost ({str(error).splitlines()[0]:.120}): its "
            "own message says why; start all processes again, with resume"
        )
        lost.status = 1
        raise lost from None
    else:
        _leave()
    finally:
        faulthandler.cancel_dump_traceback_later()
    # After any other error there is no shutdown: it would wait for processes that are elsewhere.
    # They end when the connections of this one close.


def _arguments(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` takes; None for a single process."""
    if coordinator is None and process_id is None and num_processes in (None, 1):
        if num_processes == 1 or _cluster_size() == 1:
            return None
        coordinator = "auto"
    if coordinator == "auto":
        # Slurm's tasks may see one GPU each, or all of their machine's; JAX expects the latter.
        alone = "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")
        return {"local_device_ids": [0]} if alone else {}
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            f"coordinator={coordinator}, num_processes={num_processes}, process_id={process_id}: "
            "give all three, or none where a cluster says them"
        )
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):\d{1,5}", coordinator):
        raise ConfigError(
            f"coordinator={shown(coordinator)}: must be HOST:PORT of process 0, like 10.0.0.1:1234"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"process_id={process_id}: must be 0 to {num_processes - 1}")
    if num_processes == 1:
        return None
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }


def _cluster_size() -> int:
    """How many processes a cluster has started: 1 in a batch script or on one TPU host."""
    environment = os.environ
    if "SLURM_STEP_NODELIST" in environment:
        size = environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))
    elif "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        size = "2"  # the API server knows; at least it is an indexed job
    else:
        hosts = environment.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
        size = environment.get("OMPI_COMM_WORLD_SIZE", str(hosts))
    return int(size) if size.isdecimal() else 1


def _join(arguments: dict[str, Any]) -> None:
    # JAX would take SIGTERM for itself, and knows no SIGINT: `max_over_processes` does for both.
    jax.config.update("jax_enable_preemption_service", False)
    address = arguments.get("coordinator_address", "the cluster's process 0")
    text = f"waiting for the other processes at {address}, {INITIALIZATION_SECONDS} s at most"
    notice = threading.Timer(NOTICE_SECONDS, print, [text], {"file": sys.stderr, "flush": True})
    notice.daemon = True
    notice.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=INITIALIZATION_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"coordinator={address}: the processes can't be joined ({why}); is the "
            "port in use? num_processes=1 trains in this process alone"
        ) from None
    finally:
        notice.cancel()


def _leave() -> None:
    """Waits for all processes without a limit, then shuts down, which has a limit."""
    faulthandler.cancel_dump_traceback_later()  # the process that the others wait for has its own
    if jax.distributed.is_initialized():
        barrier("the end")
        jax.distributed.shutdown()


def _fail_together(error: DigitsError) -> NoReturn:
    """Raises an error that all processes raise; none waits for another."""
    jax.distributed.shutdown()
    raise error


def _gather_text(text: str) -> list[str]:
    """The text of each process, by process id."""
    own = [device.process_index for device in jax.devices()]
    counts = [own.count(index) for index in range(jax.process_count())]
    if len(set(counts)) > 1:
        _fail_together(ConfigError(f"devices={counts}: must be as many in each process"))
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.zeros(max(1, sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def max_over_processes(flag: int) -> int:
    """Returns the largest of all processes' values, for requests to save or to stop."""
    if not jax.distributed.is_initialized():
        return flag
    return int(multihost_utils.process_allgather(np.int32(flag)).max())


def broadcast_text(text: str | None) -> str:
    """Returns the text of process 0 in all; what the others give is ignored."""
    if not jax.distributed.is_initialized():
        return text or ""
    return _gather_text((text or "") if jax.process_index() == 0 else "")[0]


def assert_same(values: dict[str, Any]) -> None:
    """Raises a ConfigError in every process where not all have given the same, by name."""
    if not jax.distributed.is_initialized():
        return
    first, *others = (json.loads(text) for text in _gather_text(json.dumps(values, default=str)))
    for index, other in enumerate(others, 1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                _fail_together(
                    ConfigError(
                        f"{name}={shown(other.get(name))} in process {index} and "
                        f"{shown(first.get(name))} in process 0: must be the same in all processes"
                    )
                )


def barrier(name: str) -> None:
    """Waits until all processes have called it with the same name."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def main_process_first(make: Callable[[], T]) -> T:
    """Calls a function in process 0, then in the others: it may prepare files for all.

    A `DigitsError` of process 0 is raised in every process.
    """
    if not jax.distributed.is_initialized():
        return make()
    made, problem = None, None
    if jax.process_index() == 0:
        try:
            made = make()
        except DigitsError as error:
            problem = error
    text = broadcast_text(str(problem or ""))
    if text:
        _fail_together(problem or ConfigError(f"process 0: {text}"))
    return made if jax.process_index() == 0 else make()  # pyright: ignore[reportReturnType]


def arm_watchdog(seconds: float) -> None:
    """Ends one of several processes in some seconds, with its stacks, unless called again."""
    if jax.distributed.is_initialized():
        faulthandler.dump_traceback_later(seconds, exit=True)
