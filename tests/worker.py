"""What the tests of many processes start: a training's skeleton, of sums over all devices.

python worker.py '{"coordinator": "127.0.0.1:1234", "num_processes": 2, "process_id": 0}'
"""

import json
import os
import signal
import sys
import time


def main(argv):
    from digits_jax.training.interrupts import Interrupted, stop_on_signals
    from digits_jax.training.processes import Limits, join, quiet_gloo

    told = json.loads(argv[0]) if argv[0].startswith("{") else from_flags(argv)
    flags = [told.get(name) for name in ("coordinator", "num_processes", "process_id")]
    if told.get("dies_joining"):
        import jax

        jax.distributed.initialize = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    with join(*flags, limits=Limits(**told.get("limits", {}))) as group:
        print(f"joined {group.index} of {group.count}", flush=True)
        group.agree(told.get("config", {}))
        group.first_says("the workdir", lambda: take_workdir(told))
        from digits_jax.errors import DigitsError

        with quiet_gloo():
            step, state, whole = make_step()
            step(state, whole(0), whole(0))[0].block_until_ready()
        with stop_on_signals() as stop:
            for number in range(1, told.get("steps", 20) + 1):
                group.note("training", number)
                if told.get("sleeps_at") == number:
                    time.sleep(3600)
                if told.get("fails_at") == number:
                    raise DigitsError("the disk is full")
                if told.get("crashes_at") == number:
                    raise RuntimeError("a bug\nof two lines")
                state, stopping = step(state, whole(number), whole(stop.signal_number or 0))
                print(f"step {number} {float(state):g}", flush=True)
                if int(stopping):
                    raise Interrupted(f"stopped at step {number}", int(stopping))
                time.sleep(told.get("step_seconds", 0))
        time.sleep(told.get("late_seconds", 0))
    print("done", flush=True)


def from_flags(argv):
    """As the launcher starts it."""
    told = {}
    for argument in argv:
        name, _, value = argument.removeprefix("--").replace("-", "_").partition("=")
        told[name] = value if name == "coordinator" else json.loads(value)
    return told


def take_workdir(told):
    from digits_jax.errors import DigitsError

    if told.get("taken"):
        raise DigitsError("run: is taken; give another --workdir")
    return "run"


def make_step():
    """A state that grows by the sum of a batch: step 1 adds 1 for each device of all."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, P("data"))

    def step(state, batch, stop):
        return state + jax.lax.psum(batch.sum(), "data"), jax.lax.pmax(stop.max(), "data")

    step = jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P())
    )
    state = jax.device_put(jnp.float32(0), NamedSharding(mesh, P()))
    local = len(jax.local_devices())

    def whole(value):
        return jax.make_array_from_process_local_data(sharding, np.full(local, value, np.int32))

    return step, state, whole


def program(argv):
    from digits_jax.training.interrupts import Interrupted

    try:
        main(argv)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    return 0


if __name__ == "__main__":
    from digits_jax.cli import run_program

    sys.exit(run_program(program))
