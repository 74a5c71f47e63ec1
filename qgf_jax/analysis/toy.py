"""Guided samples of known densities against the exact posterior, after Figs. 2 and 14 of the source.

Zhou et al., 2026. The reference is a mixture of Gaussians, whose flow is known in closed form, so no
network stands between a rule and its answer. Q = -|a - best|^2, and the posterior p(a) exp(w Q(a)) is a
mixture too. The paper prints neither modes nor steps: those here are ours.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qgf_guide import flow
from qgf_guide.guidance import guide
from qgf_jax.analysis import acting
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import numbers
from qgf_jax.types import Array

METHODS = ("qgf", "qgf_jacobian", "jacobian_schedule", "bptt", "qfql")
WEIGHTS = (0.3, 1.0, 3.0)
_STEPS, _SAMPLES, _ENDS, _WAYS = 16, 2000, 400, 50


class _Mixture(NamedTuple):
    """Gaussians of one width, in D dimensions."""

    shares: Array
    """[K], which sum to 1."""
    means: Array
    """[K, D]"""
    spread: float
    """The standard deviation of each, in each dimension."""

    def velocity(self, action: Array, t: Array) -> Array:
        """E[a - z | a_t = action] [D], a_t = (1 - t) z + t a: the flow from noise to this mixture."""
        variance = (1 - t) ** 2 + (t * self.spread) ** 2
        apart = action[None] - t * self.means
        likely = jnp.log(self.shares) - 0.5 * (apart**2).sum(axis=1) / variance
        pull = (t * self.spread**2 - (1 - t)) / variance
        return jax.nn.softmax(likely) @ (self.means + pull * apart)

    def tilted(self, best: Array, weight: float) -> "_Mixture":
        """The density times exp(-weight |a - best|^2), over its integral; `best` [D]."""
        before, more = 1 / self.spread**2, 2 * weight
        after = before + more
        means = (before * self.means + more * best[None]) / after
        gaps = ((self.means - best[None]) ** 2).sum(axis=1)
        shares = jax.nn.softmax(jnp.log(self.shares) - 0.5 * gaps * before * more / after)
        return _Mixture(shares, means, float(after**-0.5))

    def sample(self, key: Array, count: int) -> Array:
        """[count, D]"""
        which, noise = jax.random.split(key)
        places = jax.random.categorical(which, jnp.log(self.shares), shape=(count,))
        normal = jax.random.normal(noise, (count, self.means.shape[1]))
        return self.means[places] + self.spread * normal

    def density(self, points: np.ndarray) -> np.ndarray:
        """[N] at `points` [N, D]."""
        gaps = ((points[:, None] - np.asarray(self.means)) ** 2).sum(axis=2)
        scale = (2 * np.pi * self.spread**2) ** (points.shape[1] / 2)
        return np.exp(-0.5 * gaps / self.spread**2) @ np.asarray(self.shares) / scale


class _Toy(NamedTuple):
    """A problem with a known answer."""

    reference: _Mixture
    best: Array
    """[D], where Q is highest."""

    def q(self, action: Array) -> Array:
        """-|action - best|^2 []"""
        return -((action - self.best) ** 2).sum()

    def act(self, method: str, weight: Array | float, noise: Array) -> Array:
        """The way of a method's flow [steps + 1, D] from `noise` [D]. There is no box."""
        options = dict(Method.named(method).options)
        ends = {
            "straight": flow.endpoint,
            "flow": flow.flow_endpoint(self.reference.velocity, num_steps=_STEPS),
        }
        end = ends[options.pop("endpoint", "straight")]
        field = guide(
            self.reference.velocity, self.q, weight=weight, endpoint=end, clip="none", **options
        )
        way = [noise]
        for k in range(_STEPS):
            one = functools.partial(flow.integrate, num_steps=_STEPS, unroll=True)
            way.append(one(field, way[-1], start=k, stop=k + 1))
        return jnp.stack(way)


def _toys() -> dict[str, _Toy]:
    turn = 2 * np.pi * np.arange(6) / 6
    ring = 2 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    plane = _Mixture(jnp.full(6, 1 / 6), jnp.asarray(ring, jnp.float32), 0.3)
    line = _Mixture(jnp.array([0.4, 0.3, 0.3]), jnp.array([[-2.0], [0.0], [2.0]]), 0.3)
    return {"1-D": _Toy(line, jnp.array([2.5])), "2-D": _Toy(plane, jnp.array([2.5, 0.5]))}


