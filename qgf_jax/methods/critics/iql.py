"""Implicit Q-learning on chunks."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import OpenFraction
from qgf_jax.methods.lazy import jax, jnp, losses
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample, Summary

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(
    provides=("q", "target_q", "returns", "v"),
    source="Kostrikov et al., 2022, arXiv 2110.06169; Zhou et al., 2026, Eqs. 11 and 12",
)
def _iql(
    nets: "Networks",
    sample: Sample | None = None,
    *,
    expectile: Annotated[OpenFraction, "level of the expectile of Q that V regresses on"] = 0.9,
) -> Learner:
    """Implicit Q-learning on chunks.

    Q regresses on reward + discount * V(next_obs), each member by itself; V on the upper expectile
    of the target network's Q. No action outside the data is ever scored. Chunks that run over the end
    of a trajectory weigh 0 and stay in the denominator.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        critic_key, value_key = jax.random.split(key)
        return {
            "critic": nets.init_ensemble(critic_key, obs, action),
            "value": nets.value.init(value_key, obs),
        }

    def critic_loss(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        td_target = x.reward + x.discount * nets.value.apply(params["value"], x.next_obs)
        q = nets.apply_ensemble(params["critic"], x.obs, x.action)
        return jnp.mean((q - td_target) ** 2), {"q": Summary(q)}

    def value_loss(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        q = nets.aggregate(nets.apply_ensemble(target_params["critic"], x.obs, x.action))
        v = nets.value.apply(params["value"], x.obs)
        return losses.expectile(q - v, expectile), {"v_mean": v}

    return Learner(
        init, {"critic": Loss(critic_loss), "value": Loss(value_loss)}, targets=("critic",)
    )
