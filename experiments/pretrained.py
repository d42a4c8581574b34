"""Trains the networks that the package carries: python -m experiments.pretrained

Each is trained by its recipe with seed 0, written to digits_jax/deploy/pretrained in int8 (the tiny
one in float16), read back and scored once on the test images of MNIST, as is the float32 network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import leave, parse, run_program
from experiments.study import train_run

# Name -> flags of the training, and whether its file is in int8.
RECIPES: dict[str, tuple[tuple[str, ...], bool]] = {
    "cnn": (("--arch=cnn", "--preset=standard"), True),
    "mlp": (("--arch=mlp", "--preset=standard"), True),
    "tiny": (("--arch=cnn", "--preset=tiny"), False),
}
QUICK = ("--dataset=digits", "--epochs=0.5")


@dataclass(frozen=True)
class Arguments:
    """What to train, and where to."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(RECIPES)
    """The networks."""
    runs: Path = Path("runs/pretrained")
    """Folder of the runs; finished ones are taken."""
    data_dir: str | None = None
    """Folder of the data set, as for training."""
    quick: bool = False
    """Train on scikit-learn's digits for half an epoch, to try the command."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder to write to instead of the package's."""


def main(argv: Sequence[str]) -> None:
    """Parses, trains, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    from digits_jax.deploy.pretrained import FOLDER

    folder = arguments.output or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        card = make(name, folder, arguments)
        print(
            f"{name}: {card['bytes']:,} bytes, test accuracy {card['test_accuracy']:.2%} "
            f"({card['float32_test_accuracy']:.2%} in float32)"
        )


def make(name: str, folder: Path, arguments: Arguments) -> dict[str, Any]:
    """Trains a network and writes its file and card; returns the card."""
    import dataclasses

    from scipy.special import log_softmax

    from digits_jax import load_dataset
    from digits_jax.deploy.network import load_network
    from digits_jax.deploy.predictor import Predictor
    from digits_jax.deploy.pretrained import pack, unpack
    from digits_jax.runs.folder import write_json

    flags, int8 = RECIPES[name]
    flags = (*flags, "--seed=0", *(QUICK if arguments.quick else ("--dataset=mnist",)))
    here = (f"--data-dir={arguments.data_dir}",) if arguments.data_dir else ()
    train_run((*flags, *here), arguments.runs / name)
    network = dataclasses.replace(load_network(arguments.runs / name), name=name)
    path = folder / f"{name}.npz"
    card = pack(network, path, int8=int8)
    run = card["run"]
    data = load_dataset(run["dataset"], arguments.data_dir)
    labels = data.test.labels
    found = Predictor(unpack(card, path)).predict(data.test.images)
    errors, rows = int((found.labels != labels).sum()), range(len(labels))
    scores = {
        "test_accuracy": 1 - errors / len(labels),
        "test_errors": errors,
        "test_loss": float(-log_softmax(found.logits, -1)[rows, labels].mean()),
    }
    card |= {
        "test_accuracy": scores["test_accuracy"],
        "float32_test_accuracy": run["test_accuracy"],
        "trained_on": f"{len(data.train):,} images of {data.name}",
        "command": f"python -m digits_jax.train {' '.join(flags)}",
        "numbers": "int8" if int8 else "float16",
        "run": {**run, **scores},
    }
    write_json(folder / f"{name}.json", card)
    return card


if __name__ == "__main__":
    leave(run_program(main))
