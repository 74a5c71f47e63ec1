"""Best of N: the baseline that costs as much as guidance, and that goes with it."""

from collections.abc import Callable

from qgf_guide.lazy import jax, jnp
from qgf_guide.types import Array, Critic


def best_of(sample: Callable[[Array], Array], q: Critic, key: Array, n: int) -> Array:
    """The action [D] that `q` likes best of `n` that `sample`, key -> action [D], draws.

    Zhou et al., 2026, arXiv 2606.11087, Eq. 17.
    """
    return choose_of(sample, q, key, n, lambda actions, values: actions[jnp.argmax(values)])


def choose_of(
    sample: Callable[[Array], Array],
    q: Critic,
    key: Array,
    n: int,
    choose: Callable[[Array, Array], Array],
) -> Array:
    """What `choose` makes of `n` actions [n, D] and their Q [n]."""
    actions = jax.vmap(sample)(jax.random.split(key, n))
    return choose(actions, jax.vmap(q)(actions))
