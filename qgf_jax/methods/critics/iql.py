"""Implicit Q-learning on chunks."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import OpenFraction
from qgf_jax.core import losses
from qgf_jax.core.networks import Networks
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params, Sample


def iql(nets: Networks, sample: Sample | None = None, *, expectile: OpenFraction = 0.9) -> Learner:
    """Implicit Q-learning on chunks (Kostrikov et al., 2022; Zhou et al., 2026, Eqs. 11 and 12).

    Q regresses on reward + discount * V(next_obs), each member by itself; V on the upper expectile
    of the slow Q. No action outside the data is ever scored. Chunks that run over the end of a
    trajectory weigh 0 and stay in the denominator.
    """
    del sample

    def init(key: Array, obs: Obs, action: Array) -> Params:
        critic_key, value_key = jax.random.split(key)
        return {
            "critic": nets.init_ensemble(critic_key, obs, action),
            "value": nets.value.init(value_key, obs),
        }

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key

        v_next = jax.vmap(lambda obs: nets.value.apply(params["value"], obs))(batch.next_obs)
        q = nets.apply_ensemble(params["critic"], batch.obs, batch.action)
        goal = batch.reward + batch.discount * v_next
        loss = jnp.mean(batch.weight[None] * (q - goal[None]) ** 2)
        return loss, global_batch.summary("q", q)

    def value(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key

        q = nets.aggregate(nets.apply_ensemble(target["critic"], batch.obs, batch.action))
        v = jax.vmap(lambda obs: nets.value.apply(params["value"], obs))(batch.obs)
        return jnp.mean(batch.weight * losses.expectile(q - v, expectile)), {"v_mean": v.mean()}

    return Learner(init, {"critic": critic, "value": value}, targets=("critic",))
