"""The benchmarks: what they measure, their tables and files, and what can't be used."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from prepared_sets import write_prepared
from programs import assert_refused

from digits_jax import benchmark
from digits_jax.benchmarks import (
    inference,
    options,
    processes,
    scaling,
    startup,
    step,
    time_to_accuracy,
    timing,
)
from digits_jax.benchmarks import input as input_benchmark
from digits_jax.data.datasets import load_dataset
from digits_jax.errors import ConfigError, DataError
from digits_jax.training.setup import prepare

TINY = {"quick": True, "dataset": "digits", "repeats": 2, "seconds": 0.001}


@pytest.fixture
def one_process(monkeypatch):
    """Measures here what has a process of its own otherwise."""
    for module in (processes, scaling):
        monkeypatch.setattr(module, "in_child", lambda measure, *args: measure(*args))
    monkeypatch.setattr(scaling, "use_compilation_cache", lambda: None)


def test_step(one_process, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "product_flops_per_second", lambda mesh, dtype, quick: 1e12)
    output = tmp_path / "new"
    output.mkdir()
    given = options.Options(**TINY, arch=("mlp",), batch_sizes=(32,), devices=2, output=output)
    result = benchmark.measure("step", given, "the command")
    [row] = result["steps"]
    assert (row["batch_size"], row["devices"]) == (32, 2)
    # Two hidden layers of 512. Forward, the weights' gradients, and the inputs' of all but the
    # first layer: each product takes 2 operations for each weight and image.
    first, others = 784 * 512, 512 * 512 + 512 * 10
    products = 2 * 32 * (2 * first + 3 * others)
    # And at most some thirty for each parameter, and each activation, once a step.
    rest = 30 * (first + others) + 60 * 32 * (784 + 2 * 512)
    assert products <= row["flops"] <= products + rest
    assert row["step_seconds"]["median"] == np.median(row["blocks"])
    assert row["fraction"] == row["flops"] / row["step_seconds"]["median"] / 1e12
    assert json.loads((output / "step.json").read_text())["steps"] == result["steps"]
    page = (output / "step.md").read_text()
    assert page.startswith("# step\n\n`the command`\n\ndigits; ")
    assert f"| mlp | {row['dtype']} | – | 32 | 2 | 1 |" in page


def test_inference(one_process, monkeypatch):
    monkeypatch.setattr(inference, "product_flops_per_second", lambda mesh, dtype, quick: 1e12)
    monkeypatch.setattr(inference, "CALLS", 3)
    given = options.Options(**TINY, arch=("mlp",), batch_sizes=(16, 9999))
    result = inference.benchmark(given)
    ways = [(row["way"], row["test_count"]) for row in result["test_set"]]
    assert ways == [("Predictor.predict", 360), ("scoring of training", 360)]
    assert [row["batch_size"] for row in result["forward_pass"]] == [16, 360]
    for row in result["forward_pass"]:
        # Three products, and at most a dozen more operations for each activation.
        products = 2 * row["batch_size"] * (784 * 512 + 512 * 512 + 512 * 10)
        rest = 12 * row["batch_size"] * (784 + 2 * 512 + 10)
        assert products <= row["flops"] <= products + rest
        rate = row["flops"] / row["batch_size"] * row["images_per_second"]["median"]
        assert row["fraction"] == pytest.approx(rate / 1e12)
    assert [row["way"] for row in result["one_image"]] == ["Predictor.predict", "jitted step"]


def test_scaling(one_process, monkeypatch):
    def measure(given, factors):  # a step that takes 1 ms for each image, on any devices
        rows = [("batch", n, n, 0.001 * n) for n in (1, 2, 4)] if "batch" in factors else []
        rows += [("devices", given.devices, given.devices, 0.05)]
        names = ("factor", "value", "size")
        return {
            "devices_here": 6,
            "rows": [
                {**dict(zip(names, r, strict=False)), "seconds": {"median": r[3]}} for r in rows
            ],
        }

    monkeypatch.setattr(scaling, "measure", measure)
    result = scaling.benchmark(options.Options(dataset="digits", devices=1))
    assert [row["value"] for row in result["rows"]] == [1, 2, 4, 1, 2, 4, 6]
    slopes = {row["factor"]: row["log_log_slope"] for row in result["growth"]}
    assert slopes == {"batch": pytest.approx(1), "width": None, "data": None} | {
        "devices": pytest.approx(0)
    }


def test_scaling_measures_steps_and_epochs(one_process, monkeypatch):
    given = options.Options(**TINY, devices=1)
    base = prepare(*options.train_config(given, arch="mlp", preset="quick", hidden_sizes=(16,)))
    pairs = {"data": (100, scaling.resized(base.dataset, 100)), "devices": (1, base.dataset)}
    monkeypatch.setattr(
        scaling,
        "setups_of",
        lambda factor, *_: [
            (pairs[factor][0], dataclasses.replace(base, dataset=pairs[factor][1]))
        ],
    )
    for factor in pairs:
        [row] = scaling.measure_factor(factor, base, given)
        assert (row["factor"], row["size"], row["batch_size"]) == (factor, pairs[factor][0], 64)
        assert row["seconds"]["median"] > 0


def test_scaling_changes_one_factor_at_a_time(monkeypatch):
    monkeypatch.setattr(scaling, "QUICK_WIDTHS", (0.5, 2.0))
    monkeypatch.setattr(scaling, "QUICK_COUNTS", (10, 100))
    given = options.Options(**TINY, devices=1)
    base = prepare(*options.train_config(given, arch="cnn", preset="quick"))
    for factor, changed in {
        "width": [(0.5, (12, 24), 64, 1257), (2.0, (48, 96), 64, 1257)],
        "data": [(64, (24, 48), 64, 64), (100, (24, 48), 64, 100)],
        "devices": [(1, (24, 48), 64, 1257)],
    }.items():
        found = [
            (value, setup.config.channels, setup.config.batch_size, len(setup.dataset.train))
            for value, setup in scaling.setups_of(factor, base, given)
        ]
        assert found == changed
    larger = scaling.resized(base.dataset, 2000).train
    np.testing.assert_array_equal(larger.images[1257:], base.dataset.train.images[:743])


@pytest.mark.slow
def test_input_reads_memory_and_files(here, tmp_path, monkeypatch):
    monkeypatch.setattr(input_benchmark, "_cold_starts", lambda *_: [0.5])
    monkeypatch.setattr(input_benchmark, "THREADS", (1, 2))
    write_prepared(tmp_path)
    flags = ["--batch-sizes=8,32", "--repeats=1", "--seconds=0.01"]
    where = ["--dataset=tfds/own", f"--data-dir={tmp_path}"]
    status, out, err = here(benchmark, "input", *where, *flags)
    assert status == 0, err
    assert out.startswith("tfds/own:1.0.0; ")
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in out.splitlines()]
    assert [row for row in rows if row[:1] in (["memory"], ["stream"]) and len(row) == 3][:6] == [
        [way, threads, size]
        for size in ("8", "32")
        for way, threads in (("memory", "–"), ("stream", "1"), ("stream", "2"))
    ]
    assert_refused(here(benchmark, "input", *where, "--batch-sizes=139"), "--batch-sizes=139: ")


def test_a_cold_start_is_measured_in_another_process():
    given = options.Options(dataset="digits", repeats=1)
    assert input_benchmark._cold_starts("memory", 8, given)[0] > 0


def test_input_in_memory_alone_where_there_are_no_files(monkeypatch):
    streamed, held = input_benchmark.open_datasets(options.Options(dataset="digits"))
    assert streamed is None
    assert held.name == "digits"
    larger = dataclasses.replace(load_dataset("digits"), name="larger")
    monkeypatch.setattr(input_benchmark, "MEMORY_IMAGES", 1000)
    monkeypatch.setattr(input_benchmark, "load_dataset", lambda *_, **__: larger)
    assert input_benchmark.open_datasets(options.Options()) == (larger, None)


def test_startup(monkeypatch):
    seconds = iter(range(1, 1000))

    def timed(command):
        said = "0.5 0.25 0.125\n" if "load_dataset" in command[2] else ""
        return processes.Finished(next(seconds), said, None)

    monkeypatch.setattr(startup, "timed_process", timed)
    rows = startup.benchmark(options.Options(dataset="digits", repeats=3))["processes"]
    # Seven kinds in turn; the first round warms up.
    assert rows[0]["seconds"] == timing.spread([8, 15, 22])
    assert rows[-1]["process"] == "in it: second load_dataset"
    assert rows[-1]["seconds"]["median"] == 0.125


def test_time_to_accuracy(monkeypatch):
    calls = []

    def timed(command, environment):
        calls.append((command[3:5], environment))
        workdir = Path(command[-1].removeprefix("--workdir="))
        workdir.mkdir()
        arch, seed = (flag.split("=")[1] for flag in command[3:5])
        results = dict.fromkeys(time_to_accuracy._KEPT, 0) | {
            "arch": arch,
            "seed": int(seed),
            "device": "cpu: some",
            "test_accuracy": 0.98 + 0.01 * int(seed),
            "total_seconds": 7.0,
            "compile_seconds": 2.0,
            "train_seconds": 4.0,
        }
        (workdir / "results.json").write_text(json.dumps(results))
        return processes.Finished(10.0, "", 1_000_000 * len(calls))

    monkeypatch.setattr(time_to_accuracy, "timed_process", timed)
    monkeypatch.setattr(time_to_accuracy, "TARGET", 0.985)
    result = time_to_accuracy.benchmark(options.Options(dataset="digits", seeds=2))
    pairs = [("cnn", 0), ("mlp", 0), ("cnn", 0), ("mlp", 0), ("cnn", 1), ("mlp", 1)]
    assert [call for call, _ in calls] == [[f"--arch={a}", f"--seed={s}"] for a, s in pairs]
    assert len(result["trainings"]) == 4  # the first two fill the compilation cache
    row = result["networks"][0]
    assert (row["test_accuracy"], row["reached"]) == (pytest.approx(0.985), True)
    assert row["test_accuracy_sd"] == pytest.approx(0.01 / 2**0.5)
    assert (row["process_seconds"]["median"], row["other_seconds"]["median"]) == (3.0, 1.0)
    assert row["peak_memory_bytes"] == 5_000_000
    del calls[:]
    time_to_accuracy.benchmark(options.Options(arch=("cnn",), seeds=2, cold=True))
    caches = {environment["JAX_COMPILATION_CACHE_DIR"] for _, environment in calls}
    assert len(calls) == len(caches) == 2


def test_all_print_a_summary_first(here, monkeypatch):
    spread = {"median": 5.5, "p10": 5.0, "p90": 6.0}
    parts = {"process": 1.0, "compile": 2.0, "train": 0.5, "other": 0.25}
    run = {f"{name}_seconds": timing.spread([n]) for name, n in parts.items()}
    run |= {"seconds": spread, "test_accuracy": 0.991, "target": 0.99, "reached": True}
    tables = {
        "steps": [{"arch": "cnn", "batch_size": 256, "images_per_second": 12345.6}],
        "test_set": [{"way": "all", "images_per_second": {**spread, "median": 54321.0}}],
        "networks": [{**run, "peak_memory_bytes": 533e6}],
    }
    measured = []

    def measure(name, given, command):
        measured.append(name)
        machine = {"processor": "a CPU", "cores": 2}
        where = {"device": "gpu: G", "machine": machine, "settings": {"dataset": "auto"}}
        return {"dataset": "mnist", **where, **tables}

    monkeypatch.setattr(benchmark, "measure", measure)
    lines = [
        "machine       mnist; gpu: G; a CPU, 2 cores",
        "training      12,346 images/s, in batches of 256",
        "prediction    54,321 images/s",
        "99% accuracy  reached 99.10% after 5.50 s (start and end 1.00 s, compilation 2.00 s, "
        "training 500 ms, data, scoring, saving 250 ms)",
        "memory        533 MB",
    ]
    assert here(benchmark, "--quick")[1].splitlines() == lines
    assert measured == ["step", "inference", "time-to-accuracy"]
    out = here(benchmark, "--quick", "-v")[1]
    assert tuple(measured[3:]) == benchmark.BENCHMARKS
    assert out.splitlines()[:5] == lines
    assert "## step\n\nsteps:\n\n| arch | batch size | images /s |\n|---|--:|--:|\n" in out
    assert "| 5.50 s (5.00 s to 6.00 s) |" in out


def test_blocks_grow_until_they_take_long_enough_and_are_measured_in_turn(monkeypatch):
    """Where the machine grows slower, each is slower by the same."""
    now, calls = [0.0], []

    def work(name, seconds):
        def run(count):
            calls.append((name, count))
            now[0] += seconds * count * (1 + 0.01 * now[0])  # ever slower

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.time_in_turn([work("a", 0.001), work("b", 0.002)], repeats=4, seconds=1.0)
    assert [name for name, _ in calls[-8:]] == ["a", "b"] * 4
    sizes = [count for name, count in calls[:-8] if name == "a"]
    assert sizes == sorted(sizes)
    assert 500 < sizes[-1] < 2000
    for a, b in zip(*found, strict=True):
        assert b / a == pytest.approx(2, rel=0.05)
    assert found[0][3] > found[0][0]


def test_memory_is_that_of_the_process_itself():
    def bytes_of(size):
        code = f"b = bytearray({size}); b[::4096] = b'1' * len(b[::4096])"  # all touched
        code += "; import time; time.sleep(0.5)"  # to be seen on a machine that is busy
        return processes.timed_process([sys.executable, "-c", code]).peak_memory_bytes

    assert 300_000_000 < bytes_of(300_000_000) < 600_000_000
    assert bytes_of(1) < 200_000_000  # after a larger one


def test_errors_and_answers_of_another_process():
    assert processes.in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(DataError, match="did you mean mnist"):
        processes.in_child(load_dataset, "mnits")
    with pytest.raises(RuntimeError, match="ended with 3"):
        processes.in_child(sys.exit, 3)
    with pytest.raises(ConfigError, match="no such thing"):
        processes.timed_process([sys.executable, "-c", "raise SystemExit('error: no such thing')"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["step", "--arch=cnn,rnn"], "--arch=rnn: allowed"),
        (["step", "--batch-sizes=8,x"], "--batch-sizes"),
        (["step", "--batch-sizes=0"], "--batch-sizes=0: must be more than 0"),
        (["step", "--seconds=nan"], "--seconds=nan: must be more than 0"),
        (["scaling", "--dtype=int8"], "--dtype=int8: give"),
        (["startup", "--dataset=mnits"], "did you mean mnist?"),
        (["startup", "-o", __file__], "test_benchmark.py: is a file"),
        (["everything"], "give"),
    ],
)
def test_what_cannot_be_measured_is_one_line(here, argv, message):
    status, out, err = here(benchmark, *argv)
    assert status
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
