"""Distances that know a direction: as far as from x to y it need not be from y to x.

A quasimetric d has d(x, x) = 0 and d(x, z) <= d(x, y) + d(y, z), as the fewest steps between two states
have.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qgf_jax.core.encoders import network_input
from qgf_jax.types import Array, Obs, Spec

_INTERVALS = 8


def _interval_distances(x: Array, y: Array) -> Array:
    """What the intervals from x_i to y_i of each component cover, [C, K] and [C, K] -> [C].

    An interval with y_i <= x_i is empty, and what several cover counts once. Each component is a
    quasimetric (Wang and Isola, 2022).
    """
    order = jnp.argsort(x, axis=-1)
    start = jnp.take_along_axis(x, order, axis=-1)
    end = jnp.maximum(start, jnp.take_along_axis(y, order, axis=-1))
    # From the left: an interval adds what lies beyond all that came before it.
    covered = jax.lax.cummax(end, axis=end.ndim - 1)
    before = jnp.concatenate([start[..., :1], covered[..., :-1]], axis=-1)
    return jnp.sum(jnp.maximum(end - jnp.maximum(start, before), 0.0), axis=-1)


class _Code(nn.Module):
    """(state) -> [width]."""

    spec: Spec
    shape: Any
    width: int

    @nn.compact
    def __call__(self, state: Array) -> Array:
        return self.shape.mlp(self.width)(network_input(self.spec, Obs(state)).state)


class QuasimetricCritic(nn.Module):
    """(obs, action [D]) -> -d(state after the action, goal) [], minus the steps that are left.

    Of codes of states, d being an interval quasimetric; a second network gives the code of the state
    after the action. A goal is a state.
    """

    spec: Spec
    shape: Any
    """Of its layers; the codes are as wide as the last, down to a multiple of 8."""

    @staticmethod
    def distance(x: Array, y: Array, share: Array) -> Array:
        """`share` of the components' mean, the rest of their maximum: [D] and [D] -> [].

        IQE-maxmean, D a multiple of 8, the intervals of a component (Wang and Isola, 2022).
        """
        components = _interval_distances(x.reshape(-1, _INTERVALS), y.reshape(-1, _INTERVALS))
        return share * components.mean() + (1.0 - share) * components.max()

    @nn.compact
    def __call__(self, obs: Obs, action: Array, next_state: Array | None = None) -> Any:
        """Q; or with the `next_state` the three numbers of the loss, [] each.

        These are d(state, goal), d(state, next_state), and the error of the second network, the mean of
        the distances from the code that it gives to the right one and back.
        """
        width = max(_INTERVALS, self.shape.hidden[-1] // _INTERVALS * _INTERVALS)
        code = _Code(self.spec, self.shape, width, name="code")
        share = jax.nn.sigmoid(self.param("share", nn.initializers.zeros, ()))
        state, goal = code(obs.state), code(obs.goal)
        change = self.shape.mlp(width, name="dynamics")(jnp.concatenate([state, action]))
        after = state + change
        if next_state is None:
            return -self.distance(after, goal, share)
        right = code(next_state)
        there, back = (self.distance(*pair, share) for pair in ((after, right), (right, after)))
        return (
            self.distance(state, goal, share),
            self.distance(state, right, share),
            0.5 * (there + back),
        )
