"""Flows made stochastic, and particles along them that are weighted and resampled by a potential.

With t = 0 noise and t = 1 data, and v the velocity at a_t, the two ends that a_t stands for are the
clean action a_t + (1 - t) v and the noise z = a_t - t v. A step of size h replaces a share of that
noise by a fresh draw e:

    a_(t+h) = a_t + h v + (1 - t - h) ((r - 1) z + sqrt(1 - r^2) e),    r = exp(-refresh h / 2)    (1)

At refresh 0 it is Euler's step. As h goes to 0 it is da = (v + g^2 / 2 score) dt + g dW with
g = (1 - t) sqrt(refresh), for the score of a_t is -z / (1 - t), and so has the flow's marginals at every
t, whatever refresh is (Kim et al., 2025, arXiv 2503.19385). In form it is the step of Song et al.,
2021b. No noise is left at t = 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Velocity

Potential = Callable[[Array, Array, Array], Array]
"""(action [D], t [], velocity there [D]) -> G_t []."""


class Particles(NamedTuple):
    """N ends of a stochastic flow."""

    actions: Array
    """[N, D], not clipped."""
    log_weights: Array
    """[N], not normalised."""
    log_evidence: Array
    """[], the logarithm of an unbiased estimate of E[exp(G_1)] under the stochastic flow."""

    @classmethod
    def steer(
        cls,
        velocity: Velocity,
        potential: Potential,
        final: Callable[[Array], Array],
        noise: Array,
        key: Array,
        *,
        num_steps: int,
        refresh: Array | float,
        window: tuple[Array | float, Array | float] = (0.05, 0.95),
        threshold: Array | float = 0.5,
        twist: bool = False,
    ) -> "Particles":
        """Sequential Monte Carlo along the stochastic flow (1) from `noise` [N, D], drawn from N(0, I).

        Particles are weighted by exp(G_t - G_before) at each t = 0, 1 / n, …, with `potential` for G_t,
        and at the end by exp(G_1 - G_before), with `final`, action [D] -> G_1 []. Without resampling the
        product telescopes to exp(G_1). So whatever `potential` is, the weighted particles stand for the
        law of the n steps (1), n being `num_steps`, tilted by exp(G_1). Where t is in `window` and the
        effective size is below `threshold` N, they are resampled, which leaves that so.

        At refresh 0 that law is the Euler flow's own, particles that coincide stay together, and it
        comes to importance sampling of the noise. With `twist`, steps are drawn about mean + std^2
        dG_t/da, and weights divided by what that changes: the target stays, and weights are more even
        (Wu et al., 2023, arXiv 2306.17775). The slope goes through the velocity: taken as if the
        Jacobian were I, which any slope may be, it made weights less even than no twist on a Gaussian.
        """
        n, look = len(noise), _looking(velocity, potential, twist)

        def step(state: tuple[Particles, Array], at: tuple[Array, Array, Array]):
            (actions, log_weights, evidence), before = state
            t, after, key = at
            choice, draw = jax.random.split(key)
            (now, v), slope = jax.vmap(look, (0, None))(actions, t)
            log_weights = log_weights + now - before
            weighed = cls(actions, log_weights, evidence)
            due = weighed.effective_size < threshold * n
            due &= (t >= window[0]) & (t <= window[1])
            chosen = weighed.ancestors(jax.random.uniform(choice))
            chosen = jnp.where(due, chosen, jnp.arange(n))
            evidence = evidence + jnp.where(due, _log_mean(log_weights), 0.0)
            log_weights = jnp.where(due, 0.0, log_weights)
            actions, v, now = actions[chosen], v[chosen], now[chosen]
            mean, std = _Move.of(actions, t, after, v, jnp.asarray(refresh))
            fresh = jax.random.normal(draw, actions.shape)
            if twist:
                push = std * slope[chosen]  # in standard deviations
                log_weights = log_weights - (push * fresh).sum(axis=1) - 0.5 * (push**2).sum(axis=1)
                fresh = fresh + push
            return (cls(mean + std * fresh, log_weights, evidence), now), None

        # As in flow.integrate, k / n to the last bit; the last step ends at 1 and so adds no noise.
        times = jnp.arange(num_steps + 1, dtype=noise.dtype) / num_steps
        start = cls(noise, jnp.zeros(n, noise.dtype), jnp.zeros((), noise.dtype))
        xs = times[:-1], times[1:], jax.random.split(key, num_steps)
        (ends, before), _ = jax.lax.scan(step, (start, jnp.zeros(n, noise.dtype)), xs)
        log_weights = ends.log_weights + jax.vmap(final)(ends.actions) - before
        return cls(ends.actions, log_weights, ends.log_evidence + _log_mean(log_weights))

    @property
    def effective_size(self) -> Array:
        """1 / sum_i p_i^2 [], from 1 to N, p being the softmax of the weights' logarithms."""
        return 1.0 / (jax.nn.softmax(self.log_weights) ** 2).sum()

    def ancestors(self, u: Array) -> Array:
        """Those [N] of a systematic resampling, with one uniform number `u` in [0, 1).

        Particle i has floor(N p_i) or one more children, N p_i on average, p being the softmax of the
        weights' logarithms (Kitagawa, 1996).
        """
        n = len(self.log_weights)
        edges = jnp.cumsum(jax.nn.softmax(self.log_weights))
        # The last edge is 1 but for rounding, which may not lose the last particle.
        return jnp.minimum(jnp.searchsorted(edges, (u + jnp.arange(n)) / n, side="right"), n - 1)


class _Move(NamedTuple):
    """A Gaussian step from each of N particles: mean [N, D] and standard deviation []."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, actions: Array, t: Array, after: Array, velocity: Array, refresh: Array) -> "_Move":
        """Eq. (1) from `actions` [N, D] at time `t` to `after`, `velocity` [N, D] being that at `t`."""
        noise = actions - t * velocity
        left, kept = 1.0 - after, jnp.exp(-0.5 * refresh * (after - t))
        mean = actions + (after - t) * velocity + left * (kept - 1.0) * noise
        return cls(mean, left * jnp.sqrt(1.0 - kept**2))


def _looking(velocity: Velocity, potential: Potential, twist: bool) -> Callable[..., Any]:
    """(action [D], t []) -> ((G_t [], velocity [D]), dG_t/da [D], or zeros without `twist`)."""

    def value(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return potential(action, t, v), v

    if twist:
        return jax.value_and_grad(value, has_aux=True)
    return lambda action, t: (value(action, t), jnp.zeros_like(action))


def _log_mean(log_weights: Array) -> Array:
    return jax.nn.logsumexp(log_weights) - jnp.log(jnp.float32(len(log_weights)))
