"""Compares our speed with PyTorch's and Keras's: python -m experiments.peers.compare

Runs the same networks and recipes in turn, A B A B: train steps in processes that wait for their
turn, and whole trainings from start to exit, with their memory. Prints a table, and writes JSON
with every number and the table. Needs the extra: pip install "digits_jax[peers]"
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from digits_jax.benchmarks.processes import stopping_children, timed_process
from digits_jax.cli import parse, run_program
from digits_jax.config import TrainConfig
from digits_jax.errors import ConfigError
from digits_jax.fields import Switch
from digits_jax.files import as_json, replace_files
from digits_jax.formatting import fixed, markdown_table, percent, plural
from digits_jax.hardware import cpu_count, processor_name, version_of

EXTRA = 'pip install "digits_jax[peers]"'
DATASET = "mnist"
# Each peer's module, and what it adds to the recipe.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "PyTorch, channels_last": ("torch_train", {"channels_last": True}),
    "PyTorch, channels_last, bfloat16": (
        "torch_train",
        {"channels_last": True, "dtype": "bfloat16"},
    ),
    "PyTorch": ("torch_train", {}),
    "PyTorch, bfloat16": ("torch_train", {"dtype": "bfloat16"}),
    "PyTorch, channels_last, compiled": ("torch_train", {"channels_last": True, "compile": True}),
    "Keras on JAX": ("keras_train", {}),
}
_CNN, _CNN_BF16, _PLAIN, _PLAIN_BF16, _COMPILED, _KERAS = PEERS
_PACKAGES = ("jax", "jaxlib", "flax", "torch", "keras", "numpy")


@dataclass(frozen=True)
class Scenario:
    """A train step or a whole process of one recipe, and the peers that it is compared with."""

    words: str
    arch: str
    preset: str
    peers: Sequence[str]
    batch_size: int | None = None  # None: the preset's own
    dtype: str = "auto"  # that ours multiplies in

    def config(self) -> TrainConfig:
        """Returns the configuration with every field of the recipe."""
        fields: Any = {"arch": self.arch, "preset": self.preset}
        fields |= {"batch_size": self.batch_size} if self.batch_size else {}
        return TrainConfig(**fields).resolve(DATASET)


_MLP = (_PLAIN, _PLAIN_BF16, _KERAS)
_STEPS = {
    "cnn-quick": Scenario(
        "train step, quick CNN", "cnn", "quick", (_CNN, _CNN_BF16, _PLAIN, _COMPILED, _KERAS)
    ),
    "cnn-standard": Scenario(
        "train step, standard CNN, augmented", "cnn", "standard", (_CNN, _CNN_BF16)
    ),
    "mlp-128": Scenario("train step, MLP, batch 128", "mlp", "quick", _MLP, 128),
    "mlp-512": Scenario("train step, MLP, batch 512", "mlp", "quick", _MLP, 512),
}
SCENARIOS = {
    **_STEPS,
    # The same with ours in float32, as the first peer computes.
    **{
        f"{name}-float32": dataclasses.replace(each, peers=each.peers[:1], dtype="float32")
        for name, each in _STEPS.items()
    },
    "process": Scenario("whole process, quick CNN", "cnn", "quick", (_CNN, _CNN_BF16)),
}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    only: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: all)")] = ()
    """Some of cnn-quick, cnn-standard, mlp-128, mlp-512 (also with -float32) and process."""
    rounds: int = 7
    """Of each pair of train steps."""
    seconds: float = 0.7
    """Of each contender in a round."""
    processes: int = 5
    """Whole processes of each contender."""
    cold: Switch = False
    """Whole processes with an empty compilation cache, too."""
    data_dir: Annotated[
        str | None, tyro.conf.arg(help_behavior_hint="(default: DIGITS_JAX_DATA_DIR)")
    ] = None
    """Folder of MNIST's four original files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/peers.json")
    """The JSON file; a file with the suffix .md lies beside it."""


