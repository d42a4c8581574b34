"""Checkpoints: all comes back, the last three stay, and damage is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.errors import InputError
from digits_jax.runs.checkpoint import abstract, open_checkpoints


def tree(step=0):
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.arange(6.0).reshape(2, 3) + step, "bias": jnp.zeros(3)},
        "opt_state": (jnp.full(3, 0.1 * step), {}),
    }


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 1 to 5 made."""
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, tree(step), {"loss": step / 3})
    return tmp_path / "checkpoints"


def restore(path, step, wanted=None):
    with open_checkpoints(path, read_only=True) as checkpoints:
        return checkpoints.restore(step, wanted or abstract(tree()))


def test_all_comes_back(saved):
    restored, progress = restore(saved, 5)
    assert progress == {"loss": 5 / 3}  # to the last bit
    assert jax.tree.structure(restored) == jax.tree.structure(tree())
    for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(tree(5)), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


def test_the_last_three_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["3", "4", "5"]
    with open_checkpoints(saved, read_only=True) as checkpoints:
        assert checkpoints.latest_step == 5


def test_no_checkpoint_yet(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is None


def test_reading_makes_no_folder(tmp_path):
    with open_checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [4, 5])
def test_a_step_that_is_not_new_is_refused(saved, step):
    """Orbax would keep quiet, and save nothing."""
    with (
        open_checkpoints(saved) as checkpoints,
        pytest.raises(InputError, match=rf"step {step} can't be saved, as step 5 is there"),
    ):
        checkpoints.save(step, tree(99), {"loss": 99.0})
    assert restore(saved, 5)[1] == {"loss": 5 / 3}


def test_abstract_has_the_sharding():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    kernel = abstract(tree(), sharding)["params"]["kernel"]
    assert (kernel.shape, kernel.dtype, kernel.sharding) == ((2, 3), jnp.float32, sharding)


@pytest.mark.parametrize("damage", ["cut", "gone", "no metadata"])
def test_a_damaged_checkpoint_is_named(saved, damage):
    state = saved / "5" / "state"
    if damage == "no metadata":
        (state / "_METADATA").unlink()
    else:
        data = [path for path in state.rglob("d/*") if path.is_file()]
        assert data
        for path in data:
            if damage == "cut":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            else:
                path.unlink()
    with pytest.raises(InputError, match=r"checkpoints/5: .*can't be restored .*back to step 4$"):
        restore(saved, 5)
    np.testing.assert_array_equal(restore(saved, 4)[0]["params"]["kernel"][0], [4, 5, 6])


def test_a_flipped_bit_is_noticed_or_changes_nothing(saved):
    """Orbax restores many of them without a word, with wrong values."""
    noticed = 0
    for path in sorted(p for p in (saved / "5").rglob("*") if p.is_file()):
        good = path.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 6)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
            try:
                found, progress = restore(saved, 5)
            except InputError:
                noticed += 1
                continue
            np.testing.assert_array_equal(found["params"]["kernel"], tree(5)["params"]["kernel"])
            np.testing.assert_array_equal(found["opt_state"][0], tree(5)["opt_state"][0])
            assert (int(found["step"]), progress) == (5, {"loss": 5 / 3})
        path.write_bytes(good)
    assert noticed > 10


def test_the_only_checkpoint_is_not_to_be_deleted(tmp_path):
    with open_checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree(1), {})
    (tmp_path / "1" / "progress" / "metadata").write_text("{}")
    with pytest.raises(InputError, match="there is no other: train the run anew"):
        restore(tmp_path, 1)


def test_a_checkpoint_of_another_tree(saved):
    other = abstract({**tree(), "params": {"kernel": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}})
    with pytest.raises(InputError, match="can't be restored"):
        restore(saved, 5, other)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("disk")])
def test_a_full_disk(saved, monkeypatch, error):
    with open_checkpoints(saved) as checkpoints:

        def fail(*args, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._manager, "save", fail)
            with pytest.raises(InputError, match=r"step 6 could not be saved .*--resume"):
                checkpoints.save(6, tree(6), {})
        assert checkpoints.latest_step == 5
        checkpoints.save(6, tree(6), {})
        assert checkpoints.latest_step == 6
