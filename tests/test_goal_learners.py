"""Learners for goals: each loss rebuilt from its formula, and who sees which goal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import at, tiny
from test_learners import N, batched, make_batch
from test_learners import loss_of as loss_at

from qgf_jax.core.networks import _normalize_length
from qgf_jax.data.chunks import GoalDataset
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.types import Actor, Obs, Spec

SPEC = Spec(state=(2,), action=2, chunk=2, goal=(2,), n_step=3)
KEY = jax.random.key(3)


def goal_batch():
    """Six examples; the policy has goals of its own, and a return is longer than a chunk."""
    batch = make_batch(spec=SPEC, reward=jnp.linspace(0.0, 0.9, N))
    other = jax.random.normal(jax.random.key(9), (N, 2))
    place = lambda obs, goal: obs._replace(goal=goal)
    return batch._replace(
        next_obs=place(batch.next_obs, batch.obs.goal),
        actor=Actor(place(batch.obs, other), place(batch.next_obs, other), jnp.ones(N)),
        long_action=jnp.concatenate([batch.action, -batch.action[:, :2]], axis=1),
        subgoal=other + 0.5,
        subgoal_to_goal=other - 0.5,
    )


@functools.cache
def setup(name, critic="", **changes):
    config = tiny(name, critic=critic, **changes)
    learner, nets = (
        Builder(config, SPEC).learner(),
        Builder(config, SPEC).networks(),
    )
    init = jax.jit(learner.init)
    params, other = (init(jax.random.key(k), SPEC.example(), jnp.zeros(4)) for k in (0, 1))
    return nets, learner, params, {group: other[group] for group in learner.targets}


def loss_of(learner, group, params, target, batch):
    return float(jax.jit(functools.partial(loss_at, learner, group))(params, target, batch, KEY))


def check(found, expected):
    assert found == pytest.approx(float(expected), rel=2e-3, abs=1e-5)


def entropy(p, q):
    return -(q * np.log(p) + (1 - q) * np.log(1 - p))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dqc_parts(output):
    setting = {"networks.critic_output": output, "critics.dqc.kappa_d": 0.8}
    nets, learner, params, target = setup("qgf", "dqc", **setting)
    b = goal_batch()
    raw = lambda members, action: batched(nets.ensemble_logits, members, b.obs, action)
    v = lambda obs: np.asarray(jax.vmap(lambda o: nets.value.apply(params["value"], o))(obs))
    return nets, learner, params, target, b, raw, v


def test_dqc_of_the_published_settings():
    """Li et al., 2025: cross-entropies of logits, a quantile for V, an expectile for Q_a."""
    _, learner, params, target, b, raw, v = dqc_parts("sigmoid")
    found = functools.partial(loss_of, learner, params=params, target=target, batch=b)
    weight = np.asarray(b.weight)
    q_c, q_a = sigmoid(raw(params["chunk_critic"], b.long_action)), raw(params["critic"], b.action)
    goal = np.clip(np.asarray(b.reward + b.discount * sigmoid(v(b.next_obs))), 0, 1)
    assert (goal == 1).any()  # the clip matters
    check(found("chunk_critic"), np.mean(weight * entropy(q_c, goal)))
    side = np.where(q_c < sigmoid(q_a), 0.2, 0.8)
    check(found("critic"), np.mean(weight * side * entropy(sigmoid(q_a), q_c)))
    slow = raw(target["critic"], b.action).min(axis=0)  # the logit of the least is the least logit
    error = slow - v(b.obs)
    check(found("value"), np.mean(weight * np.where(error < 0, 0.1, 0.9) * np.abs(error)))


def test_dqc_as_the_paper_prints_it():
    """Zhou et al., 2026, Eqs. 13 to 15: squared errors, V from the slow long-chunk critic."""
    _, learner, params, target, b, raw, v = dqc_parts("linear")
    found = functools.partial(loss_of, learner, params=params, target=target, batch=b)
    weight = np.asarray(b.weight)
    q_c, q_a = raw(params["chunk_critic"], b.long_action), raw(params["critic"], b.action)
    goal = np.asarray(b.reward + b.discount * v(b.next_obs))
    check(found("chunk_critic"), np.mean(weight * (q_c - goal) ** 2))
    side = np.where(q_c < q_a, 0.2, 0.8)
    check(found("critic"), np.mean(weight * side * (q_c - q_a) ** 2))
    error = raw(target["chunk_critic"], b.long_action).min(axis=0) - v(b.obs)
    check(found("value"), np.mean(weight * np.where(error < 0, 0.1, 0.9) * error**2))


def test_guidance_climbs_the_value_or_its_logit():
    nets, _, params, target, b, *_ = dqc_parts("sigmoid")
    act = lambda obs, action, of: jax.grad(of(target["critic"], obs))(action)
    obs, action = at((b.obs, b.action), 0)
    of_value, of_logit = act(obs, action, nets.q_of), act(obs, action, nets.q_logit_of)
    q = nets.q_of(target["critic"], obs)(action)
    np.testing.assert_allclose(of_value, q * (1 - q) * of_logit, rtol=1e-4)
    config = tiny("qgf", critic="dqc")
    sample = {
        scale: Builder(config, SPEC).sample("qgf", options=(("scale", scale),))
        for scale in ("value", "logit")
    }
    acting = algorithms.acting_params(params, target)
    actions = {k: f(acting, obs, KEY, jnp.float32(1.0)) for k, f in sample.items()}
    assert not np.allclose(actions["value"], actions["logit"], atol=1e-6)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_candidates_of_dqc_are_ranked_by_the_logits_of_the_moment(aggregate):
    """Li et al., 2025: the mean of logits, not the logit of the mean of slow probabilities."""
    how = {"networks.aggregate": aggregate}
    nets, _, params, target = setup("qgf", "dqc", **how)
    old, *_ = setup("qgf", "dqc", **how, **{"networks.ranking": "target"})
    obs, action = at((goal_batch().obs, goal_batch().action), 0)
    logits = nets.ensemble_logits(params["critic"], obs, action)
    acting = algorithms.acting_params(params, target)
    found = float(nets.rank_of(acting, obs)(action))
    assert found == pytest.approx(float(getattr(jnp, aggregate)(logits)), rel=1e-5)
    slow = sigmoid(np.asarray(nets.ensemble_logits(target["critic"], obs, action)))
    assert float(old.rank_of(acting, obs)(action)) == pytest.approx(
        getattr(np, aggregate)(slow), rel=1e-5
    )
    sample = Builder(tiny("qgf", critic="dqc", **how), SPEC).sample("reference", 4)
    one = Builder(tiny("qgf", critic="dqc", **how), SPEC).sample("reference")
    actions = [one(acting, obs, k, jnp.float32(0)) for k in jax.random.split(KEY, 4)]
    best = max(actions, key=nets.rank_of(acting, obs))
    np.testing.assert_allclose(sample(acting, obs, KEY, jnp.float32(0)), best, atol=2e-3)


def test_contrastive_critic_tells_the_goal_of_its_own_row():
    nets, learner, params, target = setup("crl")
    b = goal_batch()
    total = 0.0
    for e in range(2):
        member = jax.tree.map(lambda x, e=e: x[e], params["critic"])
        for i in range(N):
            for j in range(N):
                pair = Obs(b.obs.state[i], b.obs.goal[j])
                p = sigmoid(float(nets.critic.apply(member, pair, b.action[i])))
                total += float(b.weight[i]) * entropy(p, float(i == j))
    check(loss_of(learner, "critic", params, target, b), total / (2 * N * N))
    phi, psi = nets.critic.apply(member, at(b.obs, 0), b.action[0], True)
    np.testing.assert_allclose(
        nets.critic.apply(member, at(b.obs, 0), b.action[0]),
        phi @ psi / np.sqrt(len(phi)),
        rtol=1e-5,
    )


def test_ivl_is_the_expectile_by_the_slow_members_advantage():
    nets, learner, params, target = setup("gcivl")
    b = goal_batch()
    v = lambda group, obs: np.asarray(jax.vmap(lambda o: nets.goal_value.apply(group, o))(obs))
    slow, slow_next = v(target["value"], b.obs), v(target["value"], b.next_obs)
    goal = np.asarray(b.reward)[:, None] + np.asarray(b.discount)[:, None] * slow_next
    advantage = b.reward + b.discount * slow_next.min(axis=1) - slow.mean(axis=1)
    side = np.where(np.asarray(advantage) < 0, 0.1, 0.9)
    each = side * ((goal - v(params["value"], b.obs)) ** 2).sum(axis=1)
    check(loss_of(learner, "value", params, target, b), np.mean(np.asarray(b.weight) * each))


@pytest.mark.parametrize("online", [True, False])
def test_the_slow_members_of_hiql_see_goals_by_the_online_code(online):
    """OGBench's value networks share one code: only the heads have slow copies. Not so if asked."""
    nets, learner, params, target = setup("hiql", **{"critics.ivl.online_code": online})
    b = goal_batch()
    whose = (params if online else target)["value"]
    code = lambda group, obs: nets.goal_value.apply(group, obs, coded=True)

    def v(heads, codes, obs):
        """[E] by the heads of one group and the code of another."""
        x = jnp.concatenate([obs.state, code(codes, obs)])
        members = [heads["params"][f"member{e}"] for e in range(2)]
        return jnp.stack([_mlp(member, x) for member in members])[:, 0]

    slow, slow_next = (
        np.stack([v(target["value"], whose, at(obs, i)) for i in range(N)])
        for obs in (b.obs, b.next_obs)
    )
    goal = np.asarray(b.reward)[:, None] + np.asarray(b.discount)[:, None] * slow_next
    advantage = b.reward + b.discount * slow_next.min(axis=1) - slow.mean(axis=1)
    side = np.where(np.asarray(advantage) < 0, 0.3, 0.7)
    mine = np.stack([v(params["value"], params["value"], at(b.obs, i)) for i in range(N)])
    expected = np.mean(np.asarray(b.weight) * side * ((goal - mine) ** 2).sum(axis=1))
    check(loss_of(learner, "value", params, target, b), expected)


