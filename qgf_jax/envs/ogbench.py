"""OGBench, the first family of environments, made to repeat (Park et al., 2025a, arXiv 2410.20092).

No JAX, and the simulator is imported on first use. Point mazes need it only to be played in MuJoCo:
their numbers stand in `mazes`.
"""

import contextlib
import dataclasses
import difflib
import importlib.metadata
import json
import re
import shlex
import types
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.envs import descriptions, mazes, unrendered
from qgf_jax.envs.families import ON_DEVICE, SIMULATORS, EnvName, Family, Labels
from qgf_jax.envs.task_env import TaskEnv
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import children

TASKS = (1, 2, 3, 4, 5)
"""Of every environment."""

PACKAGES = ("ogbench", "dm_control")
"""Distributions and modules: the benchmark, and what its manipulation is made with."""

_SIMULATOR = ("mujoco", "gymnasium")
"""What pip installs with this package, unless somebody has left it out."""

_DEFAULT_TASKS = {
    "antsoccer": 4,
    "cube": 2,
    "scene": 2,
    "puzzle-3x3": 4,
    "puzzle-4x4": 4,
    "puzzle": 2,
}
"""By the beginning of a scene, the task of a name without one; all others have 1."""

_FORM = re.compile(r"([^/:]+?-[a-z]+)(-singletask|-oraclerep)?(?:-task(\d+))?(-v\d+)")
"""SCENE-KIND[-singletask|-oraclerep][-taskN]-vN"""
_FIRST_WORDS = (
    *("pointmaze", "antmaze", "humanoidmaze", "antsoccer", "cube", "scene", "puzzle"),
    *("powderworld", "visual"),
)
"""Of the names of scenes."""

_AT_ONCE = 8192
"""Rows that are labelled at once: OGBench's rule works in float64."""

_POLICY_GOALS = {"stitch": (0.0, 0.5, 0.5), "explore": (0.0, 0.0, 1.0)}


class _Name(EnvName):
    """A name such as pointmaze-medium-navigate-singletask-task1-v0.

    Without "singletask" the environment has goals: pointmaze-medium-navigate-v0 means all five tasks,
    pointmaze-medium-navigate-task3-v0 one, and cube-single-play-oraclerep-v0 gives as a goal not an
    observation but what of it matters.
    """

    @property
    def scene(self) -> str:
        """pointmaze-medium"""
        return self.dataset.rsplit("-", 2)[0]

    @property
    def kind(self) -> str:
        """navigate: how the data were collected"""
        return self.dataset.rsplit("-", 2)[1]

    @property
    def version(self) -> str:
        """v0"""
        return self.dataset.rsplit("-", 2)[2]

    @property
    def env_id(self) -> str:
        """What Gymnasium knows the environment as."""
        single = "" if self.goals else f"-singletask-task{self.task}"
        return f"{self.scene}{single}-{self.version}"

    @property
    def full(self) -> str:
        """The whole name, its task spelled out."""
        words = {"": ["singletask"], "observation": [], "oraclerep": ["oraclerep"]}[self.goals]
        return self._with([*words, f"task{self.task}"] if self.task else words)

    @property
    def label(self) -> str:
        """The name in tables, where the task has a column of its own; another simulator is named."""
        return self._with(["oraclerep"] * (self.goals == "oraclerep")) + self._played_by

    @property
    def buttons(self) -> tuple[str, ...]:
        """The column of buttons, where the state is also theirs."""
        return ("button_states",) * self.scene.startswith(("scene", "puzzle"))

    def _with(self, words: list[str]) -> str:
        return "-".join([self.scene, self.kind, *words, self.version])

    @property
    def maze(self) -> mazes.Maze | None:
        """The point maze, if it is one."""
        return mazes.MAZES.get(self.scene) if self.version == mazes.VERSION else None


