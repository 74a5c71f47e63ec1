"""Loss maths: one example in, one number out. Batch with `jax.vmap`."""

import jax.numpy as jnp

from qgf_guide.flow import interpolate
from qgf_jax.types import Array, Velocity


def expectile(error: Array, level: float) -> Array:
    """|level - 1[error < 0]| * error ** 2, with error = target - prediction (Kostrikov et al., 2022).

    At level 0.5 half the squared error; towards 1 only predictions below the target cost anything.
    """
    return expectile_weight(error, level) * error**2


def expectile_weight(error: Array, level: float) -> Array:
    """What an example counts by the sign of its `error`: 1 - level below 0, else level."""
    return jnp.where(error < 0, 1.0 - level, level)


def linex(error: Array, bound: Array | float) -> Array:
    """exp(error) - error - 1, and `error` itself above `bound`, as the public code of CGQL has it.

    With error = target - prediction its minimum over predictions is log E[exp(target)], where nothing
    reaches the bound. Beyond it an example pulls with slope 1 in place of exp(error) - 1, so that it
    cannot make the update alone. (Li and Levine, 2026, CGQL-L)
    """
    near = jnp.minimum(error, bound)
    return jnp.where(error > bound, error, jnp.exp(near) - near - 1.0)


def flow_matching(velocity: Velocity, action: Array, noise: Array, t: Array) -> Array:
    """Mean over D of (velocity - (action - noise)) ** 2 at the path's point at time t.

    Lipman et al., 2023; Zhou et al., 2026, Eq. 2, with the mean over D in place of the sum.
    """
    a_t, target = interpolate(noise, action, t)
    return jnp.mean((velocity(a_t, t) - target) ** 2)
