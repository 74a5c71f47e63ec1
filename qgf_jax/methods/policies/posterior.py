"""Clean actions that a noisy action may become: draws of p(a | a_t, s), learned as a flow of its own."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import flow, jax, jnp, losses, networks
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import Weighted, noise_and_time
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Velocity

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("posterior",),
    source="after Potaptchik et al., 2026, arXiv 2601.14430, and Ruan et al., 2026, arXiv 2606.14801",
)
def _posterior(nets: "Networks", *, weighted: Weighted = True) -> Learner:
    """A flow from noise to the clean actions that the data have for a noisy one.

    With a_t = (1 - t) z + t a of an action a of the data and noise z, conditional flow matching: at
    x = (1 - tau) epsilon + tau a the network (s, a_t, t, x, tau) regresses on a - epsilon. Integrated
    from noise epsilon at tau = 0 to tau = 1 it draws from p(a | a_t, s), see `posterior_flow`.

    That is the reference flow's own posterior, as it is trained on the same pairs (a_t, a), noise and
    action being independent: a flow that has learned them has their a_t at each time, and its one-step
    endpoint a_t + (1 - t) v is the mean of these draws. Where it would end from a_t, step by step, is
    one point and no draw. An a_t that guidance has pushed off these paths the network has not seen.

    The sources' is a flow map, which jumps from noise to action in one step. A velocity and a few Euler
    steps are ours, as is the network: the flow policy's, with (x, a_t, code of t) in place of an action.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        seen = _beside(action, action, action[0])
        return {"posterior": nets.policy.init(key, obs, seen, action[0])}

    def draw(key: Array, size: int, x: Batch) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        outer, inner = jax.random.split(key)
        return noise_and_time(outer, size, x), noise_and_time(inner, size, x)

    def posterior(
        params: Params,
        target_params: Params,
        x: Batch,
        drawn: tuple[tuple[Array, Array], tuple[Array, Array]],
    ) -> tuple[Array, Metrics]:
        (noise, t), inner = drawn
        a_t, _ = flow.interpolate(noise, x.action, t)
        velocity = posterior_flow(nets, params["posterior"], x.obs, a_t, t)
        return losses.flow_matching(velocity, x.action, *inner), {}

    return Learner(init, {"posterior": Loss(posterior, draw, weighted)})


def posterior_flow(nets: "Networks", group: Params, obs: Obs, action: Array, t: Array) -> Velocity:
    """(x [D], tau []) -> [D], whose flow makes a clean action of noise, given `action` [D] at time t [].

    `flow.integrate` from standard normal noise [D] draws from p(a | a_t = action, obs), not clipped.
    """
    return lambda x, tau: nets.policy.apply(group, obs, _beside(x, action, t), tau)


def _beside(x: Array, action: Array, t: Array) -> Array:
    """What the network sees in place of an action: [2 D + 16]."""
    return jnp.concatenate([x, action, networks.sinusoidal(t)])
