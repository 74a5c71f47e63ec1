"""The mean of candidates, weighted by their Q."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Positive
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import selector
from qgf_jax.methods.samplers.best_of import choosing
from qgf_jax.types import Array, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@selector(needs=("q",), source="after Q-Planning, arXiv 2608.21204")
def _softmax(
    nets: "Networks",
    sample: Sample,
    n: int,
    *,
    q_temperature: Annotated[Positive, "temperature of the softmax, in units of Q"] = 1.0,
) -> Sample:
    """The mean of `n` actions, weighted by the softmax of their Q.

    Near temperature 0 it is the best of them, near infinity their plain mean. A mean of actions that go
    two ways round an obstacle goes into it.
    """
    return choosing(nets, sample, n, lambda actions, q: _average(actions, q, q_temperature))


def _average(actions: Array, q: Array, temperature: Array | float) -> Array:
    """sum_i softmax(q / temperature)_i actions_i [D], of `actions` [N, D] and `q` [N]."""
    shares = jax.nn.softmax(q / temperature)
    return (shares[:, jnp.newaxis] * actions).sum(axis=0)