def _energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|) of two samples [N, D]: 0 for equal distributions."""

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)).mean())

    return float(np.sqrt(max(0.0, 2 * apart(x, y) - apart(x, x) - apart(y, y))))


@MEASURES.declare
def _measure() -> dict[str, Any]:
    """By toy: rows of each method and weight, mean Q and energy distance from the exact posterior.

    Of the first samples `ends` too, and of the first few in one dimension the whole `ways`.
    """
    record: dict[str, Any] = {"steps": _STEPS, "samples": _SAMPLES, "toys": {}}
    for name, toy in _toys().items():
        noise = jax.random.normal(jax.random.key(0), (_SAMPLES, len(toy.best)))
        first, again = jax.random.split(jax.random.key(1))
        acts = {
            method: jax.jit(jax.vmap(functools.partial(toy.act, method), in_axes=(None, 0)))
            for method in METHODS
        }
        rows, ways, ends = [], {}, {}
        for weight in WEIGHTS:
            exact = toy.reference.tilted(toy.best, weight)
            answer = np.asarray(exact.sample(first, _SAMPLES))
            rows.append(
                _row(toy, "exact", weight, np.asarray(exact.sample(again, _SAMPLES)), answer)
            )
            for method, act in acts.items():
                way, key = np.asarray(act(jnp.float32(weight), noise)), f"{method}/{weight:g}"
                rows.append(_row(toy, method, weight, way[:, -1], answer))
                ends[key] = numbers(np.round(way[:_ENDS, -1], 3))
                if name == "1-D":
                    ways[key] = numbers(np.round(way[:_WAYS, :, 0], 3))
        record["toys"][name] = {
            "shares": numbers(toy.reference.shares), "means": numbers(toy.reference.means),
            "spread": toy.reference.spread, "best": numbers(toy.best), "rows": rows,
            "ends": ends, "ways": ways,
        }  # fmt: skip
    return record


def _row(toy: _Toy, label: str, weight: float, x: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    finite = np.isfinite(x).all(axis=1)
    x = x[finite]
    return {
        "method": label,
        "weight": weight,
        "q": numbers(-((x - np.asarray(toy.best)) ** 2).sum(axis=1).mean()),
        "energy_distance": numbers(_energy_distance(x, answer)),
        "lost": float(1 - finite.mean()),
    }


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """A row each toy and weight, a column each method: where its flow goes, and the exact answer."""
    count = len(WEIGHTS) * len(record["toys"])
    figure = Figure(figsize=(2.6 * len(METHODS), 2.3 * count))
    rows = iter(figure.subplots(count, len(METHODS), squeeze=False))
    for toy in record["toys"].values():
        reference = _Mixture(jnp.array(toy["shares"]), jnp.array(toy["means"]), toy["spread"])
        off = {(row["method"], row["weight"]): row["energy_distance"] for row in toy["rows"]}
        for weight in WEIGHTS:
            exact = reference.tilted(jnp.array(toy["best"]), weight)
            for ax, method in zip(next(rows), METHODS, strict=True):
                one = _line if toy["ways"] else _plane
                one(ax, toy, f"{method}/{weight:g}", exact, acting.color(method))
                title = f"{method}, w = {weight:g}: {off[method, weight]:.2f}"
                ax.set_title(title, fontsize=8)
                ax.tick_params(labelsize=7)
    figure.suptitle(
        "Flows of known densities under guidance (colour), the exact posterior (black), the best action "
        "(star);\nafter the colon: energy distance from the exact posterior",
        fontsize=10,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    return figure


def _line(ax: Axes, toy: Mapping[str, Any], key: str, exact: _Mixture, color: str) -> None:
    """Ways over time, and beside them the density of the ends and that of the posterior."""
    low, high = -4.0, 5.0
    ways, ends = (np.array(toy[name][key], float) for name in ("ways", "ends"))
    ax.plot(np.linspace(0, 1, ways.shape[1]), ways.T, color=color, lw=0.5, alpha=0.5)
    grid = np.linspace(low, high, 300)
    density = exact.density(grid[:, None])
    ax.plot(1 + 0.35 * density / density.max(), grid, color="black", lw=1)
    heights, edges = np.histogram(ends, bins=60, range=(low, high))
    ax.barh(edges[:-1], 0.35 * heights / max(heights.max(), 1), np.diff(edges), left=1, align="edge",
            color=color, alpha=0.6)  # fmt: skip
    ax.plot(1.0, toy["best"][0], "*", color="#d62728", ms=9, zorder=5)
    ax.set(ylim=(low, high), xlim=(0, 1.4), xticks=[0, 0.5, 1])
    ax.set_xlabel("t", fontsize=7, labelpad=0)
    ax.set_ylabel("action", fontsize=7, labelpad=0)


def _plane(ax: Axes, toy: Mapping[str, Any], key: str, exact: _Mixture, color: str) -> None:
    """Ends, and lines of equal density of the posterior."""
    span = np.linspace(-3.5, 3.5, 120)
    x, y = np.meshgrid(span, span)
    density = exact.density(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    means = np.array(toy["means"])
    ax.plot(*means.T, "+", color="gray", ms=5)
    ax.plot(*np.array(toy["ends"][key], float).T, ".", color=color, ms=2, alpha=0.6)
    levels = density.max() * np.array([0.05, 0.3, 0.8])
    ax.contour(x, y, density, levels=levels, colors="black", linewidths=0.8)
    ax.plot(*toy["best"], "*", color="#d62728", ms=9, zorder=5)
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
