"""ReBRAC: a deterministic policy that is cloned and trained to maximise Q."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count, History, NonNegative
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import GaussianActor, mean_size
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("gaussian_actor",),
    needs=("q", "target_q", "returns"),
    source="Tarasov et al., 2023, arXiv 2305.09836",
)
def _rebrac(
    nets: "Networks",
    *,
    alpha: Annotated[NonNegative, "factor of the squared distance to the data's action"] = 0.01,
    delay: Annotated[Count, "updates of the critic for each of the actor", History(past=1)] = 2,
) -> Learner:
    """A deterministic actor tanh(mean): `alpha` * (actor - action) ** 2 summed, - Q over its size.

    Actor and target copies move only in every `delay`-th update, the critic in each. The actor's target
    copy is what the critic bootstraps on and what acts. The penalty in the critic's target (beta_2 in
    Tarasov et al., `alpha_critic` in the code of Park et al., 2025b) is left out, as a batch has no next
    action: their tuned runs have it at 0 for cubes, at 0.01 for humanoidmaze-medium, for example.
    """

    gaussian = GaussianActor(nets)

    def distance_and_q(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Array]:
        action = jnp.tanh(gaussian.mean(params, x))
        return jnp.sum((action - x.action) ** 2), nets.q_of(params["critic"], x.obs)(action)

    def combine(
        mine: tuple[Array, Array], whole: tuple[Array, Array], rows: Array
    ) -> tuple[Array, Metrics]:
        distance, q = mine
        return alpha * distance - q / mean_size(whole[1]), {"distance": distance}

    return gaussian.learner(Loss(distance_and_q, combine=combine))._replace(
        targets=("actor",),
        every={"actor": delay},
        target_every={"actor": delay, "critic": delay},
    )
