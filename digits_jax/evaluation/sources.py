"""From what was read of runs to two groups that may be compared, or the reason why not."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digits_jax.errors import DataError, DigitsError, shown
from digits_jax.evaluation.checks import as_labels, as_logits
from digits_jax.evaluation.comparison import Group, Run

_LONGEST_NAME = 24  # letters; what the figures have room for


@dataclass(frozen=True)
class Source:
    """What is known of one run.

    name: where it came from; kind: its architecture, or another word for what it is; labels:
    int [n]; run: its answers; dataset and dataset_sha256: None for a run that doesn't say.
    """

    name: str
    kind: str
    labels: np.ndarray
    run: Run
    dataset: str | None = None
    dataset_sha256: str | None = None
    preset: str | None = None


def source_of(name: str, short: str, arrays, results: dict | None = None) -> Source:
    """A run from the arrays of its predictions and its results.

    Args:
      name: where it came from, for messages.
      short: what tables call it.
      arrays: name -> array, at least labels and logits; validation_labels and
        validation_logits where there are.
      results: of a run of ours: arch, dataset, dataset_sha256.

    Returns:
      A `Source`.

    Raises:
      DataError: labels or logits are missing.

    Example:
      >>> source_of("a.npz", "a", {"labels": [0, 1], "logits": np.eye(2)}).kind
      'a'
    """
    for key in ("labels", "logits"):
        if key not in arrays:
            raise DataError(
                f"{name} has no {key}; it needs labels int [n] and logits float [n, classes]"
            )
    results = results or {}
    validation = (arrays.get("validation_labels"), arrays.get("validation_logits"))
    seed = results.get("seed")
    run = Run(short, arrays["logits"], *validation, seed if isinstance(seed, int) else None)
    arch = str(results.get("arch") or "")
    kind = (arch.upper() if len(arch) <= 4 else arch) or short
    # The files of other frameworks hold int64 or uint8: the class numbers are the same.
    labels = as_labels(arrays["labels"], f"{name}: labels")
    facts = [results.get(key) for key in ("dataset", "dataset_sha256", "preset")]
    if facts[2] is not None:
        facts[2] = shown(facts[2])
    return Source(name, kind, labels, run, *facts)


def check_distinct(a: list[Source], b: list[Source]) -> None:
    """Refuses a run that is given twice, by its folder or as a copy.

    A copy would count as another seed, and make every p-value and interval too sure.

    Args:
      a, b: the groups' runs.

    Raises:
      DataError: two of them are the same folder, or have equal logits.

    Example:
      >>> one = source_of("x", "x", {"labels": [0, 1], "logits": np.eye(2)})
      >>> check_distinct([one], [one])
      Traceback (most recent call last):
      digits_jax.errors.DataError: x is given twice; a run counts once: give each run once
    """
    folders, answers = {}, {}
    for source in (*a, *b):
        path = Path(source.name).resolve()
        if path in folders:
            raise DataError(f"{source.name} is given twice; a run counts once: give each run once")
        logits = np.asarray(source.run.logits)
        digest = hashlib.sha256(logits.astype(np.float64).tobytes()).digest()
        if digest in answers:
            raise DataError(
                f"{answers[digest]} and {source.name} have the same logits, so one is a copy; "
                "a run counts once: give each run once"
            )
        folders[path], answers[digest] = source, source.name


def mixed_presets(a: list[Source], b: list[Source]) -> list[str]:
    """A sentence for each group whose runs were trained with several presets.

    Args:
      a, b: the groups' runs.

    Returns:
      At most two sentences.

    Example:
      >>> mixed_presets([], [])
      []
    """
    notes = []
    for group, flag in ((a, "--a"), (b, "--b")):
        found = sorted({str(source.preset) for source in group if source.preset})
        if len(found) > 1:
            notes.append(
                f"The runs of {flag} were trained with several presets ({', '.join(found)}): their "
                "spread is not that of seeds alone."
            )
    return notes


def groups_of(
    a: list[Source], b: list[Source], name_a: str | None = None, name_b: str | None = None
) -> tuple[Group, Group]:
    """Two groups of runs on one test set.

    Args:
      a, b: their runs.
      name_a, name_b: what to call them; by default their architectures, if these differ.

    Returns:
      (A, B).

    Raises:
      DataError: a group without runs or of several architectures, or runs on different data
        sets, of different lengths or with labels in another order.

    Example:
      >>> one, two = (source_of(n, n, {"labels": [0, 1], "logits": np.eye(2)}) for n in "xy")
      >>> [group.name for group in groups_of([one], [two])]
      ['x', 'y']
    """
    if not a or not b:
        raise DataError("two groups are compared; give at least one run of A and one of B")
    first = a[0]
    for other in (*a[1:], *b):
        _check_same_images(first, other)
    kinds = []
    for group, flag in ((a, "--a"), (b, "--b")):
        found = sorted({source.kind for source in group})
        if len(found) > 1:
            raise DataError(f"{flag} mixes {' and '.join(found)}; give runs of one architecture")
        kinds.append(found[0])
    for source in (*a, *b):
        _check_run(source)
    if name_a and name_a == name_b:
        raise DataError(f"--name-a and --name-b are both {name_a!r}; give two different names")
    names = [name_a or kinds[0], name_b or kinds[1]]
    if names[0] == names[1] and len(a) == len(b) == 1:
        names = [a[0].run.name, b[0].run.name]
    if names[0] == names[1]:
        names = [f"{names[0]} A", f"{names[1]} B"]
    names = [_shortened(name) for name in names]
    if names[0] == names[1]:
        names = [f"{_shortened(n, _LONGEST_NAME - 2)} {'AB'[i]}" for i, n in enumerate(names)]
    runs = [tuple(source.run for source in group) for group in (a, b)]
    return Group(names[0], runs[0]), Group(names[1], runs[1])


def _check_same_images(one: Source, other: Source) -> None:
    def say(what: str) -> DigitsError:
        return DataError(f"{one.name} and {other.name} {what}; compare runs on one test set")

    shas = (one.dataset_sha256, other.dataset_sha256)
    if None not in shas and shas[0] != shas[1]:
        raise say(f"are of different data sets ({one.dataset} and {other.dataset}, by SHA-256)")
    if one.labels.size != other.labels.size:
        raise say(f"have {one.labels.size} and {other.labels.size} labels")
    different = np.flatnonzero(one.labels != other.labels)
    if different.size:
        raise say(
            f"have other labels or another order ({different.size} of {one.labels.size} differ, "
            f"the first is image {different[0]})"
        )
    shapes = [np.shape(source.run.logits) for source in (one, other)]
    if shapes[0][1:] != shapes[1][1:]:
        raise say("have logits [n, classes] of shapes {} and {}".format(*shapes))


def _check_run(source: Source) -> None:
    """The arrays of a run; later messages would have only its short name."""
    logits = as_logits(source.run.logits, source.labels.size, f"{source.name}: logits")
    as_labels(source.labels, f"{source.name}: labels", logits.shape[1])
    labels, logits = source.run.validation_labels, source.run.validation_logits
    if labels is not None and logits is not None:
        name = f"{source.name}: validation_labels"
        count = as_labels(labels, name, np.shape(source.run.logits)[1]).size
        as_logits(logits, count, f"{source.name}: validation_logits")


def _shortened(name: str, most: int = _LONGEST_NAME) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
