"""The best candidate among those that resemble others."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import selector
from qgf_jax.methods.samplers.best_of import choosing
from qgf_jax.types import Array, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


# TACO learns pseudo-counts from the data by a network of its own. The policy's own density would take
# the divergence of its field at each step, which costs a multiple of sampling and is unbounded where
# the policy is certain. The candidates are draws of that density already, guided as they are.
@selector(needs=("q",), source="after TACO, 2025, which learns pseudo-counts")
def _density(
    nets: "Networks",
    sample: Sample,
    n: int,
    *,
    density_weight: Annotated[NonNegative, "c of Q + c log density, in units of Q"] = 1.0,
) -> Sample:
    """Of `n` actions the one with the largest Q + `density_weight` log density, by a kernel over them.

    At weight 0 it is the best of them, and with a large one the most typical.
    """

    def choose(actions: Array, q: Array) -> Array:
        return actions[jnp.argmax(q + density_weight * _log_density(actions))]

    return choosing(nets, sample, n, choose)


def _log_density(actions: Array) -> Array:
    """log mean_j exp(-|a_i - a_j|^2 / h) [N] over the others j, up to a constant, of `actions` [N, D].

    h is the mean squared distance of all pairs, so that neither the scale of actions nor the number of
    dimensions decides how far apart densities are. 0 for actions that are all the same.
    """
    n = len(actions)
    squares = ((actions[:, jnp.newaxis] - actions[jnp.newaxis]) ** 2).sum(axis=-1)  # [N, N]
    h = squares.sum() / (n * (n - 1))
    kernel = -squares / jnp.where(h > 0, h, 1.0)
    others = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, kernel)
    return jax.nn.logsumexp(others, axis=1) - jnp.log(n - 1.0)
