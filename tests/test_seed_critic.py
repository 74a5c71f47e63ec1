"""The seed critic on a linear flow and a quadratic Q, where Q of what a noise becomes is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny
from test_agf import BEND, BEST, RATES, REST, SPEC, STEPS, Known, q
from test_learners import loss_of

from qgf_jax.methods import table as algorithms
from qgf_jax.training import costs
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Actor, Batch

N, KEYS = 8, jax.random.split(jax.random.key(1), 32)
# The flow ends at REST[0] z, and Q there is `EXACT` . (1, z, z ** 2).
EXACT = np.concatenate(
    [[-0.5 * (BEND * BEST**2).sum()], REST[0] * BEND * BEST, -0.5 * REST[0] ** 2 * BEND]
)


class Polynomial(nn.Module):
    """`weights` . (1, z, z ** 2), in the place of a critic of the noise z."""

    @nn.compact
    def __call__(self, obs, noise):
        weights = self.param("weights", nn.initializers.zeros, (5,))
        return weights @ jnp.concatenate([jnp.ones(1), noise, noise**2])


class KnownSeeds(Known):
    """Networks that can be this flow, this critic and its critic of the noise exactly."""

    seed_critic = property(lambda self: Polynomial())


@pytest.fixture
def known(monkeypatch):
    """(builder, learner, parameters: all as they are known)."""
    real = algorithms.Builder.networks
    monkeypatch.setattr(algorithms.Builder, "networks", lambda self: KnownSeeds(**vars(real(self))))
    builder = algorithms.Builder(tiny("seed_critic", **{"sampler.num_steps": STEPS}), SPEC)
    rate = np.stack([RATES, RATES], axis=1)  # of both numbers of an action
    groups = {
        "policy": {"factor": rate, "shift": np.zeros_like(rate)},
        "critic": {"idle": np.zeros(2, np.float32)},  # of two members
        "seed_critic": {"weights": EXACT},
    }
    as_params = lambda group: {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), group)}
    return builder, builder.learner(), {name: as_params(group) for name, group in groups.items()}


def batch_of(size):
    obs, one = SPEC.observation(jnp.zeros((size, 1))), jnp.ones(size)
    return Batch(obs, jnp.zeros((size, 2)), one, one, obs, one, Actor(obs, obs, one), one)


@pytest.mark.parametrize("noises", [1, 3])
def test_least_squares_find_the_q_of_what_a_noise_becomes(known, noises):
    """Up to a constant, of which differences among several noises say nothing."""
    config = {**known[0].config, "policy": {**known[0].config["policy"], "noises": noises}}
    learner, params = algorithms.Builder(config, SPEC).learner(), known[2]

    def loss(weights):
        groups = params | {"seed_critic": {"params": {"weights": weights}}}
        return loss_of(learner, "seed_critic", groups, {"critic": params["critic"]}, batch_of(64))

    # The loss is quadratic in these parameters: gradients at 0 and at the unit vectors say all of it.
    points = jnp.concatenate([jnp.zeros((1, 5)), jnp.eye(5)])
    at_zero, *at_units = np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(points), np.float64)
    found = np.linalg.lstsq(np.stack(at_units) - at_zero, -at_zero, rcond=1e-6)[0]
    np.testing.assert_allclose(found[1:], EXACT[1:], atol=1e-5)
    np.testing.assert_allclose(found[0], EXACT[0] if noises == 1 else 0.0, atol=1e-5)


def test_its_loss_moves_neither_flow_nor_critic_though_it_depends_on_them(known):
    _, learner, params = known
    params = params | {"seed_critic": jax.tree.map(jnp.zeros_like, params["seed_critic"])}
    target, batch = {"critic": params["critic"]}, batch_of(8)
    slope = jax.grad(lambda p: loss_of(learner, "seed_critic", p, target, batch))(params)
    assert np.abs(slope["policy"]["params"]["factor"]).max() > 0.01
    tx, losses = optax.sgd(0.1), {"seed_critic": learner.losses["seed_critic"]}
    state = TrainState(jnp.int32(0), jax.random.key(0), params, target, tx.init(params))
    after, _ = train_step(state, batch, losses=losses, tx=tx, tau=0.0)
    for group in ("policy", "critic"):
        jax.tree.map(np.testing.assert_array_equal, after.params[group], params[group])
    assert np.abs(after.params["seed_critic"]["params"]["weights"]).max() > 1e-4


def actions(known, name, weight=0.0, n=1, *options, keys=KEYS):
    builder, _, params = known
    acting = algorithms.acting_params(params, {"critic": params["critic"]})
    sample = builder.sample(name, n, options)
    act = lambda key: sample(acting, SPEC.example(), key, jnp.float32(weight))
    return np.asarray(jax.jit(jax.vmap(act))(keys))


def test_exact_seed_critic_chooses_the_candidate_of_best_of_n(known):
    """Of the same key the same noise, so the same action; by hand too."""
    found = actions(known, "seed_critic", 0.0, N)
    np.testing.assert_allclose(found, actions(known, "best_of", 0.0, N), atol=1e-6)
    draw = lambda key: jax.vmap(lambda k: jax.random.normal(k, (2,)))(jax.random.split(key, N))
    ends = REST[0] * np.asarray(jax.vmap(draw)(KEYS))  # [32, N, 2]
    best = np.asarray(jax.vmap(jax.vmap(q))(ends)).argmax(axis=1)
    assert len(set(best)) > 4
    np.testing.assert_allclose(found, ends[np.arange(32), best], atol=1e-5)


@pytest.mark.parametrize("name", ["qgf", "grad_step"])
def test_chosen_noise_starts_any_guided_flow(known, name):
    seed = ("select", "seed")
    guided = actions(known, name, 0.3, N, seed)
    draws = jax.vmap(lambda key: jax.random.split(key, N))(KEYS)
    noise = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (2,))))(draws)
    best = jax.vmap(jax.vmap(q))(REST[0] * noise).argmax(axis=1)
    alone = actions(known, name, 0.3, keys=draws[jnp.arange(32), best])
    np.testing.assert_allclose(guided, alone, atol=1e-6)
    free = actions(known, name, 0.0, N, seed)
    np.testing.assert_allclose(free, actions(known, "seed_critic", 0.0, N), atol=1e-6)
    assert jax.vmap(q)(guided).mean() > jax.vmap(q)(free).mean() + 0.005


def test_n_noises_cost_a_pass_each_and_one_flow():
    flow, best_of_4, seeds = (costs._count(x) for x in ("reference", "best_of", "seed_critic"))
    assert seeds["needs"] == ["policy", "seed_critic"]
    seen = 2 * 46 * 256  # a first layer's product with the observation, once for all candidates
    member = (best_of_4["flops"] - 4 * flow["flops"] + seen) / 8  # of two
    assert seeds["flops"] == pytest.approx(flow["flops"] + 32 * member + seen)


def test_a_run_without_one_says_how_to_get_it():
    said = algorithms.Builder(tiny("qgf"), SPEC).lacking("qgf", (("select", "seed"),), 4)
    assert said == "needs seed_q, which it does not provide: train --config.algorithm=seed_critic"
