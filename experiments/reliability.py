"""Tries the faults that RELIABILITY.md promises to survive: python -m experiments.reliability"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.runs.folder import read_json, replace_file, write_json

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "RELIABILITY.md"
RESULTS = REPOSITORY / "experiments" / "results" / "reliability.json"
BEGIN, END = "<!-- tried -->\n", "<!-- /tried -->\n"


@dataclass(frozen=True)
class Arguments:
    """What to try."""

    only: str | None = None
    """Only the promises that hold this text; the others' rows stay as they were."""
    processes: int = 2
    """Tests that run at once."""


def main(argv: Sequence[str]) -> int:
    """Parses, runs the tests, prints and writes the table; 1 where something was lost."""
    arguments = parse(Arguments, argv, doc=__doc__)
    promises = read_promises(PAGE.read_text(encoding="utf-8"))
    if arguments.only:
        promises = {name: tests for name, tests in promises.items() if arguments.only in name}
    if not promises or arguments.processes < 1:
        raise ConfigError(
            f"--only={arguments.only} --processes={arguments.processes}: give a part of a promise "
            f"in {PAGE.name}, and 1 or more processes"
        )
    rows, seconds = try_all(promises, arguments.processes)
    if arguments.only:
        before = read_json(RESULTS)
        now = {row["promise"]: row for row in rows}
        rows = [now.get(row["promise"], row) for row in before["promises"]]
        seconds += before["seconds"]
    found = {
        "command": "python -m experiments.reliability",
        "seconds": round(seconds, 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "promises": rows,
    }
    text = table(found)
    print(text)
    write_json(RESULTS, found)
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    page = f"{head}{BEGIN}{text}\n{END}{tail}"
    replace_file(PAGE, lambda file: file.write(page.encode()))
    return 1 if any(row["lost"] for row in rows) else 0


def read_promises(page: str) -> dict[str, list[str]]:
    """Each promise of the page's first table, and the tests that it names.

    Example:
      >>> read_promises("| **It holds**, always. | never | `tests/a.py::b` `tests/c.py` |")
      {'It holds': ['tests/a.py::b', 'tests/c.py']}
    """
    rows = re.findall(r"^\| \*\*(.+?)\*\*.*\|(.*)\|$", page, re.M)
    return {name.rstrip(".:"): re.findall(r"`(tests/\S+)`", tests) for name, tests in rows}


def try_all(promises: dict[str, list[str]], processes: int) -> tuple[list[dict[str, Any]], float]:
    """Runs the tests of all promises; what was tried, survived, lost and skipped for each."""
    tests = sorted({test for named in promises.values() for test in named})
    with tempfile.TemporaryDirectory() as scratch:
        log, report = Path(scratch) / "faults.jsonl", Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-n", str(processes), "-m", "slow or not slow"]
        command += ["-o", "junit_family=xunit1", f"--junitxml={report}", *tests]
        started = time.perf_counter()
        # What pytest prints is the progress.
        subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "DIGITS_JAX_FAULTS_LOG": str(log)},
            check=False,
        )
        seconds = time.perf_counter() - started
        if not report.exists():
            raise ConfigError('pytest did not run; install it: pip install -e ".[test]"')
        cases = list(ElementTree.parse(report).iter("testcase"))
        lines = log.read_text().splitlines() if log.exists() else []
    counted = [json.loads(line) for line in lines]
    return [_row(name, named, cases, counted) for name, named in promises.items()], seconds


def _row(name, tests, cases, counted):
    row = {"promise": name, "tests": 0, "tried": 0, "survived": 0, "lost": 0, "skipped": 0}
    for case in cases:
        place = f"{case.get('file')}::{case.get('name')}"
        if not any(place.split("[")[0] == t or case.get("file") == t for t in tests):
            continue
        if case.find("skipped") is not None:
            row["skipped"] += 1
            continue
        row["tests"] += 1
        # A test that tries many says how many; any other is one.
        own = [line for line in counted if line["test"] == place]
        failed = any(case.find(kind) is not None for kind in ("failure", "error"))
        lost = max(int(failed), sum(line["lost"] for line in own))
        tried = sum(line["tried"] for line in own) or 1
        row["tried"] += tried
        row["lost"] += lost
        row["survived"] += tried - lost
    return row


def table(found: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| promise | tests | faults tried | survived | lost |", "|---|---|---|---|---|"]
    for row in found["promises"]:
        skipped = f" ({row['skipped']} skipped)" if row["skipped"] else ""
        numbers = f"{row['tried']:,} | {row['survived']:,} | {row['lost']:,}"
        lines.append(f"| {row['promise']} | {row['tests']}{skipped} | {numbers} |")
    total = [sum(row[name] for row in found["promises"]) for name in ("tests", "tried", "lost")]
    lines.append(
        f"\n{total[0]} tests, {total[1]:,} faults, {total[2]} lost, in {found['seconds']:.0f} s on "
        f"{found['cores']} cores. Written by `{found['command']}`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_program(main))
