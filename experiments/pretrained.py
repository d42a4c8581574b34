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
QUICK = ("--dataset=digits", "--epochs=2")


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
    """Train on scikit-learn's digits for 2 epochs, to try the command."""
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
    card = pack(network, folder / f"{name}.npz", int8=int8)
    data = load_dataset(network.facts["runs"][0]["dataset"], arguments.data_dir)
    for key, each in (
        ("test_accuracy", unpack(card, folder / f"{name}.npz")),
        ("float32_test_accuracy", network),
    ):
        found = Predictor(each).predict(data.test.images)
        card[key] = float((found.labels == data.test.labels).mean())
    card |= {
        "trained_on": f"{len(data.train):,} images of {data.name}",
        "command": f"python -m digits_jax.train {' '.join(flags)}",
        "numbers": "int8" if int8 else "float16",
    }
    write_json(folder / f"{name}.json", card)
    return card


if __name__ == "__main__":
    leave(run_program(main))
