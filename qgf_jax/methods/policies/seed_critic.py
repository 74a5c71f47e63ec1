"""A critic of the noise that the flow policy starts at."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, flow_end
from qgf_jax.methods.table import acting_params
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("seed_q",),
    needs=("flow", "target_q"),
    source="after Dong et al., 2026, arXiv 2604.19730",
)
def _seed_critic(
    nets: "Networks",
    *,
    noises: Annotated[
        Count, "noises of an example, among which Q's differences are learned; 1: Q itself"
    ] = 2,
    num_steps: NumSteps = 10,
) -> Learner:
    """Regresses Q(s, z) on Q(s, a(z)), a(z) being the action that the flow policy makes of noise z.

    Q is what best-of-N ranks by, in its units, see `Networks.rank_of`. Neither flow nor Q is
    differentiated. Of several noises the loss is the variance of their errors, so Q(s, z) is learned up
    to a number of the state, which no choice among noises asks for and which is most of Q: regression
    on Q itself, as in the source, fits it first.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"seed_critic": nets.seed_critic.init(key, obs, action)}

    def draw(key: Array, size: int, x: Batch) -> Array:
        return jax.random.normal(key, (size, noises, *x.action.shape))

    def seed_critic(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        acting = acting_params(params, target_params)

        def both(z: Array) -> tuple[Array, Array]:
            action = flow_end(nets, acting["policy"], x.obs, z, num_steps)
            guess = nets.seed_critic.apply(params["seed_critic"], x.obs, z)
            return guess, nets.rank_of(acting, x.obs)(action)

        guess, q = jax.vmap(both)(noise)
        if noises == 1:
            return (guess[0] - q[0]) ** 2, {}
        return jnp.var(guess - q, ddof=1), {"variance": jnp.var(q, ddof=1)}

    return Learner(init, {"seed_critic": Loss(seed_critic, draw)})
