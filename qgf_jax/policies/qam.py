"""Q-learning with adjoint matching: a second flow, tilted by the critic's gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.networks import Networks
from qgf_jax.policies.matching import mean, mean_q, velocity_of
from qgf_jax.types import Array, Batch, Learner, Metrics, Params, Velocity


def memoryless_scale(t: Array, h: float) -> Array:
    """sigma = sqrt(2 (1 - t + h) / (t + h)): the noise that makes a flow's ends forget its start.

    Domingo-Enrich et al., 2025; `h`, the step, keeps it finite at t = 0.
    """
    return jnp.sqrt(2.0 * (1.0 - t + h) / (t + h))


def memoryless_path(
    fast: Velocity, slow: Velocity, key: Array, width: int, *, num_steps: int
) -> tuple[Array, Array]:
    """The fast flow as a memoryless SDE: its points [T, D] at t = k / T, and its end [D].

    The last step is the slow flow's own, without noise.
    """
    h = 1.0 / num_steps
    start_key, noise_key = jax.random.split(key)

    def step(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        t, noise = inputs
        drift = 2.0 * fast(x, t) - x / (t + h)
        return x + h * drift + jnp.sqrt(h) * memoryless_scale(t, h) * noise, x

    times = jnp.arange(num_steps - 1) / num_steps
    noise = jax.random.normal(noise_key, (num_steps - 1, width))
    last, path = jax.lax.scan(step, jax.random.normal(start_key, (width,)), (times, noise))
    end = last + h * slow(last, jnp.float32((num_steps - 1) / num_steps))
    return jnp.concatenate([path, last[None]]), end


def lean_adjoint(
    drift: Callable[[Array, Array], Array], path: Array, final: Array, *, num_steps: int
) -> Array:
    """Pulls `final` [D] back along `path` [T, D] by the steps x + drift(x, t) / T: [T, D].

    Domingo-Enrich et al., 2025: only the base drift is differentiated, which leaves the terms out
    that vanish at the optimum.
    """

    def step(adjoint: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, t = inputs
        _, pull = jax.vjp(lambda x: drift(x, t), x)
        adjoint = adjoint + pull(adjoint)[0] / num_steps
        return adjoint, adjoint

    times = jnp.arange(num_steps) / num_steps
    return jax.lax.scan(step, final, (path, times), reverse=True)[1]


def qam(
    nets: Networks,
    *,
    inverse_temperature: float = 1.0,
    adjoint_ahead: bool = False,
    num_steps: int = 10,
) -> Learner:
    """A flow whose ends follow policy * exp(inverse_temperature * Q) (Li and Levine, 2026).

    Zhou et al., 2026, Eqs. 24 and 25. The base is the slow copy of the flow policy, the critic the
    mean of its slow members. `adjoint_ahead` evaluates the base drift of the adjoint one step ahead
    of the path, as the public code does; in a consistent discretisation both are the same.
    """
    h = 1.0 / num_steps

    def init(key: Array, obs: Array, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        frozen = jax.lax.stop_gradient(params["actor"])
        times = jnp.arange(num_steps) / num_steps
        scale = memoryless_scale(times, h)[:, None]

        def one(x: Batch, key: Array) -> Array:
            fast = velocity_of(nets, frozen, x.obs)
            slow = velocity_of(nets, target["policy"], x.obs)
            path, end = memoryless_path(fast, slow, key, nets.chunk_dim, num_steps=num_steps)

            def q(action: Array) -> Array:
                return mean_q(nets, target["critic"], x.obs)(jnp.clip(action, -1.0, 1.0))

            def drift(x: Array, t: Array) -> Array:
                return 2.0 * slow(x, t + h if adjoint_ahead else t) - x / (t + h)

            final = -inverse_temperature * jax.grad(q)(end)
            adjoint = lean_adjoint(drift, path, final, num_steps=num_steps)
            learned = velocity_of(nets, params["actor"], x.obs)
            tilt = jax.vmap(learned)(path, times) - jax.vmap(slow)(path, times)
            return jnp.sum((2.0 / scale * tilt + scale * adjoint) ** 2)

        return mean(jax.vmap(one)(batch, jax.random.split(key, len(batch.reward))), batch), {}

    return Learner(init, {"actor": actor}, targets=("policy",))
