"""Samplers: `factory(nets, *, options) -> sample(params, target_params, obs, key, weight)`.

One observation in, one action chunk out, flattened and inside [-1, 1]. Batch with `jax.vmap`.
Where a parameter group has a slow copy, the slow copy acts. What guides an action ranks it too,
unless networks.ranking is online.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, NonNegative, Positive
from qgf_jax.core import diffusion, flow, guidance
from qgf_jax.core.networks import Networks, normalize_length, sinusoidal
from qgf_jax.types import Array, Endpoint, Obs, Params, Sample


def guided(
    nets: Networks,
    *,
    group: str = "policy",
    rule: str = "one_step",
    endpoint: Literal["straight", "flow", "learned"] = "straight",
    schedule: Literal["constant", "linear", "ratio"] = "constant",
    cap: Positive = 3.0,
    units: Literal["raw", "spread", "variance", "covariance", "posterior"] = "raw",
    scale: Literal["value", "logit"] = "value",
    num_steps: Count = 10,
    **options: Any,
) -> Sample:
    """A flow under a rule of `guidance.RULES`, which takes `options` (Zhou et al., 2026, Algorithm 1).

    `group`: parameters of the flow. `endpoint`: where the critic looks: at the end of one straight
    step, of the rest of the `flow`, or where a `learned` network says. `schedule`, `cap`: how the
    weight changes with t. `units`: what the weight is measured in, see `UNITS`. `scale`: of a critic
    between 0 and 1, whether its `value` is climbed or the `logit` of it.
    """

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        groups = params | target
        velocity = nets.velocity(groups[group], obs)
        ends: dict[str, Endpoint] = {
            "straight": flow.endpoint,
            "flow": flow.flow_endpoint(velocity, num_steps=num_steps),
            "learned": _learned_endpoint(nets, groups, obs),
        }
        q = (
            _noisy_critic(nets, groups, obs)
            if rule == "noise_aware"
            else (nets.q_of if scale == "value" else nets.q_logit_of)(groups["critic"], obs)
        )
        precondition = None
        if units != "raw":
            constants = groups["calibration"]
            spread = constants["q_std" if scale == "value" else "logit_std"]
            precondition = functools.partial(UNITS[units], {**constants, "q_std": spread})
        field = guidance.guide(
            velocity,
            q,
            weight=weight,
            rule=rule,
            schedule=schedule,
            cap=cap,
            endpoint=ends[endpoint],
            precondition=precondition,
            **options,
        )
        noise = jax.random.normal(key, (nets.chunk_dim,))
        action = flow.integrate(field, noise, num_steps=num_steps, unroll=endpoint == "flow")
        return jnp.clip(action, -1.0, 1.0)

    return sample


def _learned_endpoint(nets: Networks, groups: Params, obs: Obs) -> Endpoint:
    def end(action: Array, t: Array, velocity: Array, *, clip: bool = True) -> Array:
        del velocity
        action = nets.policy.apply(groups["endpoint"], obs, action, t)
        return jnp.clip(action, -1.0, 1.0) if clip else action

    return end


def _noisy_critic(nets: Networks, groups: Params, obs: Obs) -> Any:
    return lambda action, t: nets.noisy_critic.apply(
        groups["noisy_critic"], obs, action, sinusoidal(jnp.asarray(t))
    )


Calibration = Mapping[str, Array]
"""`q_std` [], and `values` [D] and `vectors` [D, D], the reference policy's covariance by its axes.

`q_std` is the spread of what is climbed: of Q, or of its logit."""


def _variance(calibration: Calibration, slope: Array, t: Array) -> Array:
    del t
    variance = _matmul(calibration["vectors"] ** 2, calibration["values"])
    return variance * slope / calibration["q_std"]


def _along(calibration: Calibration, slope: Array, factors: Array) -> Array:
    """`slope` [D] with each component along the covariance's axes times its factor [D]."""
    vectors = calibration["vectors"]
    return _matmul(vectors, factors * _matmul(slope, vectors)) / calibration["q_std"]


# Small ones, in full float32 whatever the precision of the networks.
_matmul = functools.partial(jnp.matmul, precision="highest")


def _covariance(calibration: Calibration, slope: Array, t: Array) -> Array:
    del t
    return _along(calibration, slope, calibration["values"])


def _posterior(calibration: Calibration, slope: Array, t: Array) -> Array:
    spread, rest = calibration["values"], 1.0 - t
    return _along(calibration, slope, spread * rest / (rest**2 + t**2 * spread))


UNITS: dict[str, Callable[[Calibration, Array, Array], Array]] = {
    "raw": lambda calibration, slope, t: slope,
    "spread": lambda calibration, slope, t: slope / calibration["q_std"],
    "variance": _variance,
    "covariance": _covariance,
    "posterior": _posterior,
}
"""What the weight multiplies, from the run's constants (`calibrate`), the slope [D] and t.

`raw`: the slope. `spread`: over the spread of Q (with `scale=logit`, of its logit) among reference
actions, so that it has no units of reward. `variance`, `covariance`: times the (co)variance of
reference actions too, the first-order shift of their mean under exp(weight * Q / spread).
`posterior`: the same for what the half-made action still leaves open, if actions were Gaussian,
(1 - t) S / ((1 - t) ** 2 + t ** 2 S).
"""


