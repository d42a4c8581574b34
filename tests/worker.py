"""A training's skeleton for the tests of several processes: sums over all devices.

python worker.py --coordinator=127.0.0.1:1234 --num-processes=2 --process-id=0 --steps=5
"""

import json
import sys
import time


def main(argv):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from digits_jax.errors import DataError
    from digits_jax.training import distributed
    from digits_jax.training.interrupts import Interrupted, stop_on_signals

    options = {"coordinator": None, "num_processes": None, "process_id": None}
    for argument in argv:
        name, _, value = argument.removeprefix("--").replace("-", "_").partition("=")
        options[name] = value if name == "coordinator" else json.loads(value)

    def prepare():
        if options.get("prepare_fails"):
            raise DataError("data_dir=x: no such folder")
        return f"prepared {jax.process_index()}"

    coordinator, num_processes, process_id = list(options.values())[:3]
    distributed.INITIALIZATION_SECONDS = options.get("initialization_seconds", 60)
    distributed.HEARTBEAT_SECONDS = options.get("heartbeat_seconds", 30)
    if options.get("only", process_id) != process_id:  # the rest is for another process
        options = {"steps": options.get("steps", 5000)}
    if options.get("late"):
        time.sleep(3600)
    jax.config.update("jax_num_cpu_devices", options.get("devices", 2))
    with distributed.initialize(coordinator, num_processes, process_id):
        distributed.arm_watchdog(options.get("stall_seconds", 300))
        index, count = jax.process_index(), jax.process_count()
        print(f"joined {index} of {count}", distributed.broadcast_text(f"run-{index}"), flush=True)
        distributed.assert_same({"seed": options.get("seed", 0), "path": None})
        print(distributed.main_process_first(prepare), flush=True)
        mesh = jax.make_mesh((jax.device_count(),), ("data",))
        rows = NamedSharding(mesh, PartitionSpec("data"))

        @jax.jit
        def step(state, batch):
            return state + batch.sum()

        state = jnp.float32(0)
        with stop_on_signals() as request:
            for number in range(1, options.get("steps", 5000) + 1):
                distributed.arm_watchdog(options.get("stall_seconds", 300))
                if options.get("stalls_at") == number:
                    time.sleep(3600)
                if options.get("fails_at") == number:
                    raise RuntimeError("a bug\nof two lines")
                time.sleep(0.02)
                own = np.full(jax.local_device_count(), number, np.int32)
                state = step(state, jax.make_array_from_process_local_data(rows, own))
                print(f"step {number} {float(state):g}", flush=True)
                if stopping := distributed.max_over_processes(request.signal_number or 0):
                    raise Interrupted(f"stopped at step {number}", stopping)
    print("done", flush=True)


def program(argv):
    from digits_jax.training.interrupts import Interrupted

    try:
        main(argv)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    return 0


if __name__ == "__main__":
    from digits_jax.cli import leave, run_program

    leave(run_program(program))
