"""What a configuration comes to: data, network, optimizer, devices; nothing is trained here."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.config import TrainConfig
from digits_jax.config_checks import check
from digits_jax.data.augment import make_augment
from digits_jax.data.datasets import Dataset, load_dataset
from digits_jax.data.pipeline import num_steps, share_size
from digits_jax.errors import ConfigError
from digits_jax.models.build import build_model
from digits_jax.models.layers import choose_convolution
from digits_jax.runs.checkpoint import abstract
from digits_jax.runs.folder import CONFIG
from digits_jax.training import parallel
from digits_jax.training.group import Group
from digits_jax.training.optimizers import make_optimizer, make_schedule
from digits_jax.training.processes import quiet_gloo
from digits_jax.training.state import TrainState, abstract_train_state, create_train_state
from digits_jax.training.teacher import Teacher, load_teacher

EVAL_BATCH_SIZE = 500


@dataclass(frozen=True)
class Plan:
    """All that a run needs, checked, before anything is written.

    Attributes:
      config: resolved.
      dataset: loaded.
      module: the network.
      schedule: learning rate by step.
      tx: the optimizer.
      mesh: of the devices, of all processes.
      share: (index, count) of this process among those that train together.
      total_steps: of the whole run.
      teacher: whom the network learns from, if anybody.
      started: `time.perf_counter` when its preparation began.
    """

    config: TrainConfig
    dataset: Dataset
    module: nn.Module
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    mesh: Mesh
    share: tuple[int, int]
    total_steps: int
    teacher: Teacher | None
    started: float

    @property
    def platform(self) -> str:
        """Of the devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def averaged(self) -> bool:
        """Whether an average over the steps is kept."""
        return self.config.ema_decay > 0

    @property
    def eval_batch_size(self) -> int:
        """Images scored at once: as many as fit, but no more than a small data set has."""
        most = max(len(self.dataset.validation), len(self.dataset.test))
        return -(-min(EVAL_BATCH_SIZE, most) // self.mesh.size) * self.mesh.size

    @property
    def initial_key(self) -> jax.Array:
        """The key that the parameters are drawn with."""
        return jax.random.fold_in(jax.random.key(self.config.seed), 0)

    def initial_state(self) -> TrainState:
        """The state at step 0, on the devices."""
        state = create_train_state(self.module, self.tx, self.initial_key, averaged=self.averaged)
        return parallel.replicate(state, self.mesh)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        state = abstract_train_state(self.module, self.tx, averaged=self.averaged)
        return abstract(state, NamedSharding(self.mesh, P()))

    @cached_property
    def recogniser(self) -> nn.Module:
        """The network that recognises: in float32, whatever type it is trained in."""
        settings = {**self.config.to_dict(), "dtype": "float32"}
        return build_model(settings, self.dataset.num_classes, shards=self.mesh.size)

    def for_scoring(self, state: TrainState) -> TrainState:
        """A state whose network is the `recogniser`."""
        return state.replace(apply_fn=self.recogniser.apply)

    @cached_property
    def step_inputs(self) -> tuple[Any, ...]:
        """What every training step is given beside the state and a batch: the key, the teacher."""
        inputs = (jax.random.fold_in(jax.random.key(self.config.seed), 1),)
        if self.teacher:
            inputs += (self.teacher.variables,)
        return parallel.replicate(inputs, self.mesh)


def prepare(
    config: TrainConfig,
    dataset: Dataset | None = None,
    *,
    to_train: bool = True,
    group: Group | None = None,
) -> Plan:
    """Checks a configuration, loads its data and sets up what trains on it; no run is written.

    Args:
      config: what to train.
      dataset: instead of the one that ``config.dataset`` names.
      to_train: False for a run that is only to be scored: its batches needn't fit the devices.
      group: the processes that train together.

    Raises:
      ConfigError: what can't be used.
    """
    started = time.perf_counter()
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"the configuration is {config!r:.60}; give a TrainConfig")
    if not (dataset is None or isinstance(dataset, Dataset)):
        raise ConfigError(f"the data set is a {type(dataset).__name__}; give a digits_jax.Dataset")
    check(config)
    group = group or Group()
    heavy = config.arch == "cnn"
    # Of a heavy step two threads have enough to do, as its backward pass has two branches; what
    # devices do for each other costs more. A light one's few matrix products use all cores.
    most = max(1, parallel.cpu_count() // 2) if heavy else 1
    cpu_devices = most if config.devices == "auto" else int(config.devices)
    with quiet_gloo() if group.count > 1 else contextlib.nullcontext():
        devices = parallel.start_backend(config.platform, cpu_devices)
    platform = devices[0].platform
    many = {"streamed": config.input == "stream", "processes": group.count}
    choose_steps = partial(parallel.choose_steps_per_call, config.steps_per_call, platform, **many)
    choose_steps(steps_in_an_epoch=1)  # What is impossible is refused before data is prepared.
    group.note("loading the data")
    dataset = dataset or group.in_turn("the data", lambda: _load(config))
    alone = {"coordinator": None, "num_processes": None, "process_id": None}  # of this call
    here = {"dtype": parallel.choose_dtype(config.dtype, platform)}
    if heavy:
        here["convolution"] = choose_convolution(config.convolution, platform)
    config = dataclasses.replace(config.resolve(dataset.name), **here, **alone)
    in_an_epoch = num_steps(1, len(dataset.train), config.batch_size)
    steps_per_call = choose_steps(steps_in_an_epoch=in_an_epoch)
    config = dataclasses.replace(config, steps_per_call=str(steps_per_call))
    if config.batch_size > len(dataset.train):
        raise ConfigError(
            f"--batch-size={config.batch_size}: {dataset.name} has {len(dataset.train):,} training "
            "images; give at most that"
        )
    share = (group.index, group.count)
    if to_train and config.batch_size % group.count:
        fitting = config.batch_size // group.count * group.count
        near = sorted({max(fitting, group.count), fitting + group.count})
        raise ConfigError(
            f"--batch-size={config.batch_size}: {group.count} processes don't divide it; "
            f"give {' or '.join(map(str, near))}"
        )
    own_size = share_size(config.batch_size, share) if to_train else 0  # which any number divides
    devices = parallel.choose_devices(devices, config.devices, own_size, heavy=heavy)
    group.agree({"devices of a process": len(devices)})
    total_steps = num_steps(config.epochs, len(dataset.train), config.batch_size)
    schedule = make_schedule(config.schedule, config.learning_rate, total_steps)
    make_augment(config.augment)  # An unknown name is noticed here, not in the step.
    mesh = parallel.make_mesh(parallel.of_every_process(devices))
    plan = Plan(
        config=config,
        dataset=dataset,
        module=build_model(config.to_dict(), dataset.num_classes, shards=mesh.size),
        # Read once an epoch: outside of jit each of its operations would be compiled by itself.
        schedule=jax.jit(schedule),
        tx=make_optimizer(config.optimizer, schedule, config.weight_decay),
        mesh=mesh,
        share=share,
        total_steps=total_steps,
        teacher=_teacher(config, dataset, mesh.size) if to_train else None,
        started=started,
    )
    parallel.check_memory(plan.abstract_state, plan.mesh)
    return plan


def _teacher(config, dataset, shards):
    if config.teacher is None:
        return None
    started = config.workdir and (Path(config.workdir) / CONFIG).is_file()
    learner = config.workdir if started else config.config
    if learner and not Path(config.teacher).is_dir():
        raise ConfigError(
            f"--teacher={config.teacher}: no such folder, but {learner} learns from what was "
            "there; where it was moved to, say with --teacher=RUN"
        )
    how = {"dtype": config.dtype, "convolution": config.convolution}
    if how["convolution"] == "auto":  # of an MLP, whose teacher may be a CNN
        how["convolution"] = choose_convolution("auto", jax.devices()[0].platform)
    return load_teacher(config.teacher, dataset, **how, shards=shards)


def _load(config):
    return load_dataset(config.dataset, config.data_dir, input=config.input)
