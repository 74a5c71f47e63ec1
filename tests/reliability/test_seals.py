"""No altered checkpoint is ever taken for a sound one, and a wrong one is explained."""

import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG

from qgf_jax.errors import NoSoundCheckpointError, NotFiniteError, UserError
from qgf_jax.runs.checkpoint import Checkpoints

IDENTITY = {"config": "a", "normalisation": "b", "dataset": "c"}


def state_of(value):
    rng = np.random.default_rng(value)
    return {
        "params": {"a": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32), "b": jnp.ones(64)},
        "twin": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32),
        "key": jax.random.key(value),
        "step": jnp.int32(value),
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    found = Checkpoints(tmp_path_factory.mktemp("original"), identity=IDENTITY)
    for step in (1, 2):
        found.save(step, state_of(step))
    return found


@pytest.fixture
def checkpoints(original, tmp_path):
    shutil.copytree(original.root.parent, tmp_path, dirs_exist_ok=True)
    return Checkpoints(tmp_path, identity=IDENTITY)


def files(checkpoints, step=2):
    own = [p for p in (checkpoints.root / str(step)).rglob("*") if p.is_file()]
    return [*own, checkpoints.root / "seals" / f"{step}.json"]


def place(checkpoints, rng):
    """A file and an offset in it, each byte of the step as likely as any other."""
    found = [p for p in files(checkpoints) if p.stat().st_size]
    sizes = [p.stat().st_size for p in found]
    path = rng.choices(found, sizes)[0]
    return path, rng.randrange(path.stat().st_size)


def flip(raw, offset, rng):
    raw[offset] ^= 1 << rng.randrange(8)


def zero_sector(raw, offset, rng):
    start = offset // 512 * 512
    raw[start : start + 512] = bytes(len(raw[start : start + 512]))


def truncate(raw, offset, rng):
    del raw[offset:]


def restores(checkpoints, step, wanted):
    """Restores a step by name, as a reader does, and compares every bit."""
    found = checkpoints.restore(jax.eval_shape(lambda: state_of(0)), step)
    pairs = zip(jax.tree.leaves(found.state), jax.tree.leaves(state_of(wanted)), strict=True)
    return found.step == step and all(bits(one) == bits(two) for one, two in pairs)


