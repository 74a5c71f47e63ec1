"""The flow's end, learned: what the one-step endpoint only estimates."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import flow, jax, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, noise_of_action
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("endpoint",),
    needs=("flow",),
    source='Zhou et al., 2026, arXiv 2606.11087, appendix C, "Distill"',
)
def _distill(nets: "Networks", *, num_steps: NumSteps = 10) -> Learner:
    """A network (obs, a_t, t) -> the end of the flow policy's own path from a_t.

    a_t is drawn on paths from noise to data, at the times that the integrator visits; the flow is
    followed by the integrator's steps.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"endpoint": nets.policy.init(key, obs, action, action[0])}

    def draw(key: Array, size: int, x: Batch) -> tuple[Array, Array]:
        step_key, noise_key = jax.random.split(key)
        start = jax.random.randint(step_key, (size,), 0, num_steps)
        return noise_of_action(noise_key, size, x), start

    def endpoint(
        params: Params, target_params: Params, x: Batch, drawn: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        noise, start = drawn
        t = start / num_steps
        a_t, _ = flow.interpolate(noise, x.action, t)
        velocity = nets.velocity(params["policy"], x.obs)

        def moving(action: Array, now: Array) -> Array:
            return jnp.where(now >= t - 0.5 / num_steps, velocity(action, now), 0.0)

        end = nets.clip(flow.integrate(moving, a_t, num_steps=num_steps))
        guess = nets.velocity(params["endpoint"], x.obs)(a_t, t)
        return jnp.mean((guess - end) ** 2), {}

    return Learner(init, {"endpoint": Loss(endpoint, draw)})
