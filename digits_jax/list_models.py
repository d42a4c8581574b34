"""Lists the networks that the package carries: digits-jax models"""

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass

from digits_jax.cli import leave, parse, run_program
from digits_jax.fields import Switch


@dataclass(frozen=True)
class Arguments:
    """What to print."""

    json: Switch = False
    """Print the cards as JSON."""


def main(argv: Sequence[str]) -> None:
    """Parses, prints."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    from digits_jax.runs.pretrained import pretrained_names, read_card

    cards = [read_card(name) for name in pretrained_names()]
    if arguments.json:
        print(json_module.dumps(cards, indent=2))
        return
    columns = ("name", "parameters", "size", "test accuracy", "trained on")
    rows = [
        (
            card["name"],
            f"{card['parameters']:,}",
            f"{card['bytes'] / 1000:,.0f} kB",
            f"{card['test_accuracy']:.2%}",
            card["trained_on"],
        )
        for card in cards
    ]
    for row in (columns, *rows):
        print("{:6}  {:>10}  {:>7}  {:>13}  {}".format(*row))


if __name__ == "__main__":
    leave(run_program(main))
