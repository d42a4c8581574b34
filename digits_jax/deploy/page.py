"""One self-contained web page that runs the models: it opens from disk and asks nobody.

The page's parts lie in ``page_template/``: HTML, a style sheet and plain JavaScript, all of which
are put into the one file, with the networks' layers as JSON and their weights as base64 of
little-endian float32. Its Content-Security-Policy names the hashes of its style and script and
allows nothing else: no request, no other script.
"""

import dataclasses
import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from digits_jax.deploy.network import Network, check_classes
from digits_jax.errors import DataError
from digits_jax.runs.folder import replace_file

MOST_NETWORKS = 4
_MARK = b'<meta name="generator" content="digits_jax">'
_SCRIPTS = ("network", "place", "file", "ink", "digit", "draw", "view", "main")
_RUN_FACTS = ("arch", "preset", "dataset", "test_accuracy", "test_count")


def write_page(networks: Sequence[Network], path: str | Path) -> int:
    """Writes a page on which one draws a digit and the networks answer.

    The same networks give the same bytes. The file is written aside and renamed.

    Args:
      networks: 1 to 4, of the same classes; each may be an ensemble.
      path: the file to write.

    Returns:
      The bytes written.

    Raises:
      DataError: none or too many networks, networks of other classes, or a path that can't
        be written.

    Example:
      >>> import tempfile
      >>> from digits_jax.deploy.network import Layer
      >>> arrays = {"kernel": np.zeros((784, 2), np.float32), "bias": np.zeros(2, np.float32)}
      >>> layers = (Layer("flatten"), Layer("dense", arrays))
      >>> network = Network("nothing", ("0", "1"), (layers,), 0.5, {})
      >>> path = Path(tempfile.mkdtemp(), "digits.html")
      >>> write_page([network], path) == path.stat().st_size
      True
    """
    _check(networks)
    data = to_html(networks).encode()
    _write(Path(path), data)
    return len(data)


def _check(networks):
    if not 1 <= len(networks) <= MOST_NETWORKS:
        raise DataError(
            f"a page shows 1 to {MOST_NETWORKS} networks, not {len(networks)}; give other runs"
        )
    check_classes(networks, "a page")


def _write(path, data):
    if path.is_file() and _MARK not in path.read_bytes()[:4000]:
        raise DataError(f"{path}: is there already, and is no page of this program; give another")
    try:
        replace_file(path, lambda file: file.write(data))
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error.strerror}); give another file with -o"
        ) from None


def to_html(networks: Sequence[Network]) -> str:
    """The page as text.

    Args:
      networks: of the same classes; their names and numbers are escaped.

    Returns:
      HTML, to be written as UTF-8.
    """
    style = _part("style.css")
    # A module: its names are its own, and it starts when the page is there.
    script = "\n".join(_part(f"{name}.js") for name in _SCRIPTS)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return Template(_part("page.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        title=escape(_title(networks[0].class_names)),
        style=style,
        script=script,
        networks=_to_json([_describe(network) for network in _told_apart(networks)]),
    )


def _part(name):
    return (resources.files(__package__) / "page_template" / name).read_text(encoding="utf-8")


def _hash(text):
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(class_names):
    digits = all(len(name) == 1 and name.isdecimal() for name in class_names)
    return "Draw a digit, and the models read it" if digits else "Draw, and the models read it"


def _told_apart(networks):
    """Folders of runs may have equal names."""
    names = [network.name for network in networks]
    return [
        dataclasses.replace(network, name=f"{network.name} ({i + 1})")
        if names.count(network.name) > 1
        else network
        for i, network in enumerate(networks)
    ]


def _describe(network):
    runs = network.facts.get("runs", ())
    return {
        "name": network.name,
        "class_names": network.class_names,
        "threshold": float(network.threshold),
        "temperature": float(network.temperature),
        # As trained: folding takes some away.
        "parameters": sum(run.get("num_params", 0) for run in runs) or network.num_params,
        "runs": [{name: run.get(name) for name in _RUN_FACTS} for run in runs],
        "members": [
            [
                {
                    "kind": layer.kind,
                    "arrays": {name: _floats(array) for name, array in layer.arrays.items()},
                }
                for layer in member
            ]
            for member in network.members
        ],
    }


def _floats(array):
    return b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode()


def _to_json(value):
    """JSON that ends no script element, whatever its texts hold."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
