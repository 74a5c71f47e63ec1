"""Shared types. Shapes: O observation, D action (a flattened chunk), B batch, E ensemble.

A type describes one example unless its name or docstring says otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Params = dict[str, Any]
"""One entry per parameter group: "policy", "critic", "value" …"""
Metrics = dict[str, Array]

Velocity = Callable[[Array, Array], Array]
"""(action [D], t []) -> velocity [D], with observation and parameters already bound."""
Critic = Callable[[Array], Array]
"""action [D] -> Q [], with observation and parameters already bound."""
Slope = Callable[[Array, Array], tuple[Array, Array]]
"""(action [D], t []) -> (velocity [D], direction of guidance [D] before the weight)."""
Endpoint = Callable[..., Array]
"""(action [D], t [], velocity there [D], *, clip=True) -> the clean action [D] it leads to."""
Sample = Callable[[Params, Params, Array, Array, Array], Array]
"""(params, target_params, obs [O], key, weight []) -> action [D]."""


class Spec(NamedTuple):
    """What a run must know of its data, long after the data is out of sight. Hashable."""

    obs_dim: int
    action_dim: int
    """Width of one action; in [-1, 1]."""
    chunk: int
    """Actions in a row that the policy gives at once."""
    obs_mean: tuple[float, ...] = ()
    """[O], or empty: observations are used as they are."""
    obs_std: tuple[float, ...] = ()

    @property
    def chunk_dim(self) -> int:
        """D, the width of a flattened chunk; its first `action_dim` numbers are acted out first."""
        return self.chunk * self.action_dim

    def standardize(self, obs: Array) -> Array:
        """`obs` [O] as the networks see it."""
        if not self.obs_mean:
            return obs
        return (obs - jnp.asarray(self.obs_mean, obs.dtype)) / jnp.asarray(self.obs_std, obs.dtype)


class Batch(NamedTuple):
    """What a loss sees. Time is settled in it: no loss knows a horizon, a mask or a gamma."""

    obs: Array
    """[B, O]"""
    action: Array
    """[B, D], D = chunk * width of one action."""
    reward: Array
    """[B], discounted and summed over the chunk."""
    discount: Array
    """[B], gamma ** chunk, and 0 where the future must not be bootstrapped."""
    next_obs: Array
    """[B, O], after the chunk."""
    weight: Array
    """[B], 0 where the chunk runs over the end of its trajectory, else 1."""


Loss = Callable[[Params, Params, Batch, Array], tuple[Array, Metrics]]
"""(params, target_params, batch, key) -> (loss [], metrics)."""


class Learner(NamedTuple):
    """How some parameter groups start, which loss moves each, and which have slow copies."""

    init: Callable[[Array, Array, Array], Params]
    """(key, obs [O], action [D]) -> groups."""
    losses: Mapping[str, Loss]
    targets: tuple[str, ...] = ()


def merge(*learners: Learner) -> Learner:
    """One learner that does what all of them do. Two losses for one group are a `ValueError`."""
    losses: dict[str, Loss] = {}
    for learner in learners:
        if twice := losses.keys() & learner.losses.keys():
            raise ValueError(f"two losses for the parameter group {sorted(twice)[0]!r}")
        losses |= learner.losses

    def init(key: Array, obs: Array, action: Array) -> Params:
        groups: Params = {}
        for i, learner in enumerate(learners):
            groups |= learner.init(jax.random.fold_in(key, i), obs, action)
        return groups

    return Learner(init, losses, tuple(name for learner in learners for name in learner.targets))
