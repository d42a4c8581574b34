"""One self-contained web page that runs the models: it opens from disk and requests nothing.

The page's parts are in ``page_template/``: HTML, a style sheet and plain JavaScript, all of which
go into the one file, with the networks' layers as JSON and their arrays as base64 of little-endian
float32. Its Content-Security-Policy names the hashes of its style and script and allows nothing
else: no request, no other script.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from digits_jax.deploy.network import Network, check_classes
from digits_jax.deploy.rejection import knows_digits, load_rejector
from digits_jax.errors import DataError
from digits_jax.files import replace_file
from digits_jax.runs.pretrained import quantize

MAX_NETWORKS = 4
_MARK = b'<meta name="generator" content="digits_jax">'
_SCRIPTS = ("network", "place", "file", "ink", "digit", "frames", "draw", "view", "main")
_RUN_FACTS = ("arch", "preset", "dataset", "test_accuracy", "test_count")


def write_page(networks: Sequence[Network], path: str | Path, *, int8: bool = False) -> int:
    """Writes a page on which one draws a digit and the networks predict it.

    The same networks give the same bytes. The file appears complete or not at all.

    Args:
      networks: 1 to 4, of the same classes; each may be an ensemble.
      path: of a new file, or of an earlier page.
      int8: round the kernels to 8 bits, for a quarter of the size.

    Returns:
      The number of bytes written.

    Raises:
      DataError: the networks don't fit on one page, or the path can't be written.
    """
    path = Path(path)
    if not 1 <= len(networks) <= MAX_NETWORKS:
        raise DataError(
            f"a page shows 1 to {MAX_NETWORKS} networks, not {len(networks)}; give other runs"
        )
    check_classes(networks, "a page")
    if path.is_file() and _MARK not in path.read_bytes()[:4000]:
        raise DataError(f"{path}: exists, and isn't a page of this program; give another file")
    data = to_html(networks, int8=int8).encode()
    try:
        replace_file(path, data)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror}); give another file") from None
    return len(data)


def to_html(networks: Sequence[Network], *, int8: bool = False) -> str:
    """Returns the page as text, to be written as UTF-8."""
    style = _part("style.css")
    # A module has its own namespace, and starts when the page is parsed.
    script = "\n".join(_part(f"{name}.js") for name in _SCRIPTS)
    policy = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    of_digits = all(map(knows_digits, networks))
    return Template(_part("page.html")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        title=escape(f"Draw{' a digit' if of_digits else ''}: the models classify it"),
        style=style,
        script=script,
        networks=_to_json(_describe(networks, int8)),
        rejector=_to_json(_describe([load_rejector()], True) if of_digits else []),
    )


def _part(name: str) -> str:
    folder = resources.files("digits_jax.deploy") / "page_template"
    return (folder / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _describe(networks: Sequence[Network], int8: bool) -> list[dict[str, Any]]:
    names = [network.name for network in networks]
    return [
        {
            # Folders of runs may have equal names.
            "name": f"{network.name} ({i})" if names.count(network.name) > 1 else network.name,
            "class_names": network.class_names,
            "threshold": float(network.threshold),
            "temperature": float(network.temperature),
            "parameters": network.num_params,
            "runs": [
                {name: run.get(name) for name in _RUN_FACTS}
                for run in network.facts.get("runs", ())
            ],
            "members": [
                [
                    {"kind": layer.kind, "arrays": _texts(layer.arrays, int8)}
                    for layer in member.layers
                ]
                for member in network.members
            ],
        }
        for i, network in enumerate(networks, 1)
    ]


def _texts(arrays: Mapping[str, np.ndarray], int8: bool) -> dict[str, str]:
    """Arrays in base64: float32, but a kernel that has a scale is int8."""
    if int8 and "kernel" in arrays:
        kernel, scale = quantize(arrays["kernel"])
        arrays = {**arrays, "kernel": kernel, "scale": scale}
    little = {name: array.astype(array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    return {name: b64encode(array.tobytes()).decode() for name, array in little.items()}


def _to_json(value: object) -> str:
    """JSON that ends no script element, whatever its texts hold."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
