"""The reference policy: behavioural cloning by flow matching."""

import jax

from qgf_jax import flow, losses
from qgf_jax.networks import Networks
from qgf_jax.types import Array, Batch, Learner, Metrics, Params


def flow_bc(nets: Networks, *, time_grid: int = 0, weighted: bool = True) -> Learner:
    """Conditional flow matching on the data's action chunks (Zhou et al., 2026, Eq. 2).

    `time_grid`: 0 draws t uniformly from [0, 1); N from {0, 1/N, …, 1}, as the public code does.
    `weighted`: leave out chunks that are spliced from two trajectories; the public code keeps them.
    """

    def init(key: Array, obs: Array, action: Array) -> Params:
        return {"policy": nets.policy.init(key, obs, action, action[0])}

    def policy(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        time_key, noise_key = jax.random.split(key)
        t = flow.sample_time(time_key, batch.reward.shape, grid=time_grid)
        noise = jax.random.normal(noise_key, batch.action.shape)

        def one(x: Batch, noise: Array, t: Array) -> Array:
            def velocity(action: Array, t: Array) -> Array:
                return nets.policy.apply(params["policy"], x.obs, action, t)

            return losses.flow_matching(velocity, x.action, noise, t)

        loss = jax.vmap(one)(batch, noise, t)
        return (batch.weight * loss if weighted else loss).mean(), {}

    return Learner(init, {"policy": policy})
