"""Fitted Q evaluation of guided policies against values by hand, and the criterion that reads it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.methods.rules.criteria import Measured
from qgf_jax.training.fitted import fitted_values
from qgf_jax.training.weighing import Effort, draw
from qgf_jax.types import Spec

SPEC, STEPS, DISCOUNT = Spec((1,), 2, 1), 3, 0.5
PAY = np.array([1.0, -1.0])
"""The reward is PAY . a + state; the state stays as it is."""
GUIDES = np.array([[2.0, 1.0], [0.0, 0.9]])
"""By seed, the slope of the critic that guides: right in the first number, wrong in the second."""
WEIGHTS = STEPS * np.array([[0.1, 0.25, 0.5, 1.0]] * 2, np.float32)
EFFORT = Effort(states=6, bank=8, neighbours=1, evaluated=slice(1, None), updates=400)
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


def straight() -> Dataset:
    """512 transitions, each from a state to itself, with every kind of action."""
    rng, rows = np.random.default_rng(0), np.arange(512, dtype=np.int32)
    obs = rng.choice([-1.0, 1.0], (512, 1)).astype(np.float32)
    actions = rng.uniform(-1, 1, (512, 2)).astype(np.float32)
    ones, reward = np.ones(512, np.float32), (actions @ PAY + obs[:, 0]).astype(np.float32)
    made = Dataset(obs, actions, rows, rows, ones, reward, np.float32(DISCOUNT) * ones)
    return jax.device_put(made)


def params() -> Any:
    """Linear networks: -STEPS a as the velocity, so that each step of the flow forgets where it was."""
    nets, key = Builder(CONFIG, SPEC).networks(), jax.random.key(0)
    obs, action = SPEC.example(), jnp.zeros(2)

    def linear(tree: Any, slope: Any, bias: float = 0.0) -> Any:
        """Parameters that see the action, after the one number of a state, and nothing else."""

        def filled(x: Any) -> Any:
            return jnp.full_like(x, bias) if x.ndim < 2 else jnp.zeros_like(x).at[1:3].set(slope)

        return jax.tree.map(filled, tree)

    def of_seed(guide: np.ndarray) -> Any:
        member = nets.critic.init(key, obs, action)
        members = [linear(member, guide[:, None], bias) for bias in (-1.0, 1.0)]
        policy = linear(nets.policy.init(key, obs, action, jnp.zeros(())), -STEPS * jnp.eye(2))
        return {"policy": policy, "critic": jax.tree.map(lambda *x: jnp.stack(x), *members)}

    return jax.tree.map(lambda *x: jnp.stack(x), *map(of_seed, GUIDES))


def guided_actions() -> np.ndarray:
    """[S, 1 + W, D], at weight 0 and at each other: the slope at w / STEPS, kept in the box."""
    weights = np.concatenate([np.zeros((2, 1)), WEIGHTS], axis=1)
    return np.clip(weights[:, :, None] / STEPS * GUIDES[:, None], -1, 1)


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return fitted_values(CONFIG, SPEC, params(), straight(), WEIGHTS, EFFORT)


def test_values_are_those_of_going_on_by_the_weight_for_good(values):
    """(PAY . a + state) / (1 - DISCOUNT), whatever the guiding critic says of a."""
    states = draw(CONFIG, SPEC, straight(), 1, EFFORT).obs.state[:, 0]
    pays = guided_actions() @ PAY
    expected = (pays[:, :, None] + np.asarray(states)) / (1 - DISCOUNT)
    expected[:, 1] = np.nan  # the weight that was not asked for
    np.testing.assert_allclose(values, expected, atol=0.02)


def test_an_evaluation_begins_with_the_mean_of_the_members_that_guide():
    """Q of the guide is its slope times the action, by the members 1 less and 1 more."""
    begun = fitted_values(CONFIG, SPEC, params(), straight(), WEIGHTS, EFFORT._replace(updates=0))
    expected = (guided_actions() * GUIDES[:, None]).sum(axis=-1)
    np.testing.assert_allclose(begun[:, 2:], np.repeat(expected[:, 2:, None], 6, 2), atol=1e-5)


def chosen(evaluated: Any, weights: Any = WEIGHTS[0]) -> Any:
    fields: dict[str, Any] = dict.fromkeys(Measured._fields)
    given = fields | {"weights": np.array(weights), "evaluated": evaluated}
    return Part.named("criterion", "evaluated").make(Measured(**given))


def test_where_the_guide_is_wrong_the_smaller_weight_is_chosen_though_its_own_q_rises(values):
    """The first guide is worth following until a's first number is at its bound, the second never."""
    own = (guided_actions() * GUIDES[:, None]).sum(axis=-1)
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
