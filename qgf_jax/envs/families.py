"""Families of environments: what the rest of the package asks one, and which families there are.

A family is one file. It subclasses `Family` and says what its environments are called, how one is made,
which tasks it has and what rows of its data are worth; everything else has a default:

    class Points(Family):
        names = ("line-v0",)

        def make(self, name):
            return PointEnv(name.task)

    FAMILY = Points()

A name is written FAMILY:REST, as points:line-v0. One without such a prefix is of the first family of
the table below that claims it, by its form alone: no simulator is asked. Families of other packages
are found by the entry-point group `qgf_jax.environments`, whose entries name such an object:
`points = my_package.points:FAMILY`. A family is imported when the first of its names is met. No JAX
here.
"""

import abc
import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from qgf_jax.envs.spaces import Widths
from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import load_entry

_GROUP = "qgf_jax.environments"
_FAMILIES = {
    "ogbench": "qgf_jax.envs.ogbench:FAMILY",
    "gymnasium": "qgf_jax.envs.gymnasium:FAMILY",
    "minari": "qgf_jax.envs.gymnasium:MINARI",
    "data": "qgf_jax.envs.recorded:FAMILY",
}
"""Those of this package, the default one first; names without a prefix are offered to each in turn."""

ON_DEVICE = "jax"
"""The simulator that runs where the policy does."""

SIMULATORS = ("mujoco", ON_DEVICE)
"""The family's own simulator, whatever it is, and the one on the device."""

Bounds = tuple[np.ndarray, np.ndarray]
"""The least and the largest action [A] each, infinite where there is no bound."""

_Name = TypeVar("_Name", bound="EnvName")


