"""What a sweep would take, before it begins: updates, FLOPs, hours and bytes of each job."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.sweep.plan import Plan, Planned
from qgf_jax.sweep.state import State

_IDLE = ("seed", "eval", "wandb", "env")
"""Keys of the config that change neither shapes nor speed; of `env` its widths count, see `counted`."""


class Estimate(NamedTuple):
    """What is left of one job. Evaluations are not counted."""

    state: State
    hours: float | None = None
    """Of the training that is left; `None` where no rate is known."""
    flops: float | None = None
    """Of all updates of the training; `None` where they were not counted."""
    checkpoint_bytes: int | None = None
    """Of the checkpoints that it keeps."""

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        own = {"name": self.state.name, "state": self.state.word, "step": self.state.step}
        return {**own, "steps": self.state.steps, **{k: getattr(self, k) for k in self._fields[1:]}}

    @classmethod
    def of_jobs(
        cls,
        plan: Plan,
        configs: Mapping[str, Mapping[str, Any]],
        states: Sequence[State],
        *,
        count: bool = False,
        flop_rate: float | None = None,
    ) -> list["Estimate"]:
        """The jobs of a plan, with what is left of each.

        A job's updates a second are those of a run of the same shape in the sweep's folder. With
        `count` the matrix products of each shape's update are counted once, which compiles its program;
        a rate in FLOP/s, `flop_rate` or the median of the runs in the folder, then stands for shapes
        that none has.
        """
        shapes = {name: _shape_of(config) for name, config in configs.items()}
        rates = _rates(states, shapes)
        counted = _counts(configs, shapes) if count else {}
        rates = _of_products(counted, rates, flop_rate) | rates
        found = []
        for planned, state in zip(plan.jobs.values(), states, strict=True):
            shape = shapes.get(state.name, "")
            one = cls(state, _hours(planned, state, rates.get(shape)))
            if shape in counted:
                flops, size = counted[shape]
                kept = size * configs[state.name]["train"]["keep"]
                one = one._replace(flops=flops * state.steps, checkpoint_bytes=kept)
            found.append(one)
        return found


class _Counted(NamedTuple):
    flops_per_update: float
    state_bytes: int


def _hours(planned: Planned, state: State, rate: float | None) -> float | None:
    """Of training that is left; `None` where steps or rate are not known."""
    if planned.job.trains and not state.steps:
        return None
    left = max(0, state.steps - state.step)
    if not left:
        return 0.0
    return left / rate / 3600 if rate else None


def _shape_of(config: Mapping[str, Any]) -> str:
    """Equal for configs whose updates cost the same."""
    from qgf_jax.envs.families import EnvName

    own = {key: value for key, value in config.items() if key not in _IDLE}
    own["train"] = {k: v for k, v in config["train"].items() if k not in ("steps", "save_every")}
    return json.dumps([EnvName.parse(config["env"]).dataset, _without_reals(own)], sort_keys=True)


def _without_reals(value: Any) -> Any:
    """A config in which of a number that is not whole only stays whether it is 0, and so left out."""
    if isinstance(value, Mapping):
        return {key: _without_reals(item) for key, item in value.items()}
    return value != 0 if isinstance(value, float) else value


def _rates(states: Sequence[State], shapes: Mapping[str, str]) -> dict[str, float]:
    """Updates a second by shape: the median of the runs that have it."""
    measured: dict[str, list[float]] = {}
    for state in states:
        if state.rate and state.name in shapes:
            measured.setdefault(shapes[state.name], []).append(state.rate)
    return {shape: statistics.median(rates) for shape, rates in measured.items()}


def _of_products(
    counted: Mapping[str, _Counted], rates: Mapping[str, float], flop_rate: float | None
) -> dict[str, float]:
    """Updates a second of the counted shapes that have none, at `flop_rate` or that of the others."""
    known = [rates[s] * one.flops_per_update for s, one in counted.items() if s in rates]
    if not flop_rate and not known:
        return {}
    flop_rate = flop_rate or statistics.median(known)
    return {s: flop_rate / one.flops_per_update for s, one in counted.items() if s not in rates}


def _counts(
    configs: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, str]
) -> dict[str, _Counted]:
    """FLOPs and bytes of each shape. Raises `UserError` with the name of a job of it."""
    from qgf_jax.training.dry_run import describe

    found: dict[str, _Counted] = {}
    for name, shape in shapes.items():
        if shape in found:
            continue
        try:
            said = describe(configs[name])
        except UserError as error:
            raise UserError(f"job {name!r}: {error}") from error
        found[shape] = _Counted(said["flops_per_update"], said["bytes_per_device"]["state"])
    return found
