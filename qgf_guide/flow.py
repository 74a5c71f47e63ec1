"""Straight-line flows on actions. Everywhere, time runs from t = 0 (noise) to t = 1 (data).

`conventions` has flows that run the other way, as those of openpi and LeRobot.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from qgf_guide import conventions, norms
from qgf_guide.conventions import Time
from qgf_guide.errors import UserError
from qgf_guide.lazy import jax, jnp
from qgf_guide.types import Array, Endpoint, Velocity

_State = TypeVar("_State")


def interpolate(noise: Array, action: Array, t: Array) -> tuple[Array, Array]:
    """The path's point at time t, and the path's velocity: both [D] (Lipman et al., 2023)."""
    return (1.0 - t) * noise + t * action, action - noise


def endpoint(
    action: Array,
    t: Array,
    velocity: Array,
    *,
    clip: bool = True,
    low: Array | float = -1.0,
    high: Array | float = 1.0,
) -> Array:
    """Where one straight step from `action` [D] at time t lands at t = 1, clipped to the box.

    Zhou et al., 2026, Eq. 7. The box is from `low` to `high`, [] or [D]. Actions that have none, such
    as z-scored ones, need `clip=False`, as `functools.partial` gives it to `guidance.guide`.
    """
    end = action + (1.0 - t) * velocity
    return jnp.clip(end, low, high) if clip else end


def passed_through(kept: Array, free: Array) -> Array:
    """`kept` [D], with the derivative of `free` [D]: straight through what made one of the other."""
    return jax.lax.stop_gradient(kept) + (free - jax.lax.stop_gradient(free))


def flow_endpoint(
    velocity: Velocity,
    *,
    num_steps: int,
    low: Array | float = -1.0,
    high: Array | float = 1.0,
) -> Endpoint:
    """The endpoint where the rest of the flow ends, step by step, clipped to the box.

    How many steps are left depends on t, so t has to be a number when the program is traced:
    integrate with `unroll=True`. Raises `TypeError` otherwise. `low`, `high`: as of `endpoint`.
    """
    num_steps = _count(num_steps)

    def end(action: Array, t: Array, first: Array, *, clip: bool = True) -> Array:
        if isinstance(t, jax.core.Tracer):
            raise TypeError("flow.flow_endpoint needs a concrete t: use integrate(…, unroll=True)")
        done = round(float(t) * num_steps) + 1
        action = action + first / num_steps

        # Differentiated, a scan stacks up all that a step keeps. Keeping the matrix products alone and
        # computing activations again halves the time on a CPU: 3.1 instead of 6.2 times QGF.
        @functools.partial(
            jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False
        )
        def euler(action: Array, t: Array) -> tuple[Array, None]:
            return action + velocity(action, t) / num_steps, None

        times = jnp.arange(done, num_steps, dtype=action.dtype) / num_steps
        action = jax.lax.scan(euler, action, times)[0]
        return jnp.clip(action, low, high) if clip else action

    return end


def integrate(
    velocity: Velocity,
    noise: Array,
    *,
    num_steps: int,
    unroll: bool = False,
    start: int = 0,
    stop: int | None = None,
    time: Time = "noise_to_data",
) -> Array:
    """Euler-integrates da/dt = velocity(a, t) from `noise` [D] at t = 0 to an action [D] at t = 1.

    The result is not clipped. One `lax.scan`: whatever `velocity` holds (a network, a critic's
    gradient) is one body for XLA to fuse, and compile time does not grow with `num_steps`.
    `unroll` writes the steps out one by one, each with a t that is known at compile time.
    A part of the way is that from t = `start` / num_steps, where `noise` then is, to `stop` / num_steps.
    With `time="data_to_noise"` the velocity is of that convention, and the noise at t = 1. `num_steps`
    may be traced: then it is a `lax.while_loop`, which has no backward pass.
    Raises `UserError` if `num_steps` is no whole number from 1, or if `velocity` returns another shape
    than that of `noise`.
    """
    velocity = conventions.turned(velocity, time)
    traced = isinstance(num_steps, jax.core.Tracer) and not unroll
    num_steps = num_steps if traced else _count(num_steps)
    _check_part(num_steps, start, stop)

    def step(action: Array, t: Any) -> Array:
        return action + check_shape(velocity(action, t), action) / num_steps

    if traced:
        return _repeat_traced(step, noise, num_steps, start, stop)
    return _repeat(step, noise, num_steps, noise.dtype, unroll, start, stop)


def integrate_within(
    field: Velocity,
    reference: Velocity,
    noise: Array,
    *,
    radius: Array | float,
    num_steps: int,
    unroll: bool = False,
) -> Array:
    """`integrate` of `field`, kept within `radius` of what `reference` makes of the same `noise` [D].

    With b_k the reference's flow of n steps, and P(x) = x min(1, radius / |x|), |x| the Euclidean length
    of the whole action,

        b_k+1 = b_k + reference(b_k, t_k) / n
        a_k+1 = b_k+1 + P(a_k + field(a_k, t_k) / n - b_k+1)

    so a_n [D], which is returned, is no further than `radius` > 0 from the reference's own action b_n: a
    trust region on the whole displacement, whatever the number of steps. It costs one more velocity a
    step, that of b. Raises `UserError` as `integrate` does.
    """
    num_steps = _count(num_steps)

    def step(both: tuple[Array, Array], t: Any) -> tuple[Array, Array]:
        ahead, behind = (
            x + check_shape(velocity(x, t), x) / num_steps
            for x, velocity in zip(both, (field, reference), strict=True)
        )
        return behind + norms.shorten(ahead - behind, radius), behind

    return _repeat(step, (noise, noise), num_steps, noise.dtype, unroll)[0]


def _repeat(
    step: Callable[[_State, Any], _State],
    state: _State,
    num_steps: int,
    dtype: Any,
    unroll: bool,
    start: int = 0,
    stop: int | None = None,
) -> _State:
    """`state` after step(state, t) at t = start / num_steps, …; see `integrate`."""
    stop = num_steps if stop is None else stop
    if unroll:
        for k in range(start, stop):
            t: Any = np.float32(k) / np.float32(num_steps)
            state = step(state, t)
        return state

    def euler(state, t):
        return step(state, t), None

    # Dividing, not adding up steps: t = k / num_steps to the last bit, and fast time features see it.
    times = jnp.arange(start, stop, dtype=dtype) / num_steps
    return jax.lax.scan(euler, state, times)[0]


def _repeat_traced(
    step: Callable[[Array, Any], Array], action: Array, num_steps: Any, start: int, stop: Any
) -> Array:
    """As `_repeat`, for a number of steps that the program is given when it runs."""

    def euler(k: Array, action: Array) -> Array:
        return step(action, k.astype(action.dtype) / num_steps)

    return jax.lax.fori_loop(start, num_steps if stop is None else stop, euler, action)


def _count(num_steps: Any) -> int:
    """A number of steps: the length of a loop, so known when the program is traced."""
    if isinstance(num_steps, jax.core.Tracer):
        raise UserError(
            "num_steps is traced, and it is the length of a loop that is differentiated or kept within "
            'a radius: give a Python number, under jax.jit with static_argnames="num_steps"'
        )
    try:
        count = operator.index(num_steps)
    except TypeError:
        count = 0
    if count < 1:
        raise UserError(f"num_steps is {num_steps!r}: give a whole number from 1")
    return count


def _check_part(num_steps: Any, start: Any, stop: Any) -> None:
    """Raises `UserError` for a part of the way that is none; what is traced is not known."""
    known = [x for x in (0, start, stop, num_steps) if isinstance(x, int)]
    if known != sorted(known) or isinstance(start, float) or isinstance(stop, float):
        raise UserError(
            f"start is {start} and stop is {stop}: give whole numbers, 0 <= start <= stop <= num_steps"
        )


def check_shape(returned: Array, action: Array, what: str = "velocity") -> Array:
    """What `what` returned. Raises `UserError` if its shape is not the action's."""
    if jnp.shape(returned) != jnp.shape(action):
        raise UserError(
            f"{what} returned shape {jnp.shape(returned)} for an action of shape "
            f"{jnp.shape(action)}: give one that returns the action's shape"
        )
    return returned
