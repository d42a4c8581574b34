"""MODEL_CARD.md: what an exported model is, how accurate it is, and its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from digits_jax.deploy.archive import PREPROCESSING
from digits_jax.deploy.network import Network
from digits_jax.formatting import markdown, markdown_table, template

# Who wrote the images of a data set.
_PEOPLE = {
    "mnist": "MNIST was written by employees of a US census bureau and by US high-school students "
    "around 1990: it has no other schools of handwriting.",
    "digits": "The embedded digits were written by 43 people on tablets in Turkey in the 1990s, "
    "and are enlarged from 8x8 pixels: few writers, and few details.",
    "strokes": "The drawn digits have no writers: a program draws them in ways that are usual in "
    "other countries.",
}
_OTHERS = "Look at the images of its data set before you trust it with others."


def model_card(
    network: Network,
    *,
    files: Mapping[str, str],
    metrics: Mapping[str, str],
    measured: Mapping[str, str],
) -> str:
    """Writes a model card in Markdown.

    Args:
      network: with the facts that `load_network` gives.
      files: names of the files beside it, and what each holds.
      metrics: of the network's probabilities on the test set, by name.
      measured: of the exported file, by name.

    Reference:
      Mitchell et al., Model Cards for Model Reporting, 2019.
    """
    runs = _escaped(network.facts.get("runs", ()))
    names = runs[0]["dataset"].split("+") if runs else [""]
    return template(Path(__file__).with_name("model_card.md.j2")).render(
        network=network,
        name=markdown(network.name),
        classes=_escaped(network.class_names),
        kinds=" and ".join(sorted({run["arch"].upper() for run in runs})),
        data=", ".join(sorted({run["dataset"] for run in runs})),
        cost=network.facts.get("threshold_cost"),
        people=" ".join(dict.fromkeys(_PEOPLE.get(name, _OTHERS) for name in names)),
        preprocessing=PREPROCESSING,
        runs=runs,
        files=files,
        metrics=metrics,
        measured=measured,
        table=markdown_table,
    )


def _escaped(value: Any) -> Any:
    """Escapes the untrusted texts of a run's files."""
    if isinstance(value, str):
        return markdown(value)
    if isinstance(value, Mapping):
        return {key: _escaped(each) for key, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, list | tuple) else value
