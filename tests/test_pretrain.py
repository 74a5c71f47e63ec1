"""A run folder from start to end: resuming, refusing, metrics."""

import json
import shutil

import jax
import numpy as np
import pytest
from conftest import tiny

from qgf_jax import load_policy
from qgf_jax.config import RunConfig
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines, fingerprint
from qgf_jax.runs.run import Run, _is_alike
from qgf_jax.training import loop as pretraining
from qgf_jax.training.loop import pretrain
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec


@pytest.fixture
def config(maze_data):
    return tiny(**{"data.dir": str(maze_data)})


def final_state(config, workdir):
    spec = Spec.of(json.loads((workdir / "config.json").read_text())["spec"])
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    step, state, _ = Checkpoints(workdir).restore(jax.eval_shape(trainer.init, np.arange(1)))
    return step, jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def scalars(workdir):
    drop = ("steps_per_second",)
    lines = Lines.read(workdir / "metrics.jsonl").records
    return [{k: v for k, v in line.items() if k not in drop} for line in lines]


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("log_every", [2, 3])
def test_stopped_run_ends_bit_for_bit_where_an_undisturbed_one_does(
    config, log_every, tmp_path, monkeypatch
):
    """Its lines of metrics too, also where a save falls between two of them."""
    config = config | {"train": config["train"] | {"log_every": log_every}}
    pretrain(config, tmp_path / "whole")
    real, calls = Checkpoints.save, []

    def stops_after_first(self, step, state, note=None):
        real(self, step, state, note)
        calls.append(step)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stops_after_first)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "cut")
    pretrain(config, tmp_path / "cut")
    assert calls == [2, 4]
    whole, cut = final_state(config, tmp_path / "whole"), final_state(config, tmp_path / "cut")
    assert whole[0] == cut[0] == 4
    jax.tree.map(np.testing.assert_array_equal, whole[1], cut[1])
    assert scalars(tmp_path / "whole") == scalars(tmp_path / "cut")
    pretrain(config, tmp_path / "cut")  # nothing is left to do, and nothing is done
    assert calls == [2, 4]


def test_more_steps_extend_a_run_and_any_other_change_is_refused(config, tmp_path):
    pretrain(config, tmp_path)
    longer = config | {"train": config["train"] | {"steps": 6}}
    pretrain(longer, tmp_path)
    assert Checkpoints(tmp_path).steps() == [4, 6]
    assert [line["step"] for line in scalars(tmp_path)] == [2, 4, 6]
    other = longer | {"optimizer": longer["optimizer"] | {"learning_rate": 1e-3}}
    with pytest.raises(UserError, match=r"optimizer.learning_rate: 0.0003 -> 0.001"):
        pretrain(other, tmp_path)