class _OGBench(Family):
    """All environments of OGBench whose observations are states."""

    title = "OGBench's"
    tasks = TASKS
    modules = (*PACKAGES, *_SIMULATOR)
    packages = ("ogbench", "mujoco", "gymnasium")
    search_path = ("data", "~/.ogbench/data")

    def claims(self, name: str) -> bool:
        """Whether it has the form of OGBench's names, or begins like one."""
        return bool(_FORM.fullmatch(name)) or name.partition("-")[0] in _FIRST_WORDS

    def parse(self, name: str) -> _Name:
        """Takes a name apart, with or without its task."""
        found = _FORM.fullmatch(name)
        dataset = found[1] if found else ""
        if not found or dataset.endswith(("-singletask", "-oraclerep")):
            raise UserError(
                f"environment {name!r} is neither of the form SCENE-KIND-singletask[-taskN]-v0, such as "
                "cube-single-play-singletask-task2-v0, nor with goals, SCENE-KIND[-oraclerep]-v0, nor "
                "an id of Gymnasium's, such as Hopper-v5"
            )
        _, word, task, version = found.groups()
        goals = {"-singletask": "", "-oraclerep": "oraclerep", None: "observation"}[word]
        parsed = _Name(dataset + version, 0, goals, every_task=TASKS)
        if task:
            return parsed.with_task(int(task))
        return parsed if goals else parsed.with_task(_default_task(parsed.scene))

    def own(self, name: EnvName) -> _Name:
        """The name with what this family alone knows of it."""
        return name if isinstance(name, _Name) else _Name(**dataclasses.asdict(name))

    def make(self, name: EnvName | str, **options: Any) -> TaskEnv:
        """The environment of a name; `options` are those of `gymnasium.make`."""
        name = self.parse(name) if isinstance(name, str) else name
        if name.goals == "oraclerep":
            options["use_oracle_rep"] = True
        state = ("qpos", "qvel", *self.own(name).buttons)
        return TaskEnv(name, self.gym(name.env_id, **options), state)

    def gym(self, env_id: str, **options: Any) -> Any:
        """`gymnasium.make` of an OGBench id. Raises `UserError` as `_check` does."""
        with contextlib.nullcontext() if "render_mode" in options else _unseen():
            _check(env_id)
            import gymnasium

            with descriptions.removed():
                return gymnasium.make(env_id, disable_env_checker=True, **options)

    reset = staticmethod(TaskEnv.reset_by_seed)

    def requirements(self) -> list[str]:
        """What `pip install --no-deps` must be given: OGBench and what it needs for manipulation.

        The ranges are those of this package's own metadata, which comes from setup.cfg.
        """
        try:
            declared = importlib.metadata.requires("qgf-jax") or []
        except importlib.metadata.PackageNotFoundError:  # a source tree on the path
            declared = []
        ranges = {re.split(r"[^\w.-]", line)[0].replace("-", "_"): line for line in declared}
        return [ranges.get(name, name).split(";")[0].strip() for name in PACKAGES]

    def require(self) -> None:
        """Raises `UserError`, with the remedy, where OGBench or its simulator is not installed."""
        lacking = self.missing()
        if not lacking:
            return
        if set(lacking) & set(_SIMULATOR):
            raise UserError(
                f"OGBench's environments need {', '.join(lacking)}, which are not installed: run `make "
                "install`; point mazes alone do without (--simulator=jax to collect, --envs=jax to "
                "evaluate)"
            )
        words = " ".join(f"'{requirement}'" for requirement in self.requirements())
        raise UserError(
            f"OGBench's environments need {' and '.join(lacking)}, not installed here (pip leaves that "
            f"out on Python 3.13 and later): run `pip install --no-deps {words}`"
        )

    @contextlib.contextmanager
    def headless(self) -> Generator[Callable[[Any], None]]:
        """Models without what only a camera sees, see `unrendered`."""
        with _unseen(), unrendered.models() as forget_files:
            yield lambda env: forget_files(env.env)

    def widths(self, name: EnvName) -> tuple[int, int, int]:
        """(O, G, A), those of a point maze without its simulator."""
        if self.own(name).maze:
            width, action = mazes.WIDTHS
            return width, width if name.goals else 0, action
        env = self.make(name.with_task(name.tasks[0]))
        width, whole = env.width, len(env.reset(0))
        env.env.close()
        return width, whole - width, env.action_dim

    def rendered(self, name: EnvName, size: int) -> TaskEnv:
        """The environment with `render`."""
        return self.make(name, width=size, height=size, render_mode="rgb_array")

    def device_simulator(self, name: EnvName) -> Any:
        """The point maze on the device; `UserError` for everything else."""
        from qgf_jax.envs.jax_pointmaze import PointMaze

        return PointMaze(self.own(name))

    def maze(self, name: EnvName) -> tuple[np.ndarray, float, tuple[float, float]]:
        """Free squares, the length of a side, minus the middle of square (0, 0)."""
        if known := self.own(name).maze:
            return known.free, mazes.UNIT, (mazes.OFFSET[0], mazes.OFFSET[1])
        env = self.gym(name.env_id).unwrapped
        return env.maze_map == 0, env._maze_unit, (env._offset_x, env._offset_y)

    def labels(self, name: EnvName) -> Labels:
        """By OGBench's own rules.

        The rules of point mazes are known here. Where goals are observations, rows say all that is
        learned from: that works without OGBench where it is not installed, and a line says so.
        """
        if maze := self.own(name).maze:
            return _MazeLabels(name, maze)
        if name.goals == "observation" and self.missing():
            log(f"data: without OGBench nobody checks that the rows are those of {name.env_id}")
            return _StateLabels(name)
        with _unseen():
            _check(name.env_id)
        return _SimulatorLabels(name)

    def policy_goals(self, name: EnvName) -> tuple[float, float, float]:
        """OGBench's probabilities, by how the data were collected."""
        return _POLICY_GOALS.get(self.own(name).kind, (0.0, 1.0, 0.0))

    def advice(self, dataset: str, folder: Path) -> str:
        """How to collect the dataset, or to download it."""
        from qgf_jax.envs import ogbench_experts as experts

        unread = (
            "put it there, or name another (only OGBench's layout is read so far: docs/data.md)"
        )
        try:
            name = self.parse(dataset)
        except UserError:
            return unread
        if experts.Expert.is_published_only(name):
            code = f'import ogbench; ogbench.download_datasets(["{dataset}"], {json.dumps(str(folder))})'
            return (
                "no expert is shipped that could collect it; put OGBench's own file there, as by "
                f"`python -c {shlex.quote(code)}`"
            )
        try:
            experts.Expert.check(name)
        except UserError as error:
            known = name.scene in experts.SCENES
            return f"put it there, or name another ({error})" if known else unread
        place = shlex.quote(f"--out={folder}")
        return f"put it there, or run `qgf collect --env={dataset} --episodes=100 {place}`"

    def collector(self, name: EnvName, simulator: str = SIMULATORS[0]) -> Any:
        """The scripted expert of a scene, or of a point maze on the device."""
        from qgf_jax.envs import ogbench_experts as experts

        name = self.parse(name.dataset)  # data are collected without a task
        experts.Expert.check(name, simulator)
        if simulator == ON_DEVICE:
            from qgf_jax.envs.jax_experts import MazeExperts

            return MazeExperts(self.device_simulator(name), name.kind)
        return experts.Expert(name)


