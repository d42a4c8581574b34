"""Checkpoints: all comes back, the last three stay, and damage is noticed, named, gone behind."""

import json
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults_log import log_faults

from digits_jax.errors import DigitsError
from digits_jax.runs import checkpoint as module
from digits_jax.runs.checkpoint import (
    abstract,
    clear_up,
    list_steps,
    newest_good,
    read_weights,
    restore_newest,
    save_checkpoint,
)
from digits_jax.runs.manifest import DamagedError, read_manifest, write_manifest


def tree(step=0):
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.arange(6.0).reshape(2, 3) + step, "bias": jnp.zeros(3)},
        "opt_state": (jnp.full(3, 0.1 * step), {}),
    }


@pytest.fixture(scope="session")
def five_saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 to 5 made; it is read only."""
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in range(1, 6):
        save_checkpoint(path, step, tree(step), {"loss": step / 3})
    return path


@pytest.fixture
def saved(five_saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(five_saved, tmp_path / "checkpoints")


def restore(path, wanted=None):
    return restore_newest(path, wanted or abstract(tree()))


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def assert_is(found, step):
    assert (found.step, found.values) == (step, {"loss": step / 3})  # to the last bit
    assert jax.tree.structure(found.tree) == jax.tree.structure(tree())
    for a, b in zip(jax.tree.leaves(found.tree), jax.tree.leaves(tree(step)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_all_comes_back(saved):
    found = restore(saved)
    assert_is(found, 5)
    assert found.damaged == {}


def test_the_last_three_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["3", "4", "5"]
    assert list_steps(saved) == [3, 4, 5]


def test_no_checkpoint_yet(tmp_path):
    """And reading makes no folder."""
    path = tmp_path / "checkpoints"
    assert list_steps(path) == []
    assert restore(path) is None
    assert newest_good(path) is None
    with pytest.raises(DigitsError, match="holds no checkpoint; train the run first"):
        read_weights(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [4, 5])
def test_a_step_that_is_not_new_is_refused(saved, step):
    with pytest.raises(DigitsError, match=rf"step {step} can't be saved, as step 5 is there"):
        save_checkpoint(saved, step, tree(99), {"loss": 99.0})
    assert_is(restore(saved), 5)


def test_abstract_has_the_sharding():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    kernel = abstract(tree(), sharding)["params"]["kernel"]
    assert (kernel.shape, kernel.dtype, kernel.sharding) == ((2, 3), jnp.float32, sharding)


def test_the_manifest_names_every_file(saved):
    files = json.loads((saved / "5" / "manifest.json").read_text())["files"]
    there = {path.relative_to(saved / "5").as_posix(): path for path in files_of(saved / "5")}
    assert files.keys() == there.keys() - {"manifest.json"}
    assert all(files[name]["bytes"] == there[name].stat().st_size for name in files)


# --- damage --------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(saved):
    """200 random places over all the bytes of a checkpoint; orbax restores most without a word."""
    rng = random.Random(0)
    contents = {path: path.read_bytes() for path in files_of(saved / "5")}
    places = [(path, place) for path, content in contents.items() for place in range(len(content))]
    for path, place in rng.sample(places, 200):
        content = contents[path]
        flipped = content[place] ^ 1 << rng.randrange(8)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        with pytest.raises(DamagedError, match=r"SHA-256|isn't what was written"):
            module.inspect_step(saved, 5)
        path.write_bytes(content)
    log_faults("a flipped bit", 200, 200)
    assert_is(restore(saved), 5)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "gone", "a folder", "longer"])
def test_each_file_matters(saved, damage):
    """Whichever file is damaged, the step before is taken, and the damage is named."""
    for path in files_of(saved / "5"):
        content = path.read_bytes()
        if damage in ("gone", "a folder"):
            path.unlink()
        if damage == "a folder":
            path.mkdir()
        if damage == "flipped":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        elif damage in ("cut", "emptied", "longer"):
            ends = {"cut": content[: len(content) // 2], "emptied": b"", "longer": content + b"\n"}
            path.write_bytes(ends[damage])
        found = restore(saved)
        assert_is(found, 4)
        assert found.damaged.keys() == {5}
        assert path.relative_to(saved / "5").as_posix() in found.damaged[5]
        if damage == "a folder":
            path.rmdir()
        path.write_bytes(content)
    log_faults(f"a file {damage}", len(files_of(saved / "5")), len(files_of(saved / "5")))
    assert_is(restore(saved), 5)


@pytest.mark.parametrize("what", ["empty", "half-written", "renamed", "a file"])
def test_a_newer_step_that_is_none(saved, what):
    newer = saved / "99"
    if what == "empty":
        newer.mkdir()
    elif what == "a file":
        newer.write_text("")
    else:
        shutil.copytree(saved / "4", newer)
        if what == "half-written":
            (newer / "manifest.json").unlink()
    said = "is step 4 under another name" if what == "renamed" else "manifest.json"
    found = restore(saved)
    assert_is(found, 5)
    assert said in found.damaged[99]
    assert newest_good(saved) == 5
    assert read_weights(saved)[0] == 5


def test_two_damaged_steps(saved):
    for step in (4, 5):
        (saved / str(step) / "manifest.json").write_bytes(b"\xff")
    found = restore(saved)
    assert_is(found, 3)
    assert found.damaged.keys() == {4, 5}
    clear_up(saved, found.damaged)
    assert sorted(path.name for path in saved.iterdir()) == ["3", "damaged-4", "damaged-5"]
    save_checkpoint(saved, 4, tree(4), {"loss": 4 / 3})
    assert_is(restore(saved), 4)
    (saved / "4" / "manifest.json").unlink()
    clear_up(saved, {4: "why"})
    assert {"damaged-4", "damaged-4-2"} <= {path.name for path in saved.iterdir()}


def test_none_that_is_whole(saved):
    for step in (3, 4, 5):
        (saved / str(step) / "manifest.json").unlink()
    for read in (restore, read_weights):
        with pytest.raises(DigitsError, match=r"no checkpoint can be restored \(step 5: .*step 3"):
            read(saved)
    assert newest_good(saved) is None


def test_numbers_that_are_none(saved):
    """A checkpoint of NaN is none to go on from, however whole."""
    bad = tree(6)
    bad["params"]["bias"] = jnp.array([0.0, jnp.nan, 0.0])
    save_checkpoint(saved, 6, bad, {"loss": 2.0})
    found = restore(saved)
    assert_is(found, 5)
    assert found.damaged == {6: "params/bias holds NaN or infinity"}


def test_a_checkpoint_of_another_tree(saved):
    other = abstract({**tree(), "params": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}})
    with pytest.raises(DigitsError, match="can't be restored"):
        restore(saved, other)


def test_another_format(tmp_path):
    (tmp_path / "5").mkdir()
    write_manifest(tmp_path / "5", 5, {})
    content = json.loads((tmp_path / "5" / "manifest.json").read_text())
    assert content.pop("sha256")
    # As a later version would write it.
    from digits_jax.runs import manifest

    content["format"] = 99
    text = manifest._text({**content, "sha256": manifest._own_sha256(content)})
    (tmp_path / "5" / "manifest.json").write_bytes(text)
    with pytest.raises(DamagedError, match="another version of digits_jax"):
        read_manifest(tmp_path / "5")


def test_the_average_is_what_recognises(tmp_path):
    weights = {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.full(1, 3.0)}}
    averaged = {"params": {"w": jnp.zeros(2)}, "batch_stats": {"m": jnp.full(1, 5.0)}}
    save_checkpoint(tmp_path, 1, {**weights, "average": {}}, {})
    save_checkpoint(tmp_path, 2, {**weights, "average": averaged}, {})
    step, found, damaged = read_weights(tmp_path)
    assert (step, damaged) == (2, {})
    np.testing.assert_array_equal(found["params"]["w"], [0, 0])
    np.testing.assert_array_equal(found["batch_stats"]["m"], [5])
    shutil.rmtree(tmp_path / "2")
    _, found, _ = read_weights(tmp_path)
    np.testing.assert_array_equal(found["params"]["w"], [1, 1])


# --- saving that fails -----------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("disk")])
@pytest.mark.parametrize("where", ["orbax", "manifest", "rename"])
def test_a_full_disk(saved, monkeypatch, error, where):
    import orbax.checkpoint as ocp

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        if where == "orbax":
            patch.setattr(ocp.Checkpointer, "save", fail)
        elif where == "manifest":
            patch.setattr(module, "write_manifest", fail)
        else:
            patch.setattr(module, "sync_folder", fail)
        with pytest.raises(
            DigitsError, match=r"step 6 could not be saved .*step 5 is kept.*--resume"
        ):
            save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert newest_good(saved) >= 5
    assert {"3", "4", "5"} <= {path.name for path in saved.iterdir()}
    if where != "rename":
        save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert_is(restore(saved), 6)


def test_what_a_killed_save_leaves(saved):
    """Half a save, and a removal that wasn't finished: neither is read, both go."""
    shutil.copytree(saved / "5", saved / ".6.saving")
    (saved / ".2.removing" / "state").mkdir(parents=True)
    assert_is(restore(saved), 5)
    save_checkpoint(saved, 6, tree(6), {"loss": 2.0})  # over the half of it
    assert_is(restore(saved), 6)
    (saved / ".7.saving").mkdir()
    clear_up(saved, {})
    assert sorted(path.name for path in saved.iterdir()) == ["4", "5", "6"]


def test_the_last_good_one_is_never_dropped(saved, monkeypatch):
    """Older steps go when the new one is whole on disk, no sooner."""
    seen = []

    def remove(path):
        if path.name.isdecimal():
            seen.append((path.name, newest_good(saved)))
        real(path)

    real = module._remove
    monkeypatch.setattr(module, "_remove", remove)
    save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert seen == [("3", 6)]


def test_other_names_are_left_alone(saved):
    for name in ("007", "-1", "²", "notes"):
        (saved / name).mkdir()
    os.symlink("nowhere", saved / "link")
    assert list_steps(saved) == [3, 4, 5]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(DigitsError, match="is not a folder; move that file away"):
        restore(tmp_path / "checkpoints")
