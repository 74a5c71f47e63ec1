"""Decoupled Q-chunking: values backed up over long chunks, guidance by a critic of short ones."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import OpenFraction
from qgf_jax.methods.lazy import jax, jnp, losses, optax
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample, Summary

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(
    provides=("q", "target_q"),
    sets={
        "networks.critic_output": "sigmoid",
        "networks.ranking": "online",
        "goals.negative_reward": False,
        "goals.critic_geometric": False,
    },
    source="Li et al., 2025, arXiv 2512.10926; Zhou et al., 2026, appendix F",
)
def _dqc(
    nets: "Networks",
    sample: Sample | None = None,
    *,
    kappa_b: Annotated[OpenFraction, "level of V above the target network's Q"] = 0.9,
    kappa_d: Annotated[OpenFraction, "level of the short chunks' Q among completions"] = 0.5,
) -> Learner:
    """Decoupled Q-chunking: three networks.

    `chunk_critic` scores the actions of a whole return, and regresses on reward + discount * V after
    it. `critic`, which acts, scores the policy's chunk, the beginning of those actions: it regresses
    on the `chunk_critic` by the expectile `kappa_d`, so that above 0.5 it is that of a good completion.
    `value` lies on the upper side of a target network by `kappa_b`.

    With networks.critic_output=sigmoid it has the form of Li et al.'s published settings: the networks
    give logits, the losses are cross-entropies, and V takes a quantile of the logit of `critic`'s target
    network. With linear, that of Zhou et al.'s Eqs. 13 to 15: squared errors, and V takes an expectile
    of the target network of `chunk_critic`.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        keys = jax.random.split(key, 3)
        long_action = jnp.zeros(nets.spec.long_dim)
        return {
            "chunk_critic": nets.init_ensemble(keys[0], obs, long_action),
            "critic": nets.init_ensemble(keys[1], obs, action),
            "value": nets.value.init(keys[2], obs),
        }

    def chunk_critic_loss(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        v_next = nets.to_value(nets.value.apply(params["value"], x.next_obs))
        td_target = x.reward + x.discount * v_next
        td_target = jnp.clip(td_target, 0.0, 1.0) if nets.bounded else td_target
        output = nets.ensemble_logits(params["chunk_critic"], x.obs, x.long_action)
        return jnp.mean(_cost(nets, output, td_target[None])), {"q": Summary(nets.to_value(output))}

    def critic_loss(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        long_q = nets.apply_ensemble(params["chunk_critic"], x.obs, x.long_action)
        output = nets.ensemble_logits(params["critic"], x.obs, x.action)
        q = nets.to_value(output)
        weight = losses.expectile_weight(long_q - q, kappa_d)
        return jnp.mean(weight * _cost(nets, output, long_q)), {"q_mean": q}

    def value_loss(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        output = nets.value.apply(params["value"], x.obs)
        if nets.bounded:
            q = nets.aggregate(nets.apply_ensemble(target_params["critic"], x.obs, x.action))
            error = jax.scipy.special.logit(jnp.clip(q, 1e-6, 1.0 - 1e-6)) - output
            loss = losses.expectile_weight(error, kappa_b) * jnp.abs(error)
        else:
            members = target_params["chunk_critic"]
            q = nets.aggregate(nets.apply_ensemble(members, x.obs, x.long_action))
            loss = losses.expectile(q - output, kappa_b)
        return loss, {"v_mean": nets.to_value(output)}

    all_losses = {
        "chunk_critic": Loss(chunk_critic_loss),
        "critic": Loss(critic_loss),
        "value": Loss(value_loss),
    }
    targets = ("critic",) if nets.bounded else ("critic", "chunk_critic")
    return Learner(init, all_losses, targets=targets)


def _cost(nets: "Networks", output: Array, value: Array) -> Array:
    """What a network's `output` costs where it should mean `value`."""
    if nets.bounded:
        return optax.sigmoid_binary_cross_entropy(output, value)
    return (output - value) ** 2
