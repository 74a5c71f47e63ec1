"""Critic learners: `factory(nets, sample, *, hyperparameters) -> Learner`.

`sample` acts as the policy that is trained beside the critic. A factory's keyword-only arguments are
its section of the config, defaults included.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax import losses
from qgf_jax.networks import Networks, aggregate
from qgf_jax.types import Array, Batch, Learner, Metrics, Params, Sample


def iql(nets: Networks, sample: Sample | None = None, *, expectile: float = 0.9) -> Learner:
    """Implicit Q-learning on chunks (Kostrikov et al., 2022; Zhou et al., 2026, Eqs. 11 and 12).

    Q regresses on reward + discount * V(next_obs), each member by itself; V on the upper expectile
    of the slow Q. No action outside the data is ever scored. Chunks that run over the end of a
    trajectory weigh 0 and stay in the denominator.
    """
    del sample

    def init(key: Array, obs: Array, action: Array) -> Params:
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
        return loss, {"q_mean": q.mean(), "q_min": q.min(), "q_max": q.max()}

    def value(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key

        q = aggregate(nets.apply_ensemble(target["critic"], batch.obs, batch.action))
        v = jax.vmap(lambda obs: nets.value.apply(params["value"], obs))(batch.obs)
        return jnp.mean(batch.weight * losses.expectile(q - v, expectile)), {"v_mean": v.mean()}

    return Learner(init, {"critic": critic, "value": value}, targets=("critic",))


def td(nets: Networks, sample: Sample, *, rho: float = 0.5, noise: float = 0.0) -> Learner:
    """Temporal-difference learning with the policy's own actions.

    Q regresses on reward + discount * (mean - `rho` * standard deviation) of the slow members at
    `sample`'s action, as in Li et al., 2026; with two members, rho = 1 is their minimum. `noise` is
    the standard deviation of what is added to that action, clipped to 0.5 (Fujimoto et al., 2018).
    """

    def init(key: Array, obs: Array, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        def act(obs: Array, key: Array) -> Array:
            act_key, noise_key = jax.random.split(key)
            action = sample(params, target, obs, act_key, jnp.float32(1.0))
            blur = jnp.clip(noise * jax.random.normal(noise_key, action.shape), -0.5, 0.5)
            return jnp.clip(action + blur, -1.0, 1.0)

        keys = jax.random.split(key, len(batch.reward))
        action = jax.lax.stop_gradient(jax.vmap(act)(batch.next_obs, keys))
        slow = nets.apply_ensemble(target["critic"], batch.next_obs, action)
        goal = batch.reward + batch.discount * (slow.mean(axis=0) - rho * slow.std(axis=0))
        q = nets.apply_ensemble(params["critic"], batch.obs, batch.action)
        loss = jnp.mean(batch.weight[None] * (q - goal[None]) ** 2)
        return loss, {"q_mean": q.mean(), "q_min": q.min(), "q_max": q.max()}

    return Learner(init, {"critic": critic}, targets=("critic",))


CRITICS: dict[str, Callable[..., Learner]] = {"iql": iql, "td": td}
