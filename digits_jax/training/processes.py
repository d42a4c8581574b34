"""Joins the processes of one training, and lets none of them wait for ever for another.

JAX's own runtime ends the others, after a while, when one is gone, with a dump of its C++ stack;
one that is stopped or stuck it never notices; and it takes SIGTERM for itself. Here a line to
process 0 (`digits_jax.training.lines`) comes first: the roll is called, all agree, a thread
(`digits_jax.training.group`) watches, and the runtime is left to carry the data.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import jax

from digits_jax.errors import ConfigError, DigitsError
from digits_jax.training.clusters import Place, find_place
from digits_jax.training.group import Group
from digits_jax.training.interrupts import Interrupted
from digits_jax.training.lines import (
    LOOPBACK,
    answer_the_roll,
    call_the_roll,
    introduce,
    listen,
)
from digits_jax.training.peers import Limits
from digits_jax.training.relay import start_relay

# The watch is ours: the runtime's own, which ends in a crash, shall not come first.
NEVER_SECONDS = 10**6
SHUTDOWN_SECONDS = 5
START_SECONDS = 60
# A failure here may be the consequence of one elsewhere that is known a moment later.
SOON_SECONDS = 1.0

_here: dict[str, Group | None] = {"now": None, "ever": None}


@contextlib.contextmanager
def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    limits: Limits | None = None,
) -> Iterator[Group]:
    """While open, this process trains together with others; they begin and end together.

    It comes before anything that starts JAX's backend. Inside of another one it gives that one's
    group. An exception that leaves it is told to the others, and ends all: what hasn't ended by
    itself 10 seconds later is ended. `Interrupted`, raised by all at one step, is a good end.

    Args:
      coordinator: HOST:PORT of process 0, or None, with the other two, for what the cluster
        says; nothing, on a machine that isn't in one.
      num_processes, process_id: how many there are, and which this one is, from 0.
      limits: how long to wait for each other.

    Yields:
      The group; of one where there are no others.

    Raises:
      ConfigError: what was given can't be used, or not all came, or another process failed.

    Example:
      >>> with join() as group:
      ...     group.index, group.count, group.first_says("the workdir", lambda: "runs/1")
      (0, 1, 'runs/1')
    """
    if _here["now"]:
        yield _here["now"]
        return
    place = find_place(coordinator, num_processes, process_id)
    if place is None:
        yield Group()
        return
    if _here["ever"] or jax.distributed.is_initialized():
        raise ConfigError(
            "this process has joined others before, and JAX can't join twice: put "
            "`with digits_jax.training.processes.join():` around all that is trained"
        )
    limits = limits or Limits()
    group = _meet(place, limits)
    _here.update(now=group, ever=group)
    try:
        _start_jax(place)
        yield group
        group.finish()
    except Interrupted:
        group.finish()
        _part(group)
        raise
    except BaseException as error:
        _tell_why(group, error, limits)
        raise
    else:
        _part(group)
    finally:
        _here["now"] = None


def _meet(place: Place, limits: Limits) -> Group:
    until = time.monotonic() + limits.join_seconds
    me = introduce(place.index, place.count, place.address, limits.join_seconds)
    if place.index:
        line, said = answer_the_roll(place.host, place.port, me, until)
        lines, said = {0: line}, {0: said}
    else:
        listener = listen(place.host, place.port)
        lines, said = call_the_roll(listener, place.count, me, until)
    names = {i: f"{said[i]['host']}, process id {said[i]['pid']}" for i in lines}
    return Group(place.index, place.count, lines, names, limits)


def _start_jax(place):
    """Joins JAX's processes; all are there by now."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM
    jax.config.update("jax_enable_recoverability", True)  # none waits for one that is gone
    jax.config.update("jax_check_proxy_envs", False)  # a warning; see below
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Nobody's HTTP proxy stands between the processes.
    os.environ.setdefault("no_grpc_proxy", f"{place.host},127.0.0.1")
    address = place.address
    if place.index:
        port = start_relay(place.host, place.port, time.monotonic() + START_SECONDS)
        address = f"127.0.0.1:{port}"
    try:
        with _quiet_stderr():
            jax.distributed.initialize(
                address,
                place.count,
                place.index,
                local_device_ids=place.local_device_ids,
                cluster_detection_method="deactivate",
                initialization_timeout=START_SECONDS,
                heartbeat_timeout_seconds=NEVER_SECONDS,
                shutdown_timeout_seconds=SHUTDOWN_SECONDS,
                coordinator_bind_address=address if place.host in LOOPBACK else None,
            )
    except RuntimeError as error:
        raise ConfigError(
            f"JAX can't join the {place.count} processes at {place.address} "
            f"({str(error).splitlines()[0]}); start all again, with another port"
        ) from None


def _part(group):
    """All are done. Process 0, where the runtime's service is, goes last."""
    if group.index == 0:
        group.close()
    with _quiet_stderr(), contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()
    if group.index:
        group.close()


def _tell_why(group, error, limits):
    _abandon_jax()
    if isinstance(error, GeneratorExit):
        return
    if _is_runtime_error(error):
        # A collective fails where another process is gone: the watch finds out which.
        group.wait_for_verdict(limits.silent_seconds + 3 * limits.beat_seconds)
    elif isinstance(error, Exception) and not isinstance(error, DigitsError | OSError):
        group.wait_for_verdict(SOON_SECONDS)
    if group.verdict and not isinstance(error, DigitsError):
        raise group.verdict_error() from None
    text = (
        str(error)
        if isinstance(error, DigitsError | OSError)
        else f"{type(error).__name__}: {error}"
    )
    if isinstance(error, KeyboardInterrupt | SystemExit):
        text = f"was stopped ({text})"
    group.fail(f"{text:.2000}")


def _abandon_jax():
    """At exit JAX would take its leave of a process 0 that may be gone, and wait for an answer."""
    try:
        from jax._src.distributed import global_state

        for left in (global_state.client, global_state.service):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))  # its end would do the same
        global_state.client = global_state.service = None
    except (ImportError, AttributeError):  # another JAX: it waits as long as `Limits` lets it
        pass


def _is_runtime_error(error):
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def quiet_gloo() -> Iterator[None]:
    """Holds back the standard output, and shows it without what Gloo says when it connects.

    For the start of the backend and a first step over several processes on a CPU: each connects
    its devices then, and says so, each for itself, in the middle of others' lines.

    Example:
      >>> with quiet_gloo():
      ...     print("done")
      done
    """
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with _held(1) as held:
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            for line in held():
                if b"[Gloo]" not in line and b"connected peer ranks" not in line:
                    with contextlib.suppress(OSError):
                        os.write(held.saved, line)


@contextlib.contextmanager
def _quiet_stderr():
    """Holds back what C++ writes to the standard error; of use only where it fails."""
    with _held(2) as held:
        try:
            yield
        except BaseException:
            os.write(held.saved, b"".join(held()))
            raise


class _Held:
    """What a stream was before it was held back, and what has been held back."""

    def __init__(self, saved, file):
        self.saved, self._file = saved, file

    def __call__(self):
        self._file.seek(0)
        return self._file.readlines()


@contextlib.contextmanager
def _held(stream):
    """Leads a stream of this process into a file."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        try:
            saved = os.dup(stream)
        except OSError:  # closed
            saved = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, saved)
        stack.callback(os.dup2, saved, stream)
        os.dup2(file.fileno(), stream)
        yield _Held(saved, file)