def main(argv: Sequence[str]) -> None:
    """Measures, writes, prints."""
    arguments = parse(Arguments, argv, doc=(__doc__ or "").partition("\n")[0])
    names, data_dir = check(arguments), find_data(arguments.data_dir)
    missing = {peer for name in names for peer in SCENARIOS[name].peers if not is_installed(peer)}
    if all(peer in missing for name in names for peer in SCENARIOS[name].peers):
        raise ConfigError(f"PyTorch isn't installed: {EXTRA} (its build for CPUs is enough)")
    left_out = f"left out: {', '.join(sorted(missing))}, not installed ({EXTRA})"
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "experiments.peers.compare", *argv]),
        "machine": {"processor": processor_name(), "cores": cpu_count()},
        "versions": {"python": platform.python_version()}
        | {package: version_of(package) for package in _PACKAGES},
        "settings": {name: getattr(arguments, name) for name in ("rounds", "seconds", "processes")},
        "scenarios": {name: SCENARIOS[name].config().to_dict() for name in names},
        "rows": [],
        "notes": [left_out] if missing else [],
    }
    path = arguments.output
    path.parent.mkdir(parents=True, exist_ok=True)
    with stopping_children():
        for name in names:
            measure = measure_processes if name == "process" else measure_steps
            rows, busy = measure(name, arguments, data_dir)
            if max(busy) >= 0.25:
                result["notes"].append(
                    f"{name}: others kept up to {max(busy):.1f} cores busy; measure again on a "
                    "quiet machine, as threads that spin while they wait (PyTorch's) suffer most"
                )
            result["rows"] += [{**row, "name": name} for row in rows]
            # Written after each scenario: a later one may fail.
            files = {".json": as_json(result), ".md": markdown(result).encode()}
            replace_files({path.with_suffix(end): text for end, text in files.items()})
    print(f"{markdown(result)}\nwritten: {path}, and .md beside it")


def check(arguments: Arguments) -> list[str]:
    """Returns the names of the scenarios to measure.

    Raises:
      ConfigError: an unknown name, or a number that can't be.
    """
    if unknown := set(arguments.only) - set(SCENARIOS):
        raise ConfigError(f"only={','.join(unknown)}: give some of {', '.join(SCENARIOS)}")
    for name, least in {"rounds": 1, "processes": 1, "seconds": 0.001}.items():
        if not least <= (value := getattr(arguments, name)) <= 10_000:
            raise ConfigError(f"{name}={value}: must be at least {least} and at most 10,000")
    if arguments.output.suffix != ".json":
        raise ConfigError(f"output={arguments.output}: give a name that ends with .json")
    return list(arguments.only or SCENARIOS)


def find_data(data_dir: str | None) -> str:
    """Returns the folder of MNIST's four files, which every contender reads.

    Raises:
      ConfigError: they aren't there.
    """
    given = data_dir or os.environ.get("DIGITS_JAX_DATA_DIR") or ""
    found = Path(given).expanduser().absolute()
    if not given or not (found / "train-images-idx3-ubyte.gz").is_file():
        raise ConfigError(
            f"data_dir={given or None}: no train-images-idx3-ubyte.gz there; give the folder of "
            "MNIST's four original files, or set DIGITS_JAX_DATA_DIR"
        )
    return str(found)


def is_installed(peer: str) -> bool:
    """Returns whether a peer's library is installed."""
    return importlib.util.find_spec(PEERS[peer][0].split("_")[0]) is not None


def our_flags(scenario: Scenario, data_dir: str) -> list[str]:
    """Flags of `digits_jax.train`, and of our worker."""
    flags = [f"--arch={scenario.arch}", f"--preset={scenario.preset}", f"--data-dir={data_dir}"]
    size = [f"--batch-size={scenario.batch_size}"] if scenario.batch_size else []
    return [*flags, *size, f"--dtype={scenario.dtype}", f"--dataset={DATASET}"]


