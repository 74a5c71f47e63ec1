"""Losses of the policy learners, rebuilt example by example from their formulas, with the same keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import at, tiny
from test_learners import SPEC, N, loss_of, make_batch

from qgf_guide import flow
from qgf_jax.core import adjoint, diffusion
from qgf_jax.core.networks import sinusoidal
from qgf_jax.methods.builder import Builder

KEY = jax.random.key(3)
STEPS = 3  # of `tiny`


@functools.cache
def setup(name, critic="", **changes):
    config = tiny(name, critic=critic, **changes)
    learner, nets = (
        Builder(config, SPEC).learner(),
        Builder(config, SPEC).networks(),
    )
    init = jax.jit(learner.init)
    params = init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    other = init(jax.random.key(1), SPEC.example(), jnp.zeros(4))
    return nets, learner, params, {group: other[group] for group in learner.targets}


class Parts:
    """A learner's networks with everything but the example bound."""

    def __init__(self, name, critic="", **changes):
        self.nets, self.learner, self.params, self.target = setup(name, critic, **changes)
        self.batch = make_batch()

    def loss(self, group):
        loss = jax.jit(functools.partial(loss_of, self.learner, group))
        return float(loss(self.params, self.target, self.batch, KEY))

    def q(self, i, action, *, slow):
        members = (self.target if slow else self.params)["critic"]
        return np.asarray(self.nets.apply_ensemble(members, at(self.batch.obs, i), action))

    def velocity(self, i, action, t, group="policy", *, slow=False):
        params = (self.target if slow else self.params)[group]
        return np.asarray(
            self.nets.policy.apply(params, at(self.batch.obs, i), action, jnp.float32(t))
        )

    def value(self, i, group="value"):
        return float(self.nets.value.apply(self.params[group], at(self.batch.obs, i)))

    def path(self, i, noise, t):
        action = np.asarray(self.batch.action[i])
        return (1 - t) * noise + t * action, action - noise

    def end(self, i, start, group="policy", *, first=0, slow=False):
        for k in range(first, STEPS):
            start = start + self.velocity(i, start, k / STEPS, group, slow=slow) / STEPS
        return np.clip(start, -1, 1)

    def mean(self, losses):
        """Over the batch, spliced chunks counting as 0."""
        return float(np.mean(np.asarray(self.batch.weight) * np.asarray(losses)))


def draws(key=KEY):
    time_key, noise_key = jax.random.split(key)
    t = np.asarray(jax.random.uniform(time_key, (N,)))
    return np.asarray(jax.random.normal(noise_key, (N, 4))), t


def check(found, expected):
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "group", "rho"),
    [("fbrac", "actor", 0.7), ("fbrac", "actor", 1.0), ("qgf", "policy", 0.7)],
)
def test_td_bootstraps_on_the_policys_own_action_with_pessimism(name, group, rho):
    """Of a guided method it is the policy before any guidance."""
    parts = Parts(name, "td", **{"critics.td.rho": rho})
    # Steeper than at the start: guidance by it would show.
    steeper = jax.tree.map(lambda x: 3.0 * x, parts.target["critic"])
    parts.target = parts.target | {"critic": steeper}
    keys = jax.random.split(KEY, N)
    losses = []
    for i in range(N):
        obs = at(parts.batch.next_obs, i)
        noise = jax.random.normal(jax.random.split(keys[i])[0], (4,))
        velocity = lambda a, t, o=obs: parts.nets.policy.apply(parts.params[group], o, a, t)
        action = jnp.clip(flow.integrate(velocity, noise, num_steps=STEPS), -1, 1)
        slow = np.asarray(parts.nets.apply_ensemble(parts.target["critic"], obs, action))
        pessimistic = slow.min() if rho == 1.0 else slow.mean() - rho * slow.std()
        goal = parts.batch.reward[i] + parts.batch.discount[i] * pessimistic
        losses.append(np.mean((parts.q(i, parts.batch.action[i], slow=False) - goal) ** 2))
    check(parts.loss("critic"), parts.mean(losses))


def test_edp():
    parts = Parts("edp", **{"policy.bc_weight": 2.0})
    noise, t = draws()
    losses = []
    for i in range(N):
        a_t, goal = parts.path(i, noise[i], t[i])
        v = parts.velocity(i, a_t, t[i], "actor")
        end = np.clip(a_t + (1 - t[i]) * v, -1, 1)
        losses.append(2.0 * np.mean((v - goal) ** 2) - parts.q(i, end, slow=True).min())
    check(parts.loss("actor"), parts.mean(losses))


