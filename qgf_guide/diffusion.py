"""Diffusion, consistency and shortcut policies as the flows that guidance is written for.

A diffusion mixes x_k = alpha_k a + sigma_k z. Divided by alpha_k + sigma_k that is the straight path

    a_t = t a + (1 - t) z    at    t_k = alpha_k / (alpha_k + sigma_k),

so a prediction of noise z^ or of the action a^ is the velocity v = a^ - z^ there, and the endpoint of
one straight step, a_t + (1 - t) v, is a^ itself. An Euler step of v from t_k to t_k-1 is DDIM's (Song et
al., 2021b, arXiv 2010.02502, Eq. 12 with no noise), whatever the schedule.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from qgf_guide.errors import UserError
from qgf_guide.lazy import flow, jax, jnp
from qgf_guide.types import Array, Velocity

Prediction = Literal["noise", "action", "velocity"]
"""What a network predicts: z, a, or alpha z - sigma a (Salimans and Ho, 2022, arXiv 2202.00512)."""


class Diffusion(NamedTuple):
    """A noise schedule of any kind, by its steps k = 0 (the least noise) to K (the most)."""

    alpha: np.ndarray
    """[K + 1], the factors of the action."""
    sigma: np.ndarray
    """[K + 1], those of the noise."""

    @classmethod
    def of_products(cls, products: Any, keep: Any = None) -> "Diffusion":
        """Of a variance-preserving schedule's cumulative products of alpha [K], such as DDPM's.

        `products[k]` is the share of the variance that a network's step k leaves of the action. `keep`
        are the steps that are walked, from low to high, as of DDIM with fewer steps; all unless given.
        The last walk ends at the action itself, at no step of the network's. Raises `UserError` if the
        products do not fall from step to step, or are not above 0 and below 1.
        """
        share = np.asarray(products, np.float64)
        try:
            share = share if keep is None else share[np.asarray(keep)]
        except IndexError as error:
            raise UserError(f"keep does not go with {len(share)} products ({error})") from None
        sigma = np.sqrt(1.0 - np.minimum(share, 1.0)).astype(np.float32)
        if share.ndim != 1 or not len(share) or not (share > 0).all() or not (sigma > 0).all():
            raise UserError(
                "products must be one row of numbers above 0 and below 1, in float32 too"
            )
        if not (np.diff(share) < 0).all():
            raise UserError(
                "products must fall from step to step: the first step has the least noise"
            )
        share = np.append(1.0, share)
        return cls(np.sqrt(share).astype(np.float32), np.sqrt(1.0 - share).astype(np.float32))

    @property
    def times(self) -> np.ndarray:
        """t_k [K + 1], falling from 1 to nearly 0."""
        return self.alpha / (self.alpha + self.sigma)

    def velocity(
        self, predict: Callable[[Array, Array], Array], prediction: Prediction = "noise"
    ) -> Velocity:
        """The flow's velocity at the times of this schedule, for `guide`.

        `predict` is a network (x [D], k []) -> [D] of the diffusion's own noisy action; its k counts the
        steps that are walked, from 1 to K. At other times it is asked at the step whose time is nearest.
        """
        if prediction not in get_args(Prediction):
            raise UserError(f"prediction is {prediction!r}: give 'noise', 'action' or 'velocity'")

        def velocity(action: Array, t: Array) -> Array:
            k = jnp.argmin(jnp.abs(jnp.asarray(self.times)[1:] - t)) + 1
            alpha, sigma = jnp.asarray(self.alpha)[k], jnp.asarray(self.sigma)[k]
            x = (alpha + sigma) * action
            found = flow.check_shape(predict(x, k), action, "predict")
            if prediction == "velocity":
                return (alpha - sigma) * x - (alpha + sigma) * found
            clean = found if prediction == "action" else (x - sigma * found) / alpha
            noise = found if prediction == "noise" else (x - alpha * found) / sigma
            return clean - noise

        return velocity

    def sample(
        self, field: Velocity, noise: Array, key: Array | None = None, *, eta: float = 0.0
    ) -> Array:
        """From `noise` [D] of N(0, I) to an action [D], not clipped, by a velocity, guided or not.

        `eta` 0 is DDIM, 1 DDPM's ancestral sampling with the smaller of its two variances, which draws
        from `key`: Song et al., 2021b, arXiv 2010.02502, Eqs. 12 and 16. A guided velocity stands for
        the action and the noise that it says a_t is made of. Raises `UserError` for an `eta` above 0
        without a key.
        """
        if not 0 <= eta <= 1:
            raise UserError(f"eta is {eta}: give a number from 0, DDIM, to 1, DDPM")
        if eta and key is None:
            raise UserError(f"eta is {eta}: noise is drawn, so give a key")
        count = len(self.alpha) - 1
        steps = jnp.arange(count, 0, -1)
        keys = jax.random.split(jax.random.key(0) if key is None else key, count)
        both = (self.alpha, self.sigma, self.times)
        alpha, sigma, times = (jnp.asarray(x, noise.dtype) for x in both)

        def step(x: Array, each: tuple[Array, Array]) -> tuple[Array, None]:
            k, key = each
            t, action = times[k], x / (alpha[k] + sigma[k])
            v = flow.check_shape(field(action, t), action)
            clean, noise = action + (1.0 - t) * v, action - t * v
            kept = (alpha[k] / alpha[k - 1]) ** 2
            drawn = eta * sigma[k - 1] / sigma[k] * jnp.sqrt(1.0 - kept)
            # At step 1 both are 0, and the root must not be of a rounding error below.
            left = jnp.sqrt(jnp.maximum(sigma[k - 1] ** 2 - drawn**2, 0.0))
            x = alpha[k - 1] * clean + left * noise
            return x + drawn * jax.random.normal(key, x.shape, x.dtype), None

        # x_K of a schedule that leaves something of the action is not quite N(0, I), in any sampler.
        return jax.lax.scan(step, noise, (steps, keys))[0]


def velocity_to(endpoint: Callable[[Array, Array], Array]) -> Velocity:
    """The velocity of a straight step to `endpoint`, (action [D], t []) -> clean action [D].

    What a consistency model predicts is such an endpoint (Song et al., 2023, arXiv 2303.01469). Below
    t = 1, where it is not defined.
    """

    def velocity(action: Array, t: Array) -> Array:
        return (flow.check_shape(endpoint(action, t), action, "endpoint") - action) / (1.0 - t)

    return velocity
