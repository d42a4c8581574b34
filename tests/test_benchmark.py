"""The benchmark as users call it: tables, files, and what can't be used."""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from prepared_sets import write_prepared
from programs import assert_one_error_line

from digits_jax import benchmark
from digits_jax.benchmarks import (
    inference,
    processes,
    scaling,
    startup,
    step,
    time_to_accuracy,
    timing,
)
from digits_jax.benchmarks import input as input_benchmark
from digits_jax.benchmarks.settings import output_paths
from digits_jax.benchmarks.timing import time_blocks
from digits_jax.config import TrainConfig
from digits_jax.data import datasets
from digits_jax.deploy.predictor import Predictor
from digits_jax.errors import DigitsError
from digits_jax.training.plan import prepare
from digits_jax.training.steps import predict_step

SHORT = ("--batch-sizes=8,32", "--threads=1,2", "--repeats=1", "--seconds=0.01")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a small prepared data set."""
    root = tmp_path_factory.mktemp("prepared")
    write_prepared(root)
    return root


def called(here, own, *argv):
    return here(benchmark, "input", "--dataset=tfds/own", f"--data-dir={own}", *argv)


def test_input_prints_a_table_and_writes_json(here, own, tmp_path):
    status, out, _ = called(here, own, *SHORT, "-o", tmp_path / "input.json")
    assert status == 0
    head, table, starts = out.split("\n\n")
    assert head.startswith("tfds/own:1.0.0: 138 training images")
    lines = table.splitlines()
    assert [len(line.split("|")) for line in lines] == [8] * 8  # two of the head, six ways
    ways = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines[2:]]
    assert ways == [
        [way, threads, size]
        for size in ("8", "32")
        for way, threads in (("memory", "-"), ("stream", "1"), ("stream", "2"))
    ]
    assert [line.split()[1] for line in starts.splitlines()[2:]] == ["memory", "stream"]
    result = json.loads((tmp_path / "input.json").read_text())
    assert result["settings"]["batch_sizes"] == [8, 32]
    assert "--batch-sizes=8,32" in result["command"]
    assert result["machine"]["processor"]
    assert {"python", "numpy", "grain", "array_record"} <= result["versions"].keys()
    assert result["dataset"]["train_count"] == 138
    for row in result["rows"]:
        assert len(row["images_per_second"]) == 1
        assert min(*row["images_per_second"], row["first_batch_seconds"]) > 0
    assert all(min(start["seconds"]) > 0 for start in result["cold_starts"])


def test_quick_has_settings_of_its_own():
    args = benchmark.parser().parse_args(["input", "--quick", "--batch-sizes=9"])
    settings = benchmark.settings_of(args)
    assert settings["quick"]
    assert settings["repeats"] == 3  # not the usual 7
    assert settings["batch_sizes"] == [9]  # what is given stays


def test_files_that_are_folders_are_noticed_before_hours_are_spent(here, tmp_path):
    (tmp_path / "startup.png").mkdir()
    said = here(benchmark, "startup", "-o", str(tmp_path))
    assert_one_error_line(*said)
    assert "startup.png is a folder; give another place" in said[2]
    assert [path.name for path in tmp_path.iterdir()] == ["startup.png"]


def test_what_is_too_large_for_memory_is_only_streamed(here, own, monkeypatch):
    monkeypatch.setattr(input_benchmark, "MEMORY_IMAGES", 137)
    real = datasets.load_dataset

    def load(name, data_dir, *, input="memory"):
        assert input == "stream"
        return real(name, data_dir, input=input)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(input_benchmark, "_cold_start", lambda way, settings: 0.5)
    status, out, _ = called(here, own, *SHORT, "--evict")
    assert status == 0
    assert "| memory" not in out
    assert out.count("| stream |") == 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--batch-sizes=8,x"], "--batch-sizes=8,x: give whole numbers like 1,2"),
        (["--threads=0"], "--threads=0: give whole numbers like 1,2"),
        (["--repeats=-1"], "--repeats=-1: give a whole number"),
        (["--seconds=nan"], "--seconds=nan: give a number"),
        (["--batch-sizes=139"], "has 138 training images"),
        (["-o", "/proc/x.json"], "/proc can't be written"),
        (["--dataset=tfds/other"], "no such prepared data set"),
        (["--unknown"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_used_is_one_line(here, own, argv, said):
    status, out, err = called(here, own, *argv)
    assert_one_error_line(status, out, err)
    assert said in err


def test_without_files_auto_is_measured_in_memory(monkeypatch):
    def load(name, data_dir, *, input="memory"):
        if input == "stream":
            raise DigitsError("not here")
        return datasets.load_digits()

    monkeypatch.setattr(datasets, "load_dataset", load)
    settings = settings_with("input", dataset="auto", batch_sizes=[64])
    assert input_benchmark._opened(settings)[0] is None
    with pytest.raises(DigitsError, match="not here"):
        input_benchmark._opened({**settings, "dataset": "mnist"})


def test_digits_which_have_no_files_are_measured_in_memory():
    streamed, held = input_benchmark._opened(settings_with("input", dataset="digits"))
    assert streamed is None
    assert held.name == "digits"


@pytest.mark.parametrize(
    ("output", "said"),
    [("", "-o is empty"), ("x.md", "give a folder, or a FILE.json"), ("/proc/new", "be written")],
)
def test_where_nothing_can_be_written(output, said):
    with pytest.raises(DigitsError, match=said):
        output_paths(output, ["step"])


def test_a_folder_is_made_when_there_is_something_to_write(tmp_path):
    (path,) = output_paths(str(tmp_path / "new"), ["step"]).values()
    assert path == tmp_path / "new" / "step.json"
    output_paths(str(tmp_path / "new" / "nested" / "x.json"), ["step"])
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DigitsError, match="file is a file; give a folder"):
        output_paths(str(tmp_path / "file" / "nested"), ["step"])


# --- the other benchmarks ----------------------------------------------------------------------


def settings_with(name, **changes):
    """Tiny, and what the tests of a result's shape share."""
    args = benchmark.parser().parse_args([name, "--quick", "--dataset=digits"])
    made = benchmark.settings_of(args, name)
    tiny = {"repeats": 2, "seconds": 0.001, "calls": 3, "batch_sizes": [16], "widths": [0.5]}
    tiny |= {"sizes": [300], "archs": ["mlp"], "devices": "2"}
    return {**made, **{k: v for k, v in tiny.items() if k in made}, **changes}


