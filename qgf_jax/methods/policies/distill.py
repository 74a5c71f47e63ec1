"""The flow's end, learned: what the one-step endpoint only estimates."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count
from qgf_jax.core import flow
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def distill(nets: Networks, *, num_steps: Count = 10) -> Learner:
    """A network (obs, a_t, t) -> the end of the flow policy's own path from a_t.

    Zhou et al., 2026, appendix C, "Distill". a_t is drawn on paths from noise to data, at the times
    that the integrator visits; the flow is followed by the integrator's steps.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"endpoint": nets.policy.init(key, obs, action, action[0])}

    def endpoint(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        step_key, noise_key = jax.random.split(key)
        start = global_batch.randint(step_key, batch.reward.shape, 0, num_steps)
        noise = global_batch.normal(noise_key, batch.action.shape)

        def one(x: Batch, noise: Array, start: Array) -> Array:
            t = start / num_steps
            a_t, _ = flow.interpolate(noise, x.action, t)
            velocity = nets.velocity(params["policy"], x.obs)

            def moving(action: Array, now: Array) -> Array:
                return jnp.where(now >= t - 0.5 / num_steps, velocity(action, now), 0.0)

            end = jnp.clip(flow.integrate(moving, a_t, num_steps=num_steps), -1.0, 1.0)
            guess = nets.velocity(params["endpoint"], x.obs)(a_t, t)
            return jnp.mean((guess - end) ** 2)

        return mean(jax.vmap(one)(batch, noise, start), batch), {}

    return Learner(init, {"endpoint": endpoint})
