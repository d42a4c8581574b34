"""The teacher of a distillation: a trained network, or an ensemble of some."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from digits_jax.data.datasets import Dataset
from digits_jax.errors import ConfigError, DigitsError, shown
from digits_jax.models.build import build_model
from digits_jax.models.mean_probability import mean_log_probabilities
from digits_jax.runs.trained_network import load_trained_networks


@dataclass(frozen=True)
class Teacher:
    """A trained network, or an ensemble, whose probabilities are a student's targets.

    Attributes:
      variables, applies, sha256: of each member: NumPy arrays, the module's ``apply``, the sum of
        the parameters.
    """

    variables: tuple[Any, ...]
    applies: tuple[Callable, ...]
    sha256: tuple[str, ...]

    def logits(self, variables: tuple[Any, ...], images: jax.Array) -> jax.Array:
        """Computes float32 [batch, classes]; of several members the log of the mean probability.

        Args:
          variables: the attribute, on the devices of the images.
          images: float32 [batch, height, width, channels] in [0, 1].
        """
        return mean_log_probabilities(
            [
                apply(weights, images, train=False)
                for apply, weights in zip(self.applies, variables, strict=True)
            ]
        )


def load_teacher(
    source: str | Path, dataset: Dataset, how: dict[str, str], *, shards: int = 1
) -> Teacher:
    """Loads the teacher in the folder of a finished run or ensemble, or a pretrained network.

    Args:
      dataset: the student's.
      how: "dtype" and "convolution" of the computation; see `build_model`.

    Raises:
      ConfigError: there is none, or one of other data.
    """
    try:
        networks = load_trained_networks(source)
    except DigitsError as error:
        raise ConfigError(f"teacher={source}: {str(error).removeprefix(f'{source}: ')}") from None
    for network in networks:
        if network.facts["dataset_sha256"] != dataset.sha256:
            other = network.facts["dataset"]
            words = other if other != dataset.name else f"another version of {other}"
            raise ConfigError(
                f"teacher={source}: was trained on {shown(str(words))}, this run is on "
                f"{dataset.name}; give a teacher of the same data set"
            )
    modules = [
        build_model({**each.settings, **how}, dataset.num_classes, shards) for each in networks
    ]
    return Teacher(
        variables=tuple(network.variables for network in networks),
        applies=tuple(module.apply for module in modules),
        sha256=tuple(network.sha256 for network in networks),
    )