def test_cfgrl():
    parts = Parts("cfgrl", **{"policy.unconditional": 0.1, "networks.critic_hidden": (8, 8)})
    noise, t = draws()
    losses, better = [], []
    for i in range(N):
        a_t, goal = parts.path(i, noise[i], t[i])
        advantage = parts.q(i, parts.batch.action[i], slow=True).min() - parts.value(i)
        error = [
            np.mean(
                np.square(
                    parts.nets.labelled.apply(
                        parts.params["actor"], at(parts.batch.obs, i), a_t, t[i], jnp.int32(label)
                    )
                    - goal
                )
            )
            for label in (0, 1)
        ]
        better.append(advantage > 0)
        losses.append((advantage > 0) * error[1] + 0.1 * error[0])
    assert 0 < sum(better) < N  # both kinds are in the batch
    check(parts.loss("actor"), parts.mean(losses))


@pytest.mark.parametrize("normalized", [False, True])
def test_fql(normalized):
    parts = Parts("fql", **{"policy.alpha": 3.0, "policy.normalize_q": normalized})
    noise = np.asarray(jax.random.normal(KEY, (N, 4)))
    distances, values = [], []
    for i in range(N):
        action = np.asarray(
            parts.nets.one_step.apply(
                parts.params["actor"], at(parts.batch.obs, i), noise[i], jnp.float32(0)
            )
        )
        distances.append(np.mean((action - parts.end(i, noise[i])) ** 2))
        values.append(parts.q(i, np.clip(action, -1, 1), slow=False).mean())
    size = np.mean(np.abs(values)) if normalized else 1.0
    check(parts.loss("actor"), parts.mean(3.0 * np.array(distances) - np.array(values) / size))


def test_fbrac():
    parts = Parts("fbrac", **{"policy.alpha": 4.0})
    match_key, noise_key = jax.random.split(KEY)
    start = np.asarray(jax.random.normal(noise_key, (N, 4)))
    noise, t = draws(match_key)
    losses = []
    for i in range(N):
        a_t, goal = parts.path(i, noise[i], t[i])
        matched = np.mean((parts.velocity(i, a_t, t[i], "actor") - goal) ** 2)
        end = parts.end(i, start[i], "actor")
        losses.append(matched - parts.q(i, end, slow=False).mean() / 4.0)
    check(parts.loss("actor"), parts.mean(losses))


def test_fawac():
    parts = Parts("fawac", **{"policy.inverse_temperature": 2.0, "policy.max_weight": 1.5})
    noise, t = draws()
    losses, regressions, weights = [], [], []
    for i in range(N):
        a_t, goal = parts.path(i, noise[i], t[i])
        matched = np.mean((parts.velocity(i, a_t, t[i], "actor") - goal) ** 2)
        baseline = parts.value(i, "baseline")
        advantage = parts.q(i, parts.batch.action[i], slow=False).mean() - baseline
        weights.append(min(1.5, np.exp(2.0 * advantage)))
        losses.append(weights[-1] * matched)
        regressions.append(np.mean((parts.q(i, parts.batch.action[i], slow=True) - baseline) ** 2))
    assert min(weights) < 1.5 == max(weights)  # the bound is met, and not always
    check(parts.loss("actor"), parts.mean(losses))
    check(parts.loss("baseline"), parts.mean(regressions))


def noisy_errors(parts):
    """Target's Q at the clean action - the noisy critic's at the noisy one: [N]."""
    noise, t = draws()
    errors = []
    for i in range(N):
        a_t, _ = parts.path(i, noise[i], t[i])
        q = parts.nets.noisy_critic.apply(
            parts.params["noisy_critic"], at(parts.batch.obs, i), a_t, sinusoidal(jnp.float32(t[i]))
        )
        errors.append(parts.q(i, parts.batch.action[i], slow=True).min() - float(q))
    return np.asarray(errors)


def test_robust_q():
    parts = Parts("robust_q")
    check(parts.loss("noisy_critic"), parts.mean(noisy_errors(parts) ** 2))


def test_linex_q():
    parts = Parts("cgql_linex", **{"sampler.inverse_temperature": 3.0, "policy.bound": 0.6})
    error = 3.0 * noisy_errors(parts)
    assert error.min() < 0.6 < error.max()  # both sides of the bound are met
    loss = np.where(error > 0.6, error, np.exp(error) - error - 1)
    check(parts.loss("noisy_critic"), parts.mean(loss))


