"""Ours beside PyTorch and Keras: python -m experiments.peers.compare

Runs the same nets and recipes in turn, A B A B: train steps in processes that wait for their turn,
and whole trainings from start to exit. Writes JSON with every number, a Markdown table and a
picture beside it, and prints the table. Needs the extra: pip install "digits_jax[peers]"
"""

import os
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import tyro

from digits_jax.cli import parse, run_program
from digits_jax.errors import ConfigError
from digits_jax.hardware import processor_name
from digits_jax.runs import folder
from experiments.peers import contenders, measure
from experiments.peers.contenders import PROCESS, SCENARIOS

EXTRA = 'pip install "digits_jax[peers]"'
CPU_BUILD = "where there is no GPU, PyTorch's build for CPUs is enough and far smaller"
_PACKAGES = ("jax", "jaxlib", "flax", "torch", "keras", "numpy")


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    only: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Some of cnn-quick, cnn-standard, mlp-128, mlp-512 (also with -float32) and process."""
    keep: bool = False
    """Leave the rows of what isn't measured now as they are in the output."""
    rounds: int = 7
    """Of each pair of train steps."""
    seconds: float = 0.7
    """Of each contender in a round."""
    processes: int = 5
    """Whole processes of each contender."""
    cold: bool = False
    """Whole processes with an empty compilation cache, too."""
    quick: bool = False
    """A few minutes: fewer, shorter rounds, and only what has a goal."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: DIGITS_JAX_DATA_DIR)")
    ] = None
    """Folder of MNIST's four files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/peers.json")
    """The JSON file, or a folder for it; .md and .png lie beside it."""


def main(argv: Sequence[str]) -> None:
    """Measures, writes, prints."""
    arguments = parse(Arguments, argv, doc=__doc__.splitlines()[0])
    names = check(arguments)
    data_dir = contenders.find_data(arguments.data_dir)
    if not contenders.installed("PyTorch"):
        raise ConfigError(f"PyTorch isn't installed; {EXTRA} ({CPU_BUILD})")
    path = output_path(arguments.output)
    result = {
        "command": shlex.join(["python", "-m", "experiments.peers.compare", *argv]),
        "machine": _machine(),
        "versions": _versions(),
        "settings": _settings(arguments),
        "scenarios": {},
        "rows": [],
        "notes": _missing(names, arguments.quick),
    }
    before = _before(path, result) if arguments.keep else None
    path.parent.mkdir(parents=True, exist_ok=True)
    written = _kept(before, result)
    try:
        for name in names:
            _measure(name, result, arguments, data_dir)
            written = _kept(before, result)
            _write(written, path)
    except BaseException:
        if result["rows"]:
            left = ",".join(names[len(result["scenarios"]) :])
            print(f"{path} has what was measured; go on with --only={left} --keep", file=sys.stderr)
        raise
    from experiments.peers import report

    print(f"{report.markdown(written)}\nwritten: {path}, and .md and .png beside it")


def _measure(name, result, arguments, data_dir):
    """Adds a scenario's rows and notes to a result."""
    config = SCENARIOS[name].config().to_dict()
    again = name.removesuffix("-float32")
    types = {row["processes"]["ours"]["dtype"] for row in result["rows"] if row["name"] == again}
    if again != name and types == {"float32"}:
        rows, notes = [], [f"{name}: left out, as {again} is in float32 here"]
    else:
        measured = _processes if name == PROCESS else _steps
        rows, notes, others = measured(name, arguments, data_dir)
        disturbance = _disturbance(name, others)
        rows = [row | {"disturbed": bool(disturbance)} for row in rows]
        notes += disturbance
    result["rows"] += rows
    result["notes"] += notes
    result["scenarios"][name] = config


def _write(result, path):
    from experiments.peers import report  # and matplotlib: Ctrl-C is one line without

    files = {path: folder.as_json(result)}
    files[path.with_suffix(".md")] = report.markdown(result).encode()
    if result["rows"]:
        files[path.with_suffix(".png")] = report.picture(result)
    folder.replace_files(files)


def output_path(output: Path) -> Path:
    """The JSON file that ``--output`` means.

    Raises:
      ConfigError: a file of another kind.

    Example:
      >>> str(output_path(Path("results"))), str(output_path(Path("a.json")))
      ('results/peers.json', 'a.json')
    """
    if output.suffix == ".json" and not output.is_dir():
        return output
    if output.suffix in (".md", ".png", ".csv", ".txt", ".html"):
        raise ConfigError(f"--output={output}: give a folder, or a name that ends with .json")
    return output / "peers.json"