def bits(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


@pytest.mark.parametrize(("damage", "times"), [(flip, 1000), (zero_sector, 200), (truncate, 200)])
def test_what_was_damaged_restores_to_the_same_bits_or_is_refused_by_name(
    checkpoints, damage, times, capsys
):
    rng = random.Random(0)
    every = 10 if LONG else 100  # restoring takes longer than looking
    for number in range(times):
        path, offset = place(checkpoints, rng)
        whole = path.read_bytes()
        raw = bytearray(whole)
        damage(raw, offset, rng)
        path.write_bytes(bytes(raw))
        where = (path, offset)
        if not (fault := checkpoints.why_invalid(2)):
            assert restores(checkpoints, 2, 2), where
        else:
            named = path.name if path.name != "2.json" else "no readable seal"
            assert named in fault, where
        if fault and number % every == 0:
            with pytest.raises(UserError, match="step 2 is not there or not sound; these are: 1"):
                restores(checkpoints, 2, 2)
            assert fault in capsys.readouterr().err
            assert checkpoints.restore(state_of(0)).step == 1
        path.write_bytes(whole)
    assert restores(checkpoints, 2, 2)


HARMLESS = {
    "nothing": lambda folder: None,
    "an empty folder": lambda folder: (folder / "ocdbt.process_1").mkdir(),
    "times": lambda folder: [os.utime(path, (0, 0)) for path in folder.rglob("*")],
    "rights": lambda folder: [p.chmod(0o444) for p in folder.rglob("*") if p.is_file()],
    "order": lambda folder: folder.rename(folder.with_name("x")).rename(folder),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_seal_does_not_look_at_restores_to_the_same_bits(checkpoints, name):
    HARMLESS[name](checkpoints.root / "2")
    assert not checkpoints.why_invalid(2) and restores(checkpoints, 2, 2)


def test_every_file_is_missed(checkpoints):
    for path in files(checkpoints):
        whole = path.read_bytes()
        path.unlink()
        assert checkpoints.why_invalid(2), path
        path.write_bytes(whole)
    assert not checkpoints.why_invalid(2)


def test_files_of_two_steps_do_not_mix(checkpoints):
    seals = checkpoints.root / "seals"
    one, two = (checkpoints.root / name for name in "12")
    two.rename(two.with_name("kept"))
    shutil.copytree(one, two)
    assert checkpoints.why_invalid(2)
    shutil.copy(
        seals / "1.json", seals / "2.json"
    )  # with its seal too: it says which step it is of
    assert checkpoints.why_invalid(2)


def test_two_leaves_swapped_are_seen(original, tmp_path):
    """Written by Orbax itself, so each file is fine by its own lights."""
    state = state_of(2)
    swapped = state | {
        "twin": state["params"]["a"],
        "params": state["params"] | {"a": state["twin"]},
    }
    other = Checkpoints(tmp_path, identity=IDENTITY)
    other.save(2, swapped)
    shutil.copy(original.root / "seals" / "2.json", other.root / "seals" / "2.json")
    assert other.why_invalid(2)
    assert other.steps() == [2]


@pytest.mark.parametrize("what", IDENTITY)
def test_a_step_of_another_run_is_not_used(checkpoints, what, capsys):
    other = Checkpoints(checkpoints.root.parent, identity=IDENTITY | {what: "x"})
    with pytest.raises(NoSoundCheckpointError):
        other.newest_sound()
    assert f"another {what}" in capsys.readouterr().err


def test_restore_falls_back_and_says_why(checkpoints, capsys):
    rng = random.Random(1)
    for _ in range(100 if LONG else 5):
        path, offset = place(checkpoints, rng)
        whole = path.read_bytes()
        raw = bytearray(whole)
        flip(raw, offset, rng)
        path.write_bytes(bytes(raw))
        found = checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
        said = capsys.readouterr().err
        assert found.step == 1 and said.count("\n") == 1 and "checkpoint 2 is not used" in said
        np.testing.assert_array_equal(found.state["twin"], state_of(1)["twin"])
        path.write_bytes(whole)


def test_nothing_sound_is_code_3_and_one_line(checkpoints):
    for step in (1, 2):
        files(checkpoints, step)[0].unlink()
    with pytest.raises(NoSoundCheckpointError) as error:
        checkpoints.restore(jax.eval_shape(lambda: state_of(0)))
    assert error.value.code == 3 and len(str(error.value).splitlines()) == 1


def _changed(**changes):
    return state_of(0) | changes


PARAMS = state_of(0)["params"]
WRONG = {
    "wider": _changed(twin=jnp.zeros((64, 65))),
    "narrower": _changed(twin=jnp.zeros((64, 63))),
    "longer": _changed(twin=jnp.zeros((65, 64))),
    "flat": _changed(twin=jnp.zeros(64 * 64)),
    "one axis more": _changed(twin=jnp.zeros((1, 64, 64))),
    "a number": _changed(twin=jnp.zeros(())),
    "half": _changed(twin=jnp.zeros((64, 64), jnp.bfloat16)),
    "float16": _changed(twin=jnp.zeros((64, 64), jnp.float16)),
    "whole numbers": _changed(twin=jnp.zeros((64, 64), jnp.int32)),
    "step as float": _changed(step=jnp.float32(0)),
    "step as uint": _changed(step=jnp.uint32(0)),
    "two steps": _changed(step=jnp.zeros(2, jnp.int32)),
    "seeds": jax.tree.map(lambda x: x[None], state_of(0)),
    "raw key": _changed(key=jax.random.key_data(jax.random.key(0))),
    "another kind of key": _changed(key=jax.random.key(0, impl="rbg")),
    "renamed": {("new" if k == "twin" else k): v for k, v in state_of(0).items()},
    "missing": {k: v for k, v in state_of(0).items() if k != "twin"},
    "extra": _changed(more=jnp.zeros(3)),
    "a list": _changed(params=list(PARAMS.values())),
    "deeper": _changed(params={"params": PARAMS}),
    "nothing": {},
}


@pytest.mark.parametrize("name", WRONG)
def test_another_tree_is_explained_in_one_line(original, name):
    with pytest.raises(UserError) as error:
        original.restore(WRONG[name])
    said = str(error.value)
    about = said.replace(str(original.root), "ROOT")
    assert "\n" not in said and len(about) <= 200
    assert "is of another network: " in said and "there, " in said and "use the config" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["params", "twin"])
def test_a_state_that_is_not_finite_is_never_sealed(checkpoints, bad, where):
    state = state_of(3)
    if where == "params":
        state["params"]["b"] = state["params"]["b"].at[5].set(bad)
    else:
        state["twin"] = state["twin"].astype(jnp.bfloat16).at[0, 0].set(bad)
    with pytest.raises(NotFiniteError, match=f"^{where}.* is not finite at step 3"):
        checkpoints.save(3, state)
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("keep", [1, 2])
def test_unsound_newer_steps_do_not_push_out_sound_ones(tmp_path, keep):
    found = Checkpoints(tmp_path, keep=3)
    for step in (1, 20, 30):
        found.save(step, state_of(step))
    for step in (20, 30):
        files(found, step)[0].write_bytes(b"")
    again = Checkpoints(tmp_path, keep=keep)
    again.save(5, state_of(5))
    assert again.newest_sound() == 5
    assert [step for step in again.steps() if not again.why_invalid(step)] == [1, 5][-keep:]


@pytest.mark.parametrize("content", [b"[]", b"3", b'"x"', b"null", b"{}"])
def test_a_seal_that_is_other_json_is_no_seal(checkpoints, content):
    (checkpoints.root / "seals" / "2.json").write_bytes(content)
    assert checkpoints.newest_sound() == 1


def test_a_named_step_that_is_not_sound_is_no_reason_to_train_again(checkpoints):
    files(checkpoints, 2)[0].unlink()
    for step in (2, 9):
        with pytest.raises(
            UserError, match=rf"step {step} is not there or not sound; these are: 1"
        ):
            checkpoints.newest_sound(step)


def test_only_what_is_ours_is_cleaned_away(checkpoints):
    for name in ("best", "7-backup", "7", "7.1-1.orbax-checkpoint-tmp"):
        (checkpoints.root / name).mkdir()
    checkpoints.clean()
    assert {p.name for p in checkpoints.root.iterdir()} == {"1", "2", "seals", "best", "7-backup"}


def test_all_of_a_step_is_on_disk_before_its_seal(tmp_path, monkeypatch):
    """The order in which files are forced to disk, by inode; then the seal's name appears."""
    order, real_sync, real_replace = [], os.fsync, type(tmp_path).replace

    def sync(descriptor):
        order.append(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def replace(self, target):
        order.append(str(target))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(type(tmp_path), "replace", replace)
    found = Checkpoints(tmp_path)
    found.save(1, state_of(1))
    seal = str(found.root / "seals" / "1.json")
    before = set(order[: order.index(seal)])
    step = found.root / "1"
    wanted = [*step.rglob("*"), step, found.root]
    assert {p.stat().st_ino for p in wanted} <= before
    assert order[order.index(seal) + 1] == (found.root / "seals").stat().st_ino
