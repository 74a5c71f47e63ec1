"""FAWAC: a flow policy cloned from the data, the better actions weighing more."""

import functools
from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import jax, jnp, losses
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import TimeGrid, noise_and_time
from qgf_jax.methods.policies.gaussians import InverseTemperature, MaxWeight, advantage_weight
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("actor_flow",),
    needs=("q", "target_q", "returns"),
    source="Park et al., 2025b, arXiv 2502.02538",
)
def _fawac(
    nets: "Networks",
    *,
    inverse_temperature: InverseTemperature = 10.0,
    max_weight: MaxWeight = 100.0,
    time_grid: TimeGrid = 0,
) -> Learner:
    """Flow matching weighted by exp(inverse_temperature * (Q - V)), at most `max_weight`.

    The advantage-weighted actor-critic (Nair et al., 2020) of flows. V, the group "baseline", is the
    mean of the target network's members over the data's own actions.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        actor_key, baseline_key = jax.random.split(key)
        return {
            "actor": nets.policy.init(actor_key, obs, action, action[0]),
            "baseline": nets.value.init(baseline_key, obs),
        }

    def actor(
        params: Params, target_params: Params, x: Batch, noise: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        q = nets.mean_q(params["critic"], x.obs)(x.action)
        advantage = q - nets.value.apply(params["baseline"], x.obs)
        weight = advantage_weight(advantage, inverse_temperature, max_weight)
        loss = losses.flow_matching(nets.velocity(params["actor"], x.obs), x.action, *noise)
        return weight * loss, {"weight_mean": weight}

    def baseline(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        q = nets.apply_ensemble(target_params["critic"], x.obs, x.action)
        return jnp.mean((q - nets.value.apply(params["baseline"], x.obs)) ** 2), {}

    draw = functools.partial(noise_and_time, time_grid=time_grid)
    return Learner(init, {"actor": Loss(actor, draw), "baseline": Loss(baseline)})
