"""The parameters that a training starts from: a run's, or a pretrained network's."""

import dataclasses

import jax
import numpy as np

from digits_jax.config import OTHER_ARCH_FIELDS, TrainConfig
from digits_jax.errors import ConfigError, DigitsError
from digits_jax.runs.trained_network import TrainedNetwork, load_trained_networks
from digits_jax.training.state import TrainState, count_params

HEAD = "logits"  # the last layer of an `MLP` and of a `CNN`
_NETWORK = ("batch_norm", *(name for names in OTHER_ARCH_FIELDS.values() for name in names))


class InitialNetwork(TrainedNetwork):
    """A trained network whose parameters others start from."""

    def has_head_for(self, class_names: tuple[str, ...]) -> bool:
        """Returns whether its last layer is taken over, too: only for the same classes."""
        return self.class_names == class_names

    def describe(self, class_names: tuple[str, ...]) -> str:
        """Describes which parameters are taken over."""
        params = self.variables["params"]
        if self.has_head_for(class_names):
            return f"all {count_params(params):,} parameters"
        kept = count_params({name: layer for name, layer in params.items() if name != HEAD})
        counts = f"{len(self.class_names)} there, {len(class_names)} here"
        return f"{kept:,} parameters; the last layer is new, for other classes ({counts})"

    def start(self, state: TrainState, class_names: tuple[str, ...]) -> TrainState:
        """Returns a state at step 0 with this network's parameters."""
        new = jax.tree.map(np.asarray, jax.device_get({"params": state.params}))["params"]
        params = dict(self.variables["params"])
        if not self.has_head_for(class_names):
            params[HEAD] = new[HEAD]
        weights = {"params": params, "batch_stats": self.variables.get("batch_stats", {})}
        average = weights if state.average else state.average
        return state.replace(**weights, average=average, opt_state=state.tx.init(params))


def load_initial(name: str) -> InitialNetwork:
    """Loads the network that ``init_from`` names; its run needn't be finished.

    Raises:
      ConfigError: it isn't a run with a checkpoint, nor a pretrained network.
    """
    try:
        networks = load_trained_networks(name, finished=False)
    except DigitsError as error:
        raise ConfigError(f"init_from={error}") from None
    if len(networks) > 1:
        raise ConfigError(
            f"init_from={name}: is an ensemble; give one of its members, like member-0"
        )
    return InitialNetwork(**vars(networks[0]))


def adopt(config: TrainConfig, initial: InitialNetwork) -> TrainConfig:
    """Returns a configuration, not yet resolved, with the network of another.

    Raises:
      ConfigError: the network that is given is another one.
    """
    arch = "mlp" if config.arch == "ann" else config.arch
    values = {"arch": arch, **{name: getattr(config, name) for name in _NETWORK}}
    own = {name: initial.settings.get(name) for name in values}
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    for name, value in values.items():
        if value is not None and value != own[name]:
            advice = f"give arch={own[name]}" if name == "arch" else "leave it out"
            raise ConfigError(
                f"{name}={value}: init_from={config.init_from} has {name}={own[name]}; {advice}"
            )
    return dataclasses.replace(config, **own)
