"""What somebody who meets a model must know of it: MODEL_CARD.md."""

from collections.abc import Mapping, Sequence

from digits_jax.deploy.archive import PREPROCESSING
from digits_jax.deploy.network import Network

_LIMITS = """\
- It answers with one of its {count} classes whatever it is shown; what isn't one of them is told
  only by a low probability, and not always. Under {threshold:.1%} an answer counts as not sure.
- It reads one character at a time, placed as above. Text, several digits in one image, and digits
  that were not placed so, are misread without a warning.
- Its test images come from where its training images come from; other hands, other habits (a
  crossed 7, a 1 with a long flag) and cameras are harder.
- {people}
- A probability is the softmax of the logits divided by {temperature:.3f}, which was fitted on the
  validation split: it holds for images like those."""

_PEOPLE = {
    "mnist": "MNIST was written by employees of a US census bureau and by US high-school students "
    "around 1990: no other schools of handwriting are in it.",
    "digits": "The embedded digits were written by 43 people on tablets in Turkey in the 1990s, "
    "and are enlarged from 8x8 pixels: real MNIST serves anybody better.",
}

_OTHERS = "Look at the images of its data set before you trust it with others."


def model_card(
    network: Network,
    *,
    files: Mapping[str, str],
    metrics: Mapping[str, str] | None = None,
    seeds: Sequence[float] = (),
    measured: Mapping[str, str] | None = None,
) -> str:
    """A model card in Markdown.

    Args:
      network: with the facts that `load_network` gives.
      files: names of the files beside it, and what each holds.
      metrics: what its own probabilities reach on the test set, by name.
      seeds: test accuracies of runs that differ in the seed alone, this one's included.
      measured: of the exported file itself, by name.

    Reference:
      Mitchell et al., Model Cards for Model Reporting, 2019.
    """
    runs = list(network.facts.get("runs", ()))
    parts = [f"# {network.name}", _summary(network, runs)]
    parts += ["## Files", _table(("file", "what"), files.items())]
    parts += ["## Input and output", _contract(network)]
    parts += ["## What it reaches"]
    for run in runs:
        parts.append(_reached(run))
    if len(seeds) > 1:
        mean = sum(seeds) / len(seeds)
        deviation = (sum((x - mean) ** 2 for x in seeds) / (len(seeds) - 1)) ** 0.5
        parts.append(
            f"Over {len(seeds)} runs that differ in their seed alone: test accuracy {mean:.2%} "
            f"± {deviation:.2%} (mean ± standard deviation, last step)."
        )
    if measured:
        parts.append(_table(("of the exported file", "measured"), measured.items()))
    if metrics:
        head = ("this model's probabilities, on the test set (in float32)", "")
        parts.append(_table(head, metrics.items()))
    cost = network.facts.get("threshold_cost")
    if cost is not None:
        parts.append(
            f"The threshold of {network.threshold:.1%} was chosen on the validation split, where "
            f"{cost:.2%} of the right answers fall below it."
        )
    people = _PEOPLE.get(runs[0]["dataset"] if runs else "", _OTHERS)
    limits = _LIMITS.format(
        count=len(network.class_names),
        threshold=network.threshold,
        temperature=network.temperature,
        people=people,
    )
    parts += ["## Limits", limits, "## How it was trained", _training(runs)]
    return "\n\n".join(parts) + "\n"


def _summary(network, runs):
    what = " and ".join(sorted({run["arch"].upper() for run in runs})) or "network"
    many = f"an ensemble of {len(network.members)}" if len(network.members) > 1 else "one"
    data = ", ".join(sorted({run["dataset"] for run in runs})) or "unknown data"
    return (
        f"A recogniser of {len(network.class_names)} classes "
        f"({', '.join(network.class_names)}): {many} {what}, trained on {data}. "
        f"{network.num_params:,} numbers (BatchNorm is folded away where it can be), "
        f"{network.multiply_adds:,} multiply-adds an image."
    )


def _contract(network):
    return (
        "Input `images`: float32 [n, 28, 28, 1] in [0, 1], any n. Output `logits`: float32 "
        f"[n, {len(network.class_names)}], in the order of the classes above; the softmax of "
        f"logits / {network.temperature:.6g} (the temperature) are the probabilities."
        f"\n\n{PREPROCESSING}"
    )


def _reached(run):
    rows = [
        ("test accuracy", f"{run['test_accuracy']:.2%}"),
        ("test errors", f"{run['test_errors']:,} of {run['test_count']:,}"),
        ("test loss, nats", f"{run['test_loss']:.4f}"),
        ("validation accuracy", f"{run['validation_accuracy']:.2%}"),
    ]
    return _table((f"{run['arch']}, seed {run['seed']}", ""), rows)


def _training(runs):
    lines = []
    for run in runs:
        config, versions = run.get("config", {}), run.get("versions", {})
        lines.append(
            f"- {run['arch']}, preset {run['preset']}, seed {run['seed']}: {run['epochs']:g} "
            f"epochs of {run['dataset']} {run.get('dataset_version', '')} (SHA-256 "
            f"`{run['dataset_sha256'][:16]}...`) in batches of {run['batch_size']}; "
            f"{config.get('optimizer', '?')}, learning rate {config.get('learning_rate', '?')}, "
            f"augmentation {config.get('augment', '?')}; parameters "
            f"`{run['params_sha256'][:16]}...`; on {run['device']}, "
            f"jax {versions.get('jax', run['jax_version'])}."
        )
    return "\n".join(lines) or "Not known."


def _table(head, rows):
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])
