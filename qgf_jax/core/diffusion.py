"""Denoising diffusion on actions. Here time counts up in steps k = 0 (data) to K (noise)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.types import Array

Noise = Callable[[Array, Array], Array]
"""(action [D], k []) -> the noise [D] that was mixed into it."""


def _clean(action: Array, noise: Array, product: Array) -> Array:
    """The inverse of `NoiseSchedule.mix`: the action [D] that `noise` was mixed into."""
    return (action - jnp.sqrt(1.0 - product) * noise) / jnp.sqrt(product)


def _to_box(action: Array) -> Array:
    return jnp.clip(action, -1.0, 1.0)


class NoiseSchedule(NamedTuple):
    """How much noise each step k = 0, …, K mixes in: none at k = 0."""

    alpha: np.ndarray
    """[K + 1], the share of the variance that a step leaves of the action; 1 at k = 0."""
    product: np.ndarray
    """[K + 1], the same of all steps up to k."""

    @classmethod
    def of(cls, num_steps: int) -> "NoiseSchedule":
        """The variance-preserving schedule of K = `num_steps`.

        The discretised VP SDE with beta from 0.1 to 10 (Ho et al., 2020; Song et al., 2021a).
        """
        low, high = 0.1, 10.0
        k = np.arange(1, num_steps + 1)
        alpha = np.exp(-low / num_steps - 0.5 * (high - low) * (2 * k - 1) / num_steps**2)
        alpha = np.append(1.0, alpha).astype(np.float32)
        return cls(alpha, np.cumprod(alpha))

    def mix(self, action: Array, noise: Array, k: Array) -> tuple[Array, Array]:
        """The action [D] with the noise of step k, and the `product` [] there."""
        product = jnp.asarray(self.product)[k]
        return jnp.sqrt(product) * action + jnp.sqrt(1.0 - product) * noise, product

    def sample(
        self,
        noise: Noise,
        key: Array,
        width: int,
        *,
        posterior: bool = True,
        clip: Callable[[Array], Array] = _to_box,
    ) -> Array:
        """Ancestral sampling from N(0, I): an action [D] inside the box, or as `clip` leaves it.

        Each step predicts the clean action, clips it and draws from the posterior of the
        step before (Ho et al., 2020, Eqs. 6 and 7, with the larger of the two variances).

        `posterior=False` is what the public QGF code does with its clips off: the next action is the
        unclipped clean one plus the step's noise, which is no transition of this chain, and the network
        then sees an action that is less noisy than the step says.
        """
        alpha, product = self
        num_steps = len(alpha) - 1
        start_key, *keys = jax.random.split(key, num_steps + 1)

        def step(action: Array, x: tuple[Array, Array]) -> tuple[Array, None]:
            k, key = x
            a, p, before = (
                jnp.asarray(alpha)[k],
                jnp.asarray(product)[k],
                jnp.asarray(product)[k - 1],
            )
            mean = _clean(action, noise(action, k), p)
            if posterior:
                mean = clip(mean)
                mean = (jnp.sqrt(before) * (1 - a) * mean + jnp.sqrt(a) * (1 - before) * action) / (
                    1 - p
                )
            spread = jnp.where(k > 1, jnp.sqrt(1 - a), 0.0)
            return mean + spread * jax.random.normal(key, action.shape), None

        start = jax.random.normal(start_key, (width,))
        steps = jnp.arange(num_steps, 0, -1)
        action = jax.lax.scan(step, start, (steps, jnp.stack(keys)))[0]
        return clip(action)