def _mlp(params, x):
    """A network of one hidden layer, its layer norm at the start."""
    x = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    x = (x - x.mean()) / jnp.sqrt(x.var() + 1e-6)
    return jax.nn.gelu(x) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def unit_gaussian(mean, x):
    x, mean = np.asarray(x), np.asarray(mean)
    return 0.5 * np.sum((x - mean) ** 2 + np.log(2 * np.pi), axis=-1)


def mean_v(nets, params, obs):
    return np.asarray(jax.vmap(lambda o: nets.goal_value.apply(params["value"], o).mean())(obs))


def test_gcbc_gciql_and_gcivl_clone_with_the_policys_goal():
    b = goal_batch()
    seen = b.policy_view()
    for name in ("gcbc", "gciql", "gcivl"):
        nets, learner, params, target = setup(name)
        mean, _ = jax.vmap(lambda o, n=nets, p=params: n.gaussian.apply(p["actor"], o))(seen.obs)
        cloning = unit_gaussian(mean, b.action)
        if name == "gciql":
            q = batched(nets.apply_ensemble, params["critic"], seen.obs, jnp.clip(mean, -1, 1))
            q = q.min(axis=0)
            expected = 0.3 * cloning - q / (np.abs(q).mean() + 1e-6)
        elif name == "gcivl":
            gain = mean_v(nets, params, seen.next_obs) - mean_v(nets, params, seen.obs)
            expected = np.minimum(np.exp(10.0 * gain), 100.0) * cloning
        else:
            expected = cloning
        check(loss_of(learner, "actor", params, target, b), expected.mean())


