"""Rows that act together, so that an action does not depend on who acts beside it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.types import Array

ROWS = 16
"""Observations that act together on a CPU; more are cut up, fewer filled up with idle ones.

With as many as there happen to be, the last bits of an action would depend on how many act, and on
its place: a processor takes 8 numbers at a time and rounds otherwise in what is left over.
"""


def in_blocks(act: Callable[..., Array], count: int) -> Callable[..., Array]:
    """`act` of one row, over `count` rows [B, …] of each argument.

    On a CPU in blocks of `ROWS`, so that the result of a row is the same to the last bit whatever the
    count is; elsewhere all at once.
    """
    rows = ROWS if jax.default_backend() == "cpu" else count

    def blocks(x: Array) -> Array:
        filled = jnp.pad(x, [(0, -count % rows), *((0, 0) for _ in x.shape[1:])])
        return filled.reshape(-1, rows, *x.shape[1:])

    def acted(*args: Array) -> Array:
        def block(some: tuple[Array, ...]) -> Array:
            return jax.vmap(act)(*some)

        results = jax.lax.map(block, jax.tree.map(blocks, args))
        return results.reshape(-1, *results.shape[2:])[:count]

    return acted