@pytest.fixture
def one_process(monkeypatch):
    """What processes of their own would do, in this one."""
    for room in (step, inference, scaling):

        def in_child(name, settings, environment=None, *, room=room):
            return json.loads(json.dumps(room.measure(settings)))

        monkeypatch.setattr(room, "in_child", in_child)
    monkeypatch.setattr(scaling.parallel, "use_compilation_cache", lambda: None)


def shown(name, settings, folder, capsys):
    """A result, its tables and its files."""
    result = {"benchmark": name, "command": "here", **benchmark.run_benchmark(name, settings)}
    benchmark.show(result, output_paths(str(folder / "new"), [name])[name], headed=False)
    names = {path.name for path in (folder / "new").iterdir()}
    assert names == {f"{name}.json", f"{name}.md", f"{name}.png"}
    assert json.loads((folder / "new" / f"{name}.json").read_text()) == result
    table = capsys.readouterr().out
    assert table in (folder / "new" / f"{name}.md").read_text()
    for part in table.split("\n\n")[1:]:
        assert len({line.count("|") for line in part.strip().splitlines()}) == 1
    return result, table


def test_step(one_process, tmp_path, capsys):
    settings = settings_with("step", batch_sizes=[16, 32], matrix_size=8, quick=False)
    result, table = shown("step", settings, tmp_path, capsys)
    assert [row["dtype"] for row in result["products"]] == ["float32", "bfloat16"]
    assert [row["batch_size"] for row in result["rows"]] == [16, 32]
    for row in result["rows"]:
        assert row["devices"] == 2
        # Two hidden layers of 512. Forward, the weights' gradients, and the inputs' of all but
        # the first layer: each product takes 2 operations for each weight and image.
        first, others = 784 * 512, 512 * 512 + 512 * 10
        products = 2 * row["batch_size"] * (2 * first + 3 * others)
        # And at most some thirty for each parameter, and each activation, once a step.
        rest = 30 * (first + others) + 60 * row["batch_size"] * (784 + 2 * 512)
        assert products <= row["flops"] <= products + rest
        assert row["flops_per_second"] == row["flops"] / row["step_seconds"]["median"]
        own = next(each for each in result["products"] if each["dtype"] == row["dtype"])
        limit = max(np.median(own[when]) for when in ("before", "after"))
        assert row["fraction"] == row["flops_per_second"] / limit
        assert row["step_seconds"]["median"] == np.median(row["blocks"]["step"])
    assert f"| mlp | {result['rows'][1]['dtype']} | - | 32 | 2 |" in table


