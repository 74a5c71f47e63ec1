"""Rules that change the endpoint's Jacobian J = d endpoint / d action, [D, D], before it acts."""

from collections.abc import Callable
from typing import Annotated

from qgf_guide.bounds import Count, NonNegative
from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jax, jnp
from qgf_guide.parts import rule
from qgf_guide.rules.draws import antithetic_noise
from qgf_guide.types import Array, Critic, Direction, Endpoint, Velocity


@rule(needs=("q",), source="Zhou et al., 2026, arXiv 2606.11087, Eq. 10")
def _regularized(
    velocity: Velocity,
    q: Critic,
    endpoint: Endpoint = one_straight_step,
    *,
    epsilon: Annotated[NonNegative, "factor of the Jacobian's part"] = 0.1,
) -> Direction:
    """(I + epsilon J)^T times the gradient at the endpoint: mostly QGF, a little of its Jacobian."""

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        end, pull_back, v = _endpoint_vjp(velocity, endpoint, action, t)
        gradient = jax.grad(q)(end)
        return v, gradient + epsilon * pull_back(gradient)

    return direct


@rule(needs=("q",), source="Zhou et al., 2026, arXiv 2606.11087, appendix C")
def _smooth(
    velocity: Velocity,
    q: Critic,
    endpoint: Endpoint = one_straight_step,
    *,
    samples: Annotated[Count, "perturbed actions whose Jacobians are averaged"] = 8,
    sigma: Annotated[NonNegative, "standard deviation of the perturbations"] = 0.1,
) -> Direction:
    """The mean of `samples` Jacobians at action + sigma * noise, transposed, times the gradient.

    The paper gives neither number: eight samples leave a third of one Jacobian's noise, and a tenth of
    the box's half width is well inside the standard deviation of most data. Their noise is
    `antithetic_noise`.
    """

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        gradient = jax.grad(q)(endpoint(action, t, v))
        noise = sigma * antithetic_noise(t, samples, action)
        pull_back = jax.vmap(lambda x: _endpoint_vjp(velocity, endpoint, x, t)[1](gradient))
        return v, pull_back(action[None] + noise).mean(axis=0)

    return direct


@rule(
    needs=("q",),
    ignores=("straight_through",),  # as it is already
    source="Zhou et al., 2026, arXiv 2606.11087, appendix C",
)
def _ortho(velocity: Velocity, q: Critic, endpoint: Endpoint = one_straight_step) -> Direction:
    """The orthogonal factor of J, transposed, times the gradient: J turns it and stretches nothing.

    J = U S V^T, and (U V^T)^T acts. The clip is passed straight through, because a coordinate in
    saturation makes J singular and the factor arbitrary. It needs the whole of J, D passes forward,
    and an SVD.
    """

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        def unclipped(action: Array) -> tuple[Array, Array]:
            v = velocity(action, t)
            return endpoint(action, t, v, clip=False), v

        def column(axis: Array) -> tuple[Array, Array]:
            _, along, v = jax.jvp(
                unclipped, (action,), (jnp.broadcast_to(axis, action.shape),), has_aux=True
            )
            return along, v

        axes = jnp.eye(action.shape[-1], dtype=action.dtype)
        jacobian, v = jax.vmap(column, out_axes=(-1, None))(axes)
        gradient = jax.grad(q)(endpoint(action, t, v))
        u, _, vt = jnp.linalg.svd(jacobian)
        # Small, so in full float32 whatever the precision of the networks.
        turned = jnp.matmul(gradient[..., None, :], u, precision="highest")
        return v, jnp.matmul(turned, vt, precision="highest")[..., 0, :]

    return direct


def _endpoint_vjp(
    velocity: Velocity, endpoint: Endpoint, action: Array, t: Array
) -> tuple[Array, Callable[[Array], Array], Array]:
    """(endpoint, cotangent -> J^T cotangent, velocity), by one pass forward."""

    def run(action: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return endpoint(action, t, v), v

    end, pull_back, v = jax.vjp(run, action, has_aux=True)
    return end, lambda cotangent: pull_back(cotangent)[0], v
