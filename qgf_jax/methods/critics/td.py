"""Temporal-difference learning with the actions of a policy."""

from typing import TYPE_CHECKING, Annotated

from qgf_jax.bounds import NonNegative
from qgf_jax.methods.lazy import checks, jax, jnp
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample, Summary

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(provides=("q", "target_q", "returns"), source="Li and Levine, 2026, arXiv 2601.14234")
def _td(
    nets: "Networks",
    sample: Sample,
    *,
    rho: Annotated[
        NonNegative, "pessimism: standard deviations of the members taken off their mean"
    ] = 0.5,
    noise: Annotated[
        NonNegative, "standard deviation of what is added to the next action, clipped to 0.5"
    ] = 0.0,
) -> Learner:
    """Temporal-difference learning with the policy's own actions.

    Q regresses on reward + discount * (mean - `rho` * standard deviation) of the target network's
    members at `sample`'s action; with two members, rho = 1 is their minimum. `noise` smooths the
    target, as in Fujimoto et al., 2018.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def next_action(params: Params, x: Batch, key: Array) -> Array:
        act_key, blur_key = jax.random.split(key)
        action = sample(params, x.next_obs, act_key, jnp.float32(1.0))
        checks.shape("a sampler's action", action, x.action.shape)
        blur = jnp.clip(noise * jax.random.normal(blur_key, action.shape), -0.5, 0.5)
        return jax.lax.stop_gradient(nets.clip(action + blur))

    def critic_loss(
        params: Params, target_params: Params, x: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        action = next_action(params | target_params, x, key)
        target_q = nets.apply_ensemble(target_params["critic"], x.next_obs, action)
        td_target = x.reward + x.discount * (target_q.mean() - rho * target_q.std())
        q = nets.apply_ensemble(params["critic"], x.obs, x.action)
        return jnp.mean((q - td_target) ** 2), {"q": Summary(q)}

    return Learner(init, {"critic": Loss(critic_loss)}, targets=("critic",))
