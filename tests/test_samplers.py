"""Samplers over real networks: weights are traced, best-of-N picks within its own candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_jax import algorithms, samplers
from qgf_jax.types import Spec

SPEC = Spec(obs_dim=3, action_dim=2, chunk=2)


@pytest.fixture(scope="module")
def groups():
    learner = algorithms.build_learner(tiny(), SPEC)
    params = jax.jit(learner.init)(jax.random.key(0), jnp.zeros(3), jnp.zeros(4))
    return params, {"critic": params["critic"]}


def test_weight_zero_is_the_reference_and_more_weight_means_more_q(groups):
    obs, keys = jnp.ones(3) * 0.3, jax.random.split(jax.random.key(3), 64)
    nets = algorithms.build_networks(tiny(), SPEC)

    def actions(method, weight):
        sample = algorithms.build_sample(tiny(), SPEC, method)
        return jax.jit(jax.vmap(lambda k: sample(*groups, obs, k, jnp.float32(weight))))(keys)

    np.testing.assert_allclose(actions("qgf", 0.0), actions("reference", 5.0), atol=1e-5)
    q = jax.vmap(samplers.bind_critic(nets, groups[1], obs))
    reference, some, more = (q(actions("qgf", w)).mean() for w in (0.0, 1.0, 10.0))
    assert reference < some < more


def test_slow_critic_guides_and_ranks(groups):
    """The online critic is broken here; nobody may notice."""
    params, target = groups
    broken = params | {"critic": jax.tree.map(lambda x: x * jnp.nan, params["critic"])}
    for method, n in (("qgf", 1), ("best_of", 3)):
        sample = algorithms.build_sample(tiny(), SPEC, method, n)
        assert np.isfinite(
            sample(broken, target, jnp.ones(3), jax.random.key(0), jnp.float32(1))
        ).all()


def test_best_of_keeps_the_candidate_with_the_highest_q(groups):
    nets = algorithms.build_networks(tiny(), SPEC)
    sample = algorithms.build_sample(tiny(), SPEC, "reference")
    obs, key = jnp.ones(3), jax.random.key(4)
    best = samplers.best_of(nets, sample, 8)(*groups, obs, key, jnp.float32(0))
    candidates = [sample(*groups, obs, k, jnp.float32(0)) for k in jax.random.split(key, 8)]
    q = [float(samplers.bind_critic(nets, groups[1], obs)(a)) for a in candidates]
    np.testing.assert_allclose(best, candidates[int(np.argmax(q))], atol=2e-3)
    assert samplers.best_of(nets, sample, 1) is sample
