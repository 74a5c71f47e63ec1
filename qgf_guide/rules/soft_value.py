"""A rule that averages over the clean actions that a noisy one may become."""

from typing import Annotated, Any

from qgf_guide.bounds import Count, NonNegative
from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jax, jnp
from qgf_guide.parts import rule
from qgf_guide.rules.draws import antithetic_noise
from qgf_guide.types import Array, Direction, Endpoint, Velocity


@rule(
    needs=("q", "posterior"),
    ignores=("endpoint",),
    source="Ruan et al., 2026, arXiv 2606.14801, QPILOTS-M",
)
def _soft_value(
    velocity: Velocity,
    q: Any,
    endpoint: Endpoint = one_straight_step,
    *,
    samples: Annotated[Count, "clean actions that are drawn at each step"] = 4,
    posterior_steps: Annotated[Count, "Euler steps from noise to a clean action"] = 4,
    inverse_temperature: Annotated[NonNegative, "tau of the mean of exp(tau Q), in 1 / Q"] = 1.0,
) -> Direction:
    """The slope of log mean_i exp(tau Q(a_i)) / tau, a_i being clean actions that a_t may become.

    a_i = X(a_t, t, epsilon_i) depends on a_t, and the slope goes through that map. `q` is the whole of
    it, (a_t, t, epsilon [D], steps) -> Q(a_i) []. It is computed as the slopes of Q(a_i), weighted by
    softmax(tau Q)_i, so tau = 0 is their mean, and no exponential overflows.

    Divided by tau it has the units of the other rules, Q per action. Of many exact draws it is the slope
    of log E[exp(tau Q(a)) | a_t] / tau, which times tau (1 - t) / t is what tilts the policy by
    exp(tau Q): docs/guidance.md, below Eq. 3. The noise is as in the rule `smooth`. Of the
    source we know the formula alone: numbers, noise and the division by tau are ours.
    """
    del endpoint

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        noise = antithetic_noise(t, samples, action)

        def weighted(action: Array) -> Array:
            values = jax.vmap(lambda epsilon: q(action, t, epsilon, posterior_steps))(noise)
            weights = jax.nn.softmax(inverse_temperature * values)
            return jnp.sum(jax.lax.stop_gradient(weights) * values)

        return velocity(action, t), jax.grad(weighted)(action)

    return direct
