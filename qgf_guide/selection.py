"""Best of N: the baseline that costs as much as guidance, and that goes with it."""

from collections.abc import Callable

from qgf_guide.bounds import Bound, Count
from qgf_guide.errors import UserError
from qgf_guide.lazy import jax, jnp
from qgf_guide.types import Array, Critic


def best_of(sample: Callable[[Array], Array], q: Critic, key: Array, n: int) -> Array:
    """The action [D] that `q` likes best of `n` that `sample`, key -> action [D], draws.

    Zhou et al., 2026, arXiv 2606.11087, Eq. 17. Raises `UserError` for an `n` below 1, and for a `q`
    that is not one number an action.
    """
    Bound.of(Count).check("n", n)
    return choose_of(sample, q, key, n, lambda actions, values: actions[jnp.argmax(values)])


def choose_of(
    sample: Callable[[Array], Array],
    q: Critic,
    key: Array,
    n: int,
    choose: Callable[[Array, Array], Array],
) -> Array:
    """What `choose` makes of `n` actions [n, D] and their Q [n], which is -inf where it is not a number.

    Raises `UserError` for a `q` that is not one number an action.
    """
    actions = jax.vmap(sample)(jax.random.split(key, n))
    values = jax.vmap(q)(actions)
    if jnp.ndim(values) != 1:
        raise UserError(
            f"q returned shape {jnp.shape(values)[1:]} for one action: it must return one number, such "
            "as an ensemble's mean"
        )
    # argmax takes NaN for the largest.
    return choose(actions, jnp.where(jnp.isnan(values), -jnp.inf, values))