def test_a_quick_step_multiplies_in_its_own_type_alone(one_process):
    settings = settings_with("step", matrix_size=8)
    for dtype in ("float32", "bfloat16"):
        result = benchmark.run_benchmark("step", {**settings, "dtype": dtype})
        assert [row["dtype"] for row in result["products"]] == [dtype]


def test_inference(one_process, tmp_path, capsys):
    settings = settings_with("inference", matrix_size=8)
    result, table = shown("inference", settings, tmp_path, capsys)
    assert result["dataset"]["test_count"] == 360
    (row,), (product,) = result["rows"], result["products"]
    assert row["batch_size"] == 16
    # Three products, and at most a dozen more operations for each activation.
    products = 2 * 16 * (784 * 512 + 512 * 512 + 512 * 10)
    assert products <= row["flops"] <= products + 12 * 16 * (784 + 2 * 512 + 10)
    images = row["forward_images_per_second"]["median"]
    assert row["flops_per_second"] == pytest.approx(row["flops"] / 16 * images)
    limit = max(np.median(product[when]) for when in ("before", "after"))
    assert row["fraction"] == pytest.approx(row["flops_per_second"] / limit)
    assert f"{row['fraction']:.1%}" in table
    assert [row["way"] for row in result["latencies"]] == ["Predictor.predict", "jitted step"]
    assert "360 test images" in table


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_a_fresh_network_answers_as_the_module(arch):
    plan = prepare(TrainConfig(arch=arch, preset="quick", dataset="digits", devices="1"))
    state, images = plan.initial_state(), plan.dataset.test.images[:3]
    answers = Predictor(inference.fresh_network(plan, state)).predict(images)
    expected = predict_step(plan.for_scoring(state), images)
    np.testing.assert_allclose(answers.logits, expected, atol=1e-4)


def test_scaling(one_process, tmp_path, capsys, monkeypatch):
    here = scaling.in_child

    def in_child(room, settings):
        if settings["factors"] != ["devices"]:
            return here(room, settings)
        count = int(settings["devices"])  # a CPU split otherwise needs a process of its own
        row = {"factor": "devices", "value": count, "size": count, "batch_size": 64}
        seconds = {"median": 1 / count, "p10": 1 / count, "p90": 1 / count}
        return {"rows": [{**row, "devices": count, "train_count": 300, "seconds": seconds}]}

    monkeypatch.setattr(scaling, "in_child", in_child)
    monkeypatch.setattr(scaling.parallel, "cpu_count", lambda: 8)
    settings = settings_with("scaling", widths=[0.5, 1.0], batch_sizes=[64])
    result, table = shown("scaling", settings, tmp_path, capsys)
    batch, width, devices, data = result["factors"]
    assert [len(each["rows"]) for each in result["factors"]] == [1, 2, 4, 1]
    assert batch["slope"] is None
    assert [row["devices"] for row in devices["rows"]] == [1, 2, 4, 8]
    assert width["rows"][0]["size"] < width["rows"][1]["size"]
    x, y = (np.log([get(row) for row in width["rows"]]) for get in (size_of, seconds_of))
    assert width["slope"] == pytest.approx(np.polyfit(x, y, 1)[0])
    assert data["rows"][0]["train_count"] == 300
    assert "log-log slope" in table


