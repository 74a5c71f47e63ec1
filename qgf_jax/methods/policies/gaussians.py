"""What the Gaussian policies share, and weights and units of Q that other policies use too."""

from typing import TYPE_CHECKING, Annotated, NamedTuple

from qgf_guide.bounds import NonNegative, Positive
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.types import Array, Batch, Learner, Loss, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks

InverseTemperature = Annotated[
    NonNegative, "factor of the advantage, one over a temperature in units of Q"
]
MaxWeight = Annotated[Positive, "largest weight that an advantage gives an example"]


class GaussianActor(NamedTuple):
    """A policy that is one Gaussian, the group "actor"."""

    nets: "Networks"

    @staticmethod
    def log_normal(x: Array, mean: Array, log_std: Array) -> Array:
        """log N(x; mean, diag exp(log_std) ** 2), all [D] -> []."""
        z = (x - mean) * jnp.exp(-log_std)
        return jnp.sum(-0.5 * z**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi))

    def mean(self, params: Params, x: Batch) -> Array:
        """The mean [D] of the action."""
        return self.nets.gaussian.apply(params["actor"], x.obs)[0]

    def log_density(self, params: Params, x: Batch) -> Array:
        """log density [] of the data's action."""
        return self.log_normal(x.action, *self.nets.gaussian.apply(params["actor"], x.obs))

    def imitation(self, params: Params, x: Batch) -> Array:
        """Negative log density [] of the data's action under a Gaussian of unit variance."""
        mean, log_std = self.nets.gaussian.apply(params["actor"], x.obs)
        return -self.log_normal(x.action, mean, jnp.zeros_like(log_std))

    def learner(self, loss: Loss) -> Learner:
        """Learns it by `loss`."""

        def init(key: Array, obs: Obs, action: Array) -> Params:
            return {"actor": self.nets.gaussian.init(key, obs)}

        return Learner(init, {"actor": loss})


def advantage_weight(advantage: Array, inverse_temperature: float, max_weight: float) -> Array:
    """exp(inverse_temperature * advantage), at most `max_weight` (Peng et al., 2019)."""
    return jnp.minimum(jnp.exp(inverse_temperature * advantage), max_weight)


def mean_size(q: Array) -> Array:
    """The mean [] of |q| [G], a unit: not differentiated."""
    return jax.lax.stop_gradient(jnp.abs(q).mean())
