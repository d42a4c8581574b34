"""The teacher of a distillation: a trained network, or an ensemble of some."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from digits_jax.data.datasets import Dataset
from digits_jax.errors import ConfigError, DigitsError, shown
from digits_jax.files import read_json
from digits_jax.models.build import abstract_variables, build_model
from digits_jax.models.mean_probability import mean_log_probabilities
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import read_weights, tree_sha256
from digits_jax.runs.ensembles import members_of


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
    path: str | Path, dataset: Dataset, how: dict[str, str], *, shards: int = 1
) -> Teacher:
    """Loads the teacher in the folder of a finished run or ensemble.

    Args:
      dataset: the student's.
      how: "dtype" and "convolution" of the computation; see `build_model`.

    Raises:
      ConfigError: no finished run is there, or one of other data.
    """
    try:
        members = members_of(Path(path)) or [Path(path)]
    except DigitsError as error:
        raise ConfigError(f"teacher={error}") from None
    variables, applies, sums = [], [], []
    for member in members:
        try:
            results = folder.read_results(member)
            described = read_json(member / folder.CONFIG)
            folder.refuse_custom_module(member, described)
            settings = described["config"]
            _check_data(member, results, dataset)
            module = build_model({**settings, **how}, dataset.num_classes, shards)
            _, weights, _ = read_weights(member / folder.CHECKPOINTS, abstract_variables(module))
            sha256 = tree_sha256(weights["params"])
            if sha256 != results["params_sha256"]:
                raise ConfigError(
                    f"{member}: its newest checkpoint isn't the one that {folder.RESULTS} names"
                )
        except DigitsError as error:
            raise ConfigError(f"teacher={path}: {str(error).removeprefix(f'{path}: ')}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = shown(f"{type(error).__name__}: {error}")
            raise ConfigError(f"teacher={path}: {member} isn't an intact run ({why})") from None
        variables.append(weights)
        applies.append(module.apply)
        sums.append(sha256)
    return Teacher(tuple(variables), tuple(applies), tuple(sums))


def _check_data(member: Path, results: dict[str, Any], dataset: Dataset) -> None:
    if results["dataset_sha256"] != dataset.sha256:
        other = results["dataset"]
        words = other if other != dataset.name else f"another version of {other}"
        raise ConfigError(
            f"{member} was trained on {shown(str(words))}, this run is on {dataset.name}; "
            "give a teacher of the same data set"
        )
