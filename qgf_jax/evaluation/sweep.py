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
from qgf_jax.evaluation import halving
from qgf_jax.evaluation.arms import Arm, Sampler
from qgf_jax.evaluation.episodes import SPLITS
from qgf_jax.evaluation.summary import leading_weights, summarize

Line = Mapping[str, Any]
_Pair = tuple[int, int]
"""(episode, seed)"""


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

    budget: int | None = None
    """Selection episodes of a method and task, of all its weights and seeds together.

    With a budget only the leading weights go on, see `halving`, `selection_episodes` does not count, and
    `report_selected` is implied. None: all weights play all selection episodes."""

    def __post_init__(self) -> None:
        chooses = self.report_selected and self.budget is None
        if chooses and self._rivals and not self.selection_episodes:
            raise UserError(
                "no selection episodes to choose a weight on: give --selection_episodes"
            )
        if self.budget is not None:
            self._rounds(self.budget)  # or one line, before anything is played

    def stages(self, step: int, lines: Sequence[Line]) -> Iterator[list[Job]]:
        """What `lines` lack for the checkpoint at `step`, in the order in which it must be played.

        `lines` must have grown by what was played when the next stage is asked for.
        """
        selection = self._by_all_seeds(2 * i for i in range(self.selection_episodes))
        report = self._by_all_seeds(2 * i + 1 for i in range(self.episodes))
        if not self.report_selected and self.budget is None:
            yield self._missing(dict.fromkeys(self.arms, selection + report), step, lines)
            return
        rivals = self._rivals
        if self.budget is None:
            yield self._missing(dict.fromkeys(rivals, selection), step, lines)
        else:
            yield from self._halving(self._rounds(self.budget), step, lines)
        alone = [arm for arm in self.arms if arm not in rivals]
        chosen = alone + self._selected(rivals, step, lines)
        yield self._missing(dict.fromkeys(chosen, report), step, lines)

    def _by_all_seeds(self, episodes: Iterable[int]) -> list[_Pair]:
        return list(itertools.product(episodes, range(self.seeds)))

    @property
    def _rivals(self) -> list[Arm]:
        """The arms that another weight competes with."""
        count = collections.Counter(arm.sampler for arm in self.arms)
        return [arm for arm in self.arms if count[arm.sampler] > 1]

    def _rounds(self, budget: int) -> dict[Sampler, list[halving.Round]]:
        """The rounds of each method that has several weights. Raises `UserError`."""
        count = collections.Counter(arm.sampler for arm in self._rivals)
        return {one: halving.Round.plan(n, budget, one.label) for one, n in count.items()}

    def _halving(
        self, rounds: Mapping[Sampler, Sequence[halving.Round]], step: int, lines: Sequence[Line]
    ) -> Iterator[list[Job]]:
        """The selection episodes round by round, for all methods at once.

        A round's weights follow from the lines of the round before it, so an evaluation that was killed
        goes on as it would have done.
        """
        in_play = {one: [arm for arm in self.arms if arm.sampler == one] for one in rounds}
        for i in range(max(map(len, rounds.values()), default=0)):
            wanted: dict[Arm, list[_Pair]] = {}
            for one in (one for one in rounds if i < len(rounds[one])):
                if i > 0:
                    played = self._lines_of(in_play[one], step, lines)
                    before, now = rounds[one][i - 1 : i + 1]
                    in_play[one] = self._leading(in_play[one], played, before.episodes, now.weights)
                wanted |= dict.fromkeys(in_play[one], self._along_seeds(rounds[one][i].episodes))
            yield self._missing(wanted, step, lines)

    def _leading(
        self, arms: Sequence[Arm], lines: Iterable[Line], episodes: int, weights: int
    ) -> list[Arm]:
        """Those of `arms` with the `weights` weights that lead over the first `episodes` episodes."""
        met = self._along_seeds(episodes)
        stay = leading_weights(
            [line for line in lines if (line["episode"], line["seed"]) in met], weights
        )
        return [arm for arm in arms if arm.weight in stay]

    def _along_seeds(self, count: int) -> list[_Pair]:
        """`count` selection episodes, all different, by one seed after the other."""
        return [(2 * i, i % self.seeds) for i in range(count)]

    def _selected(self, rivals: Sequence[Arm], step: int, lines: Sequence[Line]) -> list[Arm]:
        """Those of `rivals` whose weight the selection episodes so far choose."""
        rows = summarize(self._lines_of(rivals, step, lines))
        chosen = (Arm.of(row) for row in rows if row["split"] == "selection" and row["selected"])
        return list(dict.fromkeys(chosen))

    def _lines_of(self, arms: Sequence[Arm], step: int, lines: Iterable[Line]) -> list[Line]:
        """Those that this plan's environment and tasks have of some arms."""
        return [
            line
            for line in lines
            if (line["env"], line["step"]) == (self.env, step)
            and line["task"] in self.tasks
            and Arm.of(line) in arms
        ]

    def _missing(
        self, wanted: Mapping[Arm, Iterable[_Pair]], step: int, lines: Iterable[Line]
    ) -> list[Job]:
        """What not all arms have finished that want it; arms with the same actions share a job."""
        done = _done(lines)
        sharing: dict[Arm, dict[_Pair, list[Arm]]] = {}
        for arm, pairs in wanted.items():
            same = sharing.setdefault(arm.acts_as, {})
            for pair in pairs:
                same.setdefault(pair, []).append(arm)
        jobs = []
        for task, same in itertools.product(self.tasks, sharing.values()):
            for (episode, seed), arms in same.items():
                rest = (self.env, task, episode, seed, step)
                if left := tuple(arm for arm in arms if (*arm, *rest) not in done):
                    jobs.append(Job(left, seed, task, episode))
        return jobs


def _done(lines: Iterable[Line]) -> set[tuple[Any, ...]]:
    """The episodes that were played to the end: arm, environment, task, index, seed and step."""
    keys = ("env", "task", "episode", "seed", "step")
    whole = (line for line in lines if not line.get("failed"))
    return {(*Arm.of(line), *(line[k] for k in keys)) for line in whole}
