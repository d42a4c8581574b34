"""The report as one web page and as Markdown: text in, text out.

The page is one file: pictures inside, no script, no request to anywhere. It reads on a phone
(wide figures and tables scroll in their own box) and follows the reader's dark mode, for
which each figure is there twice.
"""

from base64 import b64encode
from dataclasses import dataclass
from html import escape

from digits_jax.evaluation.summary import Table

_STYLE = """
:root { color-scheme: light dark; --bg: #fff; --text: #1c1c1c; --muted: #5c5c5c;
  --line: #ddd; --card: #f6f6f4; }
@media (prefers-color-scheme: dark) { :root { --bg: #17191d; --text: #ececec;
  --muted: #a8a8a8; --line: #3a3d43; --card: #212429; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--bg);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
ul.summary { list-style: none; margin: 0; padding: .25rem 1rem; background: var(--card);
  border-radius: .5rem; }
ul.summary li { padding: .5rem 0; border-bottom: 1px solid var(--line); }
ul.summary li:last-child { border-bottom: 0; }
.figures { display: grid; gap: 2.5rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure.wide { grid-column: 1 / -1; }
figcaption, .note, footer { color: var(--muted); font-size: .9rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid; }
img { display: block; width: 100%; max-width: 36rem; height: auto; }
.wide img { max-width: none; min-width: 44rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
td + td, th + th { padding-left: .5rem; }
td + td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; min-width: 8rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
"""


@dataclass(frozen=True)
class Shown:
    """A figure as PNG bytes, light and dark; title is its finding, size in pixels."""

    name: str
    title: str
    caption: str
    light: bytes
    dark: bytes
    size: tuple[int, int]
    wide: bool


@dataclass(frozen=True)
class Page:
    """What both forms of the report say."""

    headline: str
    summary: list[str]
    figures: list[Shown]
    tables: list[Table]
    notes: list[str]


def to_html(page: Page) -> str:
    """The page as one self-contained HTML file.

    Args:
      page: what it says; all text is escaped.

    Returns:
      HTML, UTF-8.

    Example:
      >>> "<h1>A &lt; B</h1>" in to_html(Page("A < B", [], [], [], []))
      True
    """
    lines = "\n".join(f"<li>{escape(line)}</li>" for line in page.summary)
    figures = "\n".join(map(_figure, page.figures))
    tables = "\n".join(map(_table, page.tables))
    notes = "\n".join(f"<p>{escape(note)}</p>" for note in page.notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(page.headline)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(page.headline)}</h1>
<ul class="summary">
{lines}
</ul>
<h2>Figures</h2>
<div class="figures">
{figures}
</div>
<h2>Numbers</h2>
{tables}
</main>
<footer>
{notes}
</footer>
</body>
</html>
"""


def to_markdown(page: Page) -> str:
    """The same as Markdown; the figures are the PNG files beside it.

    Args:
      page: what it says.

    Returns:
      Markdown, UTF-8.

    Example:
      >>> print(to_markdown(Page("B is better", ["one"], [], [], [])).splitlines()[0])
      # B is better
    """
    parts = [f"# {_plain(page.headline)}", "\n".join(f"- {_plain(s)}" for s in page.summary)]
    parts += [
        f"## {_plain(figure.title)}\n\n![{_plain(figure.title)}]({figure.name}.png)\n\n"
        f"{_plain(figure.caption)}"
        for figure in page.figures
    ]
    for table in page.tables:
        rows = [table.header, tuple(["---"] + ["---:"] * (len(table.header) - 1)), *table.rows]
        text = "\n".join("| " + " | ".join(map(_plain, row)) + " |" for row in rows)
        parts.append(f"## {_plain(table.title)}\n\n{text}" + f"\n\n{_plain(table.note)}" * 1)
    parts += [_plain(note) for note in page.notes]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _figure(shown: Shown) -> str:
    light, dark = (_data(png) for png in (shown.light, shown.dark))
    width, height = shown.size
    box = '<div class="scroll" tabindex="0">' if shown.wide else "<div>"
    kind = ' class="wide"' if shown.wide else ""
    return f"""<figure id="{escape(shown.name)}"{kind}>
{box}<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">
<img src="{light}" width="{width}" height="{height}" alt="{escape(shown.title)}"></picture></div>
<figcaption>{escape(shown.caption)}</figcaption>
</figure>"""


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f"""<h2>{escape(table.title)}</h2>
<div class="scroll" tabindex="0"><table>
<thead><tr>{header}</tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p class="note">{escape(table.note)}</p>"""


def _data(png: bytes) -> str:
    return "data:image/png;base64," + b64encode(png).decode()


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, "\\" + sign)
    return text
