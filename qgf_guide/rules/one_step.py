"""QGF: the critic's gradient at the endpoint, with the endpoint's Jacobian and without.

J below is d endpoint / d action, [D, D].
"""

from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jax
from qgf_guide.parts import rule
from qgf_guide.types import Array, Critic, Direction, Endpoint, Velocity


@rule(
    needs=("q",),
    ignores=("straight_through",),  # as it is already
    source="Zhou et al., 2026, arXiv 2606.11087, Eq. 9",
)
def _one_step(velocity: Velocity, q: Critic, endpoint: Endpoint = one_straight_step) -> Direction:
    """QGF: the critic's gradient at the endpoint, taking J as I.

    The clip of the endpoint is not differentiated either, so a coordinate that has run into the box
    still gets its gradient.
    """

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jax.grad(q)(endpoint(action, t, v))

    return direct


@rule(
    provides=("jacobian",),
    needs=("q",),
    source="Zhou et al., 2026, arXiv 2606.11087, Eqs. 8 and 18",
)
def _one_step_jacobian(
    velocity: Velocity, q: Critic, endpoint: Endpoint = one_straight_step
) -> Direction:
    """QGF-Jacobian: J^T times the gradient at the endpoint, the clip differentiated too.

    Eq. 8: one vector-Jacobian product, never the D x D matrix, and one pass forward, whose velocity is
    the one that is integrated. With `flow.flow_endpoint` as endpoint it is backpropagation through the
    remaining flow, Eq. 18.
    """

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        def q_at_endpoint(action: Array) -> tuple[Array, Array]:
            v = velocity(action, t)
            return q(endpoint(action, t, v)), v

        gradient, v = jax.grad(q_at_endpoint, has_aux=True)(action)
        return v, gradient

    return direct
