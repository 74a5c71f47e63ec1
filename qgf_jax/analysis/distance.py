"""How far actions are from what the data did nearby, and how many of their numbers are at the box.

The distance is Euclidean, of a whole chunk in the networks' units (box [-1, 1]), to the nearest of the
chunks whose states are nearest (`training.weighing`). That of the data is of the chunk of the nearest
state to those that are another one: chunks are drawn with replacement.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject, mean_of_best
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.training.weighing import State
from qgf_jax.types import Array, Params

_EDGE = 1e-4
"""Numbers this near to the box's edge count as clipped; the data's own are kept 1e-5 inside it."""


def _at_edge(action: Array) -> Array:
    """The share [] of the numbers of `action` [D] that are at an edge of the box [-1, 1]."""
    return (jnp.abs(action) >= 1.0 - _EDGE).mean(dtype=jnp.float32)


def _nearest_other(action: Array, actions: Array) -> Array:
    """The distance [] from `action` [D] to the nearest of `actions` [K, D] that differs from it."""
    gaps = jnp.sqrt(((actions - action[None]) ** 2).sum(axis=1))
    return jnp.where(gaps > 0, gaps, jnp.inf).min()


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`distance` and `clipped`: rows of method, weight, mean and interval."""
    arms, weights = subject.arms(acting.METHODS), subject.weights()

    def one(params: Params, state: State) -> dict[str, Array]:
        _, drawn = subject.reference(params, state)
        actions = subject.actions(arms, params, state, weights)
        judges = {"distance": state.distance, "clipped": _at_edge}
        ranks, found = jax.vmap(state.q())(drawn), {}
        for name, judge in judges.items():
            found |= {f"{name}/{label}": jax.vmap(judge)(x) for label, x in actions.items()}
            values = jax.vmap(judge)(drawn)
            for n in acting.BEST_OF:
                found[f"{name}/best of {n}"] = mean_of_best(ranks, values, n)
        found["distance/data"] = _nearest_other(state.data[0], state.data)
        return found | {"clipped/data": jax.vmap(_at_edge)(state.data).mean()}

    record: dict[str, list[dict[str, Any]]] = {"distance": [], "clipped": []}
    for name, table in subject.measure(one).items():
        what, _, label = name.partition("/")
        record[what] += acting.rows(label, weights, table)
    return record


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """Left the distance, right the share of numbers at the box's edge, by weight."""
    figure = Figure(figsize=(9.4, 3.8))
    left, right = figure.subplots(1, 2)
    acting.plot(left, record["distance"], "distance to the nearest data chunk")
    acting.plot(right, record["clipped"], "share of numbers at the box's edge")
    figure.suptitle(f"{record['env']}: how near guided actions stay to the data", fontsize=10)
    figure.tight_layout()
    return figure
