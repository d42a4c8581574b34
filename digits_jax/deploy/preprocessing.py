"""preprocess.py: how a picture becomes a model's input, in one file without this package."""

import ast
from collections.abc import Iterable
from importlib import resources

_VISION = "digits_jax.vision."
_ROOTS = ("read_grey", "read_digit")
_HEAD = '''"""Makes the input of an exported model of a picture: NumPy, SciPy and Pillow.

    images = preprocess("photo.jpg")  # float32 [1, 28, 28, 1] in [0, 1]; None: there is no digit

Written by digits_jax from its own code: the result is that of Predictor.read.
"""
'''
_TAIL = '''

class DataError(ValueError):
    """A picture can't be read."""


def preprocess(picture: Picture) -> np.ndarray | None:
    """Makes a model's input of a file's path or bytes, a PIL image, or an array of any size."""
    image = read_digit(read_grey(picture))
    return None if image is None else (image[None, :, :, None] / 255).astype(np.float32)
'''


def preprocess_source() -> str:
    """Collects from `digits_jax.vision` what reading one digit needs, as the text of a module."""
    imports, body = {}, []  # name -> statement; (names it defines, names it uses, text)
    for text in _modules(["decode", "segment"]):
        lines, end = text.splitlines(), 0
        for node in ast.parse(text).body:
            start, end = end, node.end_lineno or 0  # with the comments above it
            names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
            if isinstance(node, ast.Import):
                imports |= {each.asname or each.name: ast.unparse(node) for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                if not str(node.module).startswith("digits_jax"):
                    new = {
                        each.name: f"from {node.module} import {each.name}" for each in node.names
                    }
                    imports |= new
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
                stored = {each.id for each in names if isinstance(each.ctx, ast.Store)}
                defined = {getattr(node, "name", "")} if hasattr(node, "name") else stored
                used = {each.id for each in names if isinstance(each.ctx, ast.Load)}
                body.append((defined, used, "\n".join(lines[start:end])))
    wanted, size = set(_ROOTS), 0
    while size < len(wanted):
        size = len(wanted)
        wanted |= {name for defined, used, _ in body if defined & wanted for name in used}
    heads = sorted(text for name, text in imports.items() if name in wanted)
    texts = (text for defined, _, text in body if defined & wanted)
    return "\n".join([_HEAD, *heads, *texts, _TAIL])


def _modules(names: Iterable[str]) -> Iterable[str]:
    """The text of modules of `digits_jax.vision`, each after those that it imports."""
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        path = resources.files("digits_jax.vision") / f"{name}.py"
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(_VISION):
                add(str(node.module).removeprefix(_VISION))
        texts.setdefault(name, text)

    for name in names:
        add(name)
    return texts.values()
