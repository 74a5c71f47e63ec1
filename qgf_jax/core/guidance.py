"""Guidance: turns a velocity field into one whose flow ends where Q is high.

Everything here sees one action, with observation and parameters already bound into `velocity` and
`q`; batch it with `jax.vmap`, so that the gradient of one sample cannot depend on the others.

A rule is `rule(velocity, q, endpoint, *, options) -> slope`. Where the critic looks is the
`endpoint`: `flow.endpoint` jumps once along the straight line, `flow.flow_endpoint` follows the flow to
its end, and a network can have learned it. What the rules differ in is how the slope found there comes
back to the action on its way: J below is d endpoint / d action, [D, D].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, NonNegative
from qgf_jax.core import flow
from qgf_jax.errors import UserError, unknown_name_error
from qgf_jax.types import Array, Critic, Endpoint, Slope, Velocity

Rule = Callable[..., Slope]


def unguided(velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint) -> Slope:
    """The reference policy itself. The critic is never called, so it costs nothing."""
    del q, endpoint

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jnp.zeros_like(v)

    return slope


def noisy(velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint) -> Slope:
    """QFQL: the critic's slope at the half-made action, where the critic was never trained.

    Zhou et al., 2026, Eq. 19.
    """
    del endpoint
    return lambda action, t: (velocity(action, t), jax.grad(q)(action))


def noise_aware(velocity: Velocity, q: Any, endpoint: Endpoint = flow.endpoint) -> Slope:
    """RobustQ: as `noisy`, for a critic q(action, t) that was trained on half-made actions.

    Zhou et al., 2026, Eq. 20.
    """
    del endpoint
    return lambda action, t: (velocity(action, t), jax.grad(q)(action, t))


def one_step(velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint) -> Slope:
    """QGF: the critic's slope at the endpoint, taking J as I.

    Zhou et al., 2026, Eq. 9. The clip of the endpoint is not differentiated either, so a
    coordinate that has run into the box still gets its slope.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jax.grad(q)(endpoint(action, t, v))

    return slope


def one_step_jacobian(velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint) -> Slope:
    """QGF-Jacobian: J^T times the slope at the endpoint, the clip differentiated too.

    Zhou et al., 2026, Eq. 8: one vector-Jacobian product, never the D x D matrix, and one pass
    forward, whose velocity is the one that is integrated. With `flow.flow_endpoint` as endpoint it is
    backpropagation through the remaining flow, Eq. 18.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        def q_at_endpoint(action: Array) -> tuple[Array, Array]:
            v = velocity(action, t)
            return q(endpoint(action, t, v)), v

        gradient, v = jax.grad(q_at_endpoint, has_aux=True)(action)
        return v, gradient

    return slope


def regularized(
    velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint, *, epsilon: NonNegative = 0.1
) -> Slope:
    """(I + epsilon J)^T times the slope at the endpoint: mostly QGF, a little of its Jacobian.

    Zhou et al., 2026, Eq. 10.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        end, pull, v = _endpoint_vjp(velocity, endpoint, action, t)
        gradient = jax.grad(q)(end)
        return v, gradient + epsilon * pull(gradient)

    return slope


def smooth(
    velocity: Velocity,
    q: Critic,
    endpoint: Endpoint = flow.endpoint,
    *,
    samples: Count = 8,
    sigma: NonNegative = 0.1,
) -> Slope:
    """The mean of `samples` Jacobians at action + sigma * noise, transposed, times the slope.

    Zhou et al., 2026, appendix C, which gives neither number: eight samples leave a third of one
    Jacobian's noise, and a tenth of the box's half width is well inside the spread of most data.
    All actions see the same perturbations at the same time t, antithetic in pairs, so that a
    sampler stays a function of its key.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        gradient = jax.grad(q)(endpoint(action, t, v))
        key = jax.random.fold_in(jax.random.key(0), jnp.asarray(t, jnp.float32).view(jnp.uint32))
        half = jax.random.normal(key, ((samples + 1) // 2, *action.shape), action.dtype)
        noise = sigma * jnp.concatenate([half, -half])[:samples]
        pulled = jax.vmap(lambda x: _endpoint_vjp(velocity, endpoint, x, t)[1](gradient))
        return v, pulled(action[None] + noise).mean(axis=0)

    return slope


def ortho(velocity: Velocity, q: Critic, endpoint: Endpoint = flow.endpoint) -> Slope:
    """The orthogonal factor of J, transposed, times the slope: J turns it and stretches nothing.

    Zhou et al., 2026, appendix C: J = U S V^T, and (U V^T)^T acts. The clip is passed straight
    through, because a coordinate in saturation makes J singular and the factor arbitrary. It needs
    the whole of J, D passes forward, and an SVD.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        def unclipped(action: Array) -> tuple[Array, Array]:
            v = velocity(action, t)
            return endpoint(action, t, v, clip=False), v

        jacobian, v = jax.jacfwd(unclipped, has_aux=True)(action)
        gradient = jax.grad(q)(endpoint(action, t, v))
        u, _, vt = jnp.linalg.svd(jacobian)
        # Small, so in full float32 whatever the precision of the networks.
        turned = jnp.matmul(u.T, gradient, precision="highest")
        return v, jnp.matmul(vt.T, turned, precision="highest")

    return slope


