"""Whose critic may judge the actions that another run's critic has guided. No JAX."""

from collections.abc import Iterator
from typing import Any

from qgf_jax import config as configs
from qgf_jax.errors import UserError, log_once
from qgf_jax.methods.parts import Part
from qgf_jax.runs.run import Run
from qgf_jax.types import Spec

_MEANING = (
    "env", "data.chunk", "data.discount", "data.rewards", "data.masks", "data.reward_scale",
    "data.reward_shift", "data.sparse", "goals.negative_reward",
)  # fmt: skip
"""The config keys that say what Q is the value of, and in which unit."""


def check_judge(run: Run, judge: Run) -> None:
    """Raises `UserError` unless the critic of `judge` can judge actions of `run`, and may.

    It can if its Q means the same, of observations and actions of the same shape: units of actions and
    normalisation may be others. It may if it has learned from other trajectories. Whether those of
    another file are others nobody can see, so one line warns of that.
    """
    for what, ours, theirs in _differences(run, judge):
        raise UserError(
            f"{judge.workdir} cannot judge {run.workdir}: {what} is {theirs!r} there and {ours!r} "
            "here: train a judge with the same"
        )
    critic = judge.config["critic"].split(",")[0]
    if "q" not in Part.named("critic", critic).provides:
        raise UserError(f"{judge.workdir} cannot judge: its critic {critic!r} has no Q of actions")
    if judge.config["seeds"] not in (1, run.config["seeds"]):
        raise UserError(
            f"{judge.workdir} has {judge.config['seeds']} seeds and {run.workdir} has "
            f"{run.config['seeds']}: train a judge with as many, or with one for all"
        )
    _check_apart(run, judge)


def _differences(run: Run, judge: Run) -> Iterator[tuple[str, Any, Any]]:
    """What Q or its inputs are to both, where that is not the same."""
    ours, theirs = configs.flatten(run.config), configs.flatten(judge.config)
    yield from ((k, ours[k], theirs[k]) for k in _MEANING if ours[k] != theirs[k])
    specs = Spec.of(run.spec), Spec.of(judge.spec)
    for what in ("state", "goal", "action"):
        sizes = [getattr(spec, what) for spec in specs]
        if sizes[0] != sizes[1]:
            yield f"the shape of {what}s", *sizes
    if run.parts != judge.parts:
        yield "the order of an observation's parts", run.parts, judge.parts


def _check_apart(run: Run, judge: Run) -> None:
    """Raises `UserError` if the critics have trajectories of the same file in common.

    All of a run, what stands still in it too, has learned from its `data.part` alone: `runs.frozen`
    sees to that. So two runs on the same data are apart if their parts are.
    """
    ours, theirs = (x.config["data"]["part"] for x in (run, judge))
    if run.dataset["sha256"] != judge.dataset["sha256"]:
        log_once(
            f"qgf: warning: {judge.workdir} was trained on another file than {run.workdir}: that no "
            "trajectory is in both is for you to know"
        )
    elif {ours, theirs} != {"odd", "even"}:
        raise UserError(
            f"{judge.workdir} has learned from trajectories that {run.workdir} has too (data.part is "
            f"{theirs} and {ours} of the same data), so its critic shares the errors that it should "
            "find: train one with --config.data.part=even, the other with odd"
        )
