"""The slope of Q along the flow, learned: what backpropagation through the flow would give."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import adjoint, jax, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, noise_of_action
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("slope",),
    needs=("flow", "target_q"),
    source="AGF, 2026, arXiv 2609.34944",
)
def _agf(nets: "Networks", *, num_steps: NumSteps = 10) -> Learner:
    """A network (obs, a_t, t) -> the gradient of Q at the flow policy's end with respect to a_t.

    Regressed on the adjoint of the integrator's own path from noise, at all of its points: one point
    drawn of them needs the whole path too, half of the cost. Targets are as they are, in units of Q per
    action, and their sign climbs Q; the source's is that of a cost. The gradient is the target critic's
    at the clipped end. The clip itself is not differentiated, so a coordinate that has run into the box
    keeps its gradient, as in the rule `one_step`.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"slope": nets.policy.init(key, obs, action, action[0])}

    def slope(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        q = nets.q_of(target_params["critic"], x.obs)
        times, path, slopes = adjoint.flow_adjoint(
            nets.velocity(params["policy"], x.obs),
            lambda end: jax.grad(q)(nets.clip(end)),
            noise,
            num_steps=num_steps,
        )
        guess = jax.vmap(nets.velocity(params["slope"], x.obs))(path, times)
        return jnp.mean((guess - slopes) ** 2), {"size": jnp.sqrt(jnp.mean(slopes**2))}

    return Learner(init, {"slope": Loss(slope, noise_of_action)})
