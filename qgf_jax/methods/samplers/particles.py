"""Particles along a flow with noise, resampled by what the critic sees ahead of them."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count, Fraction, NonNegative
from qgf_jax.methods.lazy import flow, jax, jnp, particles
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(needs=("flow", "q"), source="Singhal et al., 2025, arXiv 2501.06848")
def _particles(
    nets: "Networks",
    *,
    count: Annotated[Count, "particles"] = 8,
    refresh: Annotated[NonNegative, "rate at which noise is replaced by fresh noise"] = 4.0,
    window_start: Annotated[Fraction, "resample from this t on"] = 0.05,
    window_end: Annotated[Fraction, "resample up to this t"] = 0.95,
    threshold: Annotated[Fraction, "resample below this share of effective particles"] = 0.5,
    ramp: Annotated[bool, "whether the potential grows as t on the way"] = False,
    twisted: Annotated[
        bool, "whether particles are drawn along the slope of the potential"
    ] = False,
    num_steps: Annotated[Count, "steps of the flow"] = 10,
) -> Sample:
    """One of `count` particles, drawn by its weight: the flow's law tilted by exp(weight * Q).

    The potential is weight * Q at the one-step endpoint, see `core.particles`. At weight 0 there is
    nothing to resample by, and it is the reference's own action.
    """

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        velocity, q = nets.velocity(params["policy"], obs), nets.q_of(params["critic"], obs)

        def end(action: Array, t: Array, v: Array) -> Array:
            return nets.clip(flow.endpoint(action, t, v, clip=False))

        def scale(t: Array) -> Array:
            return weight * t if ramp else weight

        def potential(action: Array, t: Array, v: Array) -> Array:
            return scale(t) * q(end(action, t, v))

        width = (nets.chunk_dim,)
        starts, draw, walk = (jax.random.fold_in(key, i) for i in range(3))
        others = jax.random.normal(starts, (count - 1, *width))
        found = particles.Particles.steer(
            velocity,
            potential,
            lambda action: weight * q(nets.clip(action)),
            # The first starts as the reference does, so that the two agree at weight 0.
            jnp.concatenate([jax.random.normal(key, (1, *width)), others]),
            walk,
            num_steps=num_steps,
            refresh=jnp.where(weight == 0, 0.0, refresh),
            window=(window_start, window_end),
            threshold=threshold,
            twist=twisted,
        )
        drawn = jax.random.categorical(draw, found.log_weights)
        return nets.clip(found.actions[jnp.where(weight == 0, 0, drawn)])

    return sample
