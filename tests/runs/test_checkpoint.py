"""Checkpoints: everything is restored, the last three stay, damage is found and passed over."""

import errno
import os
import random
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.errors import CheckpointError
from digits_jax.runs.checkpoint import (
    abstract,
    clear_up,
    find_damage,
    last_saved,
    list_steps,
    newest_good,
    read_values,
    read_weights,
    restore_newest,
    save_checkpoint,
    verify_step,
)


def tree(step=0):
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.arange(6.0).reshape(2, 3) + step, "bias": jnp.zeros(3)},
        "opt_state": (jnp.full(3, 0.1 * step), {}),
    }


@pytest.fixture(scope="session")
def five_saved(tmp_path_factory):
    """A folder in which the steps 1 to 5 were saved; it is only read."""
    path = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in range(1, 6):
        save_checkpoint(path, step, tree(step), {"loss": step / 3})
    return path


@pytest.fixture
def saved(five_saved, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(five_saved, tmp_path / "checkpoints")


def weights_of(path):
    return read_weights(path, {**abstract({"params": tree()["params"]}), "batch_stats": {}})


def restore(path, wanted=None):
    return restore_newest(path, wanted or abstract(tree()))


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def assert_restores(path, step, damaged=()):
    found = restore(path)
    assert (found.step, found.values) == (step, {"loss": step / 3})  # to the last bit
    assert found.damaged.keys() == set(damaged)
    assert jax.tree.structure(found.tree) == jax.tree.structure(tree())
    for a, b in zip(jax.tree.leaves(found.tree), jax.tree.leaves(tree(step)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    return found.damaged


def test_the_newest_is_restored_and_the_last_three_are_kept(five_saved, saved):
    assert sorted(path.name for path in saved.iterdir()) == ["3", "4", "5"]
    for name in ("007", "-1", "²", "notes"):  # not ours
        (saved / name).mkdir()
    assert (list_steps(saved), newest_good(saved)) == ([3, 4, 5], 5)
    assert last_saved(five_saved) == 5
    assert read_values(saved, 4) == {"loss": 4 / 3}
    assert_restores(saved, 5)


def test_no_checkpoint_yet(tmp_path):
    """And reading makes no folder."""
    path = tmp_path / "checkpoints"
    assert (list_steps(path), restore(path), newest_good(path)) == ([], None, None)
    assert last_saved(path) is None
    with pytest.raises(CheckpointError, match="holds no checkpoint; train the run first"):
        weights_of(path)
    assert list(tmp_path.iterdir()) == []


def test_the_tree_is_restored_with_the_wanted_sharding(saved):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    kernel = restore(saved, abstract(tree(), sharding)).tree["params"]["kernel"]
    assert (kernel.shape, kernel.dtype, kernel.sharding) == ((2, 3), jnp.float32, sharding)


def test_the_weights_are_the_average_where_there_is_one(tmp_path):
    weights = {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.full(1, 3.0)}}
    averaged = {"params": {"w": jnp.zeros(2)}, "batch_stats": {"m": jnp.full(1, 5.0)}}
    save_checkpoint(tmp_path, 1, {**weights, "average": {}}, {})
    save_checkpoint(tmp_path, 2, {**weights, "average": averaged}, {})
    for step, w, m in ((2, [0, 0], [5]), (1, [1, 1], [3])):
        found_step, found, damaged = read_weights(tmp_path, abstract(weights))
        assert (found_step, damaged) == (step, {})
        np.testing.assert_array_equal(found["params"]["w"], w)
        np.testing.assert_array_equal(found["batch_stats"]["m"], m)
        shutil.rmtree(tmp_path / str(step))


# --- damage --------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(saved):
    """200 random places over all the bytes of a checkpoint; Orbax restores most silently."""
    rng = random.Random(0)
    contents = {path: path.read_bytes() for path in files_of(saved / "5")}
    places = [(path, place) for path, content in contents.items() for place in range(len(content))]
    for path, place in rng.sample(places, 200):
        content = contents[path]
        flipped = content[place] ^ 1 << rng.randrange(8)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        assert "doesn't match SHA256SUMS" in find_damage(saved, 5)
        path.write_bytes(content)
    assert_restores(saved, 5)


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "a folder", "longer", "a pipe"])
def test_each_file_matters(saved, damage):
    """Whichever file is damaged, it is named, and the step before is restored."""
    files = files_of(saved / "5")
    for path in files:
        content = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage == "a pipe":
            os.mkfifo(path)
        elif damage != "gone":
            half = content[: len(content) // 2]
            path.write_bytes({"cut": half, "emptied": b"", "longer": content + b"\n"}[damage])
        assert path.relative_to(saved / "5").as_posix() in find_damage(saved, 5)
        assert newest_good(saved) == 4
        if path == files[0]:
            assert_restores(saved, 4, damaged=[5])
            assert weights_of(saved)[0] == 4
        if damage == "a folder":
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert find_damage(saved, 5) is None


@pytest.mark.parametrize("what", ["empty", "half-written", "renamed", "a file"])
def test_a_newer_step_that_is_incomplete(saved, what):
    newer = saved / "99"
    if what == "empty":
        newer.mkdir()
    elif what == "a file":
        newer.write_text("")
    else:
        shutil.copytree(saved / "4", newer)
        if what == "half-written":
            (newer / "SHA256SUMS").unlink()
    assert "SHA256SUMS" in assert_restores(saved, 5, damaged=[99])[99]


def test_the_sums_are_what_sha256sum_reads(five_saved):
    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum here")
    argv = ["sha256sum", "--strict", "--quiet", "-c", "5/SHA256SUMS"]
    subprocess.run(argv, cwd=five_saved, check=True)
    names = {line.split("  ")[1] for line in (five_saved / "5/SHA256SUMS").read_text().splitlines()}
    there = {path.relative_to(five_saved).as_posix() for path in files_of(five_saved / "5")}
    assert names == there - {"5/SHA256SUMS"}


def test_damaged_steps_are_set_aside_and_trained_again(saved):
    for step in (4, 5):
        (saved / str(step) / "SHA256SUMS").write_bytes(b"\xff")
    damaged = assert_restores(saved, 3, damaged=[4, 5])
    clear_up(saved, damaged)
    save_checkpoint(saved, 4, tree(4), {"loss": 4 / 3})
    assert_restores(saved, 4)
    (saved / "4" / "SHA256SUMS").unlink()
    clear_up(saved, {4: "why"})
    names = sorted(path.name.rpartition("-")[0] or path.name for path in saved.iterdir())
    assert names == ["3", "damaged-4", "damaged-4", "damaged-5"]


def test_all_are_damaged(saved):
    for step in (3, 4, 5):
        (saved / str(step) / "SHA256SUMS").unlink()
    for read in (restore, weights_of):
        with pytest.raises(CheckpointError, match=r"no checkpoint .* \(step 5: .*step 3"):
            read(saved)
    assert newest_good(saved) is None


def test_a_step_with_nan_is_passed_over(saved):
    bad = tree(6)
    bad["params"]["bias"] = jnp.array([0.0, jnp.nan, 0.0])
    save_checkpoint(saved, 6, bad, {"loss": 2.0})
    assert assert_restores(saved, 5, damaged=[6]) == {6: "params/bias holds NaN or infinity"}


def test_an_intact_step_that_cannot_be_restored_is_no_damage(saved, monkeypatch):
    """Another network, too many open files: an error, and no older step in its place."""
    other = abstract({**tree(), "params": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}})
    with pytest.raises(CheckpointError, match="5: can't be restored though its files are intact"):
        restore(saved, other)
    assert verify_step(saved, 5, other) == "params/kernel is float32[2, 3], not float32[4, 3]"
    assert verify_step(saved, 5, abstract(tree())) is None

    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files", "x")

    monkeypatch.setattr(os, "open", fail)
    for read in (restore, newest_good):
        with pytest.raises(CheckpointError, match=r"\(Too many open files\); nothing was changed"):
            read(saved)


