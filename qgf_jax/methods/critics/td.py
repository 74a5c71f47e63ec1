"""Temporal-difference learning with the actions of a policy."""

from typing import TYPE_CHECKING, Annotated, Literal

from qgf_guide.bounds import Count, History, NonNegative
from qgf_jax.methods.lazy import aggregates, checks, jax, jnp
from qgf_jax.methods.parts import Part, critic
from qgf_jax.methods.table import acting_params
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
    next: Annotated[
        Literal["policy", "reference", "data"],
        "whose the next action is: the method's own policy's, the flow policy's, or the data's (SARSA)",
        History(past="policy"),
    ] = "policy",
    best_of: Annotated[
        Count,
        "samples of the policy among which the next action is the best by the critic, as in acting",
        History(past=1),
    ] = 1,
) -> Learner:
    """Temporal-difference learning with the policy's own actions, the reference's, or the data's.

    Q regresses on reward + discount * (mean - `rho` * standard deviation) of the target network's
    members at the next action; with two members, rho = 1 is their minimum. `noise` smooths the
    target, as in Fujimoto et al., 2018.

    The next action is that of `sample`, whom `next` names, or the best of `best_of` of them, as in
    Q-chunking (Li, Zhou and Levine, 2025, arXiv 2507.07969). With `next` = "data" it is the data's chunk
    from the next observation on: SARSA (Rummery and Niranjan, 1994), the value of the policy that
    collected the data.
    """
    if next != "data" and best_of > 1:
        sample = Part.named("selector", "best_of").make(nets, sample, best_of)

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def next_action(params: Params, x: Batch, key: Array) -> Array:
        act_key, blur_key = jax.random.split(key)
        if next == "data":
            action = x.next_action
        else:
            action = sample(params, x.next_obs, act_key, jnp.float32(1.0))
        checks.shape("a sampler's action", action, x.action.shape)
        blur = jnp.clip(noise * jax.random.normal(blur_key, action.shape), -0.5, 0.5)
        return jax.lax.stop_gradient(nets.clip(action + blur))

    def critic_loss(
        params: Params, target_params: Params, x: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        action = next_action(acting_params(params, target_params), x, key)
        target_q = nets.apply_ensemble(target_params["critic"], x.next_obs, action)
        td_target = x.reward + x.discount * aggregates.pessimistic(target_q, rho)
        q = nets.apply_ensemble(params["critic"], x.obs, x.action)
        return jnp.mean((q - td_target) ** 2), {"q": Summary(q)}

    loss = Loss(critic_loss, view=Batch.next_view) if next == "data" else Loss(critic_loss)
    return Learner(init, {"critic": loss}, targets=("critic",))
