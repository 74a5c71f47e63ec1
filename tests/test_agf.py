"""AGF on a linear flow and a quadratic Q, where the slope of Q along the flow is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from conftest import tiny
from jax.flatten_util import ravel_pytree
from test_learners import loss_of

from qgf_jax.core import networks
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.training import costs
from qgf_jax.types import Actor, Batch, Spec

STEPS, SPREAD = 4, 0.5
BEST, BEND = np.array([[0.3, -0.8], [1.5, 0.4]], np.float32)
SPEC = Spec(state=(1,), action=2, chunk=1, clip=False)
KEYS = jax.random.split(jax.random.key(1), 32)

# The flow of noise N(0, 1) to actions N(0, SPREAD ** 2): v = RATES[k] * a at t = k / STEPS. Its Euler
# path ends at REST[k] * a, from a at that time.
_T = np.arange(STEPS, dtype=np.float32) / STEPS
RATES = (_T * SPREAD**2 - (1 - _T)) / (_T**2 * SPREAD**2 + (1 - _T) ** 2)
REST = np.cumprod((1 + RATES / STEPS)[::-1])[::-1]


def q(action):
    return -0.5 * jnp.sum(BEND * (action - BEST) ** 2)


class Affine(nn.Module):
    """factor * a_t + shift, another for each step of the flow, in the place of a velocity field."""

    @nn.compact
    def __call__(self, obs, action, t):
        zeros, k = nn.initializers.zeros, jnp.round(t * STEPS).astype(int)
        rows = {name: self.param(name, zeros, (STEPS, 2)) for name in ("factor", "shift")}
        return rows["factor"][k] * action + rows["shift"][k]


class Quadratic(nn.Module):
    """`q`, as a network of a critic's shape."""

    @nn.compact
    def __call__(self, obs, action):
        return q(action) + 0.0 * self.param("idle", nn.initializers.zeros, ())


class Known(networks.Networks):
    """Networks that can be this flow, this critic and its slope exactly."""

    policy = property(lambda self: Affine())
    critic = property(lambda self: Quadratic())


def known(monkeypatch):
    """(config, learner, parameters: the flow as it is, the slope that is known)."""
    real = Builder.networks
    monkeypatch.setattr(Builder, "networks", lambda self: Known(**vars(real(self))))
    config = tiny("agf", **{"sampler.num_steps": STEPS})
    rate, rest = (np.stack([x, x], axis=1) for x in (RATES, REST))  # of both numbers of an action
    groups = {
        "policy": {"factor": rate, "shift": jnp.zeros_like(rate)},
        # The gradient at a is that of q(REST * a).
        "slope": {"factor": -BEND * rest**2, "shift": BEND * BEST * rest},
        "critic": {"idle": jnp.zeros(2)},  # of two members
    }
    params = {name: {"params": jax.tree.map(jnp.asarray, group)} for name, group in groups.items()}
    return config, Builder(config, SPEC).learner(), params


def test_least_squares_find_the_slope_of_a_quadratic_q_along_a_linear_flow(monkeypatch):
    _, learner, params = known(monkeypatch)
    obs, size = SPEC.observation(jnp.zeros((64, 1))), jnp.ones(64)
    batch = Batch(obs, jnp.zeros((64, 2)), size, size, obs, size, Actor(obs, obs, size), size)
    exact, unflatten = ravel_pytree(params["slope"])

    def loss(flat):
        groups = params | {"slope": unflatten(flat)}
        return loss_of(learner, "slope", groups, {"critic": params["critic"]}, batch)

    # The loss is quadratic in these parameters: gradients at 0 and at the unit vectors say all of it.
    points = jnp.concatenate([jnp.zeros((1, exact.size)), jnp.eye(exact.size)])
    at_zero, *at_units = np.asarray(jax.jit(jax.vmap(jax.grad(loss)))(points), np.float64)
    found = np.linalg.solve(np.stack(at_units) - at_zero, -at_zero)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_exact_slope_acts_as_backpropagation_through_the_flow(monkeypatch):
    """By hand, and as `bptt` at the same weight."""
    config, _, params = known(monkeypatch)
    acting = algorithms.acting_params(params, {"critic": params["critic"]})

    def actions(name, weight):
        sample = Builder(config, SPEC).sample(name)
        act = lambda key: sample(acting, SPEC.example(), key, jnp.float32(weight))
        return np.asarray(jax.jit(jax.vmap(act))(KEYS))

    a = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(KEYS))
    for rate, rest in zip(RATES, REST, strict=True):
        a = a + (rate * a + 0.7 * rest * BEND * (BEST - rest * a)) / STEPS
    found = actions("agf", 0.7)
    np.testing.assert_allclose(found, a, atol=1e-5)
    np.testing.assert_allclose(found, actions("bptt", 0.7), atol=1e-5)
    assert jax.vmap(q)(found).mean() > jax.vmap(q)(actions("agf", 0.0)).mean() + 0.1


def test_acting_asks_one_network_more_and_no_critic():
    plain, learned = costs._count("reference"), costs._count("agf")
    assert learned["needs"] == ["policy", "slope"]
    assert learned["flops"] == 2 * plain["flops"]  # a pass of each, and no gradient