def test_distilled_endpoint_is_where_the_rest_of_the_flow_ends():
    parts = Parts("qgf_distill")
    step_key, noise_key = jax.random.split(KEY)
    start = np.asarray(jax.random.randint(step_key, (N,), 0, STEPS))
    noise = np.asarray(jax.random.normal(noise_key, (N, 4)))
    assert len(set(start.tolist())) == STEPS  # each step is drawn here
    losses = []
    for i in range(N):
        a_t, _ = parts.path(i, noise[i], start[i] / STEPS)
        end = parts.end(i, a_t, first=start[i])
        guess = parts.velocity(i, a_t, start[i] / STEPS, "endpoint")
        losses.append(np.mean((guess - end) ** 2))
    check(parts.loss("endpoint"), parts.mean(losses))


def test_agf_regresses_on_the_adjoint_at_all_points_of_the_flows_path():
    """By explicit Jacobians, from the gradient at the clipped end, without a factor for the clip."""
    parts = Parts("agf")
    noise = np.asarray(jax.random.normal(KEY, (N, 4)))
    field = functools.partial(parts.nets.policy.apply, parts.params["policy"])
    jacobian = jax.jit(jax.jacobian(field, argnums=1))
    least = lambda obs, a: parts.nets.apply_ensemble(parts.target["critic"], obs, a).min()
    slope = jax.jit(jax.grad(least, argnums=1))
    losses, ends = [], []
    for i in range(N):
        obs, points = at(parts.batch.obs, i), [noise[i]]
        for k in range(STEPS):
            points.append(points[k] + parts.velocity(i, points[k], k / STEPS) / STEPS)
        ends.append(points.pop())
        adjoint, errors = np.asarray(slope(obs, np.clip(ends[-1], -1, 1))), []
        for k in reversed(range(STEPS)):
            pull = np.eye(4) + np.asarray(jacobian(obs, points[k], jnp.float32(k / STEPS))) / STEPS
            adjoint = pull.T @ adjoint
            guess = parts.velocity(i, points[k], k / STEPS, "slope")
            errors.append(np.mean((guess - adjoint) ** 2))
        losses.append(np.mean(errors))
    assert np.abs(ends).max() > 1.0  # some coordinates have run into the box
    check(parts.loss("slope"), parts.mean(losses))


@pytest.mark.parametrize(("ranking", "noises"), [("target", 3), ("online", 1)])
def test_seed_critic_regresses_on_what_best_of_n_ranks_by_at_the_flows_end(ranking, noises):
    """Of several noises of one state the variance of their errors counts."""
    parts = Parts("seed_critic", **{"networks.ranking": ranking, "policy.noises": noises})
    losses, ends = [], []
    for i, noise in enumerate(np.asarray(jax.random.normal(KEY, (N, noises, 4)))):
        obs, errors = at(parts.batch.obs, i), []
        for z in noise:
            ends.append(parts.end(i, z))
            q = parts.q(i, ends[-1], slow=ranking == "target").min()
            guess = parts.nets.scalar_head().apply(parts.params["seed_critic"], obs, z)
            errors.append(float(guess) - q)
        losses.append(np.var(errors, ddof=1) if noises > 1 else errors[0] ** 2)
    assert np.abs(ends).max() == 1.0  # some coordinates have run into the box
    check(parts.loss("seed_critic"), parts.mean(losses))


@pytest.mark.parametrize("name", ["dac", "qsm_bc", "qsm"])
def test_diffusion_losses(name):
    parts = Parts(name)
    step_key, noise_key = jax.random.split(KEY)
    k = np.asarray(jax.random.randint(step_key, (N,), 1, STEPS + 1))
    noise = np.asarray(jax.random.normal(noise_key, (N, 4)))
    products = diffusion.NoiseSchedule.of(STEPS).product
    losses = []
    for i in range(N):
        p = products[k[i]]
        a_k = np.sqrt(p) * np.asarray(parts.batch.action[i]) + np.sqrt(1 - p) * noise[i]
        mean_q = lambda a, i=i: parts.nets.apply_ensemble(
            parts.target["critic"], at(parts.batch.obs, i), a
        ).mean()
        slope = np.asarray(jax.grad(mean_q)(jnp.asarray(a_k)))
        guess = parts.velocity(i, a_k, k[i] / STEPS, "actor")
        cloned = np.mean((noise[i] - guess) ** 2)
        if name == "dac":
            losses.append(100.0 * cloned + np.sqrt(1 - p) * np.mean(slope * guess))
        else:
            matched = np.mean((-0.1 * slope - guess) ** 2)
            losses.append(matched + (10.0 if name == "qsm_bc" else 0.0) * cloned)
    check(parts.loss("actor"), parts.mean(losses))


