"""MODEL_CARD.md: what somebody who meets an exported model must know."""

from collections.abc import Mapping, Sequence
from typing import Any

from digits_jax.deploy.archive import PREPROCESSING
from digits_jax.deploy.network import Network
from digits_jax.formatting import markdown_table, mean_sd

_LIMITS = """\
- It predicts one of its {count} classes whatever it is shown. Only a low probability, and not
  always, tells what isn't one of them. Below {threshold:.1%} a prediction isn't confident.
- It takes one character at a time, placed as above. Text, several digits in one image, and digits
  that weren't placed so, are misclassified without a warning.
- Its test images come from where its training images come from; other hands, other habits (a
  crossed 7, a 1 with a long flag) and cameras are harder.
- {people}
- A probability is the softmax of the logits divided by {temperature:.3f}, which was fitted on the
  validation split: it holds for images like those."""

_PEOPLE = {
    "mnist": "MNIST was written by employees of a US census bureau and by US high-school students "
    "around 1990: it has no other schools of handwriting.",
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
    """Writes a model card in Markdown.

    Args:
      network: with the facts that `load_network` gives.
      files: names of the files beside it, and what each holds.
      metrics: of the network's probabilities on the test set, by name.
      seeds: test accuracies of runs that differ in the seed alone, this one's included.
      measured: of the exported file, by name.

    Reference:
      Mitchell et al., Model Cards for Model Reporting, 2019.
    """
    runs = list(network.facts.get("runs", ()))
    classes, temperature = network.class_names, network.temperature
    kinds = " and ".join(sorted({run["arch"].upper() for run in runs})) or "network"
    many = f"an ensemble of {len(network.members)}" if len(network.members) > 1 else "one"
    data = ", ".join(sorted({run["dataset"] for run in runs})) or "unknown data"
    parts = [
        f"# {network.name}",
        f"A recogniser of {len(classes)} classes ({', '.join(classes)}): {many} {kinds}, trained "
        f"on {data}. {network.num_params:,} parameters, {network.multiply_adds:,} multiply-adds an "
        "image.",
        "## Files",
        markdown_table(files.items(), ("file", "what"), "ll"),
        "## Input and output",
        "Input `images`: float32 [n, 28, 28, 1] in [0, 1], any n. Output `logits`: float32 "
        f"[n, {len(classes)}], in the order of the classes above; the softmax of logits / "
        f"{temperature:.6g} (the temperature) are the probabilities.",
        PREPROCESSING,
        "## Accuracy",
        *(_accuracy(run) for run in runs),
    ]
    if len(seeds) > 1:
        parts.append(
            f"Over {len(seeds)} runs that differ in their seed alone: test accuracy "
            f"{mean_sd(seeds, factor=100)}% (mean ± standard deviation, last step)."
        )
    if measured:
        parts.append(markdown_table(measured.items(), ("of the exported file", "measured"), "ll"))
    if metrics:
        head = "this model's probabilities, on the test set (in float32)"
        parts.append(markdown_table(metrics.items(), (head, ""), "ll"))
    cost = network.facts.get("threshold_cost")
    if cost is not None:
        parts.append(
            f"The threshold of {network.threshold:.1%} was chosen on the validation split, where "
            f"{cost:.2%} of the correct predictions fall below it."
        )
    limits = _LIMITS.format(
        count=len(classes),
        threshold=network.threshold,
        temperature=temperature,
        people=_PEOPLE.get(runs[0]["dataset"] if runs else "", _OTHERS),
    )
    training = "\n".join(map(_training, runs)) or "Not known."
    return "\n\n".join([*parts, "## Limits", limits, "## Training", training]) + "\n"


def _accuracy(run: Mapping[str, Any]) -> str:
    rows = [
        ("test accuracy", f"{run['test_accuracy']:.2%}"),
        ("test errors", f"{run['test_errors']:,} of {run['test_count']:,}"),
        ("test loss, nats", f"{run['test_loss']:.4f}"),
        ("validation accuracy", f"{run['validation_accuracy']:.2%}"),
    ]
    return markdown_table(rows, (f"{run['arch']}, seed {run['seed']}", ""), "ll")


def _training(run: Mapping[str, Any]) -> str:
    config, versions = run.get("config", {}), run.get("versions", {})
    return (
        f"- {run['arch']}, preset {run['preset']}, seed {run['seed']}: {run['epochs']:g} "
        f"epochs of {run['dataset']} {run.get('dataset_version', '')} (SHA-256 "
        f"`{run['dataset_sha256'][:16]}...`) in batches of {run['batch_size']}; "
        f"{config.get('optimizer', '?')}, learning rate {config.get('learning_rate', '?')}, "
        f"augmentation {config.get('augment', '?')}; parameters "
        f"`{run['params_sha256'][:16]}...`; on {run['device']}, "
        f"jax {versions.get('jax', run['jax_version'])}."
    )
