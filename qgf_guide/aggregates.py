"""How one Q is made of an ensemble's members, whose axis comes first."""

from collections.abc import Callable

from qgf_guide.lazy import jnp
from qgf_guide.types import Array


def spread(q: Array) -> Array:
    """The standard deviation [...] of the members' Q [E, ...], over E and not E - 1.

    Its gradient is 0 where all members agree; that of a plain square root is not a number there.
    """
    variance = jnp.var(q, axis=0)
    differ = variance > 0.0
    return jnp.where(differ, jnp.sqrt(jnp.where(differ, variance, 1.0)), 0.0)


def pessimistic(q: Array, rho: Array | float) -> Array:
    """Mean - `rho` * standard deviation (Li and Levine, 2026). Of two members, rho = 1 is the least."""
    return q.mean(axis=0) - rho * spread(q)


AGGREGATES: dict[str, Callable[[Array, Array | float], Array]] = {
    "min": lambda q, rho: jnp.min(q, axis=0),
    "mean": lambda q, rho: jnp.mean(q, axis=0),
    "pessimistic": pessimistic,
}
"""(Q [E, ...], rho) -> Q [...]"""
