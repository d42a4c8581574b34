"""Makes what a release carries beside the code: python -m experiments.release

Trains a CNN and a small MLP on MNIST (or takes the runs that are there), and writes digits.html, a
page on which anybody can draw and that runs both; each model as .npz with its card; and SHA256SUMS.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from digits_jax import export
from digits_jax.cli import parse, run_program
from digits_jax.runs.folder import replace_files
from experiments.study import train_run

MODELS = {
    "cnn": "--arch=cnn --dataset=mnist",
    "mlp-128": "--arch=mlp --dataset=mnist --hidden-sizes=128",
}


@dataclass(frozen=True)
class Arguments:
    """Where from, where to."""

    runs: Path = Path("runs/release")
    """Folder of the runs."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("release")
    """Folder of what is made."""
    preset: str = "standard"
    """Preset of both models."""


def main(argv: Sequence[str]) -> None:
    """Trains, exports, sums."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    runs = {name: arguments.runs / f"{name}-{arguments.preset}" for name in MODELS}
    for name, run in runs.items():
        train_run([*MODELS[name].split(), f"--preset={arguments.preset}"], run)
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    page = str(output / "digits.html")
    export.main([*map(str, runs.values()), "--format=html", "--output", page])
    for name, run in runs.items():
        export.main([str(run), "--format=npz", "--output", str(output / name)])
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output)}\n"
        for path in files
        if path.name != "SHA256SUMS"
    )
    replace_files({output / "SHA256SUMS": sums.encode()})
    print(sums, end="")


if __name__ == "__main__":
    sys.exit(run_program(main))
