"""Guidance: turns a velocity field into one whose flow ends where Q is high.

Everything here sees one action, with observation and parameters already bound into `velocity` and
`q`; batch it with `jax.vmap`, so that the gradient of one sample cannot depend on the others. The rules
are the files of `methods/rules`; each is an attribute of this module too.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from qgf_jax.errors import UserError
from qgf_jax.methods import parts as declared
from qgf_jax.methods.lazy import flow, inpainting, jnp
from qgf_jax.methods.parts import part
from qgf_jax.methods.rules.endpoints import one_straight_step
from qgf_jax.types import Array, Critic, Endpoint, Velocity

if TYPE_CHECKING:
    from qgf_jax.core.inpainting import Overlap


def __getattr__(name: str) -> Any:
    """`RULES`, `SCHEDULES` and `UNITS`, name -> function, and each rule under its own name.

    They are made when they are asked for, so that those of other packages are among them.
    """
    if name in ("RULES", "SCHEDULES", "UNITS"):
        return getattr(declared, name)
    if not name.startswith("_") and name in declared.RULES:
        return declared.RULES[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def guide(
    velocity: Velocity,
    q: Critic,
    *,
    weight: Array | float,
    rule: str = "one_step",
    schedule: str = "constant",
    cap: float = 3.0,
    endpoint: Endpoint = one_straight_step,
    clip: Literal["box", "none"] = "box",
    precondition: Callable[[Array, Array], Array] | None = None,
    overlap: "Overlap | None" = None,
    **options: Any,
) -> Velocity:
    """The guided velocity, `velocity + weight * direction`, as a function of (action [D], t []).

    `velocity` and `q` are any JAX callables, for one action; `weight` may be traced, so a sweep
    over weights is one compilation and one `vmap`. It multiplies the raw gradient and so carries
    the units of 1 / Q, unless `precondition`, (direction [D], t) -> direction [D], gives it others.

        field = guide(velocity, q, weight=3.0)
        act = lambda noise: jnp.clip(integrate(field, noise, num_steps=10), -1.0, 1.0)
        actions = jax.vmap(act)(jax.random.normal(key, (64, action_dim)))

    `rule` and `schedule` are names of parts, those of other packages among them; `cap` bounds the
    schedule that needs it, and `options` belong to the rule. The endpoint is clipped to [-1, 1], or not
    at all with `clip="none"`, as z-scored actions need; for another box give
    `endpoint=functools.partial(flow.endpoint, low=…, high=…)`. Where t = 1 is noise, as in openpi and
    LeRobot, give `lambda a, t: -velocity(a, 1 - t)`.

    `overlap`, as `qgf_jax.overlap` makes it of the chunk that is being played, adds real-time chunking,
    see `inpainting.inpainted`. Q and this term share one backward pass of the velocity where the rule's
    direction is Jᵀ ∇Q and there is no `precondition`.

    Raises `UserError` for a rule, an option or a schedule that does not exist. What it returns raises
    it for a batch of actions, a weight or a value of `q` that is not one number, and a velocity or an
    endpoint of another shape than the action's.
    """
    found, factor = part("rule", rule), part("schedule", schedule).make
    for option in options:
        if option not in found.fields:
            raise UserError.unknown(f"option of rule {rule}", option, found.fields)
    if jnp.ndim(weight):
        raise UserError(
            f"weight has shape {jnp.shape(weight)}: give one number, and several by jax.vmap"
        )
    if clip not in ("box", "none"):
        raise UserError(f"clip is {clip!r}: give 'box' or 'none'")
    end = endpoint if clip == "box" else functools.partial(endpoint, clip=False)
    velocity, q, end = _of_one(velocity), _scalar(q), _of_shape(end)

    def weight_at(t: Array, action: Array) -> Array:
        return weight * factor(jnp.asarray(t, action.dtype), cap)

    if overlap is not None and precondition is None and "jacobian" in found.provides:

        def both(action: Array, t: Array) -> Array:
            weight_now = weight_at(t, action)
            live = weight_now != 0
            divisor = jnp.where(live, weight_now, 1.0)  # of inpainting: multiplied by it below
            ends = inpainting.pulled(end, overlap, divisor)
            climbed = inpainting.climbed_if(live, q)
            v, direction = found.make(velocity, climbed, ends, **options)(action, t)
            return v + divisor * direction

        return both
    direct = found.make(velocity, q, end, **options)

    def guided(action: Array, t: Array) -> Array:
        v, direction = direct(action, t)
        if precondition is not None:
            direction = precondition(direction, t)
        return v + weight_at(t, action) * direction

    return guided if overlap is None else inpainting.inpainted(guided, velocity, overlap)


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


def _of_shape(endpoint: Endpoint) -> Endpoint:
    """The endpoint, of the action's shape, else a `UserError`."""

    def checked(action: Array, t: Array, velocity: Array, **box: Any) -> Array:
        return flow.check_shape(endpoint(action, t, velocity, **box), action, "endpoint")

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
