"""Trains in several processes on this machine, for trial: python -m digits_jax.launch \
--num-processes=2 -- --arch=cnn --preset=quick"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

from digits_jax.cli import Parser, run_program
from digits_jax.errors import ConfigError
from digits_jax.launched import Launched, end_all, start
from digits_jax.train import parse_arguments

POLL_SECONDS = 0.1
STOPPED_SECONDS = 5.0
# When one has failed, the others find out and say so by themselves.
OTHERS_SECONDS = 5.0
# What was asked to end saves its state first.
SAVE_SECONDS = 30.0
MOST_PROCESSES = 64
TRAIN = (sys.executable, "-m", "digits_jax.train")


def main(argv: Sequence[str]) -> int:
    """Parses, starts, watches."""
    ours, dashes, theirs = list(argv), "--" in argv, []
    if dashes:
        place = ours.index("--")
        ours, theirs = ours[:place], ours[place + 1 :]
    if not dashes and not {"-h", "--help"} & set(ours):
        raise ConfigError(
            "what to train is missing: give it after --, as to digits_jax.train: "
            "python -m digits_jax.launch --num-processes=2 -- --arch=cnn --preset=quick"
        )
    args = _parser().parse_args(ours)
    if not 1 <= args.num_processes <= MOST_PROCESSES:
        raise ConfigError(f"--num-processes={args.num_processes}: give 1 to {MOST_PROCESSES}")
    if args.devices_per_process is not None and args.devices_per_process < 1:
        raise ConfigError(f"--devices-per-process={args.devices_per_process}: give 1 or more")
    for flag in theirs:
        if flag.replace("_", "-").startswith(("--coordinator", "--num-proc", "--process-id")):
            raise ConfigError(f"{flag}: launch gives it to each process; leave it out after --")
    parse_arguments(theirs)  # Said once, not by each; --help ends here.
    return launch([*TRAIN, *theirs], args.num_processes, args.devices_per_process)


def _parser():
    parser = Parser(prog="python -m digits_jax.launch", description=__doc__.split(":")[0])
    parser.add_argument(
        "--num-processes", type=int, required=True, metavar="N", help="how many to start"
    )
    parser.add_argument(
        "--devices-per-process",
        type=int,
        metavar="N",
        help="given to each as --devices; left out, each gets its share of the cores",
    )
    parser.usage = "%(prog)s --num-processes=N [--devices-per-process=N] -- FLAGS OF TRAIN"
    return parser


def launch(
    command: Sequence[str],
    num_processes: int,
    devices_per_process: int | None = None,
    *,
    stopped_seconds: float = STOPPED_SECONDS,
    others_seconds: float = OTHERS_SECONDS,
    save_seconds: float = SAVE_SECONDS,
) -> int:
    """Runs a command in several processes, until all are done or one fails; none is left over.

    Args:
      command: what each runs, with --coordinator, --num-processes and --process-id behind it.
      num_processes: how many.
      devices_per_process: given to each as --devices.
      stopped_seconds: for which one may be stopped (SIGSTOP).
      others_seconds: in which the others are to end by themselves when one has failed.
      save_seconds: in which all are to end after SIGINT or SIGTERM.

    Returns:
      0, or the status of the first that failed: 128 + N where signal N ended it.
    """
    port = _free_port()
    common = [] if devices_per_process is None else [f"--devices={devices_per_process}"]
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {n: signal.signal(n, lambda number, _frame: asked.append(number)) for n in numbers}
    processes: list[Launched] = []
    try:
        for i in range(num_processes):
            place = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={num_processes}"]
            place = [*place, f"--process-id={i}"] if num_processes > 1 else []
            cores = None if devices_per_process else _share_of_cores(i, num_processes)
            processes.append(start([*command, *common, *place], i, cores))
        for process in processes:  # after the last fork
            process.show_output(f"[{process.index}] " if num_processes > 1 else "")
        return _watch(processes, asked, stopped_seconds, others_seconds, save_seconds)
    finally:
        end_all(processes)
        for number, handler in before.items():
            signal.signal(number, handler)


def _share_of_cores(index, count):
    """Those that one of several processes is to use; None where they can't be told apart."""
    if count == 1 or not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    return {cores[i % len(cores)] for i in range(index, max(len(cores), index + 1), count)}


def _watch(processes, asked, stopped_seconds, others_seconds, save_seconds):
    """Until all have ended; returns the status."""
    failed, deadline = None, None
    while any(process.running for process in processes):
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if asked and deadline is None and failed is None:
            for process in processes:
                process.send(asked[0])
            deadline = now + save_seconds
        if failed is None and not asked:
            failed = _first_failure(processes, stopped_seconds)
            if failed:
                _say(f"{failed.what_happened()}; ending the others")
                deadline = now + others_seconds
        if deadline and (now > deadline or len(asked) > 1 or (failed and failed.running)):
            end_all(processes)
    failed = failed or _first_failure(processes, stopped_seconds)
    # 2: what was given can't be used; 141: nobody reads any more.
    if failed and not asked and failed.status not in (2, 141):
        _say("all have ended; start again with --resume --workdir=... to go on")
    return failed.status if failed else 0


def _first_failure(processes, stopped_seconds):
    """The one that failed; where several did at once, one that a signal ended."""
    failed = [p for p in processes if p.status or p.stopped_for() > stopped_seconds]
    return min(failed, key=lambda p: (p.status <= 128, p.index), default=None)


def _say(text):
    with contextlib.suppress(OSError):
        os.write(2, f"launch: {text}\n".encode())


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(run_program(main))
