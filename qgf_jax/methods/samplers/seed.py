"""The candidate whose noise looks best."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import jax, jnp, prepared
from qgf_jax.methods.parts import selector
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@selector(needs=("seed_q", "noise"), source="after Dong et al., 2026, arXiv 2604.19730")
def _seed(nets: "Networks", sample: Sample, n: int) -> Sample:
    """Of `n` noises the one that the seed critic likes best, and the one action that is made of it.

    The noises are those of the candidates that `best_of` draws with the same key.
    """

    def chosen(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        seed_q = prepared.network(nets.seed_critic, params["seed_critic"], obs)
        keys = jax.random.split(key, n)
        best = jnp.argmax(jax.vmap(seed_q)(jax.vmap(nets.noise)(keys)))
        return sample(params, obs, keys[best], weight)

    return chosen
