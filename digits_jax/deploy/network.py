"""A trained network as a list of plain layers: what every way out of here starts from.

images: float32 [n, 28, 28, 1] in [0, 1]; logits: float32 [n, classes].

The linen module is taken apart once: BatchNorm becomes a factor and an offset, and is folded into
the weights before it where nothing comes in between. What is left are seven kinds of layers,
each a line in any language:

    space_to_depth             [n, h, w, c] -> [n, h/2, w/2, 4c], pixels of a 2x2 block in rows
    conv     kernel, bias      3x3, padded with zeros to the same size; kernel [3, 3, in, out]
    max_pool                   2x2 windows, stride 2; an odd last row or column is left out
    scale    factor, offset    x * factor + offset, by channel
    relu                       max(x, 0)
    flatten                    [n, h, w, c] -> [n, h * w * c]
    dense    kernel, bias      x @ kernel + bias; kernel [in, out]

An ensemble has several members; its logits are the logarithm of their mean probability.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from digits_jax.deploy.soundness import IMAGE_SHAPE, check_network, list_of_names
from digits_jax.errors import DataError, shown
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import read_weights, tree_sha256
from digits_jax.runs.ensembles import mean_log_probabilities, members_of

KINDS = {
    "space_to_depth": (),
    "conv": ("kernel", "bias"),
    "max_pool": (),
    "scale": ("factor", "offset"),
    "relu": (),
    "flatten": (),
    "dense": ("kernel", "bias"),
}
_BATCH_NORM_EPSILON = 1e-5  # flax.linen.BatchNorm's default
# The threshold of confidence leaves this share of the right answers below it.
RIGHT_ANSWERS_GIVEN_UP = 0.02


@dataclass(frozen=True, eq=False)
class Layer:
    """One step of a network.

    Attributes:
      kind: one of ``KINDS``.
      arrays: float32, by the names that ``KINDS`` has for it.
    """

    kind: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, or an ensemble of some, free of the library that trained it.

    Attributes:
      name: for a person.
      class_names: a name for each logit.
      members: the layers of each member.
      threshold: the least probability at which an answer is sure.
      facts: JSON values: where it comes from, and what it reaches.
      temperature: probabilities are the softmax of logits divided by it (see `fit_temperature`).
    """

    name: str
    class_names: tuple[str, ...]
    members: tuple[tuple[Layer, ...], ...]
    threshold: float
    facts: Mapping[str, Any]
    temperature: float = 1.0

    @property
    def num_params(self) -> int:
        """Numbers in all layers, of all members."""
        return sum(
            array.size
            for member in self.members
            for layer in member
            for array in layer.arrays.values()
        )

    @property
    def multiply_adds(self) -> int:
        """Multiplications with an addition for one image, of all members."""
        return sum(_multiply_adds(member) for member in self.members)


def _multiply_adds(layers):
    total, (height, width, _) = 0, IMAGE_SHAPE
    for layer in layers:
        if layer.kind in ("space_to_depth", "max_pool"):
            height, width = height // 2, width // 2
        elif layer.kind == "conv":
            total += height * width * layer.arrays["kernel"].size
        elif layer.kind == "dense":
            total += layer.arrays["kernel"].size
    return total


def load_network(path: str | Path) -> Network:
    """The network of a finished run, or of a finished ensemble.

    Args:
      path: the run's folder.

    Raises:
      DataError: no finished run is there, or its checkpoint isn't the one that was scored.
    """
    path = Path(path)
    members = members_of(path)
    run = folder.read_run(path)
    if members:
        together = combine([load_network(member) for member in members])
        network = dataclasses.replace(together, name=_printable(path.resolve().name))
        return calibrate(network, run.validation_logits, run.validation_labels)
    config = folder.read_json(path / folder.CONFIG)
    step, weights, damaged = read_weights(path / folder.CHECKPOINTS)
    results = run.results
    try:
        settings, names = config["config"], list_of_names(results["class_names"])
        expected = results["params_sha256"]
        layers = take_apart(settings, weights["params"], weights["batch_stats"])
        facts = {"runs": [{**results, "config": settings, "versions": config.get("versions", {})}]}
        network = Network(_printable(path.resolve().name), names, (layers,), 1.0, facts)
        check_network(network)
        if not run.logits.shape[1] == run.validation_logits.shape[1] == len(names):
            raise ValueError(f"its predictions aren't of {len(names)} classes")
        if not len(run.validation_labels):
            raise ValueError("it has no validation split")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise DataError(f"{path}: isn't a whole run ({why}); train it again") from None
    if tree_sha256(weights["params"]) != expected:
        newer = "".join(f"step {n} is damaged: {why}; " for n, why in damaged.items())
        raise DataError(
            f"{path}: {newer}the parameters of step {step} aren't those that "
            f"{folder.RESULTS} names (params_sha256 differs): "
            "finish the run with --resume, or train it again"
        )
    return calibrate(network, run.validation_logits, run.validation_labels)


