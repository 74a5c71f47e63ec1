"""The reference policy: behavioural cloning by flow matching."""

import functools
from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import losses
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import TimeGrid, Weighted, noise_and_time
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(provides=("flow",), source="Zhou et al., 2026, arXiv 2606.11087, Eq. 2")
def _flow_bc(nets: "Networks", *, time_grid: TimeGrid = 0, weighted: Weighted = True) -> Learner:
    """Behavioural cloning by conditional flow matching on the data's action chunks.

    The public code draws t from a grid and keeps chunks that are spliced from two trajectories.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"policy": nets.policy.init(key, obs, action, action[0])}

    def policy_loss(
        params: Params, target_params: Params, x: Batch, noise: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        velocity = nets.velocity(params["policy"], x.obs)
        return losses.flow_matching(velocity, x.action, *noise), {}

    draw = functools.partial(noise_and_time, time_grid=time_grid)
    return Learner(init, {"policy": Loss(policy_loss, draw, weighted)})
