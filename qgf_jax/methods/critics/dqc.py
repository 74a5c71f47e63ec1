"""Decoupled Q-chunking: values backed up over long chunks, guidance by a critic of short ones."""

import jax
import jax.numpy as jnp
import optax

from qgf_jax.bounds import OpenFraction
from qgf_jax.core import losses
from qgf_jax.core.networks import Networks
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params, Sample


def dqc(
    nets: Networks,
    sample: Sample | None = None,
    *,
    kappa_b: OpenFraction = 0.9,
    kappa_d: OpenFraction = 0.5,
) -> Learner:
    """Three networks (Li et al., 2025, arXiv 2512.10926; Zhou et al., 2026, appendix F).

    `chunk_critic` scores the actions of a whole return, and regresses on reward + discount * V after
    it. `critic`, which acts, scores the policy's chunk, the beginning of those actions: it regresses
    on the `chunk_critic` by the expectile `kappa_d`, so that above 0.5 it is that of a good completion.
    `value` lies on the upper side of a slow critic by `kappa_b`.

    With networks.critic_output=sigmoid it has the form of Li et al.'s published settings: the networks
    give logits, the losses are cross-entropies, and V takes a quantile of the slow `critic`'s logit.
    With linear, that of Zhou et al.'s Eqs. 13 to 15: squared errors, and V takes an expectile of the
    slow `chunk_critic`.
    """
    del sample

    def init(key: Array, obs: Obs, action: Array) -> Params:
        keys = jax.random.split(key, 3)
        long_action = jnp.zeros(nets.spec.long_dim)
        return {
            "chunk_critic": nets.init_ensemble(keys[0], obs, long_action),
            "critic": nets.init_ensemble(keys[1], obs, action),
            "value": nets.value.init(keys[2], obs),
        }

    def cost(output: Array, goal: Array) -> Array:
        """Of a network's `output` against the value `goal`."""
        if nets.bounded:
            return optax.sigmoid_binary_cross_entropy(output, goal)
        return (output - goal) ** 2

    def chunk_critic(
        params: Params, target: Params, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target, key
        v_next = jax.vmap(lambda obs: nets.value.apply(params["value"], obs))(batch.next_obs)
        goal = batch.reward + batch.discount * nets.to_value(v_next)
        goal = jnp.clip(goal, 0.0, 1.0) if nets.bounded else goal
        output = nets.ensemble_logits(params["chunk_critic"], batch.obs, batch.long_action)
        loss = jnp.mean(batch.weight[None] * cost(output, goal[None]))
        q = nets.to_value(output)
        return loss, global_batch.summary("q", q)

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key
        goal = nets.apply_ensemble(params["chunk_critic"], batch.obs, batch.long_action)
        output = nets.ensemble_logits(params["critic"], batch.obs, batch.action)
        q = nets.to_value(output)
        side = losses.expectile_weight(goal - q, kappa_d)
        return jnp.mean(batch.weight[None] * side * cost(output, goal)), {"q_mean": q.mean()}

    def value(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key
        output = jax.vmap(lambda obs: nets.value.apply(params["value"], obs))(batch.obs)
        if nets.bounded:
            q = nets.aggregate(nets.apply_ensemble(target["critic"], batch.obs, batch.action))
            error = jax.scipy.special.logit(jnp.clip(q, 1e-6, 1.0 - 1e-6)) - output
            loss = losses.expectile_weight(error, kappa_b) * jnp.abs(error)
        else:
            members = target["chunk_critic"]
            q = nets.aggregate(nets.apply_ensemble(members, batch.obs, batch.long_action))
            loss = losses.expectile(q - output, kappa_b)
        return jnp.mean(batch.weight * loss), {"v_mean": nets.to_value(output).mean()}

    targets = ("critic",) if nets.bounded else ("critic", "chunk_critic")
    all_losses = {"chunk_critic": chunk_critic, "critic": critic, "value": value}
    return Learner(init, all_losses, targets=targets)