@dataclasses.dataclass(frozen=True)
class EnvName:
    """What the name of an environment says. A family may subclass it to give names another form."""

    dataset: str
    """Name of the data's file or folder, which serves all tasks."""
    task: int = 0
    """From 1; 0 stands for all tasks."""
    goals: str = ""
    """"" without goals; "observation", or the family's word for what else a goal is."""
    simulator: str = ""
    """`ON_DEVICE` if episodes are played there; "" for the family's own simulator."""
    family: str = ""
    """The prefix of the name; "" for the default family."""
    every_task: tuple[int, ...] = (1,)
    """All tasks of the environment."""
    parts: Widths = ()
    """Key and width of each part of an observation, in order, where the run's data name them. What has
    dictionaries for observations is seen as these parts; they are not in `full`."""

    @staticmethod
    def parse(name: str) -> "EnvName":
        """Takes a whole name apart. Raises `UserError` if it is none of its family's."""
        family, rest = _resolve(name)
        return family.parse(rest)

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks that the name stands for."""
        return (self.task,) if self.task else self.every_task

    @property
    def env_id(self) -> str:
        """The environment in messages about it."""
        return self._prefix + self.dataset

    @property
    def full(self) -> str:
        """The whole name with its task; `parse` gives this object back, but for simulator and parts."""
        return self.env_id + (f"-task{self.task}" if self.task else "")

    @property
    def label(self) -> str:
        """The name in episodes and tables: without task, and with a simulator that is not the own."""
        return self._prefix + self.dataset + self._played_by

    def with_task(self: _Name, task: int) -> _Name:
        """The same environment with another task. Raises `UserError` if there is no such task."""
        if task not in self.every_task:
            first, *_, last = (*self.every_task, self.every_task[-1])
            raise UserError(f"{self.env_id} has tasks {first} to {last}, not {task}")
        return dataclasses.replace(self, task=task)

    def played_in(self: _Name, simulator: str) -> _Name:
        """The same environment in one of `SIMULATORS`."""
        return dataclasses.replace(self, simulator="" if simulator == SIMULATORS[0] else simulator)

    def seen_as(self: _Name, parts: Widths) -> _Name:
        """The same environment with other `parts`."""
        return dataclasses.replace(self, parts=parts)

    @property
    def _prefix(self) -> str:
        return f"{self.family}:" if self.family else ""

    @property
    def _played_by(self) -> str:
        return f" ({self.simulator})" if self.simulator else ""


class Env(Protocol):
    """One environment, for one task.

    Four methods are optional: `goal_position() -> [x, y] | None`, where an episode's way is worth
    keeping (an observation then begins with x and y), `render() -> picture [h, w, 3] uint8`,
    `set_state(columns) -> bool`, which after a reset puts the simulator into a recorded state: numbers
    [n] by the name of their column (`qpos`, `qvel`, `button_states`). It says whether it could.
    `close()` ends processes and files of the environment's own. `draws_globally` is true where steps
    may draw from Python's global generator; without it they do not.
    """

    action_dim: int

    def reset(self, seed: int) -> np.ndarray:
        """First observation [O + G] of the episode `seed`, of which it is a function.

        Where there are goals, the episode's goal [G] is the end of each observation.
        """
        ...

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, Mapping[str, Any]]:
        """(observation [O + G], reward, whether the episode is over, info) after `action` [A].

        `info["success"]` counts at the end of an episode: from 0 to 1. See `Family.says_success`.
        """
        ...


class Labels:
    """What rows of data are worth. This one reads it from the data's own columns.

    `columns` are arrays [R, …] by name, see `data.formats.Rows.info`; `path` is for messages.
    """

    reads: Collection[str] = ("rewards", "masks")
    """Columns with labels that are heeded; in a file that has others, they are refused."""

    def __init__(
        self, name: EnvName, widths: tuple[int, int] | None = None, bounds: Bounds | None = None
    ):
        self.name = name
        self._widths, self._bounds = widths, bounds

    @property
    def widths(self) -> tuple[int, int] | None:
        """(O, A): widths of an observation without its goal, and of an action. `None`: not checked."""
        return self._widths

    @property
    def bounds(self) -> Bounds | None:
        """Those of actions, which the family is asked for where they are not known yet."""
        return self._bounds or Family.of(self.name).bounds(self.name)

    def rewards(
        self, columns: Mapping[str, np.ndarray], path: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and masks [R] of a row's action in the name's task; a mask is 0 where the task ends.

        Without a column `masks` no row ends the task: the end of a trajectory is none of it.
        """
        if "rewards" not in columns:
            raise UserError(
                f"{path}: key 'rewards' is missing, and the task's rewards come from it: name a "
                "function with data.rewards=MODULE:FUNCTION, or write them into the file"
            )
        rewards = np.asarray(columns["rewards"], np.float32)
        masks = np.asarray(columns.get("masks", np.ones_like(rewards)), np.float32)
        if not ((masks >= 0) & (masks <= 1)).all():
            raise UserError(f"{path}: masks leave [0, 1]: a mask is 0 where the task ends, else 1")
        return rewards, masks

    def goals(self, columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray | None:
        """What a row is as a goal [R, G]; `None` where that is its observation."""
        return None

    def close(self) -> None:
        """Frees what labelling needed."""


class Family(abc.ABC):
    """A family of environments. Only `make` must be written; nearly always `names` and `tasks` too."""

    title: ClassVar[str] = ""
    """The family in messages; its prefix if empty."""
    names: ClassVar[Sequence[str]] = ()
    """Names of datasets, which are the names of environments without a task; empty: any name."""
    tasks: ClassVar[tuple[int, ...]] = (1,)
    """Tasks of every environment."""
    goals: ClassVar[str] = ""
    """`EnvName.goals` of every name."""
    modules: ClassVar[Sequence[str]] = ()
    """Modules that its environments need, in the order in which messages list them."""
    says_success: ClassVar[bool] = True
    """Whether every episode ends as a success or not: what does not say so is none. Where this is
    false, only what its environments say counts, and tables may go by returns alone."""
    plays: ClassVar[bool] = True
    """Whether there are environments. Without them there are data alone, which say their widths."""
    packages: ClassVar[Sequence[str]] = ()
    """Distributions whose versions every run records."""
    search_path: ClassVar[Sequence[str]] = ("data",)
    """Folders in which data are looked for when the config names none."""
    prefix: str = ""
    """Under which name it is registered; set when it is found, "" for the default family."""

    @staticmethod
    def of(name: str | EnvName) -> "Family":
        """The family of a name. Raises `UserError` if the name's prefix is none of a family."""
        return _family(name.family) if isinstance(name, EnvName) else _resolve(name)[0]

    # Names

    @staticmethod
    def _is_module(name: str) -> bool:
        """Whether there is a module of that name, or one that may hold it; it is not imported."""
        root = name.partition(".")[0]
        with contextlib.suppress(ValueError):  # a module without a specification, as __main__
            return root.isidentifier() and importlib.util.find_spec(root) is not None
        return True

    def claims(self, name: str) -> bool:
        """Whether a name without the prefix of a family has the form of this one's names.

        Asked of the families of this package alone.
        """
        return False

    def parse(self, name: str) -> EnvName:
        """Takes apart a name without the family's prefix: DATASET or DATASET-taskN.

        Without its task a name with goals stands for all tasks, and one without for the first.
        """
        dataset, _, task = name.rpartition("-task")
        if not (dataset and task.isdecimal()):
            dataset, task = name, ""
        if self.names and dataset not in self.names:
            raise UserError.unknown(f"{self} environment", dataset, self.names)
        parsed = EnvName(dataset, 0, self.goals, "", self.prefix, self.tasks)
        if task:
            return parsed.with_task(int(task))
        return parsed if self.goals else parsed.with_task(self.tasks[0])

    # Environments

    @abc.abstractmethod
    def make(self, name: EnvName) -> Env:
        """The environment of a name that says its task. Raises `UserError` if there is none."""

    def missing(self) -> list[str]:
        """Those of `modules` that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]

    def packages_of(self, name: str) -> Sequence[str]:
        """Distributions whose versions a run in the environment `name` records."""
        return self.packages

    def require(self) -> None:
        """Raises `UserError`, with the remedy, if anything is missing."""
        if lacking := self.missing():
            raise UserError(
                f"{self} environments need {', '.join(lacking)}, which are not installed: run `pip "
                f"install {' '.join(lacking)}`"
            )

    @contextlib.contextmanager
    def headless(self) -> Generator[Callable[[Any], None]]:
        """While it is open, environments are made that nobody will render.

        Gives a function to call with each environment after its first reset, to free what that left.
        """
        yield lambda env: None

    def widths(self, name: EnvName) -> tuple[int, int, int]:
        """(O, G, A): widths of an observation without its goal, of a goal, and of an action.

        This one makes the environment; where there are goals that are not observations, override it.
        """
        env = self.make(name.with_task(name.tasks[0]))
        width = len(env.reset(0))
        goal = width // 2 if name.goals else 0
        return width - goal, goal, env.action_dim

    def bounds(self, name: EnvName) -> Bounds | None:
        """The least and the largest action [A] each, infinite where there is no bound.

        `None`: what the data say, or else -1 and 1.
        """
        return None

    @property
    def draws(self) -> bool:
        """Whether it has pictures of its environments."""
        return type(self).rendered is not Family.rendered

    def rendered(self, name: EnvName, size: int) -> Any:
        """An `Env` with `render`, whose pictures are `size` pixels high and wide."""
        raise UserError(f"{self} environments cannot be drawn: leave films out")

    def device_simulator(self, name: EnvName) -> Any:
        """The environment as pure functions in JAX, see `jax_pointmaze.PointMaze`."""
        raise UserError(f"{name.env_id} has no simulator on the device: leave --envs=jax out")

    def maze(self, name: EnvName) -> tuple[np.ndarray, float, tuple[float, float]] | None:
        """For plots, where observations without goals are the x and y of a place in a maze.

        (whether each square [rows, columns] is free, the length of its side, minus the x and y of the
        middle of square (0, 0)); `None` for everything else.
        """
        return None

    # Data

    def labels(self, name: EnvName) -> Labels:
        """What the rows of the environment's data are worth.

        Raises `UserError` if there is no such environment. Called before any data are read. This one
        checks the widths of rows against the environment, unless a module that it needs is missing.
        """
        if self.missing():
            return Labels(name)
        width, _, action = self.widths(name)
        return Labels(name, (width, action))

    def source(self, name: EnvName, folder: str) -> Any:
        """The data as a `data.shards.Source`, where they are in a format of the family's own.

        `None`: an npz file, a folder of npz files, or what `qgf convert` makes of these.
        """
        return None

    def policy_goals(self, name: EnvName) -> tuple[float, float, float]:
        """Probabilities of a policy's goals, where the config gives none, by how data were collected.

        Of the current row, of a later one of its trajectory, of any row.
        """
        return 0.0, 1.0, 0.0

    def advice(self, dataset: str, folder: Path) -> str:
        """What to do where there is no such dataset in `folder`."""
        return "put it there, or name another"

    def collector(self, name: EnvName, simulator: str = SIMULATORS[0]) -> Any:
        """What makes the environment's data: an object with a scripted expert.

        In the family's own simulator, `episode(seed)` gives columns of one episode, as a dict of
        arrays [T, …] with observations, actions and terminals; in the one on the device,
        `episodes(seed=, split=, count=)` gives those of many, one after another. Raises `UserError`
        where there is no expert.
        """
        raise UserError(f"{name.env_id} has no scripted expert: its data cannot be collected")

    def __str__(self) -> str:
        return self.title or self.prefix


def _resolve(name: str) -> tuple[Family, str]:
    """The family of a whole name, and what the family takes apart.

    What claims the name by its form has it; an unclaimed one is the default family's to explain.
    """
    prefix, colon, rest = name.partition(":")
    known = [*_FAMILIES, *_outside()] if colon else []
    if prefix in known:
        return _family(prefix), rest
    near = difflib.get_close_matches(prefix, known, n=1, cutoff=0.7)
    if not near or Family._is_module(prefix):
        for family in map(_family, _FAMILIES):
            if family.claims(name):
                return family, name
    if colon and Family._is_module(prefix):
        raise UserError(
            f"environment {name!r}: after the module {prefix} comes a function, as make_arm, or "
            "an id, as Arm-v1"
        )
    if colon:
        raise UserError.unknown("family of environments", prefix, known)
    return _family(""), name


def _outside() -> dict[str, importlib.metadata.EntryPoint]:
    """Families of other packages by their names."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUP)}


@functools.cache
def _family(prefix: str) -> Family:
    outside = _outside()
    default = next(iter(_FAMILIES))
    if place := _FAMILIES.get(prefix or default):
        module, attribute = place.split(":")
        found = getattr(importlib.import_module(module), attribute)
    elif prefix in outside:
        found = load_entry(outside[prefix], "a family of environments")
    else:
        raise UserError.unknown("family of environments", prefix, [*_FAMILIES, *outside])
    if not isinstance(found, Family):
        raise UserError(f"{prefix}: {found!r} is no `Family`: mend its entry in {_GROUP}")
    found.prefix = "" if prefix in ("", default) else prefix
    return found
