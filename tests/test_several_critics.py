"""Several critics of one run: trained side by side, and acting chooses."""

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
from qgf_jax.methods.table import METHODS, Method
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.frozen import Frozen
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.training.loop import pretrain
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Learner, Loss, Spec

OBS, KEY = np.ones(2, np.float32), jax.random.key(3)


@pytest.fixture(scope="module")
def both(run_folder, tmp_path_factory):
    """The tiny run with a second critic, learned beside its frozen policy and first critic."""
    workdir = tmp_path_factory.mktemp("critics") / "both"
    return pretrain(configs.plain(Frozen.further(run_folder, "td", {})), workdir)


def test_a_renamed_learner_sees_and_moves_its_own_groups_alone():
    """Each a steps down (a - 2 target a - b)^2 / 2 by 0.1; one has a = 1, target 3, the other 5, 7."""

    def loss(params, targets, x, noise):
        return 0.5 * (params["a"] - 2.0 * targets["a"] - params["b"]) ** 2, {}

    learner = Learner(lambda *_: {"a": jnp.float32(1.0)}, {"a": Loss(loss, weighted=False)}, ("a",))
    other = learner._replace(init=lambda *_: {"a": jnp.float32(5.0)}).renamed("@x")
    merged = Learner.merge(learner, Learner(lambda *_: {"b": jnp.float32(4.0)}, {}), other)
    assert (*merged.losses,) == merged.targets == ("a", "a@x")
    tx = optax.sgd(0.1)
    state = TrainState.init(0, merged, tx, Spec((2,), 1, 1))
    state = state.replace(target_params={"a": jnp.float32(3.0), "a@x": jnp.float32(7.0)})
    state, _ = train_step(state, jnp.zeros(1), losses=merged.losses, tx=tx, tau=0.5)
    first, second = 1.0 - 0.1 * (1.0 - 6.0 - 4.0), 5.0 - 0.1 * (5.0 - 14.0 - 4.0)
    found = [state.params["a"], state.params["a@x"], state.target_params["a@x"]]
    np.testing.assert_allclose(found, [first, second, (7.0 + second) / 2], rtol=1e-6)


def test_a_second_critic_changes_nothing_for_the_policy_and_the_first():
    """They begin with the same numbers, and draw the same random numbers in every update."""
    spec = Spec((2,), 2, 3)
    alone, beside = (Builder(tiny(critic=c), spec).learner() for c in ("iql", "iql,td"))
    init = [learner.init(KEY, spec.example(), jnp.zeros(6)) for learner in (alone, beside)]
    assert init[1].keys() - init[0].keys() == {"critic@td"}
    jax.tree.map(np.testing.assert_array_equal, init[0], {k: init[1][k] for k in init[0]})
    assert [*beside.losses] == [*alone.losses, "critic@td"]
    assert beside.targets == ("critic", "critic@td")


@pytest.mark.whole
def test_critics_train_side_by_side_in_one_program(run_folder, maze_data, tmp_path):
    run = pretrain(
        tiny(critic="iql,td", **{"data.dir": str(maze_data), "seeds": 2}), tmp_path / "r"
    )
    ours, theirs = LoadedRun.open(run).params, LoadedRun.open(run_folder).params
    for group in ("policy", "critic", "value"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
            ours[group],
            theirs[group],
        )
    old, new = (LoadedRun.open(run, step).params["critic@td"] for step in (2, 4))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, old, new)))
    assert load_policy(run, "qgf", critic="td")(OBS, KEY).shape == (3, 2)


@pytest.mark.whole
@pytest.mark.parametrize(("method", "best_of"), [("qgf", 1), ("best_of", 4)])
@pytest.mark.parametrize("ranking", ["target", "online"])
def test_acting_asks_the_critic_that_is_named(both, run_folder, method, best_of, ranking):
    """As the first critic would act if it had the second one's parameters; without a name, the first."""
    loaded = LoadedRun.open(both)
    config = {
        **loaded.run.config,
        "networks": {**loaded.run.config["networks"], "ranking": ranking},
    }
    builder, params = Builder(config, loaded.spec), loaded.params_of(0)
    state = Checkpoints(both).restore_part(
        ("params",), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    online = jax.tree.map(lambda x: x[0], state.state["params"]["critic@td"])
    swapped = {**params, "critic": params["critic@td"], "online_critic": online}
    obs, weight = loaded.spec.observation(OBS), jnp.float32(50.0)
    first = builder.sample(method, best_of)
    named = builder.sample(method, best_of, (("critic", "td"),))
    again = builder.sample(method, best_of, (("critic", "iql"),))
    keys = jax.random.split(KEY, 8)
    act = lambda sample, groups: jax.vmap(lambda k: sample(groups, obs, k, weight))(keys)
    np.testing.assert_array_equal(act(named, params), act(first, swapped))
    np.testing.assert_array_equal(act(again, params), act(first, params))
    assert not np.array_equal(act(named, params), act(first, params))


def test_an_added_critic_is_the_second_and_the_run_acts_as_before(both, run_folder):
    config = Run.open(both).config
    assert (config["algorithm"], config["critic"], config["frozen"]["add"]) == (
        "qgf",
        "iql,td",
        "td",
    )
    acts = [load_policy(run, "qgf", 2.0)(OBS, KEY) for run in (both, run_folder)]
    np.testing.assert_array_equal(*acts)
    with pytest.raises(UserError, match="has 'td' already"):
        Frozen.further(both, "td", {})
    third = Frozen.further(both, "robust_q", {})
    assert (third.algorithm, third.critic) == ("robust_q", "iql,td")


def test_what_cannot_be_is_one_line(both, run_folder):
    for critics, hint in {
        "iql,dqc": "'dqc' is trained by itself",
        "iql,iql": "name each once",
        "iql,tdd": "did you mean 'td'",
    }.items():
        with pytest.raises(UserError, match=hint):
            configs.make("qgf", critic=critics)
    with pytest.raises(UserError, match="critic of qgf is 'tdd': did you mean 'td'"):
        Method.parse("qgf:critic=tdd")
    with pytest.raises(UserError, match="unknown option of reference 'critic'"):
        Method.parse("reference:critic=td")
    td = (("critic", "td"),)
    with pytest.raises(UserError, match="unknown critic of the run 'td'"):
        LoadedRun.open(run_folder).sampler("qgf", 1, td)
    with pytest.raises(UserError, match="iql alone was measured with"):
        LoadedRun.open(both).sampler("qgf_relative", 1, td)
    assert "critic" in METHODS["best_of"].critic_options


def test_a_gate_asks_the_critic_that_is_named_whatever_the_rule_asks():
    options = (("critic", "td"), ("gate", 2.0))
    row = METHODS["robust_q"]
    assert row.without_idle(options, 1) == options
    assert row.without_idle(options[:1], 1) == ()
    with pytest.raises(UserError, match="robust_q with 1 candidate has no use for critic=td"):
        row.check_idle(options[:1], 1)
