"""Flow Q-learning: a one-step actor, distilled from the flow policy and pushed up the critic."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, NonNegative
from qgf_jax.core import flow
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def fql(
    nets: Networks, *, alpha: NonNegative = 300.0, normalize_q: bool = False, num_steps: Count = 10
) -> Learner:
    """`alpha` * (actor - end of the flow from the same noise) ** 2 - Q(actor).

    Park et al., 2025 (FQL); Zhou et al., 2026, Eq. 23. Q is the mean over the online critic;
    `normalize_q` divides it by its mean size, so that `alpha` has no units.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.one_step.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        noise = global_batch.normal(key, batch.action.shape)

        def one(x: Batch, noise: Array) -> tuple[Array, Array]:
            velocity = nets.velocity(params["policy"], x.obs)
            end = jnp.clip(flow.integrate(velocity, noise, num_steps=num_steps), -1.0, 1.0)
            action = nets.one_step.apply(params["actor"], x.obs, noise, noise[0])
            q = nets.mean_q(params["critic"], x.obs)(jnp.clip(action, -1.0, 1.0))
            return jnp.mean((action - end) ** 2), q

        distance, q = jax.vmap(one)(batch, noise)
        size = jax.lax.stop_gradient(global_batch.mean(jnp.abs(q))) if normalize_q else 1.0
        loss = mean(alpha * distance - q / size, batch)
        return loss, {"distance": distance.mean(), "q": q.mean()}

    return Learner(init, {"actor": actor})
