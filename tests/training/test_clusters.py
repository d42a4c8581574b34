"""Which processes train together: flags, and what clusters set."""

import sys
import types

import pytest

from digits_jax import DigitsError
from digits_jax.training.clusters import Place, find_place

SIGNS = ("SLURM_", "OMPI_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_", "CUDA_", "JAX_COORD")
SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[003-004,9]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "1",
}
OMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
ORTE = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture
def cluster(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(SIGNS):
            monkeypatch.delenv(name)

    def set_all(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a:1", 2, None), "--process-id is missing: give --coordinator, --num-processes"),
        ((None, 2, None), "--coordinator and --process-id are missing"),
        (("a:1", None, None), "--num-processes and --process-id are missing"),
        (("a:1", 2, 2), "--process-id=2: --num-processes=2 have the numbers 0 to 1"),
        (("a:1", 2, -1), "--process-id=-1"),
        (("a:1", 0, 0), "--num-processes=0: give 1 or more"),
        (("a", 2, 0), "--coordinator=a: give HOST:PORT of process 0, like"),
        (("a:", 2, 0), "give HOST:PORT"),
        (("a:0", 2, 0), "give HOST:PORT"),
        (("a:65536", 2, 0), "give HOST:PORT"),
        (("a:b", 2, 0), "give HOST:PORT"),
        ((":80", 2, 0), "give HOST:PORT"),
        (("a b:80", 2, 0), "give HOST:PORT"),
        (("http://a:80", 2, 0), "give HOST:PORT"),
        (("::1:80", 2, 0), "give HOST:PORT"),
    ],
)
def test_flags_that_cannot_be(flags, said):
    with pytest.raises(DigitsError) as error:
        find_place(*flags)
    assert said in str(error.value)


def test_flags():
    assert find_place("node-1.local:80", 2, 1) == Place("node-1.local", 80, 2, 1)
    assert find_place("[::1]:80", 2, 1) == Place("::1", 80, 2, 1)
    assert find_place("[::1]:80", 2, 1).address == "[::1]:80"
    assert find_place("a:80", 1, 0) is None
    assert find_place(None, 1, None) is None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},
        {**SLURM, "SLURM_NTASKS": "1"},
        {name: SLURM[name] for name in SLURM if name != "SLURM_STEP_NODELIST"},
        {**OMPI, **ORTE, "OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
    ids=["plain", "salloc", "one task", "batch script", "one rank", "pod", "one host"],
)
def test_nothing_is_asked_where_one_process_is_alone(cluster, values, monkeypatch):
    cluster(values)
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)  # an import would fail
    assert find_place() is None


def test_slurm(cluster):
    cluster(SLURM)
    assert find_place() == Place("node003", 61441, 4, 2, (1,))
    assert find_place(num_processes=1) is None


@pytest.mark.parametrize(
    "values", [{"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, {"CUDA_VISIBLE_DEVICES": "3"}]
)
def test_slurm_gives_each_its_own_devices(cluster, values):
    """JAX would take the second GPU, where this process sees but one."""
    cluster({**SLURM, **values})
    assert find_place().local_device_ids is None


def test_open_mpi(cluster):
    cluster({**OMPI, **ORTE})
    place = find_place()
    assert (place.host, place.count, place.index) == ("10.96.0.1", 2, 1)


def test_open_mpi_that_does_not_say_where(cluster):
    cluster(OMPI)  # as version 5 does
    with pytest.raises(DigitsError, match=r"doesn't say where process 0 is.*give --coordinator"):
        find_place()


@pytest.mark.filterwarnings("ignore:Kubernetes environment detected")
def test_kubernetes_without_its_package(cluster, monkeypatch):
    cluster(POD)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(DigitsError, match="or --num-processes=1 where each is to train alone"):
        find_place()


def test_kubernetes_that_refuses(cluster, monkeypatch):
    cluster(POD)

    def refuse():
        raise RuntimeError("Service host/port is not set.\nmore")

    fake = types.ModuleType("kubernetes")
    fake.config = types.SimpleNamespace(load_incluster_config=refuse)
    monkeypatch.setitem(sys.modules, "kubernetes", fake)
    with pytest.raises(DigitsError, match=r"\(Service host/port is not set\.\); give"):
        find_place()