def _printable(name):
    return "".join(c if c.isprintable() else "?" for c in name)


def combine(networks: Sequence[Network]) -> Network:
    """An ensemble of networks: their probabilities are averaged.

    Its temperature and threshold are the means of its members', until it is calibrated itself.

    Args:
      networks: of the same classes.

    Raises:
      DataError: none at all, or networks of other classes or data.
    """
    if not networks:
        raise DataError("an ensemble needs a network; give the folder of a run")
    check_classes(networks, "an ensemble")
    first = networks[0]
    for other in networks[1:]:
        if _datasets(other) != _datasets(first):
            raise DataError(f"{other.name} and {first.name} were trained on different data sets")
    if len(networks) == 1:
        return first
    runs = [run for network in networks for run in network.facts.get("runs", ())]
    return Network(
        name=_common_name([network.name for network in networks]),
        class_names=first.class_names,
        members=tuple(member for network in networks for member in network.members),
        threshold=sum(network.threshold for network in networks) / len(networks),
        facts={"runs": runs},
        temperature=sum(network.temperature for network in networks) / len(networks),
    )


def check_classes(networks: Sequence[Network], what: str) -> None:
    """Raises an DigitsError where networks have other classes; ``what`` needs the same."""
    first = networks[0]
    for other in networks[1:]:
        if other.class_names != first.class_names:
            raise DataError(
                f"{other.name} has the classes {' '.join(other.class_names)}, {first.name} has "
                f"{' '.join(first.class_names)}: {what} needs networks of the same"
            )


def _common_name(names):
    # Letter by letter is what is meant: the runs differ in the digits after "seed".
    start = os.path.commonprefix(names).removesuffix("seed").strip("-_ ")  # noqa: RUF071
    return f"ensemble-of-{len(names)}-{start or '-and-'.join(names)}"


def _datasets(network):
    return {run["dataset_sha256"] for run in network.facts.get("runs", ())}


