"""Trains the networks that the package carries: python -m experiments.train_pretrained

Each is trained with seed 0 and written to digits_jax/runs/pretrained, in int8 or, the tiny one, in
float16. The file is read back and scored once on the test images, as is the float32 network; the
card holds the accuracy on MNIST's. The temperature and the threshold of confidence are chosen on
drawn pictures of validation images.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.fields import Switch
from experiments.study import train_run

if TYPE_CHECKING:
    import numpy as np

    from digits_jax.deploy.network import Network

# Name -> flags of the training, and whether its file is in int8.
RECIPES: dict[str, tuple[tuple[str, ...], bool]] = {
    "cnn": (("--arch=cnn", "--preset=handwriting"), True),
    "mlp": (("--arch=mlp", "--preset=standard", "--dataset=mnist"), True),
    "tiny": (("--arch=cnn", "--preset=tiny", "--dataset=mnist"), False),
}
QUICK = ("--dataset=digits", "--epochs=0.5")
PICTURES = 1500  # that confidence is chosen on


@dataclass(frozen=True)
class Arguments:
    """What to train, and where to."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(RECIPES)
    """The networks."""
    runs: Path = Path("runs/pretrained")
    """Folder of the runs; finished ones are taken."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    quick: Switch = False
    """Train on scikit-learn's digits for half an epoch, to try the command."""
    confidence: Switch = False
    """Choose only the temperature and the threshold again, of the networks that are there."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder to write to instead of the package's."""


def main(argv: Sequence[str]) -> None:
    """Parses, trains, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    from digits_jax.runs.pretrained import FOLDER

    folder = arguments.output or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        if arguments.confidence:
            refit(name, folder, arguments.data_dir)
            continue
        card = make(name, folder, arguments)
        print(
            f"{name}: {card['bytes']:,} bytes, test accuracy {card['test_accuracy']:.2%} "
            f"({card['float32_test_accuracy']:.2%} in float32)"
        )


def make(name: str, folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Trains a network and writes its file and card; returns the card."""
    from scipy.special import log_softmax

    from digits_jax import load_dataset
    from digits_jax.deploy.network import RUN_FACTS, from_card, load_network
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.files import write_json
    from digits_jax.runs.pretrained import write_variables
    from digits_jax.runs.trained_network import SETTINGS

    flags, int8 = RECIPES[name]
    flags = (*flags, "--seed=0", *(QUICK if arguments.quick else ()))
    here = (f"--data-dir={arguments.data_dir}",) if arguments.data_dir else ()
    train_run((*flags, *here), arguments.runs / name)
    network = load_network(arguments.runs / name)
    (member,), (run,) = network.members, network.facts["runs"]
    network = fit_confidence(network, "digits" if arguments.quick else "mnist", arguments.data_dir)
    path = folder / f"{name}.npz"
    write_variables(member.variables, path, int8=int8)
    facts = {fact: run[fact] for names in RUN_FACTS for fact in names.split()}
    config = {field: run["config"][field] for field in ("optimizer", "learning_rate", "augment")}
    card = {
        "name": name,
        "parameters": network.num_params,
        "bytes": path.stat().st_size,
        "numbers": "int8" if int8 else "float16",
        "trained_on": f"{run['dataset']}, {run['epochs']:g} epochs",
        "command": f"python -m digits_jax.train {' '.join(flags)}",
        "class_names": network.class_names,
        "threshold": network.threshold,
        "temperature": network.temperature,
        "settings": {key: member.settings[key] for key in SETTINGS if key in member.settings},
        "run": {**facts, "config": config},
    }
    data = load_dataset(run["dataset"], arguments.data_dir)
    labels, first = data.test.labels, data.parts[0][2] if data.parts else None  # MNIST's
    for prefix, each in (("float32_", network), ("", from_card(card, path))):
        found = Predictor(each).predict(data.test.images)
        wrong = found.labels != labels
        card[f"{prefix}test_accuracy"] = 1 - float(wrong[:first].mean())
    card["run"] |= {  # of the network as it is shipped, on all its test images
        "test_accuracy": 1 - float(wrong.mean()),
        "test_errors": int(wrong.sum()),
        "test_count": len(labels),
        "test_loss": float(-log_softmax(found.logits, -1)[range(len(labels)), labels].mean()),
    }
    write_json(folder / f"{name}.json", card)
    return card


def refit(name: str, folder: Path, data_dir: str | None) -> None:
    """Chooses the confidence of a network that is there again, and writes it to its card."""
    from digits_jax.deploy.network import from_card
    from digits_jax.files import read_json, write_json

    path = folder / f"{name}.json"
    card = read_json(path)
    network = fit_confidence(from_card(card, path.with_suffix(".npz")), "mnist", data_dir)
    chosen = {"threshold": network.threshold, "temperature": network.temperature}
    write_json(path, card | chosen)
    print(f"{name}: threshold {network.threshold:.4f}, temperature {network.temperature:.4f}")


def fit_confidence(network: "Network", dataset: str, data_dir: str | None) -> "Network":
    """Chooses a network's temperature and threshold on pictures of validation images."""
    from digits_jax.deploy.network import calibrate
    from digits_jax.deploy.predictor import Predictor

    images, labels = read_drawn_pictures(dataset, data_dir)
    fitted = calibrate(network, labels, Predictor(network).predict(images).logits)
    return dataclasses.replace(fitted, facts=network.facts)


@cache
def read_drawn_pictures(dataset: str, data_dir: str | None) -> "tuple[np.ndarray, np.ndarray]":
    """Draws validation images in each condition of `experiments.drawing`, and reads them.

    Returns:
      uint8 [n, 28, 28], and the labels.
    """
    import numpy as np

    from digits_jax import load_dataset
    from experiments.drawing import CONDITIONS
    from experiments.handwriting import read_pictures

    split = load_dataset(dataset, data_dir).validation
    images, labels = split.rows(np.arange(min(PICTURES, len(split))))
    parts = np.array_split(np.arange(len(labels)), len(CONDITIONS))
    glyphs = [
        glyph
        for name, part in zip(CONDITIONS, parts, strict=True)
        for _, glyph in read_pictures(name, images[part, ..., 0], int(part[0]))
    ]
    found = [index for index, glyph in enumerate(glyphs) if glyph is not None]
    return np.stack([glyph for glyph in glyphs if glyph is not None]), labels[found]


if __name__ == "__main__":
    leave(run_program(main))