@pytest.mark.parametrize("cap", [100.0, 0.03])
def test_awr(cap):
    parts = Parts("iql", **{"policy.inverse_temperature": 2.0, "policy.max_weight": cap})
    losses, weights = [], []
    for i in range(N):
        mean, log_std = map(
            np.asarray, parts.nets.gaussian.apply(parts.params["actor"], at(parts.batch.obs, i))
        )
        action, std = np.asarray(parts.batch.action[i]), np.exp(log_std)
        density = np.prod(np.exp(-0.5 * ((action - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)))
        advantage = parts.q(i, action, slow=True).min() - parts.value(i)
        weights.append(min(cap, np.exp(2.0 * advantage)))
        losses.append(-weights[-1] * np.log(density))
    assert cap > 1.0 or min(weights) < cap == max(weights)  # the cap is met, and not always
    check(parts.loss("actor"), parts.mean(losses))


def test_rebrac():
    parts = Parts("rebrac", **{"policy.alpha": 0.5})
    distances, values = [], []
    for i in range(N):
        mean, _ = parts.nets.gaussian.apply(parts.params["actor"], at(parts.batch.obs, i))
        action = np.tanh(np.asarray(mean))
        distances.append(np.sum((action - np.asarray(parts.batch.action[i])) ** 2))
        values.append(parts.q(i, action, slow=False).min())
    size = np.mean(np.abs(values))
    losses = [0.5 * d - q / size for d, q in zip(distances, values, strict=True)]
    check(parts.loss("actor"), parts.mean(losses))


@pytest.mark.parametrize(("scale", "weighted"), [(1.0, True), (1.7, False)])
def test_dsrl(scale, weighted):
    parts = Parts("dsrl", **{"policy.weighted": weighted, "sampler.noise_scale": scale})
    mean_of = parts.mean if weighted else np.mean
    # Larger values than at the start, of which the scale is a part that shows.
    steeper = jax.tree.map(lambda x: 5.0 * x, parts.params["latent_critic"])
    parts.params = parts.params | {"latent_critic": steeper}
    noise = np.asarray(jax.random.normal(KEY, (N, 4)))
    keys = jax.random.split(KEY, N)
    regressions, actors, densities = [], [], []
    for i in range(N):
        latent_q = functools.partial(
            parts.nets.apply_ensemble, parts.params["latent_critic"], at(parts.batch.obs, i)
        )
        goal = parts.q(i, parts.end(i, noise[i], slow=True), slow=False)
        regressions.append(np.mean((np.asarray(latent_q(noise[i])) - goal) ** 2))
        mean, log_std = map(
            np.asarray, parts.nets.gaussian.apply(parts.params["actor"], at(parts.batch.obs, i))
        )
        z = np.asarray(jax.random.normal(keys[i], (4,)))
        x = mean + np.exp(log_std) * z
        density = np.sum(-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi))
        density -= np.sum(np.log(1 - np.tanh(x) ** 2))
        densities.append(density)
        actors.append(
            density - float(np.asarray(latent_q(scale * np.tanh(x))).mean())
        )  # exp(0) = 1
    check(parts.loss("latent_critic"), mean_of(regressions))
    check(parts.loss("actor"), mean_of(actors))
    check(parts.loss("temperature"), -np.mean(densities) - (-0.5 * 4))


@pytest.mark.parametrize("ahead", [False, True])
def test_qam(ahead):
    """The path, the adjoint by explicit Jacobians, and the regression, for each example.

    With the adjoint ahead, as in the public code, spliced chunks count.
    """
    changes = {"policy.adjoint_ahead": ahead, "policy.adjoint_weighted": not ahead}
    parts = Parts("qam", **{"policy.inverse_temperature": 2.0, **changes})
    h, losses = 1 / STEPS, []
    for i, key in enumerate(jax.random.split(KEY, N)):
        slow = lambda x, t, i=i: parts.nets.policy.apply(
            parts.target["policy"], at(parts.batch.obs, i), x, jnp.float32(t)
        )
        fast = functools.partial(parts.velocity, i, group="actor")
        start_key, noise_key = jax.random.split(key)
        x = np.asarray(jax.random.normal(start_key, (4,)))
        noise = np.asarray(jax.random.normal(noise_key, (STEPS - 1, 4)))
        points = [x]
        for k in range(STEPS - 1):
            t = k * h
            scale = np.sqrt(2 * (1 - t + h) / (t + h))
            x = x + h * (2 * fast(x, t) - x / (t + h)) + np.sqrt(h) * scale * noise[k]
            points.append(x)
        end = jnp.asarray(x + h * np.asarray(slow(x, (STEPS - 1) * h)))
        q = lambda a, i=i: parts.nets.apply_ensemble(
            parts.target["critic"], at(parts.batch.obs, i), jnp.clip(a, -1, 1)
        ).mean()
        costate = -2.0 * np.asarray(jax.grad(q)(end))
        total = 0.0
        for k in reversed(range(STEPS)):
            t = k * h
            drift = lambda a, t=t, slow=slow: 2 * slow(a, t + h * ahead) - a / (t + h)
            costate = (
                costate + h * np.asarray(jax.jacobian(drift)(jnp.asarray(points[k]))).T @ costate
            )
            scale = np.sqrt(2 * (1 - t + h) / (t + h))
            tilt = fast(points[k], t) - np.asarray(slow(points[k], t))
            total += np.sum((2 / scale * tilt + scale * costate) ** 2)
        losses.append(total)
    check(parts.loss("actor"), np.mean(losses) if ahead else parts.mean(losses))


