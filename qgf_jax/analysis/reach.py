"""Q that actions reach, by the critic that guides them and by a critic that does not.

What guides finds its own errors good. So in a second run of the same noise the critic's last member
judges and the others guide; it shares their data, so it is a mild judge. The critic of another run
(`--other`) judges too, if one is given. Gains are over the reference's action from the same noise.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject, mean_of_best
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.methods.builder import Builder
from qgf_jax.training.weighing import State
from qgf_jax.types import Array, Critic, Params

_OWN, _GUIDING, _HELD, _OTHER = "critic", "guiding members", "held-out member", "other run"


def _gains(
    own: Array, drawn: Array, actions: Mapping[str, Array], rank: Critic, judge: Critic
) -> dict[str, Array]:
    """What `judge` says of actions, by method [W]; of the best of N by `rank` [].

    Over the reference's action `own` [D] from the same noise; the best of N over the mean of `drawn`
    [M, D].
    """
    values, ranks = jax.vmap(judge)(drawn), jax.vmap(rank)(drawn)
    found = {name: jax.vmap(judge)(x) - judge(own) for name, x in actions.items()}
    return found | {
        f"best of {n}": mean_of_best(ranks, values, n) - values.mean() for n in acting.BEST_OF
    }


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`rows`: method, weight, who judges, and the mean gain with its interval."""
    arms, weights = subject.arms(acting.METHODS), subject.weights()
    other, extra = subject.other, {}
    if other is not None:  # its seeds in turn, where it has others
        place = np.arange(subject.loaded.seeds) % other.seeds
        extra["judge"] = jax.tree.map(lambda x: x[place], other.params["critic"])

    def one(params: Params, state: State) -> dict[str, Array]:
        own, drawn = subject.reference(params, state)
        actions = subject.actions(arms, params, state, weights)
        critic = state.q()
        found = {_OWN: _gains(own, drawn, actions, critic, critic)}
        if other is not None:
            nets = Builder(other.run.config, other.spec).networks()
            judge = nets.q_of(params["judge"], state.obs)
            found[_OTHER] = _gains(own, drawn, actions, critic, judge)
        if state.nets.ensemble > 1:
            rest = jax.tree.map(lambda x: x[:-1], params["critic"])
            actions = subject.actions(arms, params | {"critic": rest}, state, weights)
            guides, held = state.q(slice(-1)), state.q(slice(-1, None))
            found[_GUIDING] = _gains(own, drawn, actions, guides, guides)
            found[_HELD] = _gains(own, drawn, actions, guides, held)
        return {f"{who}/{what}": x for who, of in found.items() for what, x in of.items()}

    rows = []
    for name, table in subject.measure(one, extra).items():
        who, _, label = name.partition("/")
        rows += acting.rows(label, weights, table, judge=who)
    return {"rows": rows, "judges": list(dict.fromkeys(row["judge"] for row in rows))}


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """A panel each judge, in the order in which they can be compared."""
    order = [_OWN, _GUIDING, _HELD, _OTHER]
    judges = sorted(record["judges"], key=order.index)
    figure = Figure(figsize=(4.4 * len(judges), 3.8))
    axes = figure.subplots(1, len(judges), squeeze=False)[0]
    titles = {
        _OWN: "by the critic that guides (all members)",
        _GUIDING: "all but one member guide: by these",
        _HELD: "all but one member guide: by the other",
        _OTHER: "by the critic of another run",
    }
    for ax, judge in zip(axes, judges, strict=True):
        rows = [row for row in record["rows"] if row["judge"] == judge]
        acting.plot(ax, rows, "gain of Q over the reference [return]")
        ax.axhline(0, color="black", lw=0.6)
        ax.set_title(titles[judge], fontsize=9)
    _share_limits([ax for ax, j in zip(axes, judges, strict=True) if j in (_OWN, _GUIDING, _HELD)])
    figure.suptitle(f"{record['env']}: Q reached", fontsize=10)
    figure.tight_layout()
    return figure


def _share_limits(axes: Any) -> None:
    """Judges of one run have one scale."""
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(float(limits[:, 0].min()), float(limits[:, 1].max()))
