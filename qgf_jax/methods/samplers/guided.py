"""The flow policy under a guidance rule."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from qgf_jax.bounds import Count, Positive
from qgf_jax.errors import UserError
from qgf_jax.methods import guidance
from qgf_jax.methods.lazy import flow, jax, jnp, networks
from qgf_jax.methods.parts import Names, Part, part, sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    provides=("concrete_t", "inpainting"),
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
    num_steps: Annotated[Count, "steps of the flow"] = 10,
    **options: Any,
) -> Sample:
    """A flow under a guidance rule, which takes `options`.

    `params` may have an `Overlap` with the chunk before, "overlap", which the new one goes on from.
    """
    needs = part("rule", rule).needs
    end, unit = part("endpoint", endpoint), part("unit", units)

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        velocity = nets.velocity(params["policy"], obs)
        field = guidance.guide(
            velocity,
            _critic(nets, params, obs, needs, scale),
            weight=weight,
            rule=rule,
            schedule=schedule,
            cap=cap,
            endpoint=end.make(nets, params, obs, velocity, num_steps),
            clip="box" if nets.spec.clip else "none",
            precondition=None
            if units == "raw"
            else functools.partial(unit.make, _constants(params, unit, scale)),
            overlap=params.get("overlap"),
            **options,
        )
        noise = jax.random.normal(key, (nets.chunk_dim,))
        unroll = "concrete_t" in end.needs
        action = flow.integrate(field, noise, num_steps=num_steps, unroll=unroll)
        return nets.clip(action)

    return sample


def _critic(
    nets: "Networks", params: Params, obs: Obs, needs: frozenset[str], scale: str
) -> Callable[..., Array]:
    """What a rule asks for by its needs."""
    if "noisy_q" in needs:
        return lambda action, t: nets.noisy_critic.apply(
            params["noisy_critic"], obs, action, networks.sinusoidal(jnp.asarray(t))
        )
    if "q" in needs:
        return (nets.q_of if scale == "value" else nets.q_logit_of)(params["critic"], obs)
    return _undeclared


def _undeclared(*_: Any) -> Array:
    raise UserError('a guidance rule asks for Q and does not say so: declare needs=("q",)')


def _constants(params: Params, unit: Part, scale: str) -> Params:
    """The run's calibration, `q_std` being the spread of what is climbed."""
    if "calibration" not in unit.needs:
        return {}
    constants = params["calibration"]
    return {**constants, "q_std": constants["q_std" if scale == "value" else "logit_std"]}
