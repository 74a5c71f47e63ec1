"""One number for many tasks and seeds, as Agarwal et al. (2021) define them. No JAX.

A score is a success, or a return between references, where 1 is what an expert has. Those of an arm
are a list, [S] of each task.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs.families import ON_DEVICE
from qgf_jax.evaluation.arms import Sampler
from qgf_jax.evaluation.paired import Evaluated, mean_difference
from qgf_jax.evaluation.played import ALL_TASKS, Group
from qgf_jax.evaluation.statistics import LEVEL
from qgf_jax.evaluation.summary import Row

LEVELS = (0.25, 0.5, 0.75, 0.9)
"""The scores at which tables show a performance profile."""
_RESAMPLES = 2000
_Task = tuple[str, int]


class _Arm(NamedTuple):
    training: str
    sampler: Sampler
    simulator: str
    """`ON_DEVICE`, or empty for the environment's own."""

    @property
    def text(self) -> str:
        return self.sampler.label + (f" ({self.simulator})" if self.simulator else "")


class _Played(NamedTuple):
    """What an arm's row of one task says."""

    place: int
    """Which of the runs it is of."""
    side: tuple[Evaluated, Row]
    scores: np.ndarray
    """[S]"""


class _Scores(NamedTuple):
    """What an arm scored on each task."""

    columns: Sequence[np.ndarray]
    """[S] of each task."""
    runs: Sequence[Hashable]
    """The run of each task, whose seeds are the same in all of its tasks."""

    @property
    def interquartile_mean(self) -> float:
        """The mean of the middle half of all seeds' scores on all tasks."""
        return float(_middle(np.concatenate(self.columns)))

    def improvement(self, baseline: "_Scores") -> float:
        """The chance that a seed is better than one of `baseline`, ties half; the mean over tasks."""
        return float(np.mean([wins.mean() for wins in self._wins(baseline)]))

    def profile(self, levels: Sequence[float] = LEVELS) -> list[float]:
        """For each level the share of all seeds' scores on all tasks above it."""
        values = np.concatenate(self.columns)
        return [float(np.mean(values > level)) for level in levels]

    def interquartile_interval(self) -> tuple[float, float]:
        """The 95 % interval: seeds resampled, the same ones in all tasks of a run, tasks as they are."""
        rng, drawn = np.random.default_rng(0), dict[Hashable, np.ndarray]()
        for run, column in zip(self.runs, self.columns, strict=True):
            if run not in drawn:
                drawn[run] = rng.integers(len(column), size=(_RESAMPLES, len(column)))
        parts = [x[drawn[run]] for run, x in zip(self.runs, self.columns, strict=True)]
        return _percentiles(_middle(np.concatenate(parts, axis=1)))

    def improvement_interval(self, baseline: "_Scores") -> tuple[float, float]:
        """As `interquartile_interval`, with seeds of both resampled apart."""
        rng = np.random.default_rng(0)
        parts = zip(self._shares(rng), self._wins(baseline), baseline._shares(rng), strict=True)
        return _percentiles(np.mean([np.sum((a @ w) * b, axis=1) for a, w, b in parts], axis=0))

    def _wins(self, baseline: "_Scores") -> list[np.ndarray]:
        """[S, S'] of each task: 1 where a seed is better than one of the baseline, .5 where as good."""
        pairs = zip(self.columns, baseline.columns, strict=True)
        return [(np.sign(x[:, None] - y) + 1) / 2 for x, y in pairs]

    def _shares(self, rng: np.random.Generator) -> list[np.ndarray]:
        """[resamples, S] of each task: how often each seed is drawn, over S."""
        made: dict[Hashable, np.ndarray] = {}
        for run, column in zip(self.runs, self.columns, strict=True):
            n = len(column)
            if run not in made:
                made[run] = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES) / n
        return [made[run] for run in self.runs]

    @property
    def has_seeds(self) -> bool:
        """Whether there are several in each task."""
        return all(len(column) > 1 for column in self.columns)


def aggregate(runs: Sequence[Evaluated], baseline: str | None = None) -> list[dict[str, Any]]:
    """A record for each arm that was reported at its selected weight in all tasks of `runs`.

    Of success, or of the score between references where there is no success; tasks with neither do not
    count. Empty for less than two tasks. `baseline` as in `paired.compare`; an arm that has not all
    tasks is none. Intervals of arms with one seed in a run are `None`.
    """
    return [one for how in ("", ON_DEVICE) for one in _aggregate(runs, baseline, how)]