FAMILY = _OGBench()


def _default_task(scene: str) -> int:
    found = (task for prefix, task in _DEFAULT_TASKS.items() if scene.startswith(prefix))
    return next(found, 1)


@contextlib.contextmanager
def _unseen() -> Generator[None]:
    """What is imported meanwhile looks for no screen and loads no renderer, whatever MUJOCO_GL says.

    MuJoCo and dm_control do so as they are imported, and may take a process down that renders nothing.
    """
    with children.variable("MUJOCO_GL", "disable"):
        yield


def _check(env_id: str) -> None:
    """Raises `UserError` unless `env_id` is one of OGBench's whose observations are states."""
    ours = {i: spec for i, spec in _registry().items() if "ogbench" in str(spec.entry_point)}
    if env_id not in ours:
        scenes = sorted({i.split("-")[0] for i in ours})
        if difflib.get_close_matches(env_id.split("-")[0], scenes, n=1, cutoff=0.8):
            raise UserError.unknown("environment", env_id, ours)
        raise UserError(
            f"environment {env_id!r} is none of OGBench's ({', '.join(scenes)}): name one of these, or "
            "of another family, as gymnasium:NAME"
        )
    spec = ours[env_id]
    if spec.kwargs.get("ob_type") == "pixels" or "powderworld" in str(spec.entry_point):
        states = env_id.removeprefix("visual-")
        advice = f": use {states}" if states in ours and states != env_id else ""
        raise UserError(f"observations of {env_id} are pixels, which are not supported{advice}")


