"""Sealed checkpoints: what was altered is named and passed over, what was cut off never counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.checkpoint import Checkpoints
from qgf_jax.errors import UserError


def state_of(value):
    return {
        "a": jnp.full((3, 4), float(value)),
        "key": jax.random.key(value),
        "n": jnp.int32(value),
    }


@pytest.fixture
def checkpoints(tmp_path):
    found = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        found.save(step, state_of(step))
    return found


def restored_value(checkpoints):
    step, state, _ = checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
    np.testing.assert_array_equal(state["a"], np.full((3, 4), float(step)))
    assert jnp.array_equal(
        jax.random.key_data(state["key"]), jax.random.key_data(jax.random.key(step))
    )
    return step


def test_newest_is_restored_and_only_so_many_are_kept(checkpoints):
    assert checkpoints.steps() == [2, 3]
    assert restored_value(checkpoints) == 3
    assert not (checkpoints.root / "1").exists()


def data_file(checkpoints, step):
    files = [p for p in (checkpoints.root / str(step)).rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add", "seal"])
def test_damaged_step_is_named_and_the_one_before_is_used(checkpoints, damage, capsys):
    path = data_file(checkpoints, 3)
    if damage == "flip":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(bytes(raw))
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "delete":
        path.unlink()
    elif damage == "add":
        path.with_name("more").write_text("x")
    else:
        (checkpoints.root / "seals" / "3.json").write_text("{")
    assert restored_value(checkpoints) == 2
    warning = capsys.readouterr().err
    assert "checkpoint 3 is not used" in warning and warning.count("\n") == 1


def test_unsealed_step_does_not_count_and_is_written_over(checkpoints):
    (checkpoints.root / "seals" / "3.json").unlink()
    assert restored_value(checkpoints) == 2
    checkpoints.save(3, state_of(3))
    assert restored_value(checkpoints) == 3


def test_nothing_sound_is_an_error_and_nothing_at_all_is_none(checkpoints, tmp_path):
    for step in (2, 3):
        data_file(checkpoints, step).unlink()
    with pytest.raises(UserError, match="no sound checkpoint"):
        checkpoints.restore(state_of(0))
    assert Checkpoints(tmp_path / "empty").restore(state_of(0)) is None


def test_another_networks_checkpoint_is_explained_in_one_line(checkpoints):
    wrong = {"a": jnp.zeros((3, 5)), "key": jax.random.key(0), "n": jnp.int32(0)}
    with pytest.raises(UserError, match="another network") as error:
        checkpoints.restore(wrong)
    assert "\n" not in str(error.value)
