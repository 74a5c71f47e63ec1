"""What an evaluation plays: episodes, and which of them are missing. No JAX.

An episode is (environment, task, index): its initial state and the noise of its policy are functions
of these alone, so every method, weight and seed meets the same episodes, and comparisons are paired.
Even indices are for selecting a weight, odd ones for reporting; they never mix.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import SPLITS
from qgf_jax.evaluation.summary import summarize

Line = Mapping[str, Any]


class Job(NamedTuple):
    """One episode to be played, and the arms that it counts for."""

    arms: tuple[Arm, ...]
    seed: int
    """The place of a training seed in the run."""
    task: int
    episode: int

    @property
    def acts_as(self) -> Arm:
        """The arm that plays."""
        return self.arms[0].acts_as

    @property
    def reset_seed(self) -> int:
        """The seed of the reset; different for every (task, episode) below a million episodes."""
        return self.task * 1_000_000 + self.episode

    def lines(self, env: str, step: int, result: Line) -> Iterator[dict[str, Any]]:
        """The line of episodes.jsonl for each arm, from what became of the episode."""
        for arm in self.arms:
            yield {
                **arm._asdict(),
                "options": dict(arm.options),
                "env": env,
                "task": self.task,
                "episode": self.episode,
                "split": SPLITS[self.episode % 2],
                "seed": self.seed,
                "step": step,
                **result,
            }


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arms and episodes that one evaluation plays with a checkpoint."""

    env: str
    """The environment's label in lines."""
    tasks: Sequence[int]
    seeds: int
    arms: Sequence[Arm]
    episodes: int
    """For the report, of every arm, task and seed."""
    selection_episodes: int
    """As many for selecting a weight."""
    report_selected: bool = False
    """Whether the report episodes are those of each method's selected weight alone.

    A method with one weight has nothing to select, and plays no selection episodes then."""

    def __post_init__(self) -> None:
        if self.report_selected and self._rivals and not self.selection_episodes:
            raise UserError(
                "no selection episodes to choose a weight on: give --selection_episodes"
            )

    def stages(self, step: int, lines: Sequence[Line]) -> Iterator[list[Job]]:
        """What `lines` lack for the checkpoint at `step`, in the order in which it must be played.

        `lines` must have grown by what was played when the next stage is asked for.
        """
        selection = [2 * i for i in range(self.selection_episodes)]
        report = [2 * i + 1 for i in range(self.episodes)]
        if not self.report_selected:
            yield self._missing(self.arms, selection + report, step, lines)
            return
        rivals = self._rivals
        yield self._missing(rivals, selection, step, lines)
        alone = [arm for arm in self.arms if arm not in rivals]
        yield self._missing(alone + self._selected(rivals, step, lines), report, step, lines)

    @property
    def _rivals(self) -> list[Arm]:
        """The arms that another weight competes with."""
        count = collections.Counter(arm.sampler for arm in self.arms)
        return [arm for arm in self.arms if count[arm.sampler] > 1]

    def _selected(self, rivals: Sequence[Arm], step: int, lines: Sequence[Line]) -> list[Arm]:
        """Those of `rivals` whose weight the selection episodes so far choose."""
        mine = [
            line
            for line in lines
            if (line["env"], line["step"]) == (self.env, step)
            and line["task"] in self.tasks
            and Arm.of(line) in rivals
        ]
        rows = summarize(mine)
        chosen = (Arm.of(row) for row in rows if row["split"] == "selection" and row["selected"])
        return list(dict.fromkeys(chosen))

    def _missing(
        self, arms: Iterable[Arm], episodes: Sequence[int], step: int, lines: Iterable[Line]
    ) -> list[Job]:
        """Episodes that not all of `arms` have finished; arms with the same actions share a job."""
        done = _done(lines)
        sharing: dict[Arm, list[Arm]] = {}
        for arm in arms:
            sharing.setdefault(arm.acts_as, []).append(arm)
        every = itertools.product(self.tasks, sharing.values(), episodes, range(self.seeds))
        jobs = []
        for task, same, episode, seed in every:
            rest = (self.env, task, episode, seed, step)
            if left := tuple(arm for arm in same if (*arm, *rest) not in done):
                jobs.append(Job(left, seed, task, episode))
        return jobs


def _done(lines: Iterable[Line]) -> set[tuple[Any, ...]]:
    """The episodes that were played to the end: arm, environment, task, index, seed and step."""
    keys = ("env", "task", "episode", "seed", "step")
    whole = (line for line in lines if not line.get("failed"))
    return {(*Arm.of(line), *(line[k] for k in keys)) for line in whole}