def _aggregate(
    runs: Sequence[Evaluated], baseline: str | None, simulator: str
) -> list[dict[str, Any]]:
    """Of what was played in one simulator: the same task in two is not two tasks."""
    found = _played(runs, simulator)
    tasks = sorted(set().union(*found.values()))
    rows = {
        arm: [played[task] for task in tasks]
        for arm, played in found.items()
        if len(played) == len(tasks) > 1
    }
    ranks = {arm: arm.sampler.rank_as_baseline(baseline) for arm in rows}
    ranks = {arm: rank for arm, rank in ranks.items() if rank is not None}
    return [_record(arm, rows, _nearest(arm, ranks, bool(baseline))) for arm in rows]


def _played(runs: Sequence[Evaluated], simulator: str) -> dict[_Arm, dict[_Task, _Played]]:
    """What has a score, by arm and task."""
    found: dict[_Arm, dict[_Task, _Played]] = {}
    for place, (name, run) in enumerate(zip(_names(runs), runs, strict=True)):
        for row in _counting(run.rows, simulator):
            if (values := _by_seed(run, row)) is not None:
                arm = _Arm(name, Group.of(row).sampler, simulator)
                played = _Played(place, (run, row), values)
                found.setdefault(arm, {})[row["env"], row["task"]] = played
    return found


def _nearest(arm: _Arm, ranks: Mapping[_Arm, Any], named: bool) -> _Arm | None:
    """The baseline of an arm: that of its own training if there is one and none is named."""
    own = [other for other in ranks if other.training == arm.training and not named]
    first = [other for other in ranks if other.training == next(iter(ranks)).training]
    found = min(own or first, key=lambda other: ranks[other], default=None)
    return None if found == arm else found


def _record(arm: _Arm, rows: Mapping[_Arm, Sequence[_Played]], base: _Arm | None) -> dict[str, Any]:
    mine, improvement, difference = _scores(rows[arm]), None, None
    if base:
        other = _scores(rows[base])
        has_seeds = mine.has_seeds and other.has_seeds
        interval = functools.partial(mine.improvement_interval, other)
        improvement = _with(mine.improvement(other), interval, has_seeds)
        difference = mean_difference(*([row.side for row in rows[one]] for one in (arm, base)))
    return {
        "trained_as": arm.training,
        "method": arm.text,
        "tasks": len(rows[arm]),
        "scores": sum(map(len, mine.columns)),
        "iqm": _with(mine.interquartile_mean, mine.interquartile_interval, mine.has_seeds),
        "baseline": base and base.text + (f" ({base.training})" if base.training else ""),
        "improvement": improvement,
        "difference": difference and difference._asdict(),
        "profile": dict(zip(map(str, LEVELS), mine.profile(), strict=True)),
    }


def _with(
    value: float, interval: Callable[[], tuple[float, float]], has_seeds: bool
) -> dict[str, float | None]:
    low, high = interval() if has_seeds else (None, None)
    return {"mean": value, "low": low, "high": high}


def _names(runs: Sequence[Evaluated]) -> list[str]:
    """What tasks of several runs are put together under; by its own name a run that repeats a task."""
    played = [{(row["env"], row["task"]) for row in run.rows} for run in runs]
    alike = [[i for i, other in enumerate(runs) if other.training == run.training] for run in runs]
    return [
        run.name
        if any(played[i] & played[place] for i in alike[place] if i != place)
        else run.training
        for place, run in enumerate(runs)
    ]


def _counting(rows: Iterable[Row], simulator: str) -> list[Row]:
    return [
        row
        for row in rows
        if row["selected"] and row["split"] == "report" and row["task"] != ALL_TASKS
        and row["env"].endswith(f" ({ON_DEVICE})") == bool(simulator)
    ]  # fmt: skip


def _by_seed(run: Evaluated, row: Row) -> np.ndarray | None:
    """The scores [S] of a row's seeds; `None` where nothing says what counts as 0 and 1."""
    if row["success"]:
        return run.table(row, "success").mean(axis=1)
    if not run.references:
        return None
    low, high = run.references
    return (run.table(row, "return").mean(axis=1) - low) / (high - low)


def _scores(rows: Sequence[_Played]) -> _Scores:
    """Tasks of a run that not all of its seeds have played are as of other runs."""
    return _Scores([row.scores for row in rows], [(row.place, len(row.scores)) for row in rows])


def _middle(values: np.ndarray) -> np.ndarray:
    """The mean of the last axis without a quarter, rounded down, at either end."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