def test_data_that_come_out_otherwise_are_refused_before_anything_is_written(config, tmp_path):
    """Checkpoints are of a normalisation; a folder whose record says another would lose them all."""
    pretrain(config, tmp_path)
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    record["spec"]["state_std"][0] += 1e-3
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    with pytest.raises(UserError, match="normalisation"):
        pretrain(config, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("version", ["this", "older"])
def test_data_in_another_folder_go_on_bit_for_bit(
    run_folder, maze_data, tmp_path, version, monkeypatch
):
    """Where data lie is no part of a run; a normalisation that would come out otherwise now stays.

    Versions that took the folder for a part of the config have sealed checkpoints with it, and with
    their record of widths and normalisation, which stays as they wrote it.
    """
    work, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in maze_data.glob("*.npz"):
        shutil.copy(path, elsewhere)
    shutil.copytree(run_folder, work)
    shutil.rmtree(work / "checkpoints" / "4")
    (work / "checkpoints" / "seals" / "4.json").unlink()
    record = json.loads((work / "config.json").read_text())
    if version == "older":
        before = RunConfig(RunConfig.read_record(work / "config.json")["config"]).identity()
        before |= {"data.dir": repr(str(maze_data)), "train.steps_per_dispatch": "2"}
        old = fingerprint(before)
        seal_path = work / "checkpoints" / "seals" / "2.json"
        seal = json.loads(seal_path.read_text())
        del seal["sha256"], record["former_fingerprints"]
        spec = Spec.of(record["spec"])
        record["spec"] = {"obs_dim": spec.width, "action_dim": spec.action, "chunk": spec.chunk,
                          "backup": 0, "obs_mean": spec.mean, "obs_std": spec.std}  # fmt: skip
        record = json.loads(json.dumps(record))
        seal["identity"] = {"config": old, "normalisation": fingerprint(record["spec"])} | {
            key: value for key, value in seal["identity"].items() if key == "dataset"
        }
        seal_path.write_text(json.dumps(seal | {"sha256": fingerprint(seal)}))
        (work / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr("qgf_jax.data.summary._is_still", lambda std, *_: std > 0)
    config = tiny(**{"data.dir": f"{elsewhere}/", "seeds": 2})
    for _ in range(2):  # the second time there is nothing left to do
        pretrain(config, work)
        run = Run.open(work)
        assert run.config["data"]["dir"] == f"{elsewhere}/"
        assert json.loads(json.dumps(run.spec)) == record["spec"]
        checkpoints = Checkpoints(work, identity=run.identity)
        assert [checkpoints.why_invalid(step) for step in (2, 4)] == ["", ""]
        assert checkpoints.digest(4) == Checkpoints(run_folder).digest(4)
    same = [load_policy(folder)(np.ones(2), jax.random.key(0)) for folder in (work, run_folder)]
    np.testing.assert_array_equal(*same)
    other = run._replace(config=tiny(**{"data.dir": f"{elsewhere}/"}), former=())
    assert "another config" in Checkpoints(work, identity=other.identity).why_invalid(4)


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({}, True),
        ({"state_mean": (5.0 + 1e-15, -2.0)}, True),  # summed in another order
        ({"state_std": (3.0, 2e-5)}, True),  # is not scaled any more, and was
        ({"state_std": (3.1, 1.0)}, False),
        ({"state_mean": (5.1, -2.0)}, False),
        ({"state_mean": (5.0,), "state_std": (3.0,)}, False),
        ({"state_std": (3.0,)}, False),
        ({"state_mean": (), "state_std": ()}, False),
        ({"state": (3,)}, False),
        ({"state": (1,), "goal": (1,)}, False),
        ({"n_step": 5}, False),
    ],
)
def test_a_normalisation_stays_if_it_is_of_the_same_data(changes, alike):
    now = Spec((2,), 2, 3, state_mean=(5.0, -2.0), state_std=(3.0, 1.0))._asdict()
    assert _is_alike(now | changes, now) == alike


def test_a_normalisation_of_an_earlier_version_is_of_the_same_data():
    now = Spec((2,), 2, 3, (1,), 5, (5.0, -2.0), (3.0, 1.0), (4.0,), (2.0,))
    old = {"obs_dim": 3, "action_dim": 2, "chunk": 3, "goal_dim": 1, "backup": 5,
           "obs_mean": [5.0, -2.0, 4.0], "obs_std": [3.0, 1.0, 2.0]}  # fmt: skip
    assert _is_alike(old, now._asdict())
    assert not _is_alike(old | {"obs_std": [3.0, 1.0, 2.1]}, now._asdict())
    assert not _is_alike(old | {"goal_dim": 0}, now._asdict())


def test_metrics_hold_training_and_validation_losses(run_folder):
    lines = list(Lines.read(run_folder / "metrics.jsonl").records)
    assert [line["step"] for line in lines] == [2, 4]
    for group in ("policy", "critic", "value"):
        assert f"validation/{group}/loss" in lines[0]
        each = [lines[0][f"{group}/loss/seed{i}"] for i in (0, 1)]
        np.testing.assert_allclose(lines[0][f"{group}/loss"], np.mean(each))
    assert list((run_folder / "tensorboard").glob("events*"))


def test_run_folder_says_what_it_was_made_with(run_folder):
    record = json.loads((run_folder / "config.json").read_text())
    assert record["config"]["seeds"] == 2 and record["spec"]["chunk"] == 3
    assert {"jax", "mujoco", "python"} <= record["versions"].keys()
    assert len(record["dataset"]["sha256"]) == 64 and record["dataset"]["rows"] == 6 * 201


def test_broken_losses_stop_the_run_before_they_are_saved(config, tmp_path):
    mad = config | {"optimizer": config["optimizer"] | {"learning_rate": 1e30}}
    with pytest.raises(UserError, match="not finite in any update since step"):
        pretrain(mad | {"train": mad["train"] | {"steps": 40, "save_every": 40}}, tmp_path)
    assert Checkpoints(tmp_path).steps() == []


def test_next_stop_is_the_nearest_mark():
    options = {"steps": 23, "steps_per_dispatch": 5, "log_every": 4, "save_every": 10}
    stops, step = [], 0
    while step < 23:
        step = pretraining._next_stop(step, options)
        stops.append(step)
    assert stops == [4, 5, 8, 10, 12, 15, 16, 20, 23]
