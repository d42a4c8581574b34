"""The trained networks of a run's or an ensemble's folder, and those that the package carries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from digits_jax.errors import CheckpointError, shown
from digits_jax.files import MAX_ARRAY_BYTES, read_json
from digits_jax.models.build import abstract_variables, build_model
from digits_jax.runs import folder
from digits_jax.runs.checkpoint import read_weights, tree_sha256
from digits_jax.runs.ensembles import members_of
from digits_jax.runs.pretrained import FOLDER, find_pretrained, read_card, read_variables

# What `build_model` needs of a run's configuration.
SETTINGS = ("arch", "batch_norm", "hidden_sizes", "channels", "convs_per_block", "dense_size")
SETTINGS += ("space_to_depth",)
MAX_LAYERS = 100  # beside the dense ones of a CNN; an untrusted file may list any number


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network.

    Attributes:
      settings: of `build_model`.
      class_names: a name for each logit, as in the data set.
      variables: "params" and "batch_stats" to classify with: NumPy float32.
      facts: the results of its run, "config" and "versions"; empty for an unfinished one.
    """

    settings: Mapping[str, Any]
    class_names: tuple[str, ...]
    variables: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def sha256(self) -> str:
        """The sum of its parameters."""
        return tree_sha256(self.variables["params"])


def load_trained_networks(source: str | Path, *, finished: bool = True) -> list[TrainedNetwork]:
    """Loads the network of a run, of each member of an ensemble, or a pretrained one.

    Args:
      source: a folder, or the name of a pretrained network.
      finished: whether a run must be finished.

    Raises:
      CheckpointError: neither is there, or as `load_run_network`.
    """
    if name := find_pretrained(source):
        card = read_card(name)
        variables = read_variables(FOLDER / f"{name}.npz")
        classes = tuple(card["class_names"])
        return [TrainedNetwork(card["settings"], classes, variables, card["run"])]
    members = members_of(Path(source)) or [Path(source)]
    return [load_run_network(path, finished=finished) for path in members]


def load_run_network(path: Path, *, finished: bool = True) -> TrainedNetwork:
    """Loads the network of a run from its newest intact checkpoint.

    Raises:
      CheckpointError: there is none, it isn't finished, it is of a custom module, or the checkpoint
        isn't the one that was scored.
    """
    folder.check_run(path)
    described = read_json(path / folder.CONFIG)
    results = folder.read_results(path) if finished else {}
    try:
        if module := described.get("custom", {}).get("module"):
            raise CheckpointError(
                f"{path}: was trained with a custom module ({shown(module)}), which can't be used "
                "for prediction, export, teacher or init_from; "
                "use digits_jax.load_trained(RUN, module=...)"
            )
        config, classes = described["config"], tuple(map(str, described["dataset"]["class_names"]))
        settings = {name: config[name] for name in SETTINGS if config.get(name) is not None}
        wanted = network_shapes(settings, len(classes))
        step, variables, damaged = read_weights(path / folder.CHECKPOINTS, wanted)
        network = TrainedNetwork(settings, classes, variables, facts={})
        if finished:
            if network.sha256 != results["params_sha256"]:
                newer = "".join(f"step {n} is damaged: {why}; " for n, why in damaged.items())
                raise CheckpointError(
                    f"{path}: {newer}the parameters of step {step} aren't those that "
                    f"{folder.RESULTS} names (params_sha256 differs); "
                    "finish the run with --resume, or train it again"
                )
            facts = {**results, "config": config, "versions": described.get("versions", {})}
            network = TrainedNetwork(settings, classes, variables, facts)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        why = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{path}: isn't an intact run ({why}); train it again") from None
    return network


def network_shapes(settings: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """Returns the shapes of the variables that settings from a file describe.

    Raises:
      ValueError: they are out of bounds; KeyError, TypeError: they are incomplete.
    """
    if settings["arch"] == "cnn":
        layers = len(settings["channels"]) * settings["convs_per_block"]
    else:
        layers = len(settings["hidden_sizes"])
    if not 0 <= layers <= MAX_LAYERS:
        raise ValueError(f"it has {shown(layers)} layers; {MAX_LAYERS} are allowed")
    variables = abstract_variables(build_model(settings, classes))
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(variables))
    if size > MAX_ARRAY_BYTES:
        raise ValueError(f"it has {size:,} bytes; {MAX_ARRAY_BYTES:,} are allowed")
    return variables
