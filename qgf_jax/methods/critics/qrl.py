"""Quasimetric reinforcement learning: the fewest steps to a goal, as large as single steps allow."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Positive
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(
    provides=("q",),
    needs=("goals", "goal_observations"),
    sets={
        "networks.critic_form": "quasimetric",
        "networks.ensemble": 1,
        "goals.critic": (0.0, 0.0, 1.0),
    },
    source="Wang et al., 2023, arXiv 2304.01203; QRL of arXiv 2410.20092",
)
def _qrl(
    nets: "Networks",
    sample: Sample | None = None,
    *,
    far: Annotated[Positive, "steps beyond which distances are pushed apart no further"] = 500.0,
    slack: Annotated[Positive, "mean squared excess of a chunk's distance that is allowed"] = 0.05,
) -> Learner:
    """A quasimetric d, as large as it can be between random states, at most a step long for each step.

    Q is -d(state after the action, goal), in steps, without a discount. A multiplier for each member,
    the group "dual", keeps the mean of excess ** 2 at `slack`, the excess being that of d along a chunk
    over the chunk's steps: the critic descends push + multiplier * excess ** 2, and the dual ascends
    multiplier * (excess ** 2 - slack). The push of a pair is the softplus of far - d, flattened over
    far / 5 steps: 100 * softplus(5 - d / 100) for 500, as in the benchmark. A third part of the critic's
    loss is the error of the codes' dynamics; it moves the codes too.
    """

    cost = float(nets.spec.chunk)
    flat = far / 5.0

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {
            "critic": nets.init_ensemble(key, obs, action),
            "dual": {"log_multiplier": jnp.zeros(nets.ensemble)},
        }

    def distances(params: Params, x: Batch) -> tuple[Array, Array, Array]:
        """To the goal, in excess of a chunk's steps squared, of the dynamics: [E] each."""
        after = x.actor.next_obs.state
        members = params["critic"]
        to_goal, along, error = nets.ensemble_distances(members, x.obs, x.action, after)
        return to_goal, jnp.maximum(along - cost, 0.0) ** 2, error

    def critic(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        to_goal, excess, error = distances(params, x)
        multiplier = jnp.exp(params["dual"]["log_multiplier"])
        push = flat * jax.nn.softplus((far - to_goal) / flat)
        loss = jnp.mean(push + multiplier * excess + error)
        return loss, {"distance": to_goal.mean(), "excess": excess.mean(), "error": error.mean()}

    def dual(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        multiplier = jnp.exp(params["dual"]["log_multiplier"])
        excess = distances(params, x)[1]
        return jnp.mean(multiplier * (slack - excess)), {"multiplier": multiplier.mean()}

    return Learner(init, {"critic": Loss(critic), "dual": Loss(dual)})
