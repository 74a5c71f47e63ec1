"""Chunks of a policy, each after the one before, in the environment's units."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from qgf_jax.methods.pace import Pace
from qgf_jax.runs.blocks import alone
from qgf_jax.types import Array, Params, Sample, Spec


@dataclasses.dataclass(frozen=True)
class Follower:
    """Makes chunks of a `Sample`, each after the one before, in the environment's units."""

    spec: Spec
    pace: Pace
    sample: Sample
    candidates: int = 1
    """Actions that it draws for one."""

    def __call__(
        self,
        params: Params,
        obs: Array,
        key: Array,
        weight: Array,
        previous: Array | None = None,
        begun: Any = True,
    ) -> Array:
        """What is played from the observation [O] on, [H, A]; the first of an episode if not `begun`."""
        spec, pace = self.spec, self.pace
        if previous is not None and pace.inpaints:
            params = {**params, "overlap": pace.overlap(spec.to_networks(previous), begun)}
        action = self.sample(params, spec.observation(obs), key, weight)
        chunk = spec.to_environment(action.reshape(spec.chunk, spec.action))
        if previous is None or not pace.delay:
            return chunk
        return jnp.where(begun, pace.followed(previous, chunk), chunk)

    def alone(
        self, params: Params, obs: Array, key: Array, weight: Array, previous: Array | None = None
    ) -> Array:
        """The same of an observation that nobody else acts beside; quicker so on an accelerator."""

        def act(obs: Array, key: Array) -> Array:
            return self(params, obs, key, weight, previous)

        return alone(act, self.candidates)(obs, key)

    def of_rows(
        self, params: Params, obs: Array, key: Array, weight: Array, previous: Any = None
    ) -> Array:
        """The chunks [B, H, A] of observations [B, O], each with a key of its own."""
        keys = jax.random.split(key, obs.shape[0])
        return jax.vmap(self, in_axes=(None, 0, 0, None, 0))(params, obs, keys, weight, previous)