def size_of(row):
    return row["size"]


def seconds_of(row):
    return row["seconds"]["median"]


def test_slope_is_that_of_least_squares():
    sizes, seconds = [1, 3, 10, 40], [0.5, 0.9, 7.0, 31.0]
    wanted = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    assert scaling.log_slope(sizes, seconds) == pytest.approx(wanted)


@pytest.mark.parametrize(("slope", "said"), [(1.1, False), (1.2, True)])
def test_superlinear(slope, said):
    rows = [{"value": n, "size": n, "seconds": {"median": n**slope}} for n in (1, 2, 8)]
    assert scaling.describe_factor("data", rows)["superlinear"] is said


def test_a_data_set_of_another_size():
    digits = datasets.load_digits()
    larger = scaling.resized(digits, 2000).train
    assert len(larger) == 2000
    np.testing.assert_array_equal(larger.images[1257:], digits.train.images[:743])


def test_blocks_grow_until_they_take_long_enough():
    calls = []

    def run(count):
        calls.append(count)
        time.sleep(count * 1e-4)

    assert len(time_blocks(run, repeats=3, seconds=0.02)) == 3
    assert calls == sorted(calls)
    assert len(set(calls[-3:])) == 1


def test_what_is_compared_is_measured_in_turn():
    """Where the machine grows slower, each is slower by the same."""
    now, calls = [0.0], []

    def work(name, seconds):
        def run(count):
            calls.append(name)
            now[0] += seconds * count * (1 + now[0])  # ever slower

        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.time, "perf_counter", lambda: now[0])
        found = timing.time_in_turn([work("a", 0.001), work("b", 0.002)], repeats=4, seconds=0.0)
    assert calls[-8:] == ["a", "b"] * 4
    for a, b in zip(*found, strict=True):
        assert b / a == pytest.approx(2, rel=0.01)
    assert found[0][3] > found[0][0]