def ascended(
    nets: Networks, *, steps: Count = 3, sign: bool = False, num_steps: Count = 10
) -> Sample:
    """GradStep: gradient ascent on Q from the reference action; the weight is the step size.

    Zhou et al., 2026, Algorithm 2, after Mark et al., 2024; clipped to the box after each of `steps`.
    `sign` keeps the gradient's signs alone.
    """

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        groups = params | target
        slope = jax.grad(nets.q_of(groups["critic"], obs))
        velocity = nets.velocity(groups["policy"], obs)
        noise = jax.random.normal(key, (nets.chunk_dim,))
        start = jnp.clip(flow.integrate(velocity, noise, num_steps=num_steps), -1.0, 1.0)

        def step(action: Array, _: None) -> tuple[Array, None]:
            g = slope(action)
            return jnp.clip(action + weight * (jnp.sign(g) if sign else g), -1.0, 1.0), None

        return jax.lax.scan(step, start, None, steps)[0]

    return sample


def conditioned(nets: Networks, *, num_steps: Count = 10) -> Sample:
    """CFGRL: v(label 0) + weight * (v(label 1) - v(label 0)) (Frans et al., 2025)."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        group = (params | target)["actor"]

        def velocity(action: Array, t: Array) -> Array:
            both = jax.vmap(lambda label: nets.labelled.apply(group, obs, action, t, label))
            plain, better = both(jnp.arange(2))
            return plain + weight * (better - plain)

        noise = jax.random.normal(key, (nets.chunk_dim,))
        return jnp.clip(flow.integrate(velocity, noise, num_steps=num_steps), -1.0, 1.0)

    return sample


def one_shot(nets: Networks) -> Sample:
    """One pass from noise to action."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        noise = jax.random.normal(key, (nets.chunk_dim,))
        action = nets.one_step.apply((params | target)["actor"], obs, noise, noise[0])
        return jnp.clip(action, -1.0, 1.0)

    return sample


def denoised(nets: Networks, *, posterior: bool = True, num_steps: Count = 10) -> Sample:
    """A diffusion policy; `posterior=False` is the public code's chain, see `diffusion.sample`."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        group = (params | target)["actor"]

        def noise(action: Array, k: Array) -> Array:
            return nets.predict_noise(group, obs, action, k, num_steps)

        return diffusion.sample(
            noise, key, nets.chunk_dim, num_steps=num_steps, posterior=posterior
        )

    return sample


def steered(nets: Networks, *, noise_scale: Positive = 1.0, num_steps: Count = 10) -> Sample:
    """DSRL: the flow policy from a noise that an actor chose (Wagenmaker et al., 2025)."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        groups = params | target
        mean, log_std = nets.gaussian.apply(groups["actor"], obs)
        latent = jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))
        velocity = nets.velocity(groups["policy"], obs)
        action = flow.integrate(velocity, noise_scale * latent, num_steps=num_steps)
        return jnp.clip(action, -1.0, 1.0)

    return sample


def gaussian(nets: Networks, *, squash: bool = False, temperature: NonNegative = 0.0) -> Sample:
    """A Gaussian policy: its mean, or a draw with `temperature` times its standard deviation."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        mean, log_std = nets.gaussian.apply((params | target)["actor"], obs)
        if temperature:
            noise = jax.random.normal(key, mean.shape)
            mean = mean + temperature * jnp.exp(log_std) * noise
        return jnp.tanh(mean) if squash else jnp.clip(mean, -1.0, 1.0)

    return sample


def hierarchical(nets: Networks) -> Sample:
    """HIQL: the high policy's mean as a code, and the low policy's mean for it (Park et al., 2023)."""

    def sample(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del key, weight
        groups = params | target
        code = normalize_length(nets.high.apply(groups["high"], obs)[0])
        return jnp.clip(nets.low.apply(groups["low"], obs, code)[0], -1.0, 1.0)

    return sample


def best_of(nets: Networks, sample: Sample, n: int) -> Sample:
    """Draws `n` actions and keeps the one that the critic likes best, see `Networks.rank_of`.

    With `n` = 1 it is `sample` itself.
    """
    if n == 1:
        return sample

    def best(params: Params, target: Params, obs: Obs, key: Array, weight: Array) -> Array:
        keys = jax.random.split(key, n)
        actions = jax.vmap(lambda k: sample(params, target, obs, k, weight))(keys)
        q = jax.vmap(nets.rank_of(params, target, obs))(actions)
        return actions[jnp.argmax(q)]

    return best


SAMPLERS: dict[str, Callable[..., Sample]] = {
    "guided": guided,
    "ascended": ascended,
    "conditioned": conditioned,
    "one_shot": one_shot,
    "denoised": denoised,
    "steered": steered,
    "gaussian": gaussian,
    "hierarchical": hierarchical,
}
