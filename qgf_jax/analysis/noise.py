"""How far each estimator of the critic's slope turns when the action on its way is perturbed.

The cosine between G(s, a_t) and G(s, a_t + sigma e), with e of unit normal numbers and a_t on the
reference's own path from noise (Zhou et al., 2026, Figs. 3 and 18, who do not say their sigma): over a
grid of sigma and t, since the order of the estimators depends on both.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from qgf_guide import flow
from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import numbers
from qgf_jax.training.weighing import State
from qgf_jax.types import Array, Direction, Endpoint, Velocity

ESTIMATORS = ("qgf", "qgf_jacobian", "qgf_chain", "bptt", "qfql")
SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Standard deviations of the perturbation, of each number; the box is from -1 to 1."""
_SHIFTS = 4
"""Perturbations of a state, the same for all sigma, t and estimators."""
_MOST_TIMES = 10


def _cosines(slope: Callable[[Array], Array], action: Array, shifts: Array, sigmas: Array) -> Array:
    """[Σ, K] between the slope at `action` [D] and at action + sigma * shift, `shifts` [K, D].

    NaN where one of the two slopes is 0 and so has no direction.
    """
    clean = slope(action)

    def one(sigma: Array, shift: Array) -> Array:
        noisy = slope(action + sigma * shift)
        lengths = jnp.sqrt((clean @ clean) * (noisy @ noisy))
        return jnp.where(lengths > 0, clean @ noisy / jnp.where(lengths > 0, lengths, 1.0), jnp.nan)

    return jax.vmap(lambda sigma: jax.vmap(functools.partial(one, sigma))(shifts))(sigmas)


def _times(num_steps: int) -> list[int]:
    """The steps of the flow at whose beginning the slope is looked at."""
    count = min(num_steps, _MOST_TIMES)
    return [round(k) for k in np.linspace(0, num_steps - 1, count)]


def _of_method(name: str, state: State) -> Direction:
    """The direction of a method's rule, before weight and units, as a function of a traced t."""
    options, velocity = Method.named(name).options, state.velocity
    end = _rest_of_flow(velocity, state.num_steps) if "endpoint" in options else flow.endpoint
    end = functools.partial(end, clip=state.nets.spec.clip)
    return Part.named("rule", options["rule"]).make(velocity, state.q(), end)


def _rest_of_flow(velocity: Velocity, num_steps: int) -> Endpoint:
    """`flow.flow_endpoint` for a t that is traced: steps before t are taken and not counted.

    So one program serves every t, which is compiled in a tenth of the time.
    """

    def end(action: Array, t: Array, first: Array, *, clip: bool = True) -> Array:
        def euler(action: Array, k: Array) -> tuple[Array, None]:
            time = k / num_steps
            on = time > t + 0.5 / num_steps
            return action + jnp.where(on, velocity(action, time), 0.0) / num_steps, None

        steps = jnp.arange(1, num_steps, dtype=action.dtype)
        action = jax.lax.scan(euler, action + first / num_steps, steps)[0]
        return jnp.clip(action, -1.0, 1.0) if clip else action

    return end


def _in_one_state(state: State) -> dict[str, Array]:
    """By estimator the cosines [T, Σ, K]."""
    width, steps, sigmas = state.nets.chunk_dim, state.num_steps, jnp.array(SIGMAS)
    shifts = jax.random.normal(jax.random.fold_in(state.key, 1), (_SHIFTS, width))

    def step(action: Array, t: Array) -> tuple[Array, Array]:
        return action + state.velocity(action, t) / steps, action

    times = jnp.arange(steps) / jnp.float32(steps)
    points = jax.lax.scan(step, state.noise, times)[1]
    chosen = np.array(_times(steps))

    def at(x: tuple[Array, Array]) -> dict[str, Array]:
        found = {}
        for name in ESTIMATORS:
            direct = _of_method(name, state)
            found[name] = _cosines(lambda a, d=direct: d(a, x[1])[1], x[0], shifts, sigmas)
        return found

    return jax.lax.map(at, (points[chosen], times[chosen]))


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`cosine` [E, T, Σ], its mean over seeds, states and perturbations; by seed; what is undefined."""
    subject.arms(ESTIMATORS)
    found = subject.measure(lambda params, state: _in_one_state(state))
    every = np.stack([found[name] for name in ESTIMATORS])  # [E, S, N, T, Σ, K]
    defined = np.isfinite(every)
    sums = np.where(defined, every, 0.0).sum(axis=(2, 5))
    by_seed = sums / np.maximum(defined.sum(axis=(2, 5)), 1)
    by_seed = np.where(defined.any(axis=(2, 5)), by_seed, np.nan)  # [E, S, T, Σ]
    mean = by_seed.mean(axis=1)
    best = np.argmax(np.where(np.isfinite(mean), mean, -np.inf), axis=0)
    return {
        "estimators": list(ESTIMATORS),
        "times": [k / subject.num_steps for k in _times(subject.num_steps)],
        "sigmas": list(SIGMAS),
        "perturbations": _SHIFTS,
        "cosine": numbers(mean),
        "cosine_by_seed": numbers(by_seed.swapaxes(0, 1)),
        "undefined": numbers(1 - defined.mean(axis=(1, 2, 5))),
        "steadiest": [[ESTIMATORS[i] for i in row] for row in best],
    }


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """A panel each sigma: 1 - cosine against t, a line an estimator, a band over seeds."""
    times, sigmas = record["times"], record["sigmas"]
    by_seed = 1 - np.array(record["cosine_by_seed"], float)  # [S, E, T, Σ]
    figure = Figure(figsize=(3.1 * len(sigmas), 3.4))
    axes = figure.subplots(1, len(sigmas), sharey=True, squeeze=False)[0]
    for j, (ax, sigma) in enumerate(zip(axes, sigmas, strict=True)):
        for i, name in enumerate(record["estimators"]):
            color, turned = acting.color(name), np.maximum(by_seed[:, i, :, j], 1e-7)
            ax.plot(times, turned.mean(axis=0), color=color, marker=".", label=name)
            ax.fill_between(times, turned.min(axis=0), turned.max(axis=0), color=color, alpha=0.15)
        ax.set(title=f"σ = {sigma:g}", xlabel="t (0: noise, 1: action)", yscale="log")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("1 - cosine(clean, perturbed)")
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    figure.suptitle(
        f"{record['env']}: how far the slope turns, lower is steadier (band: least and most of seeds)",
        fontsize=10,
    )
    figure.tight_layout()
    return figure
