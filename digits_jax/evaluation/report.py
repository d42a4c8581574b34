"""The folder that a comparison leaves: overlap.json, report.md, report.html, PNGs, examples.csv.

Everything is written into a folder beside the wanted one, which is then renamed: a report is
there whole or not at all.
"""

import csv
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from digits_jax.errors import DataError
from digits_jax.evaluation.calibration import negative_log_likelihood, softmax
from digits_jax.evaluation.comparison import Comparison
from digits_jax.evaluation.figures import Picture, report_pictures
from digits_jax.evaluation.page import Page, Shown, to_html, to_markdown
from digits_jax.evaluation.style import DARK, LIGHT
from digits_jax.evaluation.summary import headline, summary_lines, tables

OVERLAP = "overlap.json"


def overlap_json(found: Comparison) -> str:
    """The text of overlap.json.

    Args:
      found: of `compare`.

    Returns:
      JSON, indented; what is undefined is null, with the reason under `undefined`.
    """
    return json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n"


def examples_csv(found: Comparison) -> str:
    """One row per test image: what every run answers, how sure it is, its loss, right or wrong.

    Args:
      found: of `compare`.

    Returns:
      CSV with a header: index, label, then for every run `NAME prediction`, `NAME confidence`
      (a fraction), `NAME loss` (nats), `NAME right` (1 or 0).
    """
    header, columns = ["index", "label"], [np.arange(found.labels.size), found.labels]
    for run in (*found.a.runs, *found.b.runs):
        answers = run.logits.argmax(axis=1)
        header += [f"{run.name} {what}" for what in ("prediction", "confidence", "loss", "right")]
        columns.append(answers)
        columns.append([f"{p:.6f}" for p in softmax(run.logits).max(axis=1)])
        columns.append([f"{x:.6f}" for x in negative_log_likelihood(found.labels, run.logits)])
        columns.append((answers == found.labels).astype(int))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def check_output(directory, overwrite: bool = False) -> Path:
    """Refuses a folder that a report can't go to, before the work is done.

    Args:
      directory: where the report is wanted.
      overwrite: an older report there may be replaced; nothing else ever is.

    Returns:
      It as a Path.

    Raises:
      DataError: it holds something, is a file, or can't be made.
    """
    if not str(directory):
        raise DataError("-o is empty; give the name of an empty or new folder")
    path = Path(directory)
    if path.is_dir() and any(path.iterdir()):
        ours = (path / OVERLAP).is_file()
        if not ours:
            raise DataError(f"{path} holds other files; give an empty or new folder to -o")
        if not overwrite:
            raise DataError(
                f"{path} already holds a comparison; give another folder to -o, or --overwrite"
            )
    elif path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; give an empty or new folder to -o")
    parent = next(p for p in path.absolute().parents if p.exists())
    try:
        # Tried, not asked: to root every folder seems writable, those of /proc too.
        Path(tempfile.mkdtemp(dir=parent)).rmdir()
    except OSError as error:
        raise DataError(
            f"{path} can't be written: {parent} isn't writable ({error.strerror}); "
            "give another folder to -o"
        ) from None
    return path


def write_report(
    found: Comparison,
    directory,
    *,
    class_names=None,
    images=None,
    notes: tuple[str, ...] = (),
    overwrite: bool = False,
) -> Path:
    """Write everything that there is to say about a comparison into a folder.

    Args:
      found: of `compare`.
      directory: the folder; its parents are made.
      class_names: a name for each class; by default their numbers.
      images: uint8 [n, height, width, 1], the test set; without it the sheets are left out.
      notes: sentences for the end of the report, such as the command that made it.
      overwrite: replace an older report.

    Returns:
      The folder.

    Raises:
      DataError: as `check_output`.
    """
    path = check_output(directory, overwrite)
    page, figures = _page(found, class_names, images, notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        aside.chmod(0o755)  # mkdtemp makes it ours alone; a report is for others
        for name, text in (
            (OVERLAP, overlap_json(found)),
            ("examples.csv", examples_csv(found)),
            ("report.md", to_markdown(page)),
            ("report.html", to_html(page)),
        ):
            (aside / name).write_text(text, encoding="utf-8", newline="\n")
        for shown in figures:
            (aside / f"{shown.name}.png").write_bytes(shown.light)
        _swap(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return path


def _page(found: Comparison, class_names, images, notes) -> tuple[Page, list[Shown]]:
    classes = [str(name) for name in class_names or range(found.num_classes)]
    if len(classes) != found.num_classes:
        raise DataError(
            f"{len(classes)} class names for {found.num_classes} classes; give one for each"
        )
    short = classes
    if max(map(len, classes)) > 3:
        short = [str(i) for i in range(len(classes))]
        named = ", ".join(f"{i} {name}" for i, name in enumerate(classes))
        notes = (f"The classes in the figures: {named}.", *notes)
    if images is not None and len(images) != found.labels.size:
        raise DataError(
            f"{len(images)} images for {found.labels.size} labels; give those of the same test set"
        )
    drawn, left_out = report_pictures(found, short, images)
    figures = [_render(picture) for picture in drawn]
    notes = (*(f"Left out: {reason}." for reason in left_out), *notes)
    lines = summary_lines(found, classes)
    return Page(headline(found), lines, figures, tables(found, classes), list(notes)), figures


def _render(picture: Picture) -> Shown:
    pngs = []
    for theme in (LIGHT, DARK):
        figure = picture.draw(theme=theme)
        pngs.append(_png(figure))
    title = " ".join(figure.get_suptitle().split())
    width, height = (int(side * figure.dpi) for side in figure.get_size_inches())
    size = (width, height)
    return Shown(picture.name, title, picture.caption, *pngs, size, picture.wide)


def _png(figure) -> bytes:
    """PNG with a palette: a third of the size, and no difference to see."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    small = picture.quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def _swap(aside: Path, path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        old = aside.with_name(f"{aside.name}.old")
        path.rename(old)
        try:
            aside.rename(path)
        except BaseException:  # Ctrl-C too: the older report goes back to its place
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return
    if path.is_dir():
        path.rmdir()
    aside.rename(path)