def test_startup(monkeypatch, tmp_path, capsys):
    numbers = itertools.count(1)

    def timed(command):
        said = "0.5 0.25 0.125\n" if "load_dataset" in command[2] else ""
        return processes.Ended(next(numbers), said, None)

    monkeypatch.setattr(startup, "timed_process", timed)
    settings = settings_with("startup", repeats=3, quick=False)
    result, table = shown("startup", settings, tmp_path, capsys)
    first = result["rows"][0]
    assert first["repeats"] == [8, 15, 22]  # seven kinds in turn; the first round warms up
    assert first["seconds"]["median"] == 15
    assert "| in it: second load_dataset | 125 ms |" in table


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Trainings of which the first one of each network compiles; what they were called with."""
    seen = []
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def timed(command, environment):
        seen.append((command, environment))
        cache = Path({**os.environ, **environment}["JAX_COMPILATION_CACHE_DIR"])
        cache.mkdir(exist_ok=True)
        (cache / f"{command[3]}-cache").touch()
        workdir = Path(command[-1].removeprefix("--workdir="))
        workdir.mkdir()
        results = {
            **dict.fromkeys(time_to_accuracy._KEPT, 0),
            "dataset": "digits",
            "device": "cpu: some",
            "test_accuracy": 0.99,
            "total_seconds": 7.0,
            "compile_seconds": 2.0,
            "train_seconds": 4.0,
        }
        (workdir / "results.json").write_text(json.dumps(results))
        return processes.Ended(10.0, "", 1_000_000 * len(seen))

    monkeypatch.setattr(time_to_accuracy, "timed_process", timed)
    return seen


def test_time_to_accuracy(trained, tmp_path, capsys):
    settings = settings_with("time-to-accuracy", seeds=2, cold=True, target=0.98)
    result, table = shown("time-to-accuracy", settings, tmp_path, capsys)
    (row,) = result["rows"]
    assert (row["accuracy_mean"], row["accuracy_sd"], row["reached"]) == (0.99, 0, True)
    run = row["runs"][1]
    assert (run["seed"], run["process_seconds"], run["other_seconds"]) == (1, 3.0, 1.0)
    assert "--dataset=digits" in trained[0][0]
    assert len({environment["JAX_COMPILATION_CACHE_DIR"] for _, environment in trained}) == 2
    assert "| mlp | 10.0 s |" in table
    assert "nothing compiled before" in table
    assert result["peak_memory_bytes"] == 2_000_000
    assert "No process had more than 2 MB" in table


def test_what_is_compiled_for_the_first_time_warms_up(trained, tmp_path, capsys):
    how = {"seeds": 2, "cold": False, "quick": False, "archs": ["mlp", "cnn"]}
    settings = settings_with("time-to-accuracy", **how)
    result, table = shown("time-to-accuracy", settings, tmp_path, capsys)
    assert [command[3] for command, _ in trained] == ["--arch=mlp"] * 2 + ["--arch=cnn"] * 2 + [
        "--arch=mlp",
        "--arch=cnn",
    ]
    assert not any(run["compiled"] for row in result["rows"] for run in row["runs"])
    assert "for the first time" not in table


def test_quick_says_that_it_compiled(trained, tmp_path, capsys):
    settings = settings_with("time-to-accuracy", seeds=2, cold=False)
    result, table = shown("time-to-accuracy", settings, tmp_path, capsys)
    assert len(trained) == 2
    assert [run["compiled"] for run in result["rows"][0]["runs"]] == [True, False]
    assert "but by 1 process something was compiled for the first time" in table


def test_the_memory_is_that_of_the_process_itself():
    def bytes_of(size):
        code = (
            f"import time; b = bytearray({size}); b[::4096] = b'1' * len(b[::4096])"  # all touched
        )
        code += "; time.sleep(1)"  # to be seen on a machine that is busy
        return processes.timed_process([sys.executable, "-c", code]).peak_memory_bytes

    assert 300_000_000 < bytes_of(300_000_000) < 600_000_000
    assert bytes_of(1) < 200_000_000  # after a larger one


def test_all_in_turn(here, monkeypatch):
    done = []
    result = {"machine": {}, "settings": {}}
    monkeypatch.setattr(benchmark, "run_benchmark", lambda name, _: done.append(name) or result)
    monkeypatch.setattr(benchmark, "show", lambda *_, headed: None)
    assert here(benchmark, "--quick") == (0, "", "")
    assert done == list(benchmark.BENCHMARKS)


def test_errors_of_a_process_are_this_ones(here):
    """A real process: it knows how many devices there are."""
    said = here(benchmark, "step", "--quick", "--dataset=digits", "--arch=mlp", "--devices=4000")
    assert_one_error_line(*said)
    assert "--devices=4000: JAX has" in said[2]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["step", "--arch=cnn,rnn"], "--arch=rnn: allowed are"),
        (["step", "--batch-sizes=0"], "--batch-sizes=0: give whole numbers like 1,2"),
        (["step", "--platform=abacus"], "--platform=abacus: allowed are"),
        (["step", "--seed=-1"], "--seed=-1: give a whole number, at least 0"),
        (["step", "--arch="], "give a name"),
        (["scaling", "--dtype=int8"], "--dtype=int8: allowed are"),
        (["inference", "--devices=x"], "--devices=x: give a number, or auto"),
        (["time-to-accuracy", "--target=99"], "--target=99: give a fraction"),
        (["startup", "--dataset=mnits"], "did you mean mnist?"),
        (["--quick", "-o", "all.json"], "6 results don't fit a file; give a folder"),
        (["startup", "-o", "/proc/none"], "/proc can't be written"),
        (["startup", "-o", "/proc/no/such"], "/proc can't be written"),
        (["input", "--evict", "--dataset=digits"], "--evict: there are no files"),
        (["everything"], "invalid choice: 'everything'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(here, argv, said):
    status, out, err = here(benchmark, *argv)
    assert_one_error_line(status, out, err)
    assert said in err