def check(arguments: Arguments) -> list[str]:
    """The names of what is to be measured.

    Raises:
      ConfigError: an unknown name, or a number that can't be.
    """
    unknown = [name for name in arguments.only if name not in SCENARIOS]
    if unknown:
        raise ConfigError(f"--only={','.join(unknown)}: give some of {', '.join(SCENARIOS)}")
    for name in ("rounds", "processes"):
        if (value := getattr(arguments, name)) < 1:
            raise ConfigError(f"--{name}={value}: give a number that is at least 1")
    if not 0 < arguments.seconds < 600:
        raise ConfigError(f"--seconds={arguments.seconds}: give a number more than 0, under 600")
    path = output_path(arguments.output)
    for file in (path, path.with_suffix(".md"), path.with_suffix(".png")):
        if file.is_dir():
            raise ConfigError(
                f"--output={arguments.output}: {file} is a folder; give another place"
            )
    return list(arguments.only or (contenders.QUICK if arguments.quick else SCENARIOS))


def _before(path, result):
    """What the output holds, where it was measured in the same way.

    Raises:
      ConfigError: it can't be read, or its rows can't stand beside new ones.
    """
    before = folder.read_json(path)
    here = {"cores": result["machine"]["cores"], **result["versions"], **result["settings"]}
    there = {"cores": before["machine"]["cores"], **before["versions"], **before["settings"]}
    if differing := [name for name in here if there.get(name) != here[name]]:
        name = differing[0]
        raise ConfigError(
            f"--keep: {path} was measured with {name} {there.get(name)}, here it is {here[name]}; "
            "measure all of it, or give another --output"
        )
    return before


def _kept(before, result):
    """The result, with the rows that were not measured now in their places."""
    if before is None:
        return result
    now = set(result["scenarios"])
    rows = [row for row in before["rows"] if row["name"] not in now] + result["rows"]
    kept = [note for note in before["notes"] if not note.startswith(tuple(f"{n}:" for n in now))]
    return result | {
        "rows": sorted(rows, key=lambda row: list(SCENARIOS).index(row["name"])),
        "scenarios": {**before["scenarios"], **result["scenarios"]},
        "notes": list(dict.fromkeys([*kept, *result["notes"]])),
        "commands": [*before.get("commands", [before["command"]]), result["command"]],
    }


def _settings(arguments):
    numbers = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    numbers |= {"processes": arguments.processes}
    if arguments.quick:
        numbers = {"rounds": min(3, arguments.rounds), "seconds": 0.3, "processes": 1}
    return {**numbers, "cold": arguments.cold, "quick": arguments.quick}


def _peers(name, quick):
    return [p for p, goal in SCENARIOS[name].peers.items() if goal is not None or not quick]


def _missing(names, quick):
    wanted = {peer for name in names for peer in _peers(name, quick)}
    gone = sorted(peer for peer in wanted if not contenders.installed(peer))
    return [f"left out: {', '.join(gone)}, not installed ({EXTRA})"] if gone else []


def _here(name, quick):
    return [peer for peer in _peers(name, quick) if contenders.installed(peer)]


def _steps(name: str, arguments: Arguments, data_dir: str) -> tuple[list, list[str], list[float]]:
    """A row for each peer: images a second of ours and theirs, round by round.

    Returns:
      (rows, notes, cores that others kept busy before each round).
    """
    from tqdm import tqdm

    scenario, settings = SCENARIOS[name], _settings(arguments)
    env, batch_size = contenders.environment(), scenario.config().batch_size
    flags = contenders.our_flags(scenario, data_dir)
    commands = {"ours": (measure.python("experiments.peers.ours", *flags), env)}
    for peer in _here(name, arguments.quick):
        commands[peer] = (contenders.peer_command(peer, scenario, data_dir, "--worker"), env)
    with measure.started(commands) as (workers, reasons):
        notes = [f"left out: {name}, {peer}: {reason}" for peer, reason in reasons.items()]
        if "ours" not in workers:
            raise ConfigError(reasons["ours"])
        steps = {who: measure.steps_for(w, settings["seconds"]) for who, w in workers.items()}
        pairs = {peer: [] for peer in workers if peer != "ours"}

        def rate(who):
            return steps[who] * batch_size / workers[who].seconds(steps[who])

        others = []
        for number in tqdm(range(settings["rounds"]), desc=name, leave=False, disable=None):
            others.append(measure.busy_cores())
            for peer, found in pairs.items():
                found.append(measure.in_turn(lambda: rate("ours"), lambda p=peer: rate(p), number))
        facts = {who: {**worker.facts, "steps": steps[who]} for who, worker in workers.items()}
    rows = []
    for peer, found in pairs.items():
        more = {"processes": {who: facts[who] for who in ("ours", peer)}}
        rows.append({**_row(name, peer, "step", found, scenario.peers[peer]), **more})
    return rows, notes, others


