"""Where a policy's noise comes from."""

import functools

import jax

from qgf_jax.types import Array


@functools.partial(jax.jit, static_argnums=1)
def drawn_noise(key: Array, width: int) -> Array:
    """Standard normal numbers [width].

    A function of its own in each program: by the name an export finds where noise comes in.
    """
    return jax.random.normal(key, (width,))
