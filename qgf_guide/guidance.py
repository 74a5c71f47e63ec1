"""Guidance: turns a velocity field into one whose flow ends where Q is high.

Everything here sees one action, with observation and parameters already bound into `velocity` and
`q`; batch it with `jax.vmap`, so that the gradient of one sample cannot depend on the others. Where that
is no option, as with a cache that belongs to a whole batch, `guide(…, batched=True)` sees B actions. The
rules are the files of `rules`, written for the last axis of [..., D]; each is an attribute of this
module too.
"""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qgf_guide import conventions
from qgf_guide.bounds import Bound, Finite, Positive
from qgf_guide.conventions import Moment, Time
from qgf_guide.endpoints import one_straight_step
from qgf_guide.errors import UserError
from qgf_guide.lazy import aggregates, flow, is_jax, jnp, norms
from qgf_guide.parts import Part
from qgf_guide.rows import Rows
from qgf_guide.types import Array, Critic, Direction, Endpoint, Velocity

if TYPE_CHECKING:
    from qgf_guide.inpainting import Overlap


_TABLES = {"RULES": "rule", "SCHEDULES": "schedule", "UNITS": "unit"}


def __getattr__(name: str) -> Any:
    """`RULES`, `SCHEDULES` and `UNITS`, name -> function, and each rule under its own name.

    They are made when they are asked for, so that those of other packages are among them.
    """
    if name in _TABLES:
        return {key: part.make for key, part in Part.all(_TABLES[name]).items()}
    if not name.startswith("_") and name in Part.all("rule"):
        return Part.named("rule", name).make
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
    clip: Literal["box", "straight_through", "none"] | None = "box",
    units: str = "raw",
    calibration: Mapping[str, Array] | None = None,
    precondition: Callable[[Array, Array], Array] | None = None,
    slope_clip: Array | float | None = None,
    gate: Callable[[Array], Array] | None = None,
    skip_first: bool = False,
    overlap: "Overlap | None" = None,
    mask: Array | None = None,
    batched: bool = False,
    time: Time = "noise_to_data",
    **options: Any,
) -> Velocity:
    """The guided velocity, `velocity + weight * direction`, as a function of (action [D], t []).

    `velocity` and `q` are any JAX callables, for one action; `weight` may be traced, so a sweep
    over weights is one compilation and one `vmap`. It multiplies the raw gradient and so carries the
    units of 1 / Q, unless `units`, or `precondition`, (direction [D], t) -> direction [D], gives others.

        field = guide(velocity, q, weight=3.0)
        act = lambda noise: jnp.clip(integrate(field, noise, num_steps=10), -1.0, 1.0)
        actions = jax.vmap(act)(jax.random.normal(key, (64, action_dim)))

    In place of `q`, `rule="noise_aware"` takes (action, t) -> Q [], and `rule="learned_slope"`
    (action, t) -> slope of Q [D], and `rule="soft_value"` (action, t, noise [D], steps) -> Q [] of the
    clean action that the noise becomes.

    `rule`, `schedule` and `units` are names of parts; `cap` bounds the schedule that needs it, `options`
    belong to the rule, and `calibration` has the constants of units that need some. The endpoint is
    clipped to [-1, 1]; for another box give `endpoint=functools.partial(flow.endpoint, low=…, high=…)`.
    With `clip="straight_through"` its derivative is as if it were not clipped; with "none", or None, it
    is not, as z-scored actions need.

    `slope_clip` is the most that the rule's direction is long, before units; `gate`, endpoint [D] ->
    factor [], multiplies the weight, see `disagreement_gate`; `skip_first` leaves t = 0 unguided. What
    bounds the whole displacement is `flow.integrate_within`. `overlap`, as `qgf_jax.overlap` makes it of
    the chunk that is being played, adds real-time chunking, see `Overlap.inpainted`. `mask`, of True and
    False or 1 and 0 and of a shape that goes with the action's, has the numbers that guidance may move:
    the actions of a chunk that are executed, or the dimensions that a robot has.

    With `batched` everything is of B actions of any shape: action [B, …], t [], velocity [B, …],
    q(actions) -> [B], gate -> [B], and `weight` [] or [B]. No action's `velocity` or `q` may then depend
    on the others of the batch.

    `time="data_to_noise"` is the convention of openpi and LeRobot: t = 1 is noise, and a velocity points
    away from the data. Velocity, slope and times are given so, and what is returned is such a velocity;
    an `endpoint` and a `precondition` see t = 0 at the noise in any case.

    Raises `UserError` for a part or an option that does not exist, and for a number that it may not be.
    What it returns raises it for a batch of actions that was not announced, a t that is not one number,
    a `q` that is not one number an action, and a velocity or an endpoint of another shape.
    """
    make, needs = _rule(rule, options, batched), Part.named("rule", rule).needs
    end, weigh = _clipped(endpoint, clip), _weighting(weight, schedule, cap, skip_first, batched)
    convert = _conversion(units, calibration, slope_clip)
    changes = units != "raw" or any(x is not None for x in (precondition, slope_clip, gate, mask))
    # A gradient that is added on the way back is JAX's alone; elsewhere chunking has a pass of its own.
    one_pass = is_jax() and not changes and "jacobian" in Part.named("rule", rule).provides
    forward, timed = conventions.is_forward(time), needs & {"noisy_q", "slope", "posterior"}

    _check_mask(mask)

    def field(action: Array, t: Array) -> Array:
        _check_time(t)
        given, moment = Rows.of(action, batched), Moment.of(t, time)
        v, ends = given.velocity(moment.velocity(velocity)), given.endpoint(end)
        asked: Callable[..., Array] = moment.asked(q) if timed else q
        if overlap is not None and one_pass:
            whole = _in_one_pass(make, v, given.each(asked), ends, weigh, overlap)
        else:
            critic = given.slope(asked) if "slope" in needs else _total(given.each(asked))
            converted = _masked(convert, given.direction(precondition), given.mask(mask))
            guided = _guided(make(v, critic, ends), converted, weigh, given.gate(gate), ends)
            whole = guided if overlap is None else overlap.inpainted(guided, v)
        result = given.back(whole(given.rows, moment.ours))
        return result if forward else -result

    return field


