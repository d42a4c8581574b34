"""MkDocs hooks: pages and results that lie outside of docs/ are part of the site."""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = {
    "RELIABILITY.md": "reliability.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/README.md": "studies.md",
}
RESULTS = REPOSITORY / "experiments/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds those pages, and the results that pages link."""
    outside = {REPOSITORY / path: page for path, page in PAGES.items()}
    outside |= {
        path: f"results/{path.relative_to(RESULTS).as_posix()}"
        for path in RESULTS.rglob("*")
        if path.suffix in {".md", ".json", ".png"}
    }
    for path, uri in outside.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for path in (REPOSITORY / "docs/notebooks").glob("*.ipynb"):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook_page(path)))
    return files


def notebook_page(path: Path) -> str:
    """Returns a notebook's text and code as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts)


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Points links at the site; of a link to source code the text is left."""
    uris = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    if not page.file.abs_src_path:  # made here
        return markdown
    folder = Path(page.file.abs_src_path).resolve().parent

    def relink(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        if ":" in target:
            return match[0]
        uri = uris.get((folder / target).resolve())
        if uri is None:
            return text
        return f"[{text}]({os.path.relpath(uri, os.path.dirname(page.file.src_uri))}{anchor or ''})"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", relink, markdown)


def on_post_build(config: MkDocsConfig, **_: Any) -> None:
    """Writes the drawing page, with the pretrained pair, beside the pages."""
    from digits_jax.deploy.network import load_pretrained
    from digits_jax.deploy.page import write_page

    networks = [load_pretrained(name) for name in ("cnn", "mlp")]
    write_page(networks, Path(config.site_dir) / "draw.html", int8=True)
