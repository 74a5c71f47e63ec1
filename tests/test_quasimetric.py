"""QRL: a quasimetric is one whatever its codes are, its losses by hand, a ring of known steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny
from test_goal_learners import N, check, goal_batch, loss_of, setup

from qgf_jax.core.quasimetric import QuasimetricCritic
from qgf_jax.methods.builder import Builder
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Actor, Batch, Obs, Spec


def union(x, y):
    """The length of what the intervals from x_i to y_i cover, by walking along the line."""
    points = sorted([*x, *y])
    pieces = itertools.pairwise(points)
    return sum(
        b - a for a, b in pieces if any(s <= a and b <= e for s, e in zip(x, y, strict=True))
    )


def test_intervals_cover_what_they_cover_together():
    by_hand = [([0, 1, 3], [2, 1.5, 2.5], 2.0), ([0, 1], [2, 3], 3.0), ([4, 0], [5, 0.5], 1.5)]
    for x, y, expected in by_hand:
        empty = [0.0] * (8 - len(x))
        x, y = (np.array([*ends, *empty], np.float32) for ends in (x, y))
        found = QuasimetricCritic.distance(x, y, 0.0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    x, y = np.random.default_rng(0).normal(size=(2, 40, 8)).astype(np.float32)
    found = jax.vmap(lambda x, y: QuasimetricCritic.distance(x, y, 0.0))(x, y)
    expected = [union(*pair) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_quasimetric_is_zero_to_itself_and_has_no_detours(share):
    x, y, z = np.random.default_rng(1).normal(size=(3, 200, 16)).astype(np.float32)
    d = jax.vmap(lambda a, b: QuasimetricCritic.distance(a, b, share))
    np.testing.assert_array_equal(d(x, x), 0.0)
    assert np.all(d(x, z) <= d(x, y) + d(y, z) + 1e-5)
    assert np.abs(d(x, y) - d(y, x)).max() > 0.5
    assert np.all(np.isfinite(jax.grad(lambda a: d(a, x).sum())(x)))


def test_maximum_and_mean_of_the_components_are_mixed():
    one, two = np.zeros(8, np.float32), np.arange(1.0, 9.0, dtype=np.float32)
    x, y = np.concatenate([one, one]), np.concatenate([0.5 * two, two])
    for share, expected in ((0.0, 8.0), (1.0, 6.0), (0.25, 7.5)):
        found = QuasimetricCritic.distance(x, y, jnp.float32(share))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def distances(nets, member, batch):
    """[N, 3], of the loss: d(state, goal), d(state, state after the chunk), of the dynamics."""
    apply = jax.jit(jax.vmap(lambda *x: jnp.stack(nets.critic.apply(member, *x))))
    return np.asarray(apply(batch.obs, batch.action, batch.actor.next_obs.state))


def test_the_losses_of_critic_and_dual_by_hand():
    """A chunk is two steps; the step that counts is the chunk's, not the return's three."""
    changes = {"networks.ensemble": 2, "critics.qrl.far": 2.0, "critics.qrl.slack": 0.3}
    nets, learner, params, target = setup("qrl", **changes)
    widen = lambda x: 1.6 * x  # so that some steps are too long
    members = jax.tree.map(widen, params["critic"])
    multiplier = np.array([1.5, 0.4])
    params = params | {"critic": members, "dual": {"log_multiplier": jnp.log(multiplier)}}
    batch = goal_batch()
    state = batch.obs.state + 0.3
    other = batch.actor._replace(next_obs=batch.actor.next_obs._replace(state=state))
    batch, critic, dual, excesses = batch._replace(actor=other), 0.0, 0.0, []
    for e in range(2):
        member = jax.tree.map(lambda x, e=e: x[e], members)
        for i, (to_goal, along, error) in enumerate(distances(nets, member, batch)):
            excess = max(along - 2.0, 0.0) ** 2
            push = 0.4 * np.log1p(np.exp((2.0 - to_goal) / 0.4))
            critic += float(batch.weight[i]) * (push + multiplier[e] * excess + error) / (2 * N)
            dual += float(batch.weight[i]) * multiplier[e] * (0.3 - excess) / (2 * N)
            excesses.append(excess)
    assert min(excesses) == 0 < max(excesses)
    check(loss_of(learner, "critic", params, target, batch), critic)
    check(loss_of(learner, "dual", params, target, batch), dual)


def test_q_is_minus_the_distance_from_where_the_action_leads():
    """The dynamics' error is the mean of that distance, at the right code, and of the way back."""
    nets, _, params, _ = setup("qrl")
    member, batch = jax.tree.map(lambda x: x[0], params["critic"]), goal_batch()
    there = Obs(batch.obs.state, batch.actor.next_obs.state)
    q = jax.vmap(lambda obs, action: nets.q_of(params["critic"], obs)(action))
    one_way, error = np.asarray(q(there, batch.action)), distances(nets, member, batch)[:, 2]
    assert np.all(one_way <= 0) and np.all(-2 * error - 1e-5 <= one_way)
    same = batch._replace(obs=batch.obs._replace(goal=batch.obs.state))
    np.testing.assert_array_equal(distances(nets, member, same)[:, 0], 0.0)