def calibrate(network: Network, logits: np.ndarray, labels: np.ndarray) -> Network:
    """The network with a temperature and a threshold from its answers to a validation split.

    Args:
      network: any.
      logits: float32 [n, classes], its own.
      labels: int32 [n].

    Returns:
      It, with both, and in its facts "threshold_cost": the share of the right answers that fall
      below the threshold.
    """
    temperature = fit_temperature(logits, labels)
    threshold, cost = choose_threshold(np.asarray(logits) / temperature, labels)
    facts = {**network.facts, "threshold_cost": cost}
    return dataclasses.replace(network, temperature=temperature, threshold=threshold, facts=facts)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """What to divide logits by, so that their softmax says how often the network is right.

    Smoothed labels teach a network to say 90% where it is right 99 times of 100. The order of the
    classes stays as it is.

    Args:
      logits: float32 [n, classes].
      labels: int32 [n].

    Returns:
      In [0.25, 4]: without an error among the labels the best one would be 0.

    Example:
      >>> logits = 3 * np.eye(2)[[0, 0, 0, 1]]  # says 95%, is right 3 times of 4
      >>> round(3 / fit_temperature(logits, np.array([0, 0, 1, 1])), 2)  # log(3): says 75%
      1.1

    Reference:
      Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    logits = np.asarray(logits, np.float64)

    def loss(log_temperature):
        scaled = logits / np.exp(log_temperature)
        return -log_softmax(scaled, -1)[np.arange(len(labels)), labels].mean()

    bounds = (-math.log(4), math.log(4))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def choose_threshold(
    logits: np.ndarray, labels: np.ndarray, give_up: float = RIGHT_ANSWERS_GIVEN_UP
) -> tuple[float, float]:
    """The probability under which an answer isn't sure, from a validation split.

    Args:
      logits: float32 [n, classes].
      labels: int32 [n].
      give_up: the share of the right answers that may fall below it.

    Returns:
      The threshold, and the share of the right answers that does fall below it.

    Example:
      >>> logits = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]))
      >>> threshold, cost = choose_threshold(logits, np.array([0, 0, 0, 1]), give_up=0.34)
      >>> round(threshold, 3), round(cost, 3)
      (0.8, 0.333)

    Reference:
      Hendrycks and Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution
      Examples in Neural Networks, 2017: the largest probability as the confidence.
    """
    confidence = softmax(logits, -1).max(-1)
    right = np.sort(confidence[np.argmax(logits, -1) == labels])
    if not len(right):
        return 1.0, 0.0
    threshold = float(right[math.floor(give_up * len(right))])
    return threshold, float(np.mean(right < threshold))


def take_apart(
    settings: Mapping[str, Any], params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> tuple[Layer, ...]:
    """The layers of a linen MLP or CNN of ours.

    Args:
      settings: "arch", "batch_norm" and, for a CNN, "channels", "convs_per_block" and
        "dense_size", "space_to_depth" (if not True); for an MLP "hidden_sizes".
      params, batch_stats: of the module.

    Raises:
      KeyError: parameters that aren't those of that architecture.
    """
    parts = _Parts(params, batch_stats, settings["batch_norm"])
    if settings["arch"] == "mlp":
        layers = [Layer("flatten")]
        for i in range(len(settings["hidden_sizes"])):
            layers += [parts.folded("dense", f"hidden_{i}", f"norm_{i}"), Layer("relu")]
        return (*layers, parts.plain("dense", "logits"))
    layers = [Layer("space_to_depth")] if settings.get("space_to_depth", True) else []
    for i in range(len(settings["channels"])):
        for j in range(settings["convs_per_block"]):
            name, norm = f"conv_{i}_{j}", f"norm_{i}_{j}"
            if j < settings["convs_per_block"] - 1:
                layers.append(parts.folded("conv", name, norm))
            else:  # The pooling lies between, and a negative factor doesn't commute with it.
                layers += [parts.plain("conv", name), Layer("max_pool"), *parts.scale(norm)]
            layers.append(Layer("relu"))
    layers.append(Layer("flatten"))
    if settings["dense_size"]:
        layers += [parts.folded("dense", "dense", "norm_dense"), Layer("relu")]
    return (*layers, parts.plain("dense", "logits"))


@dataclass(frozen=True)
class _Parts:
    """A module's parameters, layer by layer."""

    params: Mapping[str, Any]
    batch_stats: Mapping[str, Any]
    batch_norm: bool

    def plain(self, kind, name):
        kernel = np.asarray(self.params[name]["kernel"], np.float32)
        bias = self.params[name].get("bias", np.zeros(kernel.shape[-1]))
        return Layer(kind, {"kernel": kernel, "bias": np.asarray(bias, np.float32)})

    def _norm(self, name):
        # In float64: the fold is exact to float32's rounding.
        own, stats = self.params[name], self.batch_stats[name]
        variance = np.asarray(stats["var"], np.float64) + _BATCH_NORM_EPSILON
        factor = np.asarray(own["scale"], np.float64) / np.sqrt(variance)
        offset = np.asarray(own["bias"], np.float64) - np.asarray(stats["mean"]) * factor
        return factor, offset

    def scale(self, name):
        if not self.batch_norm:
            return []
        factor, offset = self._norm(name)
        arrays = {"factor": factor.astype(np.float32), "offset": offset.astype(np.float32)}
        return [Layer("scale", arrays)]

    def folded(self, kind, name, norm):
        layer = self.plain(kind, name)
        if not self.batch_norm:
            return layer
        factor, offset = self._norm(norm)
        arrays = {
            "kernel": (layer.arrays["kernel"] * factor).astype(np.float32),
            "bias": (layer.arrays["bias"] * factor + offset).astype(np.float32),
        }
        return dataclasses.replace(layer, arrays=arrays)


def numpy_logits(network: Network, images: np.ndarray) -> np.ndarray:
    """What a network answers, with NumPy alone: slow, short, and what the others are held to.

    Args:
      network: any.
      images: float32 [n, 28, 28, 1] in [0, 1].

    Returns:
      float32 [n, classes].

    Example:
      >>> layers = (Layer("flatten"), Layer("dense", {"kernel": np.ones((784, 2), np.float32),
      ...                                             "bias": np.zeros(2, np.float32)}))
      >>> network = Network("ones", ("a", "b"), (layers,), 0.5, {})
      >>> numpy_logits(network, np.ones((1, 28, 28, 1), np.float32)).tolist()
      [[784.0, 784.0]]
    """
    answers = []
    for member in network.members:
        x = np.asarray(images, np.float32)
        for layer in member:
            x = _NUMPY[layer.kind](x, **layer.arrays)
        answers.append(x)
    if len(answers) == 1:
        return answers[0]
    return mean_log_probabilities(answers)


def _space_to_depth(x):
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // 2, width // 2, 4 * channels)


def _conv(x, kernel, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.tensordot(patches, kernel, ((4, 5, 3), (0, 1, 2))) + bias


def _max_pool(x):
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


_NUMPY = {
    "space_to_depth": _space_to_depth,
    "conv": _conv,
    "max_pool": _max_pool,
    "scale": lambda x, factor, offset: x * factor + offset,
    "relu": lambda x: np.maximum(x, 0),
    "flatten": lambda x: x.reshape(len(x), -1),
    "dense": lambda x, kernel, bias: x @ kernel + bias,
}