def _total(each: Callable[..., Array]) -> Callable[..., Array]:
    """The sum [] over a batch, whose gradient is that of each action's own number."""
    return lambda *args: each(*args).sum()


def _masked(
    convert: Callable[[Array, Array, Array], Array],
    precondition: Callable[[Array, Array], Array] | None,
    mask: Array | None,
) -> Callable[[Array, Array, Array], Array]:
    """`convert`, then `precondition`; what `mask` leaves out neither counts in lengths nor moves."""

    def converted(direction: Array, t: Array, velocity: Array) -> Array:
        # Not a product: 0 times a slope that is not finite is none.
        def kept(x: Array) -> Array:
            return x if mask is None else jnp.where(mask, x, 0.0)

        direction = convert(kept(direction), t, kept(velocity))
        return kept(direction if precondition is None else precondition(direction, t))

    return converted


def _guided(
    direct: Direction,
    convert: Callable[[Array, Array, Array], Array],
    weigh: Callable[[Array], Array],
    gate: Callable[[Array], Array] | None,
    end: Endpoint,
) -> Velocity:
    """velocity + weight · direction."""

    def guided(action: Array, t: Array) -> Array:
        v, direction = direct(action, t)
        direction = convert(direction, t, v)
        weight_now = weigh(jnp.asarray(t, action.dtype))
        if gate is not None:
            weight_now = weight_now * gate(end(action, t, v))
        return v + weight_now * direction

    return guided


def _in_one_pass(
    make: Callable[..., Direction],
    velocity: Velocity,
    q: Critic,
    end: Endpoint,
    weigh: Callable[[Array], Array],
    overlap: "Overlap",
) -> Velocity:
    """velocity + weight · Jᵀ ∇Q + real-time chunking, in one backward pass of the velocity for both."""

    def guided(action: Array, t: Array) -> Array:
        weight_now = weigh(jnp.asarray(t, action.dtype))
        live = weight_now != 0
        divisor = jnp.where(live, weight_now, 1.0)  # of inpainting: multiplied by it below
        ends = overlap.pulled(end, divisor)
        v, direction = make(velocity, _climbed_if(live, q), ends)(action, t)
        return v + divisor * direction

    return guided


def _climbed_if(live: Array, q: Callable[..., Array]) -> Callable[..., Array]:
    """The sum of `q`, without its slope where `live` is false; differentiated even if it is constant."""

    def followed(action: Array) -> Array:
        return jnp.where(live, q(action), 0.0).sum() + 0.0 * action.sum()

    return followed


def disagreement_gate(
    members: Callable[[Array], Array], rate: Array | float
) -> Callable[[Array], Array]:
    """exp(-rate * std(members(endpoint))), in (0, 1]: where a critic's members disagree, guide less.

    `members` is action [D] -> Q [E], or [B, …] -> [E, B] of a batch, the population's standard deviation
    is taken, and `rate` has the units of 1 / Q. For `guide(gate=…)`. After Tang et al., 2026, arXiv
    2607.02092.
    """

    def gate(end: Array) -> Array:
        q = members(end)
        if not jnp.ndim(q):
            raise UserError(
                f"members returned shape {jnp.shape(q)}: they must return [E], a number for each "
                "member of the ensemble, or [E, B] of a batch"
            )
        return jnp.exp(-rate * aggregates.spread(q))

    return gate


