"""A trained network, or an ensemble, with its classes, its threshold and its temperature.

images: float32 [n, 28, 28, 1] in [0, 1]; logits: float32 [n, classes]. Probabilities are the
softmax of the logits divided by the temperature. The logits of an ensemble are the logarithm of the
mean probability of its members.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.deploy.confidence import choose_threshold
from digits_jax.deploy.fold import Layer, fold_batch_norm, multiply_adds, to_layers
from digits_jax.errors import CheckpointError, DataError, printable, quoted, shown
from digits_jax.models.build import build_model
from digits_jax.models.mean_probability import mean_log_probabilities
from digits_jax.runs import folder
from digits_jax.runs.ensembles import members_of
from digits_jax.runs.pretrained import DEFAULT, FOLDER, read_card, read_variables
from digits_jax.runs.trained_network import load_run_network, network_shapes
from digits_jax.temperature import fit_temperature

TEMPERATURES = (0.25, 4.0)  # few validation images, or no error among them, say little
# What the card, the page and `combine` need of a run, with its type.
RUN_FACTS: dict[str, Any] = {
    "arch preset dataset dataset_sha256 params_sha256 device jax_version": str,
    "seed batch_size test_errors test_count": int,
    "epochs test_accuracy test_loss validation_accuracy": int | float,
}


@dataclass(frozen=True, eq=False)
class Member:
    """One trained module.

    Attributes:
      settings: of `build_model`.
      variables: "params" and, with BatchNorm, "batch_stats": NumPy float32.
    """

    settings: Mapping[str, Any]
    variables: Mapping[str, Any]

    @property
    def layers(self) -> list[Layer]:
        """The layers, without BatchNorm; see `digits_jax.deploy.fold`."""
        return fold_batch_norm(to_layers(self.settings, self.variables))


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, or an ensemble.

    Attributes:
      class_names: a name for each logit.
      members: one, or those of an ensemble.
      threshold: the least probability of a confident prediction.
      facts: JSON values: "runs", the results of the runs it comes from, and "threshold_cost".
      temperature: what logits are divided by, see `fit_temperature`.
    """

    name: str
    class_names: tuple[str, ...]
    members: tuple[Member, ...]
    threshold: float
    facts: Mapping[str, Any]
    temperature: float = 1.0

    @property
    def num_params(self) -> int:
        """Trained parameters of all members."""
        return sum(
            leaf.size
            for member in self.members
            for leaf in jax.tree.leaves(member.variables["params"])
        )

    @property
    def multiply_adds(self) -> int:
        """Multiplications with an addition for one image, of all members."""
        return sum(multiply_adds(member.layers) for member in self.members)


def make_logits(network: Network) -> Callable[[Any, Any], jax.Array]:
    """Returns a pure function (variables of each member, images) -> logits.

    The variables are an argument, so that compiled code needn't hold them.

    Examples:
      >>> dense = {"kernel": np.ones((784, 2), np.float32), "bias": np.zeros(2, np.float32)}
      >>> variables = {"params": {"logits": dense}}
      >>> member = Member({"arch": "mlp", "batch_norm": False, "hidden_sizes": []}, variables)
      >>> network = Network("ones", ("a", "b"), (member,), 0.5, {})
      >>> make_logits(network)([variables], np.ones((1, 28, 28, 1))).tolist()
      [[784.0, 784.0]]
    """
    classes = len(network.class_names)
    modules = [build_model(member.settings, classes) for member in network.members]

    def logits(variables: Sequence[Any], images: jax.Array) -> jax.Array:
        each: list[Any] = [m.apply(v, images) for m, v in zip(modules, variables, strict=True)]
        return mean_log_probabilities(each)

    return logits


def load_network(path: str | Path) -> Network:
    """Loads the network of a finished run, or of a finished ensemble, from its folder.

    Raises:
      CheckpointError: it holds no finished run, or another checkpoint than was scored.
    """
    path = Path(path)
    members, run = members_of(path), folder.read_run(path)
    name = "".join(c if c.isprintable() else "?" for c in path.resolve().name)
    if members:
        network = combine([load_network(member) for member in members])
        network = dataclasses.replace(network, name=name)
        return calibrate(network, *run.validation)
    trained = load_run_network(path)
    names = tuple(map(printable, trained.class_names))  # of folders, of any name
    facts = {"runs": [{**trained.facts, "class_names": [*names]}]}
    network = Network(name, names, (Member(trained.settings, trained.variables),), 1.0, facts)
    try:
        validate(network)
        if not run.logits.shape[1] == run.validation[1].shape[1] == len(names):
            raise ValueError(f"its predictions aren't of {len(names)} classes")
    except (KeyError, TypeError, ValueError) as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{path}: isn't an intact run ({why}); train it again") from None
    return calibrate(network, *run.validation)


