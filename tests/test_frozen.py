"""One more part beside those of another run's checkpoint, which stand still."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny

from qgf_jax import config as configs
from qgf_jax import load_policy
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.frozen import Frozen
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.training.loop import pretrain
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Learner, Loss, Spec


def further(source, name, **texts):
    return configs.plain(Frozen.further(source, name, texts))


def saved(workdir, step=None):
    """All that a checkpoint holds, on the host."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    entries = ("params", "target_params", "opt_state")
    return jax.device_get(Checkpoints(workdir).restore_part(entries, here, step).state)


@pytest.fixture(scope="module")
def added(run_folder, tmp_path_factory):
    """A learned endpoint beside the tiny run."""
    workdir = tmp_path_factory.mktemp("added") / "distill"
    return pretrain(further(run_folder, "distill"), workdir)


def test_what_stands_still_is_seen_and_neither_moves_nor_has_moments():
    """a follows b's target copy, 3, by the gradient of (a - target b)^2 b; b, 2, stands still."""

    def loss(params, targets, x, noise):
        return params["b"] * (params["a"] - targets["b"]) ** 2, {}

    def init(key, obs, action):
        return {"a": jnp.float32(1.0), "b": jnp.float32(2.0)}

    learner = Learner.merge(
        Learner(init, {"a": Loss(loss, weighted=False)}, targets=("a",)),
        Learner(init, {"b": Loss(loss)}, targets=("b",)).stilled(),
    )
    tx = optax.chain(optax.trace(0.9), optax.scale(-0.1))
    state = TrainState.init(0, learner, tx, Spec((2,), 1, 1))
    assert set(state.opt_state[0].trace) == {"a"}
    state = state.replace(target_params={"a": jnp.float32(1.0), "b": jnp.float32(3.0)})
    moving, rest = state.split(learner.still)
    one = jnp.zeros(1)  # a batch of one example, of which nothing is asked
    after, _ = train_step(moving, one, losses=learner.losses, tx=tx, tau=0.5, still=rest)
    after = after.joined(rest)
    a = 1.0 - 0.1 * 2.0 * 2.0 * (1.0 - 3.0)
    np.testing.assert_allclose(after.params["a"], a, rtol=1e-6)
    np.testing.assert_allclose(after.target_params["a"], (1.0 + a) / 2, rtol=1e-6)
    assert after.params["b"] == 2.0 and after.target_params["b"] == 3.0


def test_parts_of_the_source_are_there_bit_for_bit_and_only_the_new_one_is_learned(
    added, run_folder
):
    ours, theirs = saved(added), saved(run_folder)
    assert set(ours["params"]) == set(theirs["params"]) | {"endpoint"}
    assert set(ours["target_params"]) == set(theirs["target_params"])
    for entry in ("params", "target_params"):
        for name, group in theirs[entry].items():
            jax.tree.map(np.testing.assert_array_equal, ours[entry][name], group)
    line = json.loads((added / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name for name in line if name.endswith("/loss")} == {
        "endpoint/loss",
        "validation/endpoint/loss",
    }
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(ours["opt_state"])]
    assert not any(f"'{group}'" in path for path in paths for group in theirs["params"])
    assert any("'endpoint'" in path for path in paths)
    early, late = (saved(added, step)["params"]["endpoint"] for step in (2, 4))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, early, late)))


@pytest.mark.parametrize("method", ["reference", "qgf", "best_of", "qgf_relative"])
def test_both_runs_act_alike_bit_for_bit(added, run_folder, method):
    obs, key = np.ones(2, np.float32), jax.random.key(3)
    ours, theirs = (load_policy(run, method, 0.7)(obs, key) for run in (added, run_folder))
    np.testing.assert_array_equal(ours, theirs)
    assert np.isfinite(load_policy(added, "qgf_distill", 0.7)(obs, key)).all()


def test_run_says_of_which_checkpoint_it_is_and_its_own_are_sound(added, run_folder):
    said = Run.open(added).config["frozen"]
    assert said["step"] == 4 and said["state"] == Checkpoints(run_folder).digest(4)
    own = Checkpoints(added, identity=Run.open(added).identity)
    assert [own.why_invalid(step) for step in own.steps()] == ["", ""]
    record = json.loads((added / "config.json").read_text())
    for key, value in {"state": "0" * 64, "step": 2}.items():
        other = {**record["config"], "frozen": {**record["config"]["frozen"], key: value}}
        identity = Run.open(added)._replace(config=other).identity
        assert Checkpoints(added, identity=identity).why_invalid(4)
    assert LoadedRun.calibration(added, 4)


