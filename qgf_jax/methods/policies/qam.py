"""Q-learning with adjoint matching: a second flow, tilted by the critic's gradient."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, NonNegative
from qgf_jax.core.adjoint import lean_adjoint, memoryless_path, memoryless_scale
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def qam(
    nets: Networks,
    *,
    inverse_temperature: NonNegative = 1.0,
    adjoint_ahead: bool = False,
    adjoint_weighted: bool = True,
    num_steps: Count = 10,
) -> Learner:
    """A flow whose ends follow policy * exp(inverse_temperature * Q) (Li and Levine, 2026).

    Zhou et al., 2026, Eqs. 24 and 25. The base is the slow copy of the flow policy, the critic the
    mean of its slow members. `adjoint_ahead` evaluates the base drift of the adjoint one step ahead
    of the path, as the public code does; in a consistent discretisation both are the same.
    `adjoint_weighted`: leave out chunks that are spliced from two trajectories.
    """
    h = 1.0 / num_steps

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        frozen = jax.lax.stop_gradient(params["actor"])
        times = jnp.arange(num_steps) / num_steps
        scale = memoryless_scale(times, h)[:, None]

        def one(x: Batch, key: Array) -> Array:
            fast = nets.velocity(frozen, x.obs)
            slow = nets.velocity(target["policy"], x.obs)
            path, end = memoryless_path(fast, slow, key, nets.chunk_dim, num_steps=num_steps)

            def q(action: Array) -> Array:
                return nets.mean_q(target["critic"], x.obs)(jnp.clip(action, -1.0, 1.0))

            def drift(x: Array, t: Array) -> Array:
                return 2.0 * slow(x, t + h if adjoint_ahead else t) - x / (t + h)

            final = -inverse_temperature * jax.grad(q)(end)
            adjoint = lean_adjoint(drift, path, final, num_steps=num_steps)
            learned = nets.velocity(params["actor"], x.obs)
            tilt = jax.vmap(learned)(path, times) - jax.vmap(slow)(path, times)
            return jnp.sum((2.0 / scale * tilt + scale * adjoint) ** 2)

        loss = jax.vmap(one)(batch, global_batch.split(key, len(batch.reward)))
        return mean(loss, batch, adjoint_weighted), {}

    return Learner(init, {"actor": actor}, targets=("policy",))
