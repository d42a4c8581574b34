"""Shared by the studies: runs that are trained once, tables of results, held-out images."""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax import ConfigError, Dataset, Split, read_config
from digits_jax.files import as_json, read_json, replace_files
from digits_jax.formatting import fixed
from digits_jax.train import parse_arguments

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "experiments" / "results"
SECONDS = "process_seconds.json"


def train_run(flags: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Trains in its own process, as a user would; takes or continues the run that is there.

    Args:
      flags: of ``python -m digits_jax.train``.
      workdir: the run's folder.

    Returns:
      What ``results.json`` holds, and "process_seconds", the whole process's time (None for a
      run that was resumed).

    Raises:
      ConfigError: the folder holds another run, or the training failed (it has said why).
    """
    wanted = parse_arguments(flags).config
    if not (workdir / "results.json").exists():
        _train(flags, workdir)
    there, _ = read_config(workdir)
    wanted = wanted.resolve(there.dataset)
    if wanted.dtype == "auto":  # what it came to depends on the device
        wanted = dataclasses.replace(wanted, dtype=there.dtype)
    values, own = wanted.to_dict(), there.to_dict()
    if different := [name for name in values if values[name] != own[name]]:
        name = different[0]
        raise ConfigError(
            f"{workdir} holds a run with {name}={own[name]}, not {values[name]}; delete it, or "
            "give another --runs"
        )
    timing = workdir / SECONDS
    seconds = read_json(timing) if timing.exists() else None
    return {**read_json(workdir / "results.json"), "process_seconds": seconds}


def _train(flags: Sequence[str], workdir: Path) -> None:
    resume = (workdir / "config.json").exists()
    command = [sys.executable, "-m", "digits_jax.train", *flags, f"--workdir={workdir}"]
    print(f"\n{workdir}: {'continuing' if resume else 'training'} {' '.join(flags)}", flush=True)
    started = time.perf_counter()
    done = subprocess.run([*command, *(["--resume"] if resume else [])], check=False)
    if done.returncode:
        raise ConfigError(
            f"{workdir}: training ended with status {done.returncode}; see above, then start the "
            "study again"
        )
    if not resume:
        (workdir / SECONDS).write_text(json.dumps(time.perf_counter() - started))


def write_results(path: Path, results: Any, text: str) -> None:
    """Writes results as JSON, with their tables beside them and in the docs, and prints the tables.

    The docs change only with the results in ``experiments/results``. There the tables stand between
    ``<!-- NAME -->`` and ``<!-- /NAME -->``, NAME being that of the file.

    Args:
      path: of the JSON file.
      results: plain values.
      text: the tables, as Markdown.
    """
    files: dict[Path, Any] = {
        path: as_json(results),
        path.with_suffix(".md"): (text + "\n").encode(),
    }
    if path.resolve().parent == RESULTS:
        for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("[de]*/**/*.md")]:
            old = page.read_text(encoding="utf-8")
            if (new := replace_block(old, path.stem, text)) != old:
                files[page] = new.encode()
    replace_files(files)
    print(text)


def replace_block(page: str, name: str, text: str) -> str:
    """Replaces the text between a page's marks of a name, if it has them.

    Examples:
      >>> replace_block("a <!-- x -->old<!-- /x --> b", "x", "new")
      'a <!-- x -->\\nnew\\n<!-- /x --> b'
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        return page
    head, rest = page.split(begin, 1)
    return f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}"


def without_test(dataset: Dataset) -> Dataset:
    """Replaces the test split by the validation split, so that no choice depends on it."""
    return dataclasses.replace(dataset, test=dataset.validation)


def hold_out(dataset: Dataset, index: int, count: int) -> Dataset:
    """Makes another validation split: one of so many parts (folds), in turn.

    Args:
      dataset: its training and validation images are dealt out, always in the same way; the first
        of twelve parts of a data set such as MNIST is its own validation split.
      index: of the part, from 0, modulo ``count``.
      count: of the parts, which have equal sizes; the rest is the training split.

    Returns:
      The data set, without its test split.

    Examples:
      >>> from digits_jax import load_dataset
      >>> fifth = hold_out(load_dataset("digits"), 0, 5)
      >>> [len(part) for part in (fifth.train, fifth.validation)]
      [1150, 287]
    """
    order = np.argsort(np.random.Philox(key=1998).random_raw(len(dataset.train)), kind="stable")
    first, rest = dataset.validation, dataset.train.rows(order)
    images = np.concatenate([first.images, rest[0]])
    labels = np.concatenate([first.labels, rest[1]])
    size = len(labels) // count
    held = np.zeros(len(labels), bool)
    held[index % count * size :][:size] = True
    part = Split(images[held], labels[held])
    train = Split(images[~held], labels[~held])
    return dataclasses.replace(dataset, train=train, validation=part, test=part)


def mean_se(values: Sequence[float], digits: int) -> str:
    """Formats a mean difference ± its standard error; of one value, the value alone.

    Examples:
      >>> mean_se([0.1, 0.3, 0.2], 3), mean_se([1.0], 1)
      ('+0.200 ± 0.058', '+1.0')
    """
    text = fixed(statistics.mean(values), digits, "+")
    if len(values) < 2:
        return text
    return f"{text} ± {fixed(statistics.stdev(values) / len(values) ** 0.5, digits)}"
