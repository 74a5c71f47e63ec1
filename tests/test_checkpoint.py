"""Sealed checkpoints: what was altered is named and passed over, what was cut off never counts."""

import contextlib
import json
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from qgf_jax import cli
from qgf_jax.errors import SaveError, UserError
from qgf_jax.runs import array_files, policy
from qgf_jax.runs.checkpoint import UNMERGED, Checkpoints, _digests


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


def equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def by_earlier_version(folder, monkeypatch, steps=(1, 2)):
    """What a version left that told Orbax the path itself: files that nobody has merged, sealed."""

    @contextlib.contextmanager
    def itself(folder, *, writing=False):
        yield folder

    with monkeypatch.context() as patch:
        patch.setattr(array_files, "_neutral", itself)
        patch.setattr(Checkpoints, "_check_restores", lambda *_: None)
        found = Checkpoints(folder, identity={"config": "a"})
        for step in steps:
            found.save(step, state_of(step), {"about": step})
    return found


@pytest.mark.parametrize("name", ["lr=1,hidden=[64,64]", "a*?", "{a,b}", "é\udcff\n"])
def test_no_path_is_taken_for_a_pattern(tmp_path, name):
    found = Checkpoints(tmp_path / name / "run")
    found.save(3, state_of(3))
    assert restored_value(found) == 3
    if "\udcff" not in name:  # TensorStore takes no such path from anybody
        with ocp.StandardCheckpointer() as checkpointer:
            assert int(checkpointer.restore(found.root / "3")["n"]) == 3


def test_two_folders_with_one_descriptor_are_not_mixed_up(tmp_path):
    """TensorStore remembers by path, and all of these have the same one, one after another."""
    for value in (1, 2, 3):
        Checkpoints(tmp_path / str(value)).save(1, state_of(value))
    for value in (3, 1, 2):
        found = Checkpoints(tmp_path / str(value)).restore(jax.eval_shape(lambda: state_of(0)))
        assert int(found.state["n"]) == value


def altered(tree):
    return tree | {"a": np.nextafter(tree["a"], np.float32(np.inf))}


@pytest.mark.parametrize(
    "fault, cause",
    [
        (lambda folder, name, tree: altered(tree), "they are other numbers"),
        (lambda folder, name, tree: (folder / "nowhere").read_bytes(), "No such file"),
    ],
)
def test_a_step_that_does_not_restore_to_what_was_saved_is_not_sealed(
    checkpoints, monkeypatch, fault, cause
):
    monkeypatch.setattr(array_files, "read", fault)
    with pytest.raises(SaveError, match=f"does not restore: .*{cause}"):
        checkpoints.save(4, state_of(4))
    assert checkpoints.steps() == [2, 3] and not (checkpoints.root / "4").exists()


def test_a_step_is_opened_as_host_arrays_in_the_thread_that_saves(tmp_path, monkeypatch):
    seen, real = [], array_files.read

    def read(folder, name, template):
        before = len(jax.live_arrays())
        tree = real(folder, name, template)
        seen.append((threading.current_thread().name, len(jax.live_arrays()) - before))
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
        return tree

    monkeypatch.setattr(array_files, "read", read)
    with Checkpoints(tmp_path) as found:
        found.save(1, state_of(1))
    assert seen == [("save_0", 0)]


def test_what_an_earlier_version_left_unmerged_is_named_and_rescued(tmp_path, monkeypatch):
    found = by_earlier_version(tmp_path / "a[b]", monkeypatch)
    assert [found.fault(step) for step in (1, 2)] == [UNMERGED, UNMERGED]
    with pytest.raises(UserError, match="no sound checkpoint is left: `qgf verify --rescue"):
        found.newest_sound()
    digests = [found.digest(step) for step in (1, 2)]
    found.rescue(1)
    found.rescue(2)
    assert [found.fault(step) for step in (1, 2)] == ["", ""]
    assert [found.digest(step) for step in (1, 2)] == digests
    assert restored_value(found) == 2
    assert found.restore(state_of(0)).note == {"about": 2}


def test_a_rescue_that_was_killed_is_done_again(tmp_path, monkeypatch):
    found = by_earlier_version(tmp_path / "a[b]", monkeypatch)

    def killed(name):
        if name == "merged":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("qgf_jax.runs.failpoints.failpoint", killed)
        found.rescue(2)
    assert found.fault(2) == UNMERGED
    found.rescue(2)
    assert restored_value(found) == 2


def test_what_is_damaged_besides_is_not_rescued(tmp_path, monkeypatch):
    found = by_earlier_version(tmp_path / "a[b]", monkeypatch)
    path = data_file(found, 2)
    path.write_bytes(path.read_bytes()[:-1])
    assert "altered" in found.fault(2)
    other = dict(found._read_seal(1), state="0" * 64)
    found._seal(other)
    with pytest.raises(UserError, match="its numbers are others"):
        found.rescue(1)
    assert found.fault(1) == UNMERGED


def test_a_whole_train_state_is_rescued(run_folder, tmp_path, capsys):
    """Its names come from another tree than Orbax gives back: dataclasses and tuples there."""
    shutil.copytree(run_folder, tmp_path / "run")
    found = Checkpoints(tmp_path / "run")
    for step in found.steps():
        folder = found.root / str(step)
        (folder / "manifest.ocdbt").unlink()
        shutil.rmtree(folder / "d")
        found._seal(found._read_seal(step) | {"files": _digests(folder)})
    steps = ", ".join(map(str, found.steps()))
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert stop.value.code == 2 and "--rescue" in said.err and f"checkpoint {steps}: " in said.err
    assert all(not json.loads(line)["sound"] for line in said.out.splitlines())
    cli.main(["verify", "--rescue", str(tmp_path / "run")])
    assert all(json.loads(line)["sound"] for line in capsys.readouterr().out.splitlines())
    equal(policy.restore(tmp_path / "run").params, policy.restore(run_folder).params)
