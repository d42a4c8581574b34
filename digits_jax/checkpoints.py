"""Lists a run's checkpoints, and which of them are whole: python -m digits_jax.checkpoints RUN"""

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import InputError
from digits_jax.runs import folder


@dataclass(frozen=True)
class Arguments:
    """What to list."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    json: bool = False
    """Print JSON."""


def main(argv: Sequence[str]) -> int:
    """Parses, checks every file of every checkpoint, prints; 1 where one is damaged."""
    arguments = parse(Arguments, argv, doc=__doc__)
    folder.check_run(arguments.run)
    path = arguments.run / folder.CHECKPOINTS
    rows = describe(path)
    if arguments.json:
        print(json_module.dumps({"run": str(arguments.run), "checkpoints": rows}, indent=2))
    elif not rows:
        print(f"{path}: no checkpoint yet")
    else:
        width = max(len(str(row["step"])) for row in rows)
        for row in rows:
            said = row["damage"] or "good"
            saved = row["saved"].replace("T", " ")
            print(f"step {row['step']:>{width}}  {_size(row['bytes']):>8}  {saved}  {said}")
        good = [row["step"] for row in rows if not row["damage"]]
        print(
            f"training would go on at step {good[-1]}"
            if good
            else f"error: none of {path} can be restored; put back a copy of one",
            file=sys.stdout if good else sys.stderr,
        )
    for name in sorted(entry.name for entry in path.glob("damaged-*")):
        print(f"set aside: {path / name}", file=sys.stderr)
    return 1 if any(row["damage"] for row in rows) else 0


def describe(path: Path) -> list[dict[str, Any]]:
    """What a folder of checkpoints holds, oldest first.

    Returns:
      For each: "step", "bytes", "saved" (ISO time), "damage" (None, or what is wrong).
    """
    from digits_jax.runs.checkpoint import inspect_step, list_steps
    from digits_jax.runs.manifest import DamagedError

    rows = []
    for step in list_steps(path):
        try:
            inspect_step(path, step)
            damage = None
        except DamagedError as error:
            damage = str(error)
        try:
            entry = path / str(step)
            saved = datetime.fromtimestamp(entry.stat().st_mtime).isoformat(timespec="seconds")
            size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        except OSError as error:  # dropped by a training that goes on meanwhile
            raise InputError(f"{path / str(step)}: can't be read ({error.strerror})") from None
        rows.append({"step": step, "bytes": size, "saved": saved, "damage": damage})
    return rows


def _size(count):
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(run_program(main))
