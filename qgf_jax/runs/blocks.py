"""Rows that act together: on a CPU so that an action does not depend on who acts beside it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qgf_jax.types import Array

ROWS = 16
"""Observations that act together on a CPU; more are cut up, fewer filled up with idle ones.

With as many as there happen to be, the last bits of an action would depend on how many act, and on
its place: a processor takes 8 numbers at a time and rounds otherwise in what is left over.
"""


FEW = 16
"""Rows that act together on an accelerator at least.

Of fewer XLA makes more kernels, and the time of small networks is that of their kernels: with one row
a step of QGF's flow has 30 and of the reference's 21, with 16 rows 30 and 11.
"""


def alone(act: Callable[..., Array], candidates: int = 1, *, rows: int | None = None) -> Any:
    """`act` of one row [...], which draws `candidates` actions, for a row beside which nobody acts.

    On an accelerator as many copies of the row act as make `rows` actions, and one is taken; `FEW`
    unless given. On a CPU the row acts by itself.
    """
    if rows is None:
        rows = 1 if jax.default_backend() == "cpu" else FEW
    copies = -(-rows // candidates)

    def acted(*args: Any) -> Array:
        if copies == 1:
            return act(*args)
        many = jax.tree.map(lambda x: jnp.stack([x] * copies), args)
        return jax.vmap(act)(*many)[0]

    return acted


def in_blocks(act: Callable[..., Array], count: int) -> Callable[..., Array]:
    """`act` of one row, over `count` rows [B, …] of each argument.

    On a CPU in blocks of `ROWS`, so that the result of a row is the same to the last bit whatever the
    count is; elsewhere all at once, and at least `FEW`.
    """
    rows = ROWS if jax.default_backend() == "cpu" else max(count, FEW)

    def blocks(x: Array) -> Array:
        filled = jnp.pad(x, [(0, -count % rows), *((0, 0) for _ in x.shape[1:])])
        return filled.reshape(-1, rows, *x.shape[1:])

    def acted(*args: Array) -> Array:
        def block(some: tuple[Array, ...]) -> Array:
            return jax.vmap(act)(*some)

        results = jax.lax.map(block, jax.tree.map(blocks, args))
        return results.reshape(-1, *results.shape[2:])[:count]

    return acted