def test_weight_of_an_advantage_has_a_cap():
    """One that some examples meet and some do not."""
    nets, learner, params, target = setup("gcivl", **{"policy.max_weight": 1.0})
    b = goal_batch()
    seen = b.policy_view()
    mean, _ = jax.vmap(lambda o: nets.gaussian.apply(params["actor"], o))(seen.obs)
    gain = mean_v(nets, params, seen.next_obs) - mean_v(nets, params, seen.obs)
    assert gain.min() < 0 < gain.max()
    expected = np.minimum(np.exp(10.0 * gain), 1.0) * unit_gaussian(mean, b.action)
    check(loss_of(learner, "actor", params, target, b), expected.mean())


def test_size_of_q_is_not_differentiated_where_a_gaussian_climbs():
    nets, learner, params, target = setup("gciql")
    seen = goal_batch().policy_view()

    def parts(mine):
        mean, _ = jax.vmap(lambda o: nets.gaussian.apply(mine, o))(seen.obs)
        q = jax.vmap(functools.partial(nets.apply_ensemble, params["critic"]))
        q = q(seen.obs, jnp.clip(mean, -1, 1)).min(axis=1)
        return 0.5 * jnp.sum((seen.action - mean) ** 2, axis=1), q

    size = jnp.abs(parts(params["actor"])[1]).mean() + 1e-6

    def expected(mine):
        cloning, q = parts(mine)
        return jnp.mean(0.3 * cloning - q / size)

    def found(mine):
        return loss_at(learner, "actor", params | {"actor": mine}, target, goal_batch(), KEY)

    slopes = [jax.tree.leaves(jax.jit(jax.grad(f))(params["actor"])) for f in (found, expected)]
    for a, b in zip(*slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


def test_hiql_clones_towards_waypoints_on_both_levels():
    nets, learner, params, target = setup("hiql")
    # Means far from 0, as they are not at the start: else no input of theirs shows in the loss.
    params = {
        k: jax.tree.map(lambda x: 20 * x, v) if k != "value" else v for k, v in params.items()
    }
    b = goal_batch()
    seen = b.policy_view()
    place = lambda obs, goal: obs._replace(goal=goal)
    code = lambda obs: jax.vmap(lambda o: nets.goal_value.apply(params["value"], o, coded=True))(
        obs
    )
    near = place(seen.obs, b.subgoal)
    gain = mean_v(nets, params, place(seen.next_obs, b.subgoal)) - mean_v(nets, params, near)
    mean, _ = jax.vmap(lambda o, c: nets.low.apply(params["low"], o, c))(near, code(near))
    expected = np.minimum(np.exp(3.0 * gain), 100) * unit_gaussian(mean, b.action)
    check(loss_of(learner, "low", params, target, b), expected.mean())
    there = seen.obs._replace(state=b.subgoal_to_goal)
    gain = mean_v(nets, params, there) - mean_v(nets, params, seen.obs)
    mean, _ = jax.vmap(lambda o: nets.high.apply(params["high"], o))(seen.obs)
    subgoal = code(place(seen.obs, b.subgoal_to_goal))
    np.testing.assert_allclose(np.linalg.norm(subgoal, axis=1), np.sqrt(10), rtol=1e-4)
    expected = np.minimum(np.exp(3.0 * gain), 100) * unit_gaussian(mean, subgoal)
    check(loss_of(learner, "high", params, target, b), expected.mean())


def test_hiql_acts_on_the_code_of_its_high_policy():
    nets, _, params, target = setup("hiql")
    obs = at(goal_batch().obs, 0)
    sample = Builder(tiny("hiql"), SPEC).sample("hiql")
    code = _normalize_length(nets.high.apply(params["high"], obs)[0])
    expected = jnp.clip(nets.low.apply(params["low"], obs, code)[0], -1, 1)
    acting = algorithms.acting_params(params, target)
    action = sample(acting, obs, KEY, jnp.float32(0.0))
    np.testing.assert_allclose(action, expected, rtol=1e-5)
    elsewhere = sample(acting, obs._replace(goal=obs.goal.at[1].add(1.0)), KEY, jnp.float32(0.0))
    assert not np.allclose(action, elsewhere)  # the low policy sees the goal by its code alone


@pytest.mark.parametrize("sees", [True, False])
def test_goals_reach_the_policy_only_if_told_and_the_critic_always(sees):
    nets, _, params, _ = setup("qgf", "iql", **{"networks.policy_goal": sees})
    obs, action = at((goal_batch().obs, goal_batch().action), 0)
    other = obs._replace(goal=obs.goal.at[1].add(2.0))
    v = lambda o: nets.velocity(params["policy"], o)(action, jnp.float32(0.5))
    assert np.allclose(v(obs), v(other)) != sees
    q = lambda o: float(nets.q_of(params["critic"], o)(action))
    assert q(obs) != pytest.approx(q(other), rel=1e-5)


def test_constants_of_a_run_are_found_with_a_critic_that_has_no_slow_copy():
    """And with the goals that the policy is trained for."""
    from conftest import rows_of

    from qgf_jax.training import calibration as calibrate
    from qgf_jax.training.programs import Trainer

    config = tiny("qgf", critic="contrastive")
    spec = Spec(state=(2,), action=2, chunk=3, goal=(2,))
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    data = jax.device_put(GoalDataset.of(rows_of([20, 20]), None))
    found = calibrate.measure(config, spec, trainer.init(np.arange(1)), data)
    assert found["q_std"].shape == (1,) and float(found["q_std"][0]) > 0
    assert found["vectors"].shape == (1, 6, 6)


def test_a_relative_weight_is_measured_in_what_is_climbed():
    """A weight over the spread of Q or of its logit is that weight of the slope, over the spread.

    Where probabilities are near 0 the two spreads differ by far, as their slopes do.
    """
    from conftest import rows_of

    from qgf_jax.training import calibration as calibrate
    from qgf_jax.training.programs import Trainer

    config = tiny("qgf", critic="dqc")
    spec = Spec(state=(2,), action=2, chunk=3, goal=(2,))
    state = Trainer.of(Builder(config, spec).learner(), config, spec).init(np.arange(1))
    critic = jax.tree.map(
        lambda x: x - 3.0 if x.shape[-1] == 1 and x.ndim == 3 else x, state.target_params["critic"]
    )  # biases of the last layer
    target = {**state.target_params, "critic": critic}
    data = jax.device_put(GoalDataset.of(rows_of([20, 20]), None))
    constants = calibrate.measure(config, spec, state.replace(target_params=target), data)
    params, target, constants = jax.tree.map(lambda x: x[0], (state.params, target, constants))
    assert float(constants["logit_std"]) > 5 * float(constants["q_std"]) > 0
    obs, weight = spec.observation(jnp.ones(4)), 0.3
    for scale, name in (("value", "q_std"), ("logit", "logit_std")):
        act = lambda units, w, scale=scale: Builder(config, spec).sample(
            "qgf", options=(("scale", scale), ("units", units))
        )(algorithms.acting_params(params, target, constants), obs, KEY, jnp.float32(w))
        expected = act("raw", weight / float(constants[name]))
        np.testing.assert_allclose(act("spread", weight), expected, atol=1e-5)
        assert np.abs(np.asarray(expected - act("raw", 0.0))).max() > 1e-3


def test_mean_of_members_where_the_config_says_so():
    nets, _, params, _ = setup("qgf", "iql", **{"networks.aggregate": "mean"})
    obs, action = at((goal_batch().obs, goal_batch().action), 0)
    members = nets.apply_ensemble(params["critic"], obs, action)
    assert float(nets.q_of(params["critic"], obs)(action)) == pytest.approx(float(members.mean()))
