"""Real-time chunking: a new chunk of actions that goes on from the one that is still being played.

Black et al., 2025, arXiv 2506.07339, by the pseudo-inverse guidance of flows (Pokle et
al., 2024, arXiv 2310.04432). Their time is ours: t = 0 is noise, t = 1 is data. The H actions of a chunk
are flattened to D numbers.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from qgf_guide import lazy
from qgf_guide.lazy import jnp
from qgf_guide.types import Array, Endpoint, Velocity


class Overlap(NamedTuple):
    """What a new chunk has in common with the one before."""

    action: Array
    """y [D], the actions of the one before from the new one's first on; any numbers past its end."""
    weight: Array
    """The diagonal of W [D], from 0 (free) to 1 (as before)."""
    most: Array | float
    """β [], the most that guidance is multiplied by; 0: none."""

    @staticmethod
    def soft_weights(chunk: int, execute: int, delay: int) -> np.ndarray:
        """W of each action of a new chunk [H], Eq. 5.

        1 for the first `delay`, which are played while the chunk is computed. The one before ends
        `execute` actions earlier, so H - `execute` overlap; from c = 1 - 1 / (H - execute - delay + 1)
        on the weight c (e^c - 1) / (e - 1) falls as c goes to 0 in equal steps. 0 after that.
        """
        left = chunk - execute - np.arange(chunk)
        c = np.clip(left / (chunk - execute - delay + 1), 0.0, 1.0)
        return (c * np.expm1(c) / np.expm1(1.0)).astype(np.float32)

    def strength(self, t: Array) -> Array:
        """min(β, (1 - t) / (t r²)), r² = (1 - t)² / (t² + (1 - t)²), at time t: Eqs. 2 and 4.

        r² is the variance of a at a known a_t if actions were N(0, I). β at both ends; 2 in the middle.
        """
        left = 1.0 - t
        return jnp.minimum((t**2 + left**2) / jnp.maximum(t * left, 1e-12), self.most)

    def inpainted(self, field: Velocity, velocity: Velocity) -> Velocity:
        """`field` + strength · Jᵀ W (y - a'), Eq. 2, with a backward pass of its own.

        `velocity` is the reference's; a' = a + (1 - t) velocity(a, t) [D] is its one-step endpoint,
        Eq. 3, not clipped, and J = ∂a' / ∂a [D, D]. `field` may be guided, by Q or otherwise.
        """

        def added(action: Array, t: Array) -> Array:
            end, pull_back = lazy.jax.vjp(lambda a: a + (1.0 - t) * velocity(a, t), action)
            (back,) = pull_back(self.weight * (self.action - end))
            return field(action, t) + self.strength(t) * back

        return added

    def pulled(self, endpoint: Endpoint, divisor: Array) -> Endpoint:
        """`endpoint`, whose gradient brings that of `inpainted` over `divisor` [] along.

        The gradient in the action of any q(endpoint(a, t, velocity(a, t))) has strength · Jᵀ W (y - a')
        / divisor added to it, so that one backward pass of the velocity serves both. Reverse mode only.
        """

        def end(action: Array, t: Array, velocity: Array, **box: Any) -> Array:
            left = 1.0 - jnp.asarray(t, action.dtype)
            pull = self.weight * (self.action - action - left * velocity)
            pull = self.strength(t) / divisor * pull
            return _with_gradient(
                endpoint(action, t, velocity, **box), action, velocity, pull, left * pull
            )

        return end


@jax.custom_vjp
def _with_gradient(value: Array, a: Array, b: Array, of_a: Array, of_b: Array) -> Array:
    """`value`; whatever is made of it has the gradients `of_a` and `of_b` in `a` and `b` besides."""
    del a, b, of_a, of_b
    return value


def _forward(value: Array, a: Array, b: Array, of_a: Array, of_b: Array) -> tuple[Array, Any]:
    return _with_gradient(value, a, b, of_a, of_b), (of_a, of_b)


def _backward(gradients: tuple[Array, Array], cotangent: Array) -> tuple[Array, ...]:
    of_a, of_b = gradients
    return cotangent, of_a, of_b, jnp.zeros_like(of_a), jnp.zeros_like(of_b)


_with_gradient.defvjp(_forward, _backward)
