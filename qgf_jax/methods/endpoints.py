"""Where on the flow the critic looks.

Endpoint: `(nets, params, obs, velocity, num_steps) -> Endpoint`. One that must know t when the program
is traced needs "concrete_t".
"""

from typing import TYPE_CHECKING, Any

from qgf_jax.methods.lazy import flow
from qgf_jax.methods.parts import endpoint
from qgf_jax.types import Array, Endpoint, Obs, Params, Velocity

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@endpoint(source="Zhou et al., 2026, arXiv 2606.11087, Eq. 7")
def _straight(*_: Any) -> Endpoint:
    """At the end of one straight step."""
    return flow.endpoint


@endpoint(needs=("concrete_t",), source="Zhou et al., 2026, arXiv 2606.11087, appendix C")
def _flow(
    nets: "Networks", params: Params, obs: Obs, velocity: Velocity, num_steps: int
) -> Endpoint:
    """At the end of the remaining flow, step by step."""
    del nets, params, obs
    return flow.flow_endpoint(velocity, num_steps=num_steps)


@endpoint(needs=("endpoint",), source="Zhou et al., 2026, arXiv 2606.11087, appendix C")
def _learned(
    nets: "Networks", params: Params, obs: Obs, velocity: Velocity, num_steps: int
) -> Endpoint:
    """Where a network says that the flow ends; `qgf_distill` trains it."""
    del velocity, num_steps
    learned = nets.velocity(params["endpoint"], obs)

    def end(action: Array, t: Array, velocity: Array, *, clip: bool = True) -> Array:
        del velocity
        action = learned(action, t)
        return nets.clip(action) if clip else action

    return end
