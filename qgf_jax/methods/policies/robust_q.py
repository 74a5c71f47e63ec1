"""A critic for actions on their way from noise."""

import jax
import jax.numpy as jnp

from qgf_jax.core import flow
from qgf_jax.core.networks import Networks, sinusoidal
from qgf_jax.methods.policies.matching import draw, mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def robust_q(nets: Networks, *, weighted: bool = True) -> Learner:
    """Regresses Q(s, a_t, t) on Q(s, a), the slow critic at the clean action.

    Zhou et al., 2026, Eq. 20. `weighted`: leave out chunks that are spliced from two trajectories,
    on which the critic was not trained.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"noisy_critic": nets.noisy_critic.init(key, obs, action, sinusoidal(action[0]))}

    def noisy(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        def one(x: Batch, noise: Array, t: Array) -> Array:
            a_t, _ = flow.interpolate(noise, x.action, t)
            q = nets.noisy_critic.apply(params["noisy_critic"], x.obs, a_t, sinusoidal(t))
            return jnp.square(q - nets.q_of(target["critic"], x.obs)(x.action))

        return mean(jax.vmap(one)(batch, *draw(batch, key, 0)), batch, weighted), {}

    return Learner(init, {"noisy_critic": noisy})
