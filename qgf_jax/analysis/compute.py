"""What one action costs, counted in the compiled programs of the run's own networks.

Operations of matrix products, and kernels: what the program starts one after the other, compiled for a
CPU and for a batch. `qgf methods` has the operations of every method with networks of one width.
"""

from collections.abc import Mapping
from typing import Any

import jax
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.runtime import flops
from qgf_jax.training.costs import BATCH, compiled_acting

METHODS = (
    "reference", "best_of", "qgf", "qgf_jacobian", "qgf_chain", "bptt", "qfql", "grad_step",
)  # fmt: skip
_UNIT = "qgf"


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`rows`: by method operations and kernels of an action chunk, also relative to those of QGF."""
    loaded = subject.loaded
    params = jax.eval_shape(lambda: loaded.params_of(0))
    rows: list[dict[str, Any]] = []
    for label, arm in subject.arms(METHODS).items():
        sample = loaded.sampler(arm.method, arm.best_of, arm.options)
        _, compiled = compiled_acting(sample, params, loaded.spec)
        rows.append({
            "method": label, "flops": flops.count(compiled) / BATCH,
            "kernels": flops.launches(compiled),
        })  # fmt: skip
    unit = next((row for row in rows if row["method"] == _UNIT), rows[0])
    for row in rows:
        row["flops_relative"] = round(row["flops"] / unit["flops"], 4)
        row["kernels_relative"] = round(row["kernels"] / unit["kernels"], 4)
    return {"batch": BATCH, "relative_to": unit["method"], "rows": rows}


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """Two panels of bars, the unit at 1."""
    rows = record["rows"]
    labels, places = [row["method"] for row in rows], range(len(rows))[::-1]
    figure = Figure(figsize=(9.6, 0.9 + 0.34 * len(rows)))
    axes = figure.subplots(1, 2, sharey=True)
    names = {"flops": "operations of matrix products", "kernels": "kernels"}
    for ax, (key, name) in zip(axes, names.items(), strict=True):
        values = [row[f"{key}_relative"] for row in rows]
        colors = [acting.color(label) for label in labels]
        ax.barh(places, values, color=colors)
        for place, row, value in zip(places, rows, values, strict=True):
            amount = f"{row[key] / 1e6:.3g} MFLOP" if key == "flops" else f"{row[key]:.0f}"
            ax.annotate(f"{value:.2f}  ({amount})", (value, place), xytext=(3, 0), fontsize=7,
                        textcoords="offset points", va="center")  # fmt: skip
        ax.axvline(1.0, color="black", lw=0.6)
        ax.set(xlabel=f"{name}, relative to {record['relative_to']}", xlim=(0, 1.35 * max(values)))
        ax.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(places, labels, fontsize=8)
    figure.suptitle(
        f"{record['env']}: one action chunk, compiled for a CPU, batch {record['batch']}",
        fontsize=10,
    )
    figure.tight_layout()
    return figure
