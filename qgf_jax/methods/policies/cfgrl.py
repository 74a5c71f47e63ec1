"""Classifier-free guidance: one flow for all actions and one for the better than average."""

import functools
from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Finite, Positive
from qgf_jax.methods.lazy import jnp, losses
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import TimeGrid, Weighted, noise_and_time
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("labelled_flow",),
    needs=("target_q", "v"),
    source="Frans et al., 2025, arXiv 2505.23458",
)
def _cfgrl(
    nets: "Networks",
    *,
    threshold: Annotated[Finite, "advantage above which an action is a better one"] = 0.0,
    unconditional: Annotated[Positive, "factor of the loss over all actions"] = 0.1,
    time_grid: TimeGrid = 0,
    weighted: Weighted = True,
) -> Learner:
    """Flow matching with label 1 where Q(s, a) - V(s) > `threshold`, and with label 0 everywhere."""

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.labelled.init(key, obs, action, action[0], jnp.int32(0))}

    def actor(
        params: Params, target_params: Params, x: Batch, noise: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        def matched(label: int) -> Array:
            def velocity(action: Array, t: Array) -> Array:
                return nets.labelled.apply(params["actor"], x.obs, action, t, jnp.int32(label))

            return losses.flow_matching(velocity, x.action, *noise)

        value = nets.value.apply(params["value"], x.obs)
        better = nets.q_of(target_params["critic"], x.obs)(x.action) - value > threshold
        loss = jnp.where(better, matched(1), 0.0) + unconditional * matched(0)
        return loss, {"better": better}

    draw = functools.partial(noise_and_time, time_grid=time_grid)
    return Learner(init, {"actor": Loss(actor, draw, weighted)})