def test_resumed_run_keeps_its_checkpoint_and_needs_the_source_no_more(
    added, run_folder, tmp_path, monkeypatch
):
    source, workdir = tmp_path / "source", tmp_path / "cut"
    shutil.copytree(run_folder, source)
    real = Checkpoints.save

    def stops_after_first(self, step, state, note=None):
        real(self, step, state, note)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stops_after_first)
    config = further(source, "distill")
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, workdir)
    monkeypatch.undo()
    older = Frozen({**config, "frozen": {**config["frozen"], "step": 2}}).resolved(tmp_path / "n")
    assert older["frozen"]["step"] == 2
    again = Frozen(config).resolved(workdir)
    assert again["frozen"]["step"] == 4
    # A source that was trained on has newer checkpoints; the run stays with its own.
    (source / "checkpoints" / "seals" / "4.json").unlink()
    assert Frozen(config).resolved(workdir) == again
    shutil.rmtree(source)
    pretrain(config, workdir)
    whole, cut = saved(added), saved(workdir)
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


MISTAKES = {
    "unknown part": (("distil", {}), "did you mean 'distill'"),
    "part already there": (("flow_bc", {}), "has 'flow_bc' already"),
    "another critic": (("td", {"critic": "td"}), "critic follows from"),
    "other seeds": (("distill", {"seeds": "3"}), "seeds is 3, .* were trained with 2"),
    "other networks": (("distill", {"networks.critic_hidden": "9"}), "critic_hidden"),
    "other returns": (("distill", {"data.discount": "0.5"}), "data.discount is 0.5"),
    "another integrator": (("distill", {"sampler.num_steps": "7"}), "sampler.num_steps is 7"),
    "a step that is not there": (("distill", {"frozen.step": "3"}), "step 3 is not there"),
    "other numbers": (("distill", {"frozen.state": "0"}), "other numbers at step 4"),
    "another method": (("distill", {"frozen.add": "robust_q"}), "it learns|learns flow_bc"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_one_line_and_leaves_nothing(case, run_folder, tmp_path):
    (name, texts), hint = MISTAKES[case]
    with pytest.raises(UserError, match=hint) as error:
        pretrain(further(run_folder, name, **texts), tmp_path / "n")
    assert "\n" not in str(error.value) and not (tmp_path / "n").exists()


def test_other_data_and_a_source_without_a_checkpoint_are_refused(run_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(run_folder, source)
    record = json.loads((source / "config.json").read_text())
    altered = {**record, "dataset": {**record["dataset"], "sha256": "0" * 64}}
    run = Run.open(source)
    (source / "config.json").write_text(json.dumps(altered))
    with pytest.raises(UserError, match="other data than"):
        Run.first_spec(tmp_path / "n", further(source, "agf"), run.spec, run.dataset)
    shutil.rmtree(source / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet"):
        pretrain(further(source, "agf"), tmp_path / "n")
    config = tiny("qgf_distill", **{"frozen.run": str(source)})
    with pytest.raises(UserError, match=r"frozen.add is empty"):
        pretrain(config, tmp_path / "n")
    assert not (tmp_path / "n").exists()


def test_a_slow_copy_that_the_new_part_alone_has_is_of_what_stands_still(run_folder, tmp_path):
    """QAM tilts the target copy of the flow policy, which a run of QGF has none of."""
    config = Frozen(further(run_folder, "qam")).resolved(tmp_path / "new")
    spec = LoadedRun.open(run_folder).spec
    learner = Builder(config, spec).learner()
    init = functools.partial(TrainState.init, learner=learner, tx=optax.sgd(0.1), spec=spec)
    params, copies = Frozen(config).read(jax.eval_shape(jax.vmap(init), jnp.arange(2)))
    assert set(copies) == {"critic", "policy"}
    jax.tree.map(np.testing.assert_array_equal, copies["policy"], params["policy"])
