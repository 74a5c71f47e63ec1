"""The flow policy under a guidance rule."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from qgf_guide import guidance
from qgf_guide.bounds import Count, History, NonNegative, Positive
from qgf_jax.errors import UserError
from qgf_jax.methods.lazy import checks, flow, jnp, networks, prepared
from qgf_jax.methods.parts import Names, Part, sampler
from qgf_jax.methods.policies.posterior import posterior_flow
from qgf_jax.types import Array, Critic, Obs, Params, Sample, Staged, Velocity

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks

# Younger than runs that there are, in which none of these was on.
_Switch = Annotated[bool, History(past=False)]
_Number = Annotated[NonNegative, History(past=0.0)]


@sampler(
    provides=("concrete_t", "velocity", "inpainting", "stages", "noise"),
    needs=("flow",),
    source="Zhou et al., 2026, arXiv 2606.11087, Algorithm 1",
)
def _guided(
    nets: "Networks",
    *,
    rule: Annotated[
        str, Names("rule"), "how the critic's gradient acts on the velocity"
    ] = "one_step",
    endpoint: Annotated[str, Names("endpoint"), "where the critic looks"] = "straight",
    schedule: Annotated[str, Names("schedule"), "how the weight changes with t"] = "constant",
    cap: Annotated[Positive, "most that schedule=ratio multiplies the weight by"] = 3.0,
    units: Annotated[str, Names("unit"), "what the weight is measured in"] = "raw",
    scale: Annotated[
        Literal["value", "logit"], "what is climbed of a critic between 0 and 1"
    ] = "value",
    straight_through: Annotated[_Switch, "whether slopes pass the endpoint's clip"] = False,
    slope_clip: Annotated[_Number, "largest length of the direction, before units; 0: any"] = 0.0,
    gate: Annotated[_Number, "c of exp(-c * std of the critic's members) times the weight"] = 0.0,
    trust_radius: Annotated[_Number, "most that guidance moves an action; 0: any"] = 0.0,
    skip_first: Annotated[_Switch, "whether the first step is unguided"] = False,
    num_steps: Annotated[Count, "steps of the flow"] = 10,
    **options: Any,
) -> Sample:
    """A flow under a guidance rule, which takes `options`.

    `params` may have an `Overlap` with the chunk before, "overlap", which the new one goes on from.
    """
    needs = Part.named("rule", rule).needs
    end, unit = Part.named("endpoint", endpoint), Part.named("unit", units)
    clip = ("straight_through" if straight_through else "box") if nets.spec.clip else "none"
    if not checks.is_off(gate) and nets.ensemble < 2:
        raise UserError("gate needs members that can disagree, and networks.ensemble is 1")

    def bind(params: Params, obs: Obs, weight: Array) -> tuple[Velocity, Velocity]:
        velocity = nets.velocity(params["policy"], obs)
        asks = "q" in needs or not checks.is_off(gate)
        # One for both, so that a critic that is climbed and gates is evaluated once a step.
        members = _members(nets, params, obs, scale) if asks else _undeclared
        return velocity, guidance.guide(
            velocity,
            _critic(nets, params, obs, needs, members, straight_through),
            weight=weight,
            rule=rule,
            schedule=schedule,
            cap=cap,
            endpoint=end.make(nets, params, obs, velocity, num_steps),
            clip=clip,
            units=units,
            calibration=_constants(params, unit, scale),
            slope_clip=None if checks.is_off(slope_clip) else slope_clip,
            gate=None if checks.is_off(gate) else guidance.disagreement_gate(members, gate),
            skip_first=skip_first,
            overlap=params.get("overlap"),
            **options,
        )

    steps: dict[str, Any] = {"num_steps": num_steps, "unroll": "concrete_t" in end.needs}

    return _flowing(nets, bind, trust_radius, steps)


def _flowing(
    nets: "Networks",
    bind: Callable[[Params, Obs, Array], tuple[Velocity, Velocity]],
    trust_radius: Array | float,
    steps: Mapping[str, Any],
) -> Sample:
    """From noise to an action; `bind` gives the reference's velocity and the guided one."""
    num_steps = steps["num_steps"]
    half = num_steps // 2

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        velocity, field = bind(params, obs, weight)
        noise = nets.noise(key)
        if checks.is_off(trust_radius):
            action = flow.integrate(field, noise, **steps)
        else:
            # The action that Q may not move far from goes on from the chunk before too.
            if (overlap := params.get("overlap")) is not None:
                velocity = overlap.inpainted(velocity, velocity)
            action = flow.integrate_within(field, velocity, noise, radius=trust_radius, **steps)
        return nets.clip(action)

    def begin(params: Params, obs: Obs, key: Array, weight: Array) -> tuple[Array, Array]:
        velocity, field = bind(params, obs, weight)
        noise = nets.noise(key)
        action, t = flow.integrate(field, noise, stop=half, **steps), jnp.float32(half / num_steps)
        # The reference's velocity: a guided one costs a critic's gradient for each candidate.
        return action, nets.clip(flow.endpoint(action, t, velocity(action, t), clip=False))

    def finish(params: Params, obs: Obs, action: Array, weight: Array) -> Array:
        field = bind(params, obs, weight)[1]
        return nets.clip(flow.integrate(field, action, start=half, **steps))

    # Under a trust region the flow is two flows, of which half-way there is no record.
    return Staged(sample, begin, finish) if checks.is_off(trust_radius) else sample


def _critic(
    nets: "Networks",
    params: Params,
    obs: Obs,
    needs: frozenset[str],
    members: Callable[[Array], Array],
    straight_through: bool,
) -> Callable[..., Array]:
    """What a rule asks for by its needs."""
    if "noisy_q" in needs:
        noisy = prepared.network(nets.noisy_critic, params["noisy_critic"], obs)
        return lambda action, t: noisy(action, networks.sinusoidal(jnp.asarray(t)))
    if "slope" in needs:
        return nets.velocity(params["slope"], obs)
    if "q" in needs:

        def q(action: Array) -> Array:
            return nets.aggregate(members(action))

        return _of_draws(nets, params, obs, q, straight_through) if "posterior" in needs else q
    return _undeclared


def _of_draws(
    nets: "Networks", params: Params, obs: Obs, q: Critic, straight_through: bool
) -> Callable[..., Array]:
    """(action [D], t [], noise [D], steps) -> Q [] of the clean action that the noise becomes."""

    def q_of_draw(action: Array, t: Array, noise: Array, num_steps: int) -> Array:
        velocity = posterior_flow(nets, params["posterior"], obs, action, t)
        free = flow.integrate(velocity, noise, num_steps=num_steps)
        kept = nets.clip(free)
        return q(flow.passed_through(kept, free) if straight_through else kept)

    return q_of_draw


def _members(nets: "Networks", params: Params, obs: Obs, scale: str) -> Callable[[Array], Array]:
    """action [D] -> Q [E] of the critic's members, in the units of what is climbed."""
    logits = nets.logits_of(params["critic"], obs)
    return logits if scale == "logit" else lambda action: nets.to_value(logits(action))


def _undeclared(*_: Any) -> Array:
    raise UserError('a guidance rule asks for Q and does not say so: declare needs=("q",)')


def _constants(params: Params, unit: Part, scale: str) -> Params:
    """The run's calibration, `q_std` being the spread of what is climbed."""
    if "calibration" not in unit.needs:
        return {}
    constants = params["calibration"]
    return {**constants, "q_std": constants["q_std" if scale == "value" else "logit_std"]}
