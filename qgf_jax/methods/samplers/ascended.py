"""GradStep: guidance after the flow."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count
from qgf_jax.methods.lazy import flow, jax, jnp
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    provides=("noise",),
    needs=("flow", "q"),
    source="Zhou et al., 2026, arXiv 2606.11087, Algorithm 2",
)
def _ascended(
    nets: "Networks",
    *,
    steps: Annotated[Count, "gradient steps"] = 3,
    sign: Annotated[bool, "whether only the gradient's signs are kept"] = False,
    num_steps: Annotated[Count, "steps of the flow"] = 10,
) -> Sample:
    """Gradient ascent on Q from the reference action; the weight is the step size.

    After Mark et al., 2024; the action is clipped to the box after each of `steps`.
    """

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        gradient_of = jax.grad(nets.q_of(params["critic"], obs))
        velocity = nets.velocity(params["policy"], obs)
        noise = nets.noise(key)
        start = nets.clip(flow.integrate(velocity, noise, num_steps=num_steps))

        def step(action: Array, _: None) -> tuple[Array, None]:
            g = gradient_of(action)
            return nets.clip(action + weight * (jnp.sign(g) if sign else g)), None

        return jax.lax.scan(step, start, None, steps)[0]

    return sample
