"""Builds what a configuration describes: data, network, optimizer, devices."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from digits_jax.config import RunOptions, TrainConfig
from digits_jax.data.datasets import Dataset, load_dataset
from digits_jax.data.pipeline import num_steps
from digits_jax.errors import ConfigError
from digits_jax.hardware import cpu_count, processor_features
from digits_jax.models.build import build_model, choose_convolution
from digits_jax.runs.checkpoint import abstract
from digits_jax.training import custom as custom_parts
from digits_jax.training import distributed, parallel
from digits_jax.training.distillation import Teacher, load_teacher
from digits_jax.training.init_from import InitialNetwork, adopt, load_initial
from digits_jax.training.optimizers import make_optimizer, make_schedule
from digits_jax.training.parallel import Device
from digits_jax.training.state import TrainState, abstract_train_state, create_train_state

Loss = Callable[[jax.Array, jax.Array], jax.Array]
# JAX takes its default from the environment.
PRNG = "threefry2x32"
EVAL_BATCH_SIZE = 500
MAX_STEPS_PER_CALL = 256


@dataclass(frozen=True)
class TrainSetup:
    """Everything that a training needs, checked before anything is written.

    Attributes:
      config: resolved.
      eval_module: the network as it is evaluated: in float32, whatever type it is trained in.
      schedule: learning rate by step, compiled.
      mesh: of the devices of all processes.
      steps_per_call: the most steps in one call of the devices.
      initial: what ``config.init_from`` names; None where a run is resumed.
      loss: a custom one; None for the cross-entropy.
      custom: describes the custom parts; see `digits_jax.training.custom`.
      started: `time.perf_counter` when the preparation began.
    """

    config: TrainConfig
    options: RunOptions
    dataset: Dataset
    module: Any
    eval_module: Any
    schedule: Callable[[int], Any]
    tx: optax.GradientTransformation
    mesh: Mesh
    convolution: str
    steps_per_call: int
    total_steps: int
    teacher: Teacher | None
    initial: InitialNetwork | None
    loss: Loss | None
    custom: dict[str, str]
    started: float

    @property
    def arch(self) -> str:
        """The name of the network: of a custom module, its class."""
        return self.module.name if "module" in self.custom else self.config.arch

    @property
    def platform(self) -> str:
        """The kind of the devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def share(self) -> tuple[int, int]:
        """(index, count) of this process among those that train together."""
        return jax.process_index(), jax.process_count()

    @property
    def averaged(self) -> bool:
        """Whether an average of the parameters is kept."""
        return bool(self.config.ema_decay)

    @property
    def eval_batch_size(self) -> int:
        """Images scored at once; the devices divide it."""
        most = max(len(self.dataset.validation), len(self.dataset.test))
        return -(-min(EVAL_BATCH_SIZE, most) // self.mesh.size) * self.mesh.size

    @property
    def initial_key(self) -> jax.Array:
        """The key of the initial parameters."""
        return jax.random.fold_in(jax.random.key(self.config.seed, impl=PRNG), 0)

    @property
    def step_key(self) -> jax.Array:
        """The key that every training step folds its own from."""
        return jax.random.fold_in(jax.random.key(self.config.seed, impl=PRNG), 1)

    def initial_state(self) -> TrainState:
        """Creates the state at step 0, on the devices."""
        state = create_train_state(self.module, self.tx, self.initial_key, averaged=self.averaged)
        if self.initial is not None:
            state = self.initial.start(state, self.dataset.class_names)
        return parallel.replicate(state, self.mesh)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        state = abstract_train_state(self.module, self.tx, averaged=self.averaged)
        return abstract(state, NamedSharding(self.mesh, P()))

    def for_scoring(self, state: TrainState) -> TrainState:
        """Returns the state with the network as it is evaluated."""
        return state.replace(apply_fn=self.eval_module.apply)

    def with_seed(self, seed: int, dataset: Dataset | None = None) -> "TrainSetup":
        """Returns the same training with another seed, and perhaps other, equally many images."""
        config = dataclasses.replace(self.config, seed=seed)
        return dataclasses.replace(self, config=config, dataset=dataset or self.dataset)


def prepare(
    config: TrainConfig,
    options: RunOptions | None = None,
    dataset: Dataset | None = None,
    *,
    module: Any = None,
    loss: Loss | None = None,
    tx: optax.GradientTransformation | None = None,
    to_train: bool = True,
    resuming: bool = False,
) -> TrainSetup:
    """Loads the data and sets up what trains on it; no run is written.

    Args:
      dataset: instead of the one that ``config.dataset`` names.
      module, loss, tx: custom parts, see `digits_jax.fit`.
      to_train: False for a run that is only scored: its batches needn't fit the devices.
      resuming: what ``config.init_from`` names isn't loaded then.

    Raises:
      ConfigError: the configuration doesn't fit the devices or the data.
      DataError: the data can't be loaded.
    """
    started = time.perf_counter()
    options = options or RunOptions()
    _check_arguments(config, options, dataset)
    devices = _start_devices(config, options)
    if dataset is None:
        dataset = _load(config, options)
    initial = None
    if config.init_from is not None and to_train and not resuming:
        initial = load_initial(config.init_from)
        config = adopt(config, initial)
    platform = devices[0].platform
    custom = custom_parts.describe(module=module, loss=loss, tx=tx)
    config = _resolve(config, dataset, custom, platform)
    # Scoring has no batch that the devices must divide: any number divides 0.
    mesh = _make_mesh(devices, config.batch_size if to_train else 0, config.arch, options)
    convolution = choose_convolution(options.convolution, platform)
    network, eval_network = _networks(config, convolution, mesh, dataset.num_classes, module)
    total_steps = num_steps(config.epochs, len(dataset.train), config.batch_size)
    schedule = optax.constant_schedule(0.0)  # that of a custom optimizer isn't known
    if tx is None:
        schedule, tx = _optimizer(config, total_steps)
    custom_parts.check_tx(tx)
    if loss is not None:
        custom_parts.check_loss(loss, dataset.num_classes)
    teacher = None
    if to_train and config.teacher is not None:
        how = {"dtype": config.dtype, "convolution": choose_convolution("auto", platform)}
        teacher = load_teacher(config.teacher, dataset, how, shards=mesh.size)
    setup = TrainSetup(
        config=config,
        options=options,
        dataset=dataset,
        module=network,
        eval_module=eval_network,
        # Outside of jit, each of its operations would be compiled separately.
        schedule=jax.jit(schedule),
        tx=tx,
        mesh=mesh,
        convolution=convolution if config.arch == "cnn" else "lax",
        steps_per_call=choose_steps_per_call(
            options, platform, num_steps(1, len(dataset.train), config.batch_size)
        ),
        total_steps=total_steps,
        teacher=teacher,
        initial=initial,
        loss=loss,
        custom=custom,
        started=started,
    )
    parallel.check_memory(setup.abstract_state, mesh)
    return setup


def _check_arguments(config: Any, options: RunOptions, dataset: Any) -> None:
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"config={config!r:.60}: must be a TrainConfig")
    if not (dataset is None or isinstance(dataset, Dataset)):
        raise ConfigError(f"dataset={type(dataset).__name__}: must be a digits_jax.Dataset")
    if options.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            'tensorboard: tensorboardX is not installed; pip install "digits_jax[tensorboard]"'
        )
    if config.arch != "cnn" and options.convolution != "auto":
        raise ConfigError(f"convolution={options.convolution}: arch={config.arch} has none")


