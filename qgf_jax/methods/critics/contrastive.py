"""Contrastive reinforcement learning: a critic that tells reached goals from others."""

import jax
import jax.numpy as jnp
import optax

from qgf_jax.core.networks import Networks
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params, Sample


def contrastive(nets: Networks, sample: Sample | None = None) -> Learner:
    """Binary noise-contrastive estimation over the global batch (Eysenbach et al., 2022, Eq. 8).

    Q is a logit, phi(state, action) . psi(goal) / sqrt(width), high for the goal of its own row and low
    for those of the other rows. Needs goals that lie ahead in the trajectory and bilinear critics.
    """
    del sample

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key

        def member(group: Params) -> Array:
            phi, psi = jax.vmap(lambda obs, action: nets.critic.apply(group, obs, action, True))(
                batch.obs, batch.action
            )
            goals = global_batch.gather(psi).T
            product = jnp.matmul(phi, goals, precision=nets.precision)
            return product / jnp.sqrt(jnp.float32(phi.shape[1]))

        logits = jax.vmap(member)(params["critic"])  # [E, B states, G goals of the global batch]
        goals = logits.shape[2]
        own = global_batch.own_rows(jnp.eye(goals))
        loss = optax.sigmoid_binary_cross_entropy(logits, jnp.broadcast_to(own, logits.shape))
        right = (logits.argmax(axis=2) == global_batch.own_rows(jnp.arange(goals))[None]).mean()
        return jnp.mean(batch.weight[None, :, None] * loss), {"accuracy": right}

    return Learner(init, {"critic": critic})
