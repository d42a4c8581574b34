"""The hyperparameter search: what it proposes, that it can be continued, and what it reports."""

import dataclasses
import re

import pytest
from programs import assert_refused

from digits_jax import TrainConfig, load_dataset
from digits_jax.train import parse_arguments

optuna = pytest.importorskip("optuna")
from experiments import search  # noqa: E402

SHORT = ("--arch=mlp", "--dataset=digits", "--epochs=0.5", "--seeds=1", "--trials=3")


class Unreadable:
    """In place of a test set: it is there, and must not be read."""

    def __len__(self):
        return 1

    def rows(self, indices):
        raise AssertionError("the test set was read")

    def __getattr__(self, name):
        raise AssertionError("the test set was read")


@pytest.fixture
def short(monkeypatch):
    """Small networks without a test set, which compile fast."""
    monkeypatch.setitem(search.ARCH_CHOICES, "mlp", {"hidden_sizes": ["16", "512,512"]})
    monkeypatch.setitem(search.CHOICES, "augment", ["none", "affine"])
    dataset = dataclasses.replace(load_dataset("digits"), test=Unreadable())
    monkeypatch.setattr(search, "load_dataset", lambda *_: dataset)


def flags_of(folder):
    """The flags of each trial of a search."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="search", storage=storage)
    return [trial.user_attrs["flags"] for trial in study.trials]


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("dataset", ["mnist", "digits"])
def test_trial_0_is_the_preset_and_all_others_can_be_trained(arch, dataset):
    preset = TrainConfig(arch=arch).resolve(dataset)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.enqueue_trial(search.to_params(preset))
    found = []
    for _ in range(20):
        flags = search.command(preset, search.suggest(study.ask(), arch))
        found.append(parse_arguments(flags).config.resolve(dataset))
    assert found[0] == preset
    assert len(set(found)) == 20


@pytest.mark.slow
def test_a_search_reports_and_is_continued(here, tmp_path, short, monkeypatch):
    """Stopped within a trial, it has the same trials as one that was never stopped."""
    status, out, err = here(search, *SHORT, "-o", "straight")
    assert (status, err) == (0, "")
    assert re.findall(r"^trial (\d)", out, re.M) == ["0", "1", "2"]
    for name in ("search.md", "history.png", "parameters.png"):
        assert (tmp_path / "straight" / name).stat().st_size > 500
    table = (tmp_path / "straight" / "search.md").read_text()
    flags = "--arch=mlp --dataset=digits --preset=standard --epochs=0.5"
    assert f"| preset | `python -m digits_jax.train {flags}` |" in table
    assert "The test set was not read." in table

    train, calls = search.train_members, []

    def stop_in_the_second(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(search, "train_members", stop_in_the_second)
    monkeypatch.setattr(search, "write_report", lambda *_: None)
    assert here(search, *SHORT, "-o", "stopped")[0] == 130
    status, out, _ = here(search, *SHORT, "-o", "stopped")
    assert status == 0
    assert re.findall(r"^trial (\d)", out, re.M) == ["2", "3"]  # trial 1 was stopped
    first, _, *others = flags_of(tmp_path / "stopped")
    assert [first, *others] == flags_of(tmp_path / "straight")

    assert here(search, *SHORT, "-o", "stopped") == (0, "", "")  # there are enough trials
    assert_refused(
        here(search, *SHORT, "--seed=1", "-o", "stopped"), "holds a search with --seed=0, not 1"
    )


def test_bad_input_is_one_line(here):
    assert_refused(here(search, "--trials=0"), "--trials=0: must be more than 0")