def test_arrays_of_other_shapes_are_not_read(tmp_path):
    """An untrusted checkpoint: 40 kB of zeros, packed, for 400 MB of memory."""
    large = {"params": {"w": jnp.zeros((10_000, 10_000))}, "batch_stats": {}}
    save_checkpoint(tmp_path, 1, large, {})
    small = abstract({"params": {"w": jnp.zeros(2)}, "batch_stats": {}})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (restore_newest, read_weights):
        with pytest.raises(CheckpointError, match=r"params/w is float32\[10000, 10000\], not"):
            read(tmp_path, small)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_folder_of_checkpoints_that_is_a_link_is_refused(saved, tmp_path):
    (saved / "5" / "SHA256SUMS").unlink()  # it would be renamed
    (tmp_path / "link").symlink_to(saved)
    with pytest.raises(CheckpointError, match="link: is a link; put the folder itself there"):
        restore(tmp_path / "link")
    with pytest.raises(CheckpointError, match="is a link"):
        save_checkpoint(tmp_path / "link", 6, tree(6), {})


# --- saving that fails -----------------------------------------------------------------------


def test_a_step_that_is_not_new_is_refused(saved):
    with pytest.raises(CheckpointError, match="step 5 can't be saved: step 5 is there"):
        save_checkpoint(saved, 5, tree(99), {"loss": 99.0})
    assert_restores(saved, 5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("where", ["write_bytes", "rename"])
def test_a_disk_that_fails(saved, monkeypatch, number, where):
    """In the first file that is written, and when the step is complete."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(type(saved), where, fail)
        with pytest.raises(CheckpointError, match="step 6 could not be saved") as caught:
            save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert f"({os.strerror(number)}); step 5 is kept" in str(caught.value)
    assert ("free some space" in str(caught.value)) == (number == errno.ENOSPC)
    assert sorted(path.name for path in saved.iterdir()) == ["3", "4", "5"]
    save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert_restores(saved, 6)


def test_no_run_folder_is_made_again(tmp_path):
    """A run's folder that was renamed or removed meanwhile."""
    with pytest.raises(CheckpointError, match="step 1 could not be saved"):
        save_checkpoint(tmp_path / "gone" / "checkpoints", 1, tree(), {})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_and_a_killed_removal_leave(saved):
    """Neither is read, both are removed."""
    shutil.copytree(saved / "5", saved / ".6.incomplete")
    (saved / ".2.incomplete" / "state").mkdir(parents=True)
    assert_restores(saved, 5)
    save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert_restores(saved, 6)
    clear_up(saved, {})
    assert sorted(path.name for path in saved.iterdir()) == ["4", "5", "6"]


def test_older_steps_are_removed_when_the_new_one_is_complete(saved, monkeypatch):
    seen, rmtree = [], shutil.rmtree

    def remove(path, **options):
        if path.name == ".3.incomplete" and path.exists():
            seen.append(newest_good(saved))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove)
    save_checkpoint(saved, 6, tree(6), {"loss": 2.0})
    assert seen == [6]
