"""A critic for actions on their way from noise: the log of the mean of exp(Q), not the mean of Q."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Positive
from qgf_jax.methods.lazy import losses
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import Weighted
from qgf_jax.methods.policies.robust_q import noisy_critic_learner
from qgf_jax.types import Learner

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("noisy_q",),
    needs=("target_q",),
    source="Li and Levine, 2026, arXiv 2601.14234, CGQL-L",
)
def _linex_q(
    nets: "Networks",
    *,
    inverse_temperature: Annotated[Positive, "beta of exp(beta Q)"] = 10.0,
    bound: Annotated[Positive, "largest beta * (Q(s, a) - Q(s, a_t, t)) that counts by exp"] = 5.0,
    weighted: Weighted = True,
) -> Learner:
    """As `robust_q`, by the Linex loss of beta * (Q(s, a) - Q(s, a_t, t)).

    Below `bound` its minimum is log E[exp(beta Q(s, a)) | a_t] / beta, whose slope is what tilting the
    actions by exp(beta Q) adds to the score at a_t, over beta. beta is the sampler's.
    """
    beta = inverse_temperature
    return noisy_critic_learner(
        nets, lambda q, clean: losses.linex(beta * (clean - q), bound), weighted
    )
