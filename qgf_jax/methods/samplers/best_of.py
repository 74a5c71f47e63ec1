"""How one of several candidates is chosen."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from qgf_guide import selection
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import selector
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@selector(needs=("q",), source="Zhou et al., 2026, arXiv 2606.11087, Eq. 17")
def _best_of(nets: "Networks", sample: Sample, n: int) -> Sample:
    """Draws `n` actions and keeps the one that the critic likes best, see `Networks.rank_of`."""
    return choosing(nets, sample, n, lambda actions, q: actions[jnp.argmax(q)])


def choosing(
    nets: "Networks", sample: Sample, n: int, choose: Callable[[Array, Array], Array]
) -> Sample:
    """What `choose` makes of `n` actions [n, D] and their Q [n], by `Networks.rank_of`."""

    def chosen(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        def draw(key: Array) -> Array:
            return sample(params, obs, key, weight)

        return selection.choose_of(draw, nets.rank_of(params, obs), key, n, choose)

    return chosen