def _registry() -> Any:
    FAMILY.require()
    import gymnasium
    import ogbench  # noqa: F401  (registers the environments)

    return gymnasium.registry


class _StateLabels(Labels):
    """Labels that come from the simulator's state, which the data have in `qpos`; not from columns."""

    reads = ()

    def _state(
        self, columns: Mapping[str, np.ndarray], path: Path, width: int | None, what: str
    ) -> dict[str, np.ndarray]:
        """The state as OGBench's functions take and extend it."""
        for key in ("qpos", *FAMILY.own(self.name).buttons):
            if key not in columns:
                raise UserError(f"{path}: key {key!r} is missing, and {what} from it")
        if width not in (None, found := columns["qpos"].shape[1]):
            raise UserError(f"{path}: qpos is {found} wide, {self.name.env_id} has {width}")
        return dict(columns)


class _MazeLabels(_StateLabels):
    """Those of a point maze, whose rule needs no simulator."""

    def __init__(self, name: EnvName, maze: mazes.Maze):
        super().__init__(name, mazes.WIDTHS)
        self._maze = maze

    def rewards(
        self, columns: Mapping[str, np.ndarray], path: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """-1 and 1, in a state at the goal 0."""
        state = self._state(columns, path, mazes.WIDTHS[0], "the rewards come")
        return self._maze.label(state["qpos"], self.name.task)

    def goals(self, columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray | None:
        """Where the ball is, for the names with -oraclerep-."""
        if self.name.goals != "oraclerep":
            return None
        return self._state(columns, path, mazes.WIDTHS[0], "the goals come")["qpos"]


class _SimulatorLabels(_StateLabels):
    """Those of OGBench's own functions, which ask an environment. It is made when it is needed."""

    def __init__(self, name: EnvName, env: Any = None):
        super().__init__(name)
        self._made = env

    @property
    def _env(self) -> Any:
        if self._made is None:
            self._made = FAMILY.make(self.name).env
        return self._made

    @property
    def widths(self) -> tuple[int, int] | None:
        """Those of the environment's spaces."""
        return self._env.observation_space.shape[0], self._env.action_space.shape[0]

    @property
    def _nq(self) -> int | None:
        try:
            return self._env.unwrapped.model.nq
        except ValueError:  # manipulation has no model before its first reset
            return None

    def rewards(
        self, columns: Mapping[str, np.ndarray], path: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and task masks [R] by OGBench's rule, a few rows at a time, the task set once."""
        from ogbench.relabel_utils import relabel_dataset

        state = self._state(columns, path, self._nq, "the rewards come")
        self._env.reset()  # sets the task
        without_reset = types.SimpleNamespace(unwrapped=self._env.unwrapped, reset=lambda: None)
        rewards, masks = np.empty((2, len(state["qpos"])), np.float32)
        for start in range(0, len(rewards), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            labelled = {key: array[some] for key, array in state.items()}
            with self._fitting(path):
                relabel_dataset(self.name.env_id, without_reset, labelled)
            rewards[some], masks[some] = labelled["rewards"], labelled["masks"]
        return rewards, masks

    def goals(self, columns: Mapping[str, np.ndarray], path: Path) -> np.ndarray | None:
        """What a row is as a goal [R, G] by OGBench's rule, for the names with -oraclerep-."""
        if self.name.goals != "oraclerep":
            return None
        from ogbench.relabel_utils import add_oracle_reps

        state = self._state(columns, path, self._nq, "the goals come")
        with self._fitting(path):
            add_oracle_reps(self.name.env_id, self._env, state)
        return state["oracle_reps"]

    @contextlib.contextmanager
    def _fitting(self, path: Path) -> Generator[None]:
        try:
            yield
        except (IndexError, ValueError) as error:
            raise UserError(f"{path}: qpos does not fit {self.name.env_id}: {error}") from None

    def close(self) -> None:
        """Closes the environment, if one was made."""
        if self._made is not None:
            self._made.close()