def slope_of(parts, group):
    """The gradient of a group's loss with respect to that group."""

    def loss(mine):
        params = parts.params | {group: mine}
        return loss_of(parts.learner, group, params, parts.target, parts.batch, KEY)

    return jax.tree.leaves(jax.jit(jax.grad(loss))(parts.params[group]))


def check_slopes(found, expected):
    for a, b in zip(found, jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["rebrac", "fql"])
def test_size_of_q_is_not_differentiated(name):
    changes = {"policy.normalize_q": True} if name == "fql" else {}
    parts = Parts(name, **{"policy.alpha": 0.5, **changes})
    obs, data, weight = parts.batch.obs, parts.batch.action, parts.batch.weight
    noise = jax.random.normal(KEY, (N, 4))
    ends = jnp.stack([parts.end(i, noise[i]) for i in range(N)]) if name == "fql" else None

    def values(mine):
        if name == "fql":
            act = lambda o, z: parts.nets.one_step.apply(mine, o, z, z[0])
            action = jax.vmap(act)(obs, noise)
            q = jax.vmap(functools.partial(parts.nets.apply_ensemble, parts.params["critic"]))
            q = q(obs, jnp.clip(action, -1, 1))
            return jnp.mean((action - ends) ** 2, axis=1), q.mean(axis=1)
        action = jnp.tanh(jax.vmap(lambda o: parts.nets.gaussian.apply(mine, o)[0])(obs))
        q = jax.vmap(functools.partial(parts.nets.apply_ensemble, parts.params["critic"]))
        q = q(obs, action).min(axis=1)
        return jnp.sum((action - data) ** 2, axis=1), q

    size = jnp.abs(values(parts.params["actor"])[1]).mean()

    def loss(mine):
        distance, q = values(mine)
        return jnp.mean(weight * (0.5 * distance - q / size))

    check_slopes(slope_of(parts, "actor"), jax.grad(loss)(parts.params["actor"]))


def test_adjoint_matching_learns_from_a_path_that_it_does_not_differentiate():
    parts = Parts("qam", **{"policy.inverse_temperature": 2.0})
    times = jnp.arange(STEPS) / STEPS
    scale = adjoint._memoryless_scale(times, 1 / STEPS)[:, None]
    fixed = []
    for i, key in enumerate(jax.random.split(KEY, N)):
        velocity = lambda group, i=i: functools.partial(
            parts.nets.policy.apply, group, at(parts.batch.obs, i)
        )
        fast, slow = velocity(parts.params["actor"]), velocity(parts.target["policy"])
        path, end = adjoint._memoryless_path(fast, slow, key, 4, num_steps=STEPS)
        q = lambda a, i=i: parts.nets.apply_ensemble(
            parts.target["critic"], at(parts.batch.obs, i), jnp.clip(a, -1, 1)
        ).mean()
        drift = lambda x, t, slow=slow: 2 * slow(x, t) - x / (t + 1 / STEPS)
        pulled = adjoint._lean_adjoint(drift, path, -2.0 * jax.grad(q)(end), num_steps=STEPS)
        fixed.append((path, pulled, jax.vmap(slow)(path, times)))

    def loss(mine):
        total = 0.0
        for i, (path, pulled, slow) in enumerate(fixed):
            fast = functools.partial(parts.nets.policy.apply, mine, at(parts.batch.obs, i))
            tilt = jax.vmap(fast)(path, times) - slow
            total += parts.batch.weight[i] * jnp.sum((2 / scale * tilt + scale * pulled) ** 2)
        return total / N

    check_slopes(slope_of(parts, "actor"), jax.jit(jax.grad(loss))(parts.params["actor"]))
