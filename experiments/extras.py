"""What the core and each extra install, each alone: python -m experiments.extras WHEEL

Installs a wheel with each extra in an environment of its own, does there what the extra is for, and
counts packages, megabytes and the time of `import digits_jax`. With the core alone the same
commands must say in one line what to install. Needs a network. Writes extras.json and extras.md.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import DigitsError
from digits_jax.formatting import fixed, markdown_table
from experiments.study import REPOSITORY, RESULTS, write_results

CORE = "core"
PURPOSES = {
    CORE: "training on MNIST or your own data, comparison, prediction, the page",
    "tfds": "data sets that tensorflow-datasets has prepared, and `--input=stream`",
    "export": "`--format=onnx` and `--format=stablehlo`",
    "huggingface": "data of Hugging Face's `datasets`, and `.parquet` files",
    "tensorboard": "`--tensorboard`",
    "search": "`python -m experiments.search`",
    "all": "all of these",
}
TRAIN = "-m digits_jax.train --arch=mlp --preset=quick --epochs=1"
# What each is tried with, as arguments of Python. Files that are made stay for the core's refusals.
COMMANDS = {
    CORE: (
        "seven.py",
        f"{TRAIN} --dataset=digits",
        "-m digits_jax.predict seven.png",
        "-m digits_jax.export cnn --format=html -o digits.html",
    ),
    "tfds": (
        "prepare.py",
        f"{TRAIN} --dataset=tfds/my_digits --data-dir=data --input=stream --batch-size=32",
    ),
    "export": (
        "-m digits_jax.export cnn --format=onnx -o onnx",
        "-m digits_jax.export cnn --format=stablehlo -o stablehlo",
    ),
    "huggingface": ("save.py", f"{TRAIN} --dataset=saved", f"{TRAIN} --dataset=rows.parquet"),
    "tensorboard": (f"{TRAIN} --dataset=digits --tensorboard",),
    "search": ("-m experiments.search --arch=mlp --dataset=digits --epochs=0.2 --trials=1",),
}
SEVEN = """
from PIL import Image, ImageDraw

picture = Image.new("L", (200, 200), 255)
ImageDraw.Draw(picture).line([(60, 40), (140, 40), (95, 165)], 0, 14)
picture.save("seven.png")
"""
SAVE = """
import datasets
import numpy as np
from PIL import Image

pixels = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
rows = {"image": [Image.fromarray(p) for p in pixels], "label": [i % 10 for i in range(200)]}
table = datasets.Dataset.from_dict(rows, features=features)
table.save_to_disk("saved")
table.to_parquet("rows.parquet")
"""


@dataclass(frozen=True)
class Arguments:
    """What to install."""

    wheel: Annotated[Path, tyro.conf.Positional]
    """The wheel of digits_jax."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = RESULTS
    """Folder of extras.json and extras.md."""


def main(argv: Sequence[str]) -> None:
    """Installs, tries, measures, writes."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        page = (REPOSITORY / "docs/data.md").read_text(encoding="utf-8")
        [prepare] = re.findall(r"```python\n([^`]*tensorflow_datasets[^`]*)```", page)
        for script, text in (("seven.py", SEVEN), ("save.py", SAVE), ("prepare.py", prepare)):
            (work / script).write_text(text, encoding="utf-8")
        (work / "experiments").symlink_to(REPOSITORY / "experiments")
        for extra in reversed(PURPOSES):  # the core comes last, when all files are there
            environment = Environment(work, arguments.wheel.resolve(), extra)
            environment.try_commands()
            rows.insert(0, environment.measure())
    write_results(arguments.output / "extras.json", rows, markdown(rows))


class Environment:
    """A new environment with the wheel and one extra, in the place of the one before."""

    def __init__(self, work: Path, wheel: Path, extra: str) -> None:
        self.work, self.extra, self.folder = work, extra, work / "environment"
        print(f"{extra}: installing", flush=True)
        venv.create(self.folder, clear=True, with_pip=True)
        self.call(
            "-m", "pip", "install", "-q", str(wheel) + ("" if extra == CORE else f"[{extra}]")
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        python = self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [python, *arguments],
            cwd=self.work,
            env={**kept, "HOME": str(self.work), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    def call(self, *arguments: str) -> str:
        """Returns what a command prints, which must succeed."""
        done = self.run(*arguments)
        if done.returncode:
            text = f"{' '.join(arguments)}: status {done.returncode} with {self.extra}"
            raise DigitsError(f"{text}\n{done.stderr}")
        return done.stdout

    def try_commands(self) -> None:
        """Runs what the extra is for; with the core, also what must say which extra to install."""
        for extra, commands in COMMANDS.items():
            for command in commands:
                if self.extra in (extra, "all"):
                    self.call(*command.split())
                elif self.extra == CORE and command.startswith("-m "):
                    done = self.run(*command.split())
                    advice = rf'error: [^\n]*pip install "digits_jax\[{extra}\]"\n'
                    if done.returncode != 2 or not re.fullmatch(advice, done.stderr):
                        text = f"{command} without {extra}: status {done.returncode}"
                        raise DigitsError(f"{text}\n{done.stderr}")

    def measure(self) -> dict[str, Any]:
        """Counts what is installed, pip left out, and times the import."""
        listed = json.loads(self.call("-m", "pip", "list", "--format=json"))
        files = [
            path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()
        ]
        ours = [path for path in files if not {"pip", "setuptools"}.intersection(path.parts)]
        packages = {each["name"]: each["version"] for each in listed}
        return {
            "extra": self.extra,
            "packages": {n: v for n, v in packages.items() if n not in ("pip", "setuptools")},
            "bytes": sum(path.stat().st_size for path in ours),
            "import_seconds": self.seconds("import digits_jax") - self.seconds("pass"),
        }

    def seconds(self, code: str) -> float:
        times = []
        for _ in range(9):
            started = time.perf_counter()
            self.call("-c", code)
            times.append(time.perf_counter() - started)
        return statistics.median(times)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Makes the table, a line for each environment."""
    lines = [
        (
            row["extra"] if row["extra"] == CORE else f"`{row['extra']}`",
            PURPOSES[row["extra"]],
            fixed(len(row["packages"]), 0),
            f"{row['bytes'] / 1e6:,.0f} MB",
        )
        for row in rows
    ]
    columns = ["extra", "for", "packages", "installed"]
    return markdown_table(lines, columns, "llr")


if __name__ == "__main__":
    sys.exit(run_program(main))