def _load(config: TrainConfig, options: RunOptions) -> Dataset:
    source, mix = config.sources()
    how: dict[str, Any] = {"input": options.input, "picture": config.picture, "mix": mix}
    return distributed.main_process_first(lambda: load_dataset(source, options.data_dir, **how))


def _start_devices(config: TrainConfig, options: RunOptions) -> list[Device]:
    wanted: int | str = options.devices
    if wanted == "auto":
        # A convolutional step keeps about two threads busy, as its backward pass has two branches;
        # more devices cost more in collectives. The MLP's few large products use all cores.
        wanted = max(1, cpu_count() // 2) if config.arch == "cnn" else 1
    return parallel.start_backend(options.platform, int(wanted))


def _resolve(
    config: TrainConfig, dataset: Dataset, custom: dict[str, str], platform: str
) -> TrainConfig:
    """Fills in the fields that depend on the preset, the data, custom parts and the devices."""
    fields, size = custom_parts.neutral_fields(config, custom), len(dataset.train)
    resolved = config.resolve(dataset.name, small=dataset.is_small)
    if resolved.batch_size > size:
        if config.batch_size is not None:
            raise ConfigError(
                f"batch_size={config.batch_size}: {dataset.name} has {size:,} training images; "
                "give at most that"
            )
        fields["batch_size"] = 1 << (size.bit_length() - 1)  # devices divide a power of two
    if config.dtype == "auto":  # bfloat16 where the devices multiply it fast
        fast = platform != "cpu" or processor_features() & {"avx512_bf16", "amx_bf16"}
        fields["dtype"] = "bfloat16" if fast else "float32"
    return dataclasses.replace(resolved, **fields)


def _make_mesh(devices: list[Device], batch_size: int, arch: str, options: RunOptions) -> Mesh:
    processes, heavy = jax.process_count(), arch == "cnn"
    devices = choose_devices(devices, options.devices, batch_size, heavy=heavy, processes=processes)
    distributed.assert_same({"devices of a process": len(devices)})
    return parallel.make_mesh(parallel.of_every_process(devices))


def _networks(
    config: TrainConfig, convolution: str, mesh: Mesh, num_classes: int, module: Any
) -> tuple[Any, Any]:
    """Returns the network as it is trained and as it is evaluated."""
    if module is not None:
        network = custom_parts.CustomModule(module)
        custom_parts.check_module(network, num_classes)
        return network, network
    settings = {**config.to_dict(), "convolution": convolution}
    build = partial(build_model, num_classes=num_classes, shards=mesh.size)
    return build(settings), build({**settings, "dtype": "float32"})


def _optimizer(
    config: TrainConfig, total_steps: int
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    schedule = make_schedule(config.schedule, config.learning_rate, total_steps)
    return schedule, make_optimizer(config.optimizer, schedule, config.weight_decay)


def stored_state(config: TrainConfig, num_classes: int) -> TrainState:
    """Returns the shapes and dtypes of what a run's checkpoints hold, without data or devices."""
    module = build_model(config.to_dict(), num_classes)
    _, tx = _optimizer(config, total_steps=1)
    return abstract_train_state(module, tx, averaged=bool(config.ema_decay))


def choose_devices(
    devices: list[Device], wanted: int | str, batch_size: int, *, heavy: bool, processes: int = 1
) -> list[Device]:
    """Returns the devices of this process to train on.

    Args:
      wanted: a number, or "auto": as many as divide the batch; but one for a light step on a
        CPU, whose few large matrix products use all cores by themselves.
      batch_size: images in a batch, over all processes.
      heavy: whether the step has convolutions.

    Examples:
      >>> choose_devices(["cpu:0", "cpu:1", "cpu:2"], "auto", batch_size=256, heavy=True)
      ['cpu:0', 'cpu:1']
    """
    count = 1
    if wanted != "auto":
        count = int(wanted)
    elif heavy or getattr(devices[0], "platform", "cpu") != "cpu":
        numbers = range(1, len(devices) + 1)
        count = max((n for n in numbers if batch_size % (n * processes) == 0), default=1)
    if count > len(devices):
        raise ConfigError(
            f"devices={count}: JAX has {len(devices)} here ({devices[0].platform}); "
            f"give 1 to {len(devices)}, or auto"
        )
    if batch_size % (parts := count * processes):
        below, above = max(1, batch_size // parts) * parts, -(-batch_size // parts) * parts
        each = f" ({count} in each of {processes} processes)" if processes > 1 else ""
        raise ConfigError(
            f"batch_size={batch_size}: must be divisible by the {parts} devices{each}; "
            f"give {' or '.join(map(str, sorted({below, above})))}"
        )
    return devices[:count]


def choose_steps_per_call(options: RunOptions, platform: str, steps_in_epoch: int) -> int:
    """Returns how many steps a call of the devices takes at most.

    With "auto" that is 1 on a CPU, where a convolution's gradient inside a rolled loop is many
    times slower (jax issue 12868); elsewhere an epoch, at most 256, so that a stop doesn't wait
    long.

    Examples:
      >>> [choose_steps_per_call(RunOptions(), where, 400) for where in ("cpu", "gpu")]
      [1, 256]
    """
    obstacle = None
    if options.input == "stream":
        obstacle = "input=stream doesn't hold the images in memory"
    elif jax.process_count() > 1:
        obstacle = "several processes agree between calls"
    if options.steps_per_call == "auto":
        return 1 if platform == "cpu" or obstacle else min(MAX_STEPS_PER_CALL, steps_in_epoch)
    if obstacle and options.steps_per_call > 1:
        raise ConfigError(f"steps_per_call={options.steps_per_call}: {obstacle}; give 1, or auto")
    return options.steps_per_call
