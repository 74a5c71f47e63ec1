"""Fitted Q evaluation of guided policies against values by hand, and the criterion that reads it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.criteria import Measured
from qgf_jax.methods.parts import Part
from qgf_jax.training.fitted import fitted_values
from qgf_jax.training.weighing import Effort, draw
from qgf_jax.types import Spec

SPEC, STEPS, DISCOUNT = Spec((1,), 2, 1), 3, 0.5
PAY = np.array([1.0, -1.0])
"""The reward is PAY . a + state; the state changes its sign."""
GUIDES = np.array([[2.0, 1.0], [0.0, 0.9]])
"""By seed, the slope of the critic that guides: right in the first number, wrong in the second."""
NUDGE = np.array([0.1, -0.2])
"""The reference's action is NUDGE . state."""
WEIGHTS = STEPS * np.array([[0.1, 0.25, 0.5, 1.0]] * 2, np.float32)
EFFORT = Effort(
    states=6, bank=8, neighbours=1, transitions=256, evaluated=slice(1, None), updates=400
)
CONFIG = tiny(
    **{
        "networks.policy_hidden": (),
        "networks.critic_hidden": (),
        "optimizer.learning_rate": 0.03,
        "optimizer.tau": 0.1,
        "sampler.num_steps": STEPS,
        "train.batch_size": 32,
        "seeds": 2,
    }
)


def data() -> Dataset:
    """512 transitions between the states 1 and -1, with every kind of action; some do not count."""
    rng, rows = np.random.default_rng(0), np.arange(512, dtype=np.int32)
    obs = np.where(rows % 2, -1.0, 1.0).astype(np.float32)[:, None]
    actions = rng.uniform(-1, 1, (512, 2)).astype(np.float32)
    weight = (rows % 5 > 0).astype(np.float32)
    reward = np.where(weight, actions @ PAY + obs[:, 0], 1000.0).astype(np.float32)
    discount = np.full(512, DISCOUNT, np.float32)
    return jax.device_put(Dataset(obs, actions, rows, rows ^ 1, weight, reward, discount))


def params() -> Any:
    """Linear networks. The velocity is STEPS (NUDGE state - a), so that a step forgets where it was."""
    nets, key = Builder(CONFIG, SPEC).networks(), jax.random.key(0)
    obs, action = SPEC.example(), jnp.zeros(2)

    def linear(tree: Any, slope: Any, bias: float = 0.0) -> Any:
        """Parameters of a layer that sees state and action, and no time."""

        def filled(x: Any) -> Any:
            return jnp.full_like(x, bias) if x.ndim < 2 else jnp.zeros_like(x).at[:3].set(slope)

        return jax.tree.map(filled, tree)

    def of_seed(guide: np.ndarray) -> Any:
        member = nets.critic.init(key, obs, action)
        members = [linear(member, np.r_[0.0, guide][:, None], bias) for bias in (-1.0, 1.0)]
        slope = STEPS * np.vstack([NUDGE, -np.eye(2)])
        policy = linear(nets.policy.init(key, obs, action, jnp.zeros(())), slope)
        return {"policy": policy, "critic": jax.tree.map(lambda *x: jnp.stack(x), *members)}

    return jax.tree.map(lambda *x: jnp.stack(x), *map(of_seed, GUIDES))


def guided_actions(states: Any) -> np.ndarray:
    """[S, 1 + W, N, D]: at weight 0 the reference's, further the guide's slope at w / STEPS on."""
    weights = np.concatenate([np.zeros((2, 1)), WEIGHTS], axis=1)
    moved = (weights[:, :, None] / STEPS * GUIDES[:, None])[:, :, None]
    return np.clip(moved + np.asarray(states)[:, None] * NUDGE, -1, 1)


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    """[N], those that are drawn."""
    return np.asarray(draw(CONFIG, SPEC, data(), 1, EFFORT).obs.state[:, 0])


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return fitted_values(CONFIG, SPEC, params(), data(), WEIGHTS, EFFORT)


def test_values_are_those_of_going_on_by_the_weight_for_good(values, states):
    """What is earned here, then in the other state, then here, by turns."""
    assert set(states) == {-1.0, 1.0}
    now, then = (guided_actions(s) @ PAY + s for s in (states, -states))
    expected = (now + DISCOUNT * then) / (1 - DISCOUNT**2)
    expected[:, 1] = np.nan  # the weight that was not asked for
    np.testing.assert_allclose(values, expected, atol=0.02)


def test_an_evaluation_begins_with_the_mean_of_the_members_that_guide(states):
    """Q of the guide is its slope times the action, by the members 1 less and 1 more."""
    begun = fitted_values(CONFIG, SPEC, params(), data(), WEIGHTS, EFFORT._replace(updates=0))
    expected = (guided_actions(states) * GUIDES[:, None, None]).sum(axis=-1)
    np.testing.assert_allclose(begun[:, 2:], expected[:, 2:], atol=1e-5)


def chosen(evaluated: Any, weights: Any = WEIGHTS[0]) -> Any:
    fields: dict[str, Any] = dict.fromkeys(Measured._fields)
    given = fields | {"weights": np.array(weights), "evaluated": evaluated}
    return Part.named("criterion", "evaluated").make(Measured(**given))


def test_where_the_guide_is_wrong_the_smaller_weight_is_chosen_though_its_own_q_rises(
    values, states
):
    """The first guide is worth following until a's first number is at its bound, the second never."""
    own = (guided_actions(states) * GUIDES[:, None, None]).sum(axis=-1).mean(axis=-1)
    assert (own.argmax(axis=1) == len(WEIGHTS[0])).all()
    assert chosen(values[0]).weight == WEIGHTS[0, 2]
    assert chosen(values[1]).weight == 0
    curve = chosen(values[0]).curve
    assert np.isnan(curve[0]) and curve[1] > 0 and curve[2] == 0 and curve[3] > 0


def test_a_weight_within_one_standard_error_of_the_best_is_chosen():
    """Of two states that are 10 apart; the second weight is short by 1.25 ± 1.75, the first by 5."""
    state = np.array([0.0, 10.0])
    gain = state + np.array([[0.0, 0.0], [3.0, 3.0], [5.0, 8.5], [8.0, 8.0], [np.nan, np.nan]])
    assert chosen(gain).weight == WEIGHTS[0, 1]
    assert np.isnan(chosen(np.full((5, 2), np.nan)).weight) and np.isnan(chosen(None).weight)
