"""Noise of guidance rules, which have no key of their own."""

from qgf_guide.lazy import jax, jnp
from qgf_guide.types import Array


def antithetic_noise(t: Array, count: int, action: Array) -> Array:
    """[count, ..., D], standard normal and antithetic in pairs; that of `action` [..., D] at time t [].

    All actions see the same noise at the same time t, and another at another, so that a sampler stays a
    function of its key.
    """
    key = jax.random.fold_in(jax.random.key(0), jnp.asarray(t, jnp.float32).view(jnp.uint32))
    half = jax.random.normal(key, ((count + 1) // 2, action.shape[-1]), action.dtype)
    noise = jnp.concatenate([half, -half])[:count]
    between = (1,) * (action.ndim - 1)
    return jnp.broadcast_to(noise.reshape(count, *between, -1), (count, *action.shape))