def load_pretrained(name: str = DEFAULT) -> Network:
    """Loads a network that the package carries.

    Raises:
      ConfigError: there is none of that name.
    """
    return from_card(read_card(name), FOLDER / f"{name}.npz")


def from_card(card: Mapping[str, Any], path: Path) -> Network:
    """Makes the network of a card and a file of `digits_jax.runs.pretrained`."""
    return Network(
        name=card["name"],
        class_names=tuple(card["class_names"]),
        members=(Member(card["settings"], read_variables(path)),),
        threshold=card["threshold"],
        facts={"runs": [card["run"]]},
        temperature=card["temperature"],
    )


def validate(network: Network) -> None:
    """Checks a network that comes from a file; raises ValueError, KeyError or TypeError."""
    for name in (network.name, *network.class_names):
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"{quoted(name)} isn't a printable name")
    if not network.class_names or not network.members:
        raise ValueError("it has no classes, or no members")
    if not (0 < network.temperature < math.inf and 0 <= network.threshold <= 1):
        raise ValueError("its temperature or its threshold is out of range")
    for run in network.facts.get("runs", []):
        for names, kind in RUN_FACTS.items():
            for name in names.split():
                if not isinstance(run[name], kind):
                    raise ValueError(f"its {name} is {quoted(run[name])}")
        if not all(isinstance(run.get(name, {}), dict) for name in ("config", "versions")):
            raise ValueError("its config or its versions aren't objects")
    if not isinstance(network.facts.get("threshold_cost") or 0.0, float):
        raise ValueError("its threshold_cost isn't a number")
    json.dumps(network.facts, allow_nan=False, ensure_ascii=False).encode()  # can be written
    for member in network.members:
        expected = network_shapes(member.settings, len(network.class_names))
        wanted, found = (
            jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
            for tree in (expected, {"batch_stats": {}, **member.variables})
        )
        if wanted != found:
            raise ValueError("its arrays don't fit its settings")
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(member.variables)):
            raise ValueError("its parameters aren't finite")


def combine(networks: Sequence[Network]) -> Network:
    """Makes one ensemble of networks: their probabilities are averaged.

    Its temperature and threshold are the means of its members', until it is calibrated itself.

    Args:
      networks: of the same classes, trained on the same data; each may be an ensemble.

    Raises:
      DataError: there are none, or their classes or data differ.
    """
    if not networks:
        raise DataError("an ensemble needs a network; give the folder of a run")
    check_classes(networks, "an ensemble")
    if len(networks) == 1:
        return networks[0]
    runs = [network.facts.get("runs", ()) for network in networks]
    data = [{run["dataset_sha256"] for run in each} for each in runs]
    for other, of_other in zip(networks, data, strict=True):
        if of_other != data[0]:
            name = networks[0].name
            raise DataError(f"{other.name} and {name} were trained on different data sets")
    names = [network.name for network in networks]
    # Letter by letter is intended: the runs differ in the digits after "seed".
    start = os.path.commonprefix(names).removesuffix("seed").strip("-_ ")  # noqa: RUF071
    return Network(
        name=f"ensemble-of-{len(names)}-{start or '-and-'.join(names)}",
        class_names=networks[0].class_names,
        members=tuple(member for network in networks for member in network.members),
        threshold=sum(network.threshold for network in networks) / len(networks),
        facts={"runs": [run for each in runs for run in each]},
        temperature=sum(network.temperature for network in networks) / len(networks),
    )


def check_classes(networks: Sequence[Network], what: str) -> None:
    """Raises a DataError where networks have different classes; ``what`` needs the same."""
    first = networks[0]
    for other in networks[1:]:
        if other.class_names != first.class_names:
            raise DataError(
                f"{other.name} has the classes {' '.join(other.class_names)}, {first.name} has "
                f"{' '.join(first.class_names)}: {what} needs networks of the same classes"
            )


def calibrate(network: Network, labels: np.ndarray, logits: np.ndarray) -> Network:
    """Returns the network with a temperature and a threshold chosen on a validation split.

    Args:
      network: any; "threshold_cost" in its new facts is the share of the correct predictions that
        fall below the threshold.
      labels: int32 [n], of the validation split.
      logits: float32 [n, classes], its own.
    """
    temperature = float(np.clip(fit_temperature(labels, logits), *TEMPERATURES))
    threshold, cost = choose_threshold(labels, np.asarray(logits) / temperature)
    facts = {**network.facts, "threshold_cost": cost}
    return dataclasses.replace(network, temperature=temperature, threshold=threshold, facts=facts)
