"""Temporal-difference learning with the actions of a policy."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import NonNegative
from qgf_jax.core.networks import Networks
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params, Sample


def td(
    nets: Networks, sample: Sample, *, rho: NonNegative = 0.5, noise: NonNegative = 0.0
) -> Learner:
    """Temporal-difference learning with the policy's own actions.

    Q regresses on reward + discount * (mean - `rho` * standard deviation) of the slow members at
    `sample`'s action, as in Li et al., 2026; with two members, rho = 1 is their minimum. `noise` is
    the standard deviation of what is added to that action, clipped to 0.5 (Fujimoto et al., 2018).
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        def act(obs: Obs, key: Array) -> Array:
            act_key, noise_key = jax.random.split(key)
            action = sample(params, target, obs, act_key, jnp.float32(1.0))
            blur = jnp.clip(noise * jax.random.normal(noise_key, action.shape), -0.5, 0.5)
            return jnp.clip(action + blur, -1.0, 1.0)

        keys = global_batch.split(key, len(batch.reward))
        action = jax.lax.stop_gradient(jax.vmap(act)(batch.next_obs, keys))
        slow = nets.apply_ensemble(target["critic"], batch.next_obs, action)
        goal = batch.reward + batch.discount * (slow.mean(axis=0) - rho * slow.std(axis=0))
        q = nets.apply_ensemble(params["critic"], batch.obs, batch.action)
        loss = jnp.mean(batch.weight[None] * (q - goal[None]) ** 2)
        return loss, global_batch.summary("q", q)

    return Learner(init, {"critic": critic}, targets=("critic",))
