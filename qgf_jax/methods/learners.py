"""How the learners of a run are made one."""

from collections.abc import Iterable, Mapping
from typing import Any

from qgf_jax.methods.lazy import jax
from qgf_jax.types import Array, Batch, Learner, Params


def as_actor(learner: Learner) -> Learner:
    """A policy learner whose losses see a batch with the policy's goals."""
    losses = {name: loss._replace(view=Batch.policy_view) for name, loss in learner.losses.items()}
    return learner._replace(losses=losses)


def merge(*learners: Learner) -> Learner:
    """One learner that does what all of them do.

    Two losses, or two numbers of updates, for one group are a `ValueError`.
    """

    def init(key: Array, obs: Array, action: Array) -> Params:
        groups: Params = {}
        for i, learner in enumerate(learners):
            groups |= learner.init(jax.random.fold_in(key, i), obs, action)
        return groups

    return Learner(
        init,
        _union("losses", (learner.losses for learner in learners)),
        tuple(name for learner in learners for name in learner.targets),
        _union("periods", (learner.every for learner in learners)),
        _union("periods of the target copy", (learner.target_every for learner in learners)),
    )


def _union(what: str, parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries of `parts`, by parameter group. Two for one group are a `ValueError`."""
    union: dict[str, Any] = {}
    for part in parts:
        if twice := union.keys() & part.keys():
            raise ValueError(f"two {what} for the parameter group {sorted(twice)[0]!r}")
        union |= part
    return union
