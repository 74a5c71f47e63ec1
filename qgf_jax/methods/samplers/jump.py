"""Another candidate than the first only where Q jumps."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import selector
from qgf_jax.methods.samplers.best_of import choosing
from qgf_jax.types import Array, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@selector(needs=("q",), source="docs/selection.md; near VLA-ATTC, arXiv 2605.01194")
def _jump(
    nets: "Networks",
    sample: Sample,
    n: int,
    *,
    margin: Annotated[
        NonNegative, "how far the best must be ahead of the first, in units of Q"
    ] = 1.0,
) -> Sample:
    """The first of `n` actions, unless the best one's Q is ahead by more than `margin`.

    At margin 0 it is the best of them, and with a large one the policy itself. All n are drawn in
    any case.
    """
    return choosing(nets, sample, n, lambda actions, q: _first_unless(actions, q, margin))


def _first_unless(actions: Array, q: Array, margin: Array | float) -> Array:
    """Of `actions` [N, D] that with the largest `q` [N], if it exceeds q[0] + margin; else the first."""
    best = jnp.argmax(q)
    return actions[jnp.where(q[best] - q[0] > margin, best, 0)]
