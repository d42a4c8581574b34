"""Each page's commands and Python run, in order, in a folder with a user's files and an empty home.

Three things differ from what a user pastes. Trainings are short, of the preset `quick`, and read
two folders of 700 embedded digits in the place of MNIST, which may be missing, and of the 10,000
drawn digits, which take half a minute: see `short`. What can't run in a test is in `NOT_HERE`, with
the reason. Runs that a page names and doesn't make are there already: see `given`.
"""

import re
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from programs import REPOSITORY, environment

from digits_jax import load_dataset

PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))]
# Lines of commands, by their start.
NOT_HERE = {
    "python3 -m venv": "the install: .ci/run pastes the README's line",
    ".venv/bin/pip install": "the checks and tests: .ci/run pastes this line",
    "python -m digits_jax.train --arch=cnn --workdir=runs/two": "waits for a second machine",
    "digits-jax launch": "docs/clusters.md has it, too",
    "digits-jax benchmark": "measures for minutes, with MNIST: tests/test_benchmark.py",
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```|^\| `(digits-jax [^`]+)`", re.DOTALL | re.MULTILINE)
COMPILE_FAST = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
PRELUDE = 'set -euxo pipefail\nsrun() { "$@"; }  # Slurm starts its arguments on each node\n'
pytestmark = pytest.mark.slow


def short(line):
    """A command as it runs here, where trainings take few steps."""
    line = re.sub(r"\s+#.*", "", line)
    if not re.search(r"digits[-_]jax[. ](train|launch) ", line):
        return line
    line = re.sub(r"(?<=[=+])(mnist|strokes)\b", r"./\1", line)
    if re.search(r"--resume|--config", line):
        return line
    data = "" if "--dataset" in line else " --dataset=./mnist"
    return f"{line}{data} --preset=quick --epochs=0.05"


def blocks(page):
    """The commands and the Python of a page: a language and a text each.

    Windows has other commands (bat), Kubernetes needs a cluster (yaml), and what has no language is
    output.
    """
    for language, text, row in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = [row] if row else text.splitlines()
        lines = [line for line in lines if not line.startswith(tuple(NOT_HERE))]
        if language == "python":
            yield language, text.replace('preset="quick")', 'preset="quick", epochs=0.05)')
        elif language == "sh" or row:
            yield "sh", "\n".join(map(short, lines))
        else:
            assert language in ("bat", "yaml", "")
            assert language or not re.search(r"^(python|digits-jax|pip) ", text, re.MULTILINE)


def given(page):
    """The runs that a page names before one of its commands has made them."""
    text = "\n".join(text for language, text in blocks(page) if language == "sh")
    named = re.findall(r"(--workdir=|/)?(runs/[\w*-]+)", text)
    made = [name for flag, name in named if flag]
    names = {name for flag, name in named if not flag and name not in made}
    return {name.replace("*", seed) for name in names for seed in "01"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What a user has: MNIST, pictures, tables, logits of other programs, and two runs."""
    folder = tmp_path_factory.mktemp("files")
    split = load_dataset("digits").train
    images, labels = np.array(split.images[:700, ..., 0]), np.array(split.labels[:700])

    def save(path, pixels):
        path = folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.pad(255 - pixels, 14, constant_values=255)
        Image.fromarray(pixels).resize((6 * pixels.shape[1], 6 * pixels.shape[0])).save(path)

    save("photo.jpg", images[0])
    for name in ("a.png", "scans/first.png", "scans/second.png"):
        save(name, images[1])
    save("number.png", np.hstack(images[:4]))
    save("page.png", np.vstack([np.hstack(np.pad(images[:4], ((0, 0), (9, 9), (0, 0))))] * 2))
    for name in ("pictures", "photos"):
        for index in range(60):
            save(f"{name}/{labels[index]}/{index}.png", images[index])
    pixels = images[:200].reshape(200, -1)
    header = ",".join(f"pixel{index}" for index in range(784))
    for name, first, rows in (
        ("train.csv", "label,", np.column_stack([labels[:200], pixels])),
        ("test.csv", "", pixels),
    ):
        np.savetxt(folder / name, rows, "%d", ",", header=first + header, comments="")
    for name in ("a.npz", "b.npz"):
        logits = np.random.default_rng(len(name)).normal(size=(200, 10))
        np.savez(folder / name, labels=labels[:200], logits=logits)
    for name in ("mnist", "strokes"):
        (folder / name).mkdir()
        for split, rows in (("train", slice(0, 600)), ("t10k", slice(600, 700))):
            for kind, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
                header = struct.pack(f">2x2B{array.ndim}I", 8, array.ndim, *array.shape)
                file = folder / name / f"{split}-{kind}-ubyte"
                file.write_bytes(header + array.astype(np.uint8).tobytes())
    for seed in "01":
        for arch in ("mlp", "cnn"):
            flags = f"--arch={arch} --seed={seed} --workdir=runs/{arch}-{seed}"
            run(folder, "sh", short(f"digits-jax train {flags}"))
    return folder


def run(folder, language, text):
    """Runs a block in a folder, which is the home, too."""
    command = (
        [sys.executable, "-c", text] if language == "python" else ["bash", "-c", PRELUDE + text]
    )
    variables = {**environment(folder), **COMPILE_FAST}
    variables["PATH"] = f"{folder}/.venv/bin:{variables['PATH']}"
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_run(page, files, tmp_path):
    todo = list(blocks(page))
    if any("tensorflow_datasets" in text for _, text in todo):
        pytest.importorskip("tensorflow_datasets")
    folder = tmp_path / "folder"
    shutil.copytree(files, folder, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    for name in given(page):
        arch, seed = "mlp" if "mlp" in name else "cnn", "1" if name.endswith("1") else "0"
        shutil.copytree(files / f"runs/{arch}-{seed}", folder / name)
    for language, text in todo:
        run(folder, language, text)