RING = 5


def ring():
    """(all pairs of a state and a goal, its only action leading one state on; nets, start, step)."""
    spec = Spec(state=(RING,), action=1, chunk=1, goal=(RING,))
    changes = {
        "networks.critic_hidden": (64, 64),
        "networks.critic_layer_norm": False,
        "critics.qrl.far": 20.0,
        "critics.qrl.slack": 0.01,
    }
    builder = Builder(tiny("qrl", **changes), spec)
    learner = builder.learner()
    place, goal = (jnp.eye(RING)[i.ravel()] for i in np.indices((RING, RING)))
    after = Obs(jnp.roll(place, 1, axis=1), goal)
    ones = jnp.ones(len(place))
    batch = Batch(
        Obs(place, goal), 0 * ones[:, None], 0 * ones, ones, after, ones,
        Actor(Obs(place, goal), after, ones), 0 * ones[:, None],
    )  # fmt: skip
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, 1200))

    def start(key):
        groups = learner.init(key, spec.example(), jnp.zeros(1))
        params = {k: groups[k] for k in ("critic", "dual")}
        return TrainState(jnp.int32(0), key, params, {}, tx.init(params))

    losses = {k: learner.losses[k] for k in ("critic", "dual")}
    step = lambda state, _: (train_step(state, batch, losses=losses, tx=tx, tau=0.1)[0], None)
    return batch, builder.networks(), start, step


@pytest.mark.whole
def test_a_ring_of_one_direction_has_the_fewest_steps_as_distances():
    """From i to j it is j - i steps, modulo 5: four steps the way back from one step on."""
    batch, nets, start, step = ring()

    @jax.jit
    @jax.vmap
    def found(key):
        params = jax.lax.scan(step, start(key), None, 1200)[0].params
        of = lambda obs, after: nets.ensemble_distances(params["critic"], obs, jnp.zeros(1), after)
        q = jax.vmap(lambda obs: nets.q_of(params["critic"], obs)(jnp.zeros(1)))(batch.obs)
        return *jax.vmap(of)(batch.obs, batch.actor.next_obs.state), q

    to_goal, along, error, q = map(np.asarray, found(jax.random.split(jax.random.key(0), 3)))
    i, j = np.indices((RING, RING))
    steps = (j - i) % RING
    off = np.abs(to_goal.reshape(-1, RING, RING) - steps * along.mean()).max(axis=(1, 2))
    good = off.argmin()  # one start of six ends where a state is a step off
    assert off[good] < 0.5, off  # so that no step is taken for another
    np.testing.assert_allclose(along[good], 1.0, atol=0.15)  # at most 1 + sqrt(slack)
    np.testing.assert_allclose(-q[good].reshape(RING, RING), (steps - 1) % RING, atol=0.9)
    assert error[good].max() < 0.05