def peer_recipe(config: TrainConfig) -> dict[str, Any]:
    """Returns the same recipe for a peer.

    Args:
      config: resolved.

    Raises:
      ConfigError: the recipe has something that isn't written in the peers.
    """
    from digits_jax.data.augment import POLICIES  # and JAX: Ctrl-C is one line without

    only = {"optimizer": "adamw", "schedule": "one_cycle", "ema_decay": 0.0, "adversarial": 0.0}
    for name, value in {**only, "augment_strength": 1.0}.items():
        if getattr(config, name) != value:
            raise ConfigError(f"{name}={getattr(config, name)}: the peers know only {value}")
    strengths = dict(POLICIES[config.augment])
    affine = {"rotation_degrees": 0, "scale_factor": 1, "shear_degrees": 0, "shift_pixels": 0}
    if strengths.keys() - affine.keys():
        raise ConfigError(f"augment={config.augment}: the peers know only none, shift and affine")
    fields = ("arch", "epochs", "batch_size", "learning_rate", "weight_decay", "label_smoothing")
    fields = (*fields, "dropout", "batch_norm")
    if config.arch == "cnn":
        fields = (*fields, "channels", "convs_per_block", "dense_size")
    else:
        fields = (*fields, "hidden_sizes")
    return {
        **{name: getattr(config, name) for name in fields},
        "affine": list({**affine, **strengths}.values()) if strengths else [],
        "dtype": "float32",
        "channels_last": False,
        "compile": False,
        "seed": 0,
        "worker": False,
    }


def commands(name: str, peer: str | None, data_dir: str, **changes: Any) -> list[str]:
    """Returns the command of a peer; None for our worker."""
    scenario = SCENARIOS[name]
    if peer is None:
        module, arguments = "ours", our_flags(scenario, data_dir)
    else:
        module, own = PEERS[peer]
        recipe = {**peer_recipe(scenario.config()), **own, "data_dir": data_dir, **changes}
        arguments = [json.dumps(recipe)]
    return [sys.executable, "-m", f"experiments.peers.{module}", *arguments]


class Worker:
    """A process that takes train steps when asked to; see `experiments.peers.common.serve`.

    Raises:
      ConfigError: it ended; the message has its last line.
    """

    def __init__(self, command: Sequence[str]):
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def seconds(self, steps: int) -> float:
        """Returns the seconds that so many steps take."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries may print, too
                return json.loads(line)
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"a contender stopped: {(last or ['no error message'])[0]}")


def measure_steps(
    name: str, arguments: Arguments, data_dir: str
) -> tuple[list[dict[str, Any]], list[float]]:
    """Measures images a second, ours beside each peer's, round by round.

    Returns:
      A row for each peer, and the cores that others kept busy before each round.
    """
    scenario, busy = SCENARIOS[name], []
    batch_size = scenario.config().batch_size
    pairs: dict[str, list[tuple[float, float]]] = {
        peer: [] for peer in scenario.peers if is_installed(peer)
    }
    with contextlib.ExitStack() as stack:
        workers: dict[str | None, Worker] = {}
        steps: dict[str | None, int] = {}
        for peer in (None, *pairs):
            workers[peer] = Worker(commands(name, peer, data_dir, worker=True))
            stack.callback(workers[peer].close)
        for peer, worker in workers.items():
            worker.seconds(5)
            steps[peer] = max(2, round(10 * arguments.seconds / worker.seconds(10)))

        def rate(peer: str | None) -> float:
            return steps[peer] * batch_size / workers[peer].seconds(steps[peer])

        for number in tqdm(range(arguments.rounds), name, leave=False, disable=None):
            busy.append(busy_cores())
            for peer, found in pairs.items():
                found.append(in_turn(partial(rate, None), partial(rate, peer), number))
        words = f"{scenario.words}, in {workers[None].facts['dtype']}"
    return [make_row(words, peer, "images/s", found) for peer, found in pairs.items()], busy


def measure_processes(
    name: str, arguments: Arguments, data_dir: str
) -> tuple[list[dict[str, Any]], list[float]]:
    """Measures seconds from start to exit and the peak memory, ours beside a peer's, seed by seed.

    Returns:
      As `measure_steps`; rows of seconds and of memory, and with ``cold`` of seconds with an empty
      compilation cache.
    """
    scenario, busy = SCENARIOS[name], []

    def ours(seed: int, cold: bool) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "digits_jax.train", *our_flags(scenario, data_dir)]
            cache = {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/cache"} if cold else {}
            return _run([*command, f"--seed={seed}", f"--workdir={scratch}/run"], cache)

    def theirs(peer: str, seed: int) -> dict[str, float]:
        return _run(commands(name, peer, data_dir, seed=seed), {})

    peers = [peer for peer in scenario.peers if is_installed(peer)]
    variants = [(peer, False) for peer in peers] + [(p, True) for p in peers[:1] if arguments.cold]
    runs: dict[tuple[str, bool], list[tuple[Any, Any]]] = {variant: [] for variant in variants}
    ours(0, cold=False)  # fills the caches
    for seed in tqdm(range(arguments.processes), name, unit="seed", leave=False, disable=None):
        busy.append(busy_cores())
        for (peer, cold), found in runs.items():
            found.append(in_turn(partial(ours, seed, cold), partial(theirs, peer, seed), seed))
    rows = []
    for (peer, cold), pairs in runs.items():
        words = scenario.words + (", cold compilation cache" if cold else "")
        seconds = [(own["seconds"], other["seconds"]) for own, other in pairs]
        accuracies = [
            statistics.mean(run["accuracy"] for run in side) for side in zip(*pairs, strict=True)
        ]
        rows.append({**make_row(words, peer, "s", seconds), "accuracies": accuracies})
        memory = [(own["memory"], other["memory"]) for own, other in pairs]
        if not cold and all(map(all, memory)):
            rows.append(make_row(f"peak memory, {words}", peer, "MB", memory))
    return rows, busy


def _run(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    done = timed_process(command, environment)
    found = re.search(r"test accuracy ([\d.]+)%", done.output)
    if not found:
        raise ConfigError(f"{' '.join(command[1:3])}: printed no test accuracy")
    memory = (done.peak_memory_bytes or 0) / 1e6
    return {"seconds": done.seconds, "accuracy": float(found[1]) / 100, "memory": memory}


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], number: int) -> tuple[Any, Any]:
    """Calls both, ours first in every other round, so that what drifts cancels."""
    if number % 2 == 0:
        return ours(), theirs()
    other = theirs()
    return ours(), other


def busy_cores(seconds: float = 0.2) -> float:
    """Returns how many cores others keep busy while ours sleep; 0 where the system doesn't say.

    Threads that wait for each other by spinning, as PyTorch's do, get ten times slower where one
    of them has to share its core.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    counts = []
    for pause in (seconds, 0):
        user, nice, system, _, _, *more = map(int, stat.read_text().split("\n")[0].split()[1:9])
        counts.append(user + nice + system + sum(more))
        time.sleep(pause)
    return (counts[1] - counts[0]) / os.sysconf("SC_CLK_TCK") / seconds


