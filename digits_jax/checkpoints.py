"""Lists a run's checkpoints and verifies them: python -m digits_jax.checkpoints RUN"""

import contextlib
import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import leave, parse, run_program
from digits_jax.errors import CheckpointError
from digits_jax.fields import Switch
from digits_jax.formatting import plain
from digits_jax.runs import folder
from digits_jax.runs.ensembles import member_path


@dataclass(frozen=True)
class Arguments:
    """What to list."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    json: Switch = False
    """Print JSON."""


def main(argv: Sequence[str]) -> int:
    """Parses, verifies every checkpoint, prints; 1 where one can't be restored."""
    arguments = parse(Arguments, argv, doc=__doc__ or "")
    run, path = arguments.run, arguments.run / folder.CHECKPOINTS
    folder.check_run(run)
    if not path.exists() and (member := member_path(run, 0)).is_dir():
        raise CheckpointError(f"{run}: is an ensemble; give one of its members, like {member}")
    rows = describe(path)
    good = [row["step"] for row in rows if row["damage"] is None]
    if arguments.json:
        print(json_module.dumps({"run": str(run), "checkpoints": rows}, indent=2))
    else:
        for row in rows:
            saved, size = row["saved"].replace("T", " "), f"{row['bytes'] / 1e6:.3f} MB"
            print(f"step {row['step']:>7}  {size:>12}  {saved}  {plain(row['damage'] or 'good')}")
        if good:
            steps = None
            with contextlib.suppress(CheckpointError):
                steps = folder.read_results(run).get("steps")
            finished = "the run is finished, at" if steps == good[-1] else "training resumes at"
            print(f"{finished} step {good[-1]}")
        elif not rows:
            print(f"{path}: no checkpoint yet")
    if rows and not good:
        print(f"error: none of {path} can be restored; put back a copy of one", file=sys.stderr)
    for entry in sorted(path.glob("damaged-*")):
        print(f"set aside: {plain(entry)}", file=sys.stderr)
    return 1 if len(good) < len(rows) else 0


def describe(path: Path) -> list[dict[str, Any]]:
    """Describes what a folder of checkpoints holds, oldest first.

    Returns:
      For each: "step", "bytes", "saved" (ISO time), "damage" (None, or what is wrong).
    """
    from digits_jax.hardware import check_backend
    from digits_jax.runs.checkpoint import list_steps
    from digits_jax.training.resuming import make_verifier

    check_backend()
    verify, rows = make_verifier(path.parent), []
    for step in list_steps(path):
        with contextlib.suppress(FileNotFoundError):  # removed by a training meanwhile
            entry = path / str(step)
            saved = datetime.fromtimestamp(entry.lstat().st_mtime).isoformat(timespec="seconds")
            size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            try:
                damage = verify(step)
            except CheckpointError as error:
                damage = str(error)
            entry.lstat()
            rows.append({"step": step, "bytes": size, "saved": saved, "damage": damage})
    return rows


if __name__ == "__main__":
    leave(run_program(main))
