"""Lists a run's checkpoints, and which of them are whole: python -m digits_jax.checkpoints RUN"""

import contextlib
import json as json_module
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.config import read_config
from digits_jax.errors import CheckpointError, DigitsError
from digits_jax.runs import folder
from digits_jax.runs.ensemble import member_path


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
    if not path.exists() and member_path(arguments.run, 0).is_dir():
        member = member_path(arguments.run, 0)
        raise CheckpointError(
            f"{arguments.run}: is an ensemble; give one of its members, like {member}"
        )
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
        _say_where_it_goes_on(arguments.run, rows)
    for name in sorted(entry.name for entry in path.glob("damaged-*")):
        print(f"set aside: {path / name}", file=sys.stderr)
    return 1 if any(row["damage"] for row in rows) else 0


def _say_where_it_goes_on(run, rows):
    good = [row["step"] for row in rows if not row["damage"]]
    if not good:
        path = run / folder.CHECKPOINTS
        print(f"error: none of {path} can be restored; put back a copy of one", file=sys.stderr)
        return
    steps = None
    with contextlib.suppress(DigitsError, KeyError):
        steps = folder.read_results(run)["steps"]
    finished = "the run is finished, at" if steps == good[-1] else "training would go on at"
    print(f"{finished} step {good[-1]}")


def describe(path: Path) -> list[dict[str, Any]]:
    """What a folder of checkpoints holds, oldest first.

    Returns:
      For each: "step", "bytes", "saved" (ISO time), "damage" (None, or what is wrong).
    """
    from digits_jax.runs.checkpoint import inspect_step, list_steps
    from digits_jax.runs.manifest import DamagedError

    config = read_config(path.parent)[0].to_dict()
    del config["teacher"]  # which may have moved
    rows, own = [], json_module.loads(json_module.dumps(config))
    for step in list_steps(path):
        entry, damage, size, saved = path / str(step), None, 0, "-"
        try:
            found = inspect_step(path, step)
            other = _other_run(found.values, own)
            damage = f"is of another run ({other})" if other else None
        except DamagedError as error:
            damage = str(error)
        with contextlib.suppress(OSError):
            saved = datetime.fromtimestamp(entry.lstat().st_mtime).isoformat(timespec="seconds")
            size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        if damage and not os.path.lexists(entry):
            continue  # dropped by a training that goes on meanwhile
        rows.append({"step": step, "bytes": size, "saved": saved, "damage": damage})
    return rows


def _other_run(values, own):
    """The first setting in which a checkpoint's run isn't this one, as NAME=VALUE."""
    run = values.get("run")
    for name, value in run.items() if isinstance(run, dict) else ():
        if name in own and own[name] != value:
            return f"{name}={value}"
    return None


def _size(count):
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(run_program(main))