def make_row(
    words: str, peer: str, unit: str, pairs: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Returns a row of the result: medians, and the median and range of the rounds' ratios.

    Examples:
      >>> row = make_row("a step", "PyTorch", "images/s", [(3, 2), (2, 2), (5, 2)])
      >>> row["ours"], row["theirs"], row["ratio"]
      (3, 2, {'median': 1.5, 'low': 1.0, 'high': 2.5})
    """
    ratios = [ours / theirs for ours, theirs in pairs]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "words": words,
        "peer": peer,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "rounds": list(pairs),
    }


def markdown(result: dict[str, Any]) -> str:
    """Returns the table, and what its numbers are."""
    settings, machine, cells = result["settings"], result["machine"], []
    for row in result["rows"]:
        shown = [
            f"{fixed(row[x], int(row['unit'] == 's'))} {row['unit']}" for x in ("ours", "theirs")
        ]
        if row["unit"] == "s":
            pairs = zip(shown, row["accuracies"], strict=True)
            shown = [f"{text} ({percent(accuracy)})" for text, accuracy in pairs]
        median, low, high = (fixed(row["ratio"][x], 2) for x in ("median", "low", "high"))
        cells.append([row["words"], row["peer"], *shown, median, f"{low} to {high}"])
    heads = ["what", "against", "ours", "theirs", "ours / theirs", "range"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    return (
        f"{markdown_table(cells, heads, 'llr')}\n\n"
        f"Medians of {plural(settings['rounds'], 'round')} of {settings['seconds']:g} s for steps "
        "(images per second: more is better) and of "
        f"{plural(settings['processes'], 'process')} (seconds from start to exit and peak memory: "
        "less is better), ours and the other in turn; ours / theirs is the median of the rounds' "
        "ratios, and need not be that of the two medians beside it; "
        f"{machine['processor']}, {plural(machine['cores'], 'core')}; {versions}.\n"
        + "".join(f"\nNote: {note}.\n" for note in result["notes"])
    )


if __name__ == "__main__":
    sys.exit(run_program(main))