def _processes(
    name: str, arguments: Arguments, data_dir: str
) -> tuple[list, list[str], list[float]]:
    """A row for each peer: seconds of ours and theirs, from start to exit, seed by seed.

    Returns:
      As `_steps`.
    """
    from tqdm import tqdm

    scenario, settings = SCENARIOS[name], _settings(arguments)
    env, found = contenders.environment(), []
    with tempfile.TemporaryDirectory() as scratch:

        def ours(seed, *, cold=False):
            flags = contenders.our_flags(scenario, data_dir)
            workdir = measure.fresh_folder(Path(scratch)) / "run"
            command = measure.python("digits_jax.train", *flags, f"--seed={seed}")
            cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache")} if cold else {}
            return measure.run_process([*command, f"--workdir={workdir}"], {**env, **cache})

        def theirs(peer, seed):
            command = contenders.peer_command(peer, scenario, data_dir, f"--seed={seed}")
            return measure.run_process(command, env)

        peers = _here(name, arguments.quick)
        duels = [(peer, False) for peer in peers]
        duels += [(peer, True) for peer in peers[:1] if arguments.cold]
        runs, others = {duel: [] for duel in duels}, []
        total = 1 + settings["processes"] * len(duels)
        bar = tqdm(total=total, desc=name, unit="pair", leave=False, disable=None)
        ours(0)  # fills the caches
        bar.update()
        for seed in range(settings["processes"]):
            others.append(measure.busy_cores())
            for peer, cold in duels:
                pair = measure.in_turn(
                    lambda s=seed, c=cold: ours(s, cold=c),
                    lambda s=seed, p=peer: theirs(p, s),
                    seed,
                )
                runs[peer, cold].append(pair)
                bar.update()
        bar.close()
    for (peer, cold), pairs in runs.items():
        seconds = [[side["seconds"] for side in pair] for pair in pairs]
        goal = None if cold else scenario.peers[peer]
        row = _row(name, peer, "process", seconds, goal)
        for side, place in (("ours", 0), ("theirs", 1)):
            accuracies = [pair[place]["accuracy"] for pair in pairs]
            row[side] |= {"accuracy": statistics.mean(accuracies), "accuracies": accuracies}
        row["words"] += ", cold compilation cache" if cold else ""
        found.append(row)
    return found, [], others


def _disturbance(name: str, others: list[float]) -> list[str]:
    """A note where the machine wasn't ours alone: such ratios say little."""
    if max(others) < 0.25:
        return []
    return [
        f"{name}: others kept up to {max(others):.1f} cores busy before "
        f"{sum(o >= 0.25 for o in others)} of {len(others)} rounds; measure again on a quiet "
        "machine, as threads that spin while they wait (PyTorch's) suffer most"
    ]


def _row(name: str, peer: str, kind: str, pairs: list, goal: float | None) -> dict[str, Any]:
    ratio = measure.ratio(pairs)
    ours, theirs = zip(*pairs, strict=True)
    return {
        "name": name,
        "words": SCENARIOS[name].words,
        "peer": peer,
        "kind": kind,
        "goal": goal,
        "reached": measure.is_reached(ratio["median"], goal, kind),
        "disturbed": False,
        "ratio": ratio,
        "ours": {"median": statistics.median(ours)},
        "theirs": {"median": statistics.median(theirs)},
        "rounds": pairs,
    }


def _machine():
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        # Others' work on the machine blurs a ratio; a reader sees it here.
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def _versions():
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    sys.exit(run_program(main))