def _endpoint_vjp(
    velocity: Velocity, endpoint: Endpoint, action: Array, t: Array
) -> tuple[Array, Callable[[Array], Array], Array]:
    """(endpoint, cotangent -> J^T cotangent, velocity), by one pass forward."""

    def run(action: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return endpoint(action, t, v), v

    end, pull, v = jax.vjp(run, action, has_aux=True)
    return end, lambda cotangent: pull(cotangent)[0], v


RULES: dict[str, Rule] = {
    "unguided": unguided,
    "noisy": noisy,
    "noise_aware": noise_aware,
    "one_step": one_step,
    "one_step_jacobian": one_step_jacobian,
    "regularized": regularized,
    "smooth": smooth,
    "ortho": ortho,
}


SCHEDULES: dict[str, Callable[[Array, float], Array]] = {
    "constant": lambda t, cap: jnp.ones_like(t),
    "linear": lambda t, cap: 1.0 - t,
    "ratio": lambda t, cap: 1.0 / jnp.maximum(t, 1.0 / (1.0 + cap)) - 1.0,
}
"""How the weight changes on the way, (t, cap) -> factor. `ratio` is (1 - t) / t, at most `cap`."""


def guide(
    velocity: Velocity,
    q: Critic,
    *,
    weight: Array | float,
    rule: str = "one_step",
    schedule: str = "constant",
    cap: float = 3.0,
    endpoint: Endpoint = flow.endpoint,
    precondition: Callable[[Array, Array], Array] | None = None,
    **options: Any,
) -> Velocity:
    """The guided velocity, `velocity + weight * slope`, as a function of (action [D], t []).

    `velocity` and `q` are any JAX callables, for one action; `weight` may be traced, so a sweep
    over weights is one compilation and one `vmap`. It multiplies the raw gradient and so carries
    the units of 1 / Q, unless `precondition`, (slope [D], t) -> slope [D], gives it others.

        field = guide(velocity, q, weight=3.0)
        act = lambda noise: jnp.clip(integrate(field, noise, num_steps=10), -1.0, 1.0)
        actions = jax.vmap(act)(jax.random.normal(key, (64, action_dim)))

    `schedule` is a name in `SCHEDULES`, `cap` the bound of the one that needs it, and `options`
    belong to the rule. The endpoint is clipped to [-1, 1]; for actions of another range, or of none,
    give `functools.partial(flow.endpoint, low=…, high=…)` or `(flow.endpoint, clip=False)`. Where t = 1
    is noise, as in openpi and LeRobot, give `lambda a, t: -velocity(a, 1 - t)`.

    Raises `UserError` for a rule or schedule that does not exist. What it returns raises it for a
    batch of actions, a weight or a value of `q` that is not one number, and a velocity of another
    shape than the action's.
    """
    if rule not in RULES:
        raise unknown_name_error("guidance rule", rule, RULES)
    if schedule not in SCHEDULES:
        raise unknown_name_error("guidance schedule", schedule, SCHEDULES)
    if jnp.ndim(weight):
        raise UserError(
            f"weight has shape {jnp.shape(weight)}: give one number, and several by jax.vmap"
        )
    slope = RULES[rule](_of_one(velocity), _scalar(q), endpoint, **options)

    def guided(action: Array, t: Array) -> Array:
        v, direction = slope(action, t)
        if precondition is not None:
            direction = precondition(direction, t)
        if schedule != "constant":
            weight_now = weight * SCHEDULES[schedule](jnp.asarray(t, action.dtype), cap)
        else:
            weight_now = weight
        return v + weight_now * direction

    return guided


def _of_one(velocity: Velocity) -> Velocity:
    """The velocity, for one action and of its shape, else a `UserError`."""

    def checked(action: Array, t: Array) -> Array:
        if jnp.ndim(action) != 1:
            raise UserError(
                f"a guided velocity takes one action [D], not shape {jnp.shape(action)}: "
                "flatten a chunk, and act on a batch by jax.vmap"
            )
        return flow.check_shape(velocity(action, t), action)

    return checked


def _scalar(q: Callable[..., Array]) -> Callable[..., Array]:
    """The critic, if it returns one number, else a `UserError`."""

    def checked(*args: Array) -> Array:
        value = q(*args)
        if jnp.shape(value):
            raise UserError(
                f"q returned shape {jnp.shape(value)} for one action: it must return one number, such "
                "as q(action)[0], or the mean of an ensemble"
            )
        return value

    return checked