def _rule(name: str, options: Mapping[str, Any], batched: bool) -> Callable[..., Direction]:
    """The rule with its options, else a `UserError`."""
    found = Part.named("rule", name)
    if batched and "posterior" in found.needs:
        raise UserError(
            f"rule {name} draws for one action: batch it by jax.vmap, not by batched=True"
        )
    for option, value in options.items():
        if option not in found.fields:
            own = inspect.signature(guide).parameters.values()
            known = {*found.fields, *(p.name for p in own if p.kind is p.KEYWORD_ONLY)}
            raise UserError.unknown(f"option of rule {name}", option, known)
        _check_if_known(f"option {option} of rule {name}", value, found.fields[option].bound)
    return functools.partial(found.make, **options)


def _clipped(endpoint: Endpoint, clip: str | None) -> Endpoint:
    """The endpoint as `clip` of `guide` says."""

    def straight_through(action: Array, t: Array, velocity: Array, *, clip: bool = True) -> Array:
        free = endpoint(action, t, velocity, clip=False)
        if not clip:
            return free
        # Twice, but the program has it once: XLA merges them, unless the endpoint is a loop of its own.
        kept = endpoint(action, t, velocity)
        return flow.passed_through(kept, free)

    kinds = {
        "box": endpoint,
        "straight_through": straight_through,
        "none": functools.partial(endpoint, clip=False),
        None: functools.partial(endpoint, clip=False),
    }
    if clip is not None and (not isinstance(clip, str) or clip not in kinds):
        raise UserError(f"clip is {clip!r}: give 'box', 'straight_through' or 'none'")
    return kinds[clip]


def _conversion(
    units: str,
    calibration: Mapping[str, Array] | None,
    slope_clip: Array | float | None,
) -> Callable[[Array, Array, Array], Array]:
    """(direction [D], t [], velocity [D]) -> what the weight multiplies [D]."""
    _check_slope_clip(slope_clip)
    unit = Part.named("unit", units)
    if "calibration" in unit.needs and calibration is None:
        raise UserError(f"units={units} has constants: give calibration=…, as rules/units.py says")

    def convert(direction: Array, t: Array, velocity: Array) -> Array:
        if slope_clip is not None:
            direction = norms.shorten(direction, slope_clip)
        more = (velocity,) if "velocity" in unit.needs else ()
        return unit.make(calibration or {}, direction, t, *more)

    return convert


def _weighting(
    weight: Array | float, schedule: str, cap: float, skip_first: bool, batched: bool
) -> Callable[[Array], Array]:
    """t [] -> the weight there [], or [B, 1] where each action of a batch has its own."""
    factor = Part.named("schedule", schedule).make
    _check_if_known("weight", weight, Bound.of(Finite))
    _check_if_known("cap", cap, Bound.of(Positive))
    if jnp.ndim(weight) > batched:
        several = "[B], one an action" if batched else "one number, and several by jax.vmap"
        raise UserError(f"weight has shape {jnp.shape(weight)}: give {several}")
    each = jnp.asarray(weight)[:, None] if jnp.ndim(weight) else weight

    def weigh(t: Array) -> Array:
        now = jnp.asarray(each * factor(t, cap), t.dtype)
        return jnp.where(t > 0, now, 0.0) if skip_first else now

    return weigh


def _check_slope_clip(most: Any) -> None:
    if most is None:
        return
    try:
        number = math.inf if jnp.ndim(most) else float(most)
    except TypeError:  # of a number that is traced
        return
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"slope_clip is {most}: give one number above 0, or None for no bound")


def _check_if_known(what: str, value: Any, bound: Bound) -> None:
    """Raises `UserError` for a value that is not one of the bound's; an array may be traced."""
    if value is None or isinstance(value, (str, numbers.Number, np.generic)):
        bound.check(what, value)


def _check_mask(mask: Any) -> None:
    """Raises `UserError` for numbers that are neither 0 nor 1, where they are known."""
    if mask is None:
        return
    try:
        values = np.asarray(mask)
    except (TypeError, RuntimeError):  # traced, or on a device that NumPy does not read
        return
    except ValueError:
        values = np.array(math.nan)
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise UserError("mask has more than 0 and 1: give True where guidance may move the action")


def _check_time(t: Any) -> None:
    if jnp.ndim(t):
        raise UserError(
            f"t has shape {jnp.shape(t)}: a guided velocity takes one number, the same for a whole batch"
        )
