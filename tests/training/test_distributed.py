"""Which processes train together, and what a single process is spared."""

import os

import jax
import pytest

from digits_jax.errors import ConfigError
from digits_jax.training import distributed

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[003-004,9]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture
def cluster(monkeypatch):
    """Sets the variables of a cluster; what JAX is asked to join is in the list it returns."""
    asked = []

    def initialize(**arguments):
        asked.append({k: v for k, v in arguments.items() if not k.endswith(("timeout", "seconds"))})
        raise ValueError("no cluster is here")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_", "TPU_", "CUDA_")):
            monkeypatch.delenv(name)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return asked

    return set_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:1", 2, None), "give all three"),
        ((None, 2, None), "give all three"),
        ((None, None, 1), "give all three"),
        (("a:1", 2, 2), "process_id=2: must be 0 to 1"),
        (("a", 2, 0), "must be HOST:PORT"),
        (("http://a:80", 2, 0), "must be HOST:PORT"),
        (("::1:80", 2, 0), "must be HOST:PORT"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ConfigError, match=message), distributed.initialize(*arguments):
        pass


@pytest.mark.parametrize(
    "values",
    [
        {},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {name: SLURM[name] for name in SLURM if name != "SLURM_STEP_NODELIST"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        POD,
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
    ids=["no cluster", "one task", "batch script", "one rank", "pod", "one host"],
)
def test_nothing_is_joined_where_one_process_is_alone(cluster, values):
    asked = cluster(values)
    with distributed.initialize():
        assert asked == []


@pytest.mark.parametrize(
    "values",
    [
        SLURM,
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {**POD, "JOB_COMPLETION_INDEX": "1"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ],
    ids=["Slurm", "Open MPI", "Kubernetes", "TPU"],
)
def test_jax_asks_a_cluster_that_started_several(cluster, values):
    asked = cluster(values)
    with pytest.raises(ConfigError, match="no cluster is here"), distributed.initialize():
        pass
    with distributed.initialize(num_processes=1):
        pass
    assert asked == [{}]


def test_a_task_that_sees_one_gpu_takes_it(cluster):
    asked = cluster({**SLURM, "CUDA_VISIBLE_DEVICES": "3"})
    with pytest.raises(ConfigError), distributed.initialize():
        pass
    assert asked == [{"local_device_ids": [0]}]


def test_a_single_process_does_not_wait():
    with distributed.initialize():
        distributed.barrier("anything")
        distributed.assert_same({"seed": object()})
        distributed.arm_watchdog(0.001)
        assert distributed.max_over_processes(3) == 3
        assert distributed.broadcast_text("runs/1") == "runs/1"
        assert distributed.main_process_first(lambda: "made") == "made"
