"""OGBench's names, and its environments made to repeat. No JAX; the simulator loads on first use."""

import contextlib
import difflib
import importlib.metadata
import importlib.util
import random
import re
from collections.abc import Generator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from qgf_jax.errors import UserError, unknown_name_error
from qgf_jax.runtime import children

DEFAULT_TASKS = {"antsoccer": 4, "cube": 2, "scene": 2, "puzzle-3x3": 4, "puzzle-4x4": 4}
"""The task of a name without one; everything else has 1 or is in `default_task`."""


TASKS = (1, 2, 3, 4, 5)
"""Of every environment."""

ON_DEVICE = "jax"
"""`Name.simulator` of what is played in `envs.jax_pointmaze`."""

SIMULATORS = ("mujoco", ON_DEVICE)
"""The benchmark's own, and the approximation that runs where the policy does."""

PACKAGES = ("ogbench", "dm_control")
"""Distributions and modules: the benchmark, and what its manipulation is made with."""

SIMULATOR = ("mujoco", "gymnasium")
"""What pip installs with this package, unless somebody has left it out."""


class EnvName(NamedTuple):
    """The parts of a name such as pointmaze-medium-navigate-singletask-task1-v0.

    Without "singletask" the environment has goals: pointmaze-medium-navigate-v0 means all five tasks,
    pointmaze-medium-navigate-task3-v0 one, and cube-single-play-oraclerep-v0 gives as a goal not an
    observation but what of it matters.
    """

    scene: str
    """pointmaze-medium"""
    kind: str
    """navigate: how the data was collected"""
    task: int
    """1 … 5; 0 for all of them"""
    version: str
    goals: str = ""
    """"" in a single task; "observation" or "oraclerep", by what a goal is"""
    simulator: str = ""
    """What plays in place of the benchmark's own simulator; "" if nothing does"""

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks that it names."""
        return (self.task,) if self.task else TASKS

    @property
    def dataset(self) -> str:
        """The name of the npz file, which serves all tasks."""
        return f"{self.scene}-{self.kind}-{self.version}"

    @property
    def env_id(self) -> str:
        """What Gymnasium knows the environment as."""
        single = "" if self.goals else f"-singletask-task{self.task}"
        return f"{self.scene}{single}-{self.version}"

    @property
    def full(self) -> str:
        """The whole name, its task spelled out."""
        words = [self.scene, self.kind, *self._words, f"task{self.task}" if self.task else ""]
        return "-".join(filter(None, [*words, self.version]))

    @property
    def label(self) -> str:
        """The name in tables, where the task has a column of its own; another simulator is named."""
        oracle = [w for w in self._words if w == "oraclerep"]
        other = f" ({self.simulator})" if self.simulator else ""
        return "-".join([self.scene, self.kind, *oracle, self.version]) + other

    @property
    def _words(self) -> list[str]:
        return {"": ["singletask"], "observation": [], "oraclerep": ["oraclerep"]}[self.goals]

    def with_task(self, task: int) -> "EnvName":
        """The same environment and data with another task."""
        if task not in TASKS:
            raise UserError(f"{self.scene} has tasks 1 to 5, not {task}")
        return self._replace(task=task)


def actor_goals(kind: str) -> tuple[float, float, float]:
    """OGBench's probabilities of a policy's goals, by how the data was collected.

    Of the current row, of a later one of the trajectory, of any.
    """
    return {"stitch": (0.0, 0.5, 0.5), "explore": (0.0, 0.0, 1.0)}.get(kind, (0.0, 1.0, 0.0))


def default_task(scene: str) -> int:
    """The task that OGBench takes where a name says none."""
    for prefix, task in DEFAULT_TASKS.items():
        if scene.startswith(prefix):
            return task
    return 2 if scene.startswith("puzzle") else 1


def parse(name: str) -> EnvName:
    """Takes a name apart, with or without its task."""
    found = re.fullmatch(r"(.+?)-([a-z]+)(-singletask|-oraclerep)?(?:-task(\d+))?-(v\d+)", name)
    if not found or found[2] in ("singletask", "oraclerep"):
        raise UserError(
            f"environment {name!r} is neither of the form SCENE-KIND-singletask[-taskN]-v0, such as "
            "cube-single-play-singletask-task2-v0, nor with goals, SCENE-KIND[-oraclerep]-v0"
        )
    scene, kind, word, task, version = found.groups()
    if word == "-singletask":
        return EnvName(scene, kind, 1, version).with_task(
            int(task) if task else default_task(scene)
        )
    parsed = EnvName(scene, kind, 0, version, "oraclerep" if word else "observation")
    return parsed.with_task(int(task)) if task else parsed


def requirements() -> list[str]:
    """What `pip install --no-deps` must be given: OGBench and what it needs for manipulation.

    The ranges are those of this package's own metadata, which comes from setup.cfg.
    """
    try:
        declared = importlib.metadata.requires("qgf-jax") or []
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        declared = []
    ranges = {re.split(r"[^\w.-]", line)[0].replace("-", "_"): line for line in declared}
    return [ranges.get(name, name).split(";")[0].strip() for name in PACKAGES]


def missing() -> list[str]:
    """Packages that OGBench's environments need and that are not installed."""
    needed = (*PACKAGES, *SIMULATOR)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def require() -> None:
    """Raises `UserError`, with the remedy, where OGBench or its simulator is not installed."""
    lacking = missing()
    if not lacking:
        return
    words = " ".join(f"'{requirement}'" for requirement in requirements())
    if set(lacking) & set(SIMULATOR):
        raise UserError(
            f"OGBench's environments need {', '.join(lacking)}, which are not installed: run `make "
            "install`; point mazes alone do without (--simulator=jax to collect, --envs=jax to evaluate)"
        )
    raise UserError(
        f"OGBench's environments need {' and '.join(lacking)}, which pip does not install by "
        f"itself on Python 3.13 and later: run `pip install --no-deps {words}`"
    )


@contextlib.contextmanager
def unseen() -> Generator[None]:
    """What is imported meanwhile looks for no screen and loads no renderer, whatever MUJOCO_GL says.

    MuJoCo and dm_control do so as they are imported, and may take a process down that renders nothing.
    """
    with children.variable("MUJOCO_GL", "disable"):
        yield


def check(env_id: str) -> None:
    """Raises `UserError` unless `env_id` is one of OGBench's whose observations are states.

    Also where OGBench is not installed.
    """
    with unseen():
        _check(env_id)


def _check(env_id: str) -> None:
    ours = {i: spec for i, spec in _registry().items() if "ogbench" in str(spec.entry_point)}
    if env_id not in ours:
        families = sorted({i.split("-")[0] for i in ours})
        if difflib.get_close_matches(env_id.split("-")[0], families, n=1, cutoff=0.8):
            raise unknown_name_error("environment", env_id, ours)
        raise UserError(
            f"environment {env_id!r} is none of OGBench's ({', '.join(families)}); only those can be "
            "used so far"
        )
    spec = ours[env_id]
    if spec.kwargs.get("ob_type") == "pixels" or "powderworld" in str(spec.entry_point):
        states = env_id.removeprefix("visual-")
        advice = f": use {states}" if states in ours and states != env_id else ""
        raise UserError(f"observations of {env_id} are pixels, which are not supported{advice}")


def _registry() -> Any:
    require()
    import gymnasium
    import ogbench  # noqa: F401  (registers the environments)

    return gymnasium.registry


def make(env_id: str, **options: Any) -> Any:
    """`gymnasium.make` of an OGBench id. Raises `UserError` as `check` does."""
    with contextlib.nullcontext() if "render_mode" in options else unseen():
        _check(env_id)
        import gymnasium

        return gymnasium.make(env_id, disable_env_checker=True, **options)


def reset(env: Any, seed: int, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Resets so that the initial state is a function of `seed` alone.

    OGBench draws from three places: the environment's generator, NumPy's global one (point mazes)
    and, for a few steps that settle the scene, from an action space made on the spot and never
    seeded. All three are tied to `seed`. NumPy's global generator stays so, for what the
    environment draws from it later.
    """
    random.seed(seed)
    np.random.seed(seed)
    with _seeded_action_spaces(seed):
        return env.reset(seed=seed, **options)


@contextlib.contextmanager
def _seeded_action_spaces(seed: int) -> Generator[None]:
    from gymnasium.spaces import Box

    generator = np.random.default_rng(seed)

    def sample(box: Any, *_: Any, **__: Any) -> np.ndarray:
        return generator.uniform(box.low, box.high).astype(box.dtype)

    with mock.patch.object(Box, "sample", sample):
        yield


class OGBenchEnv:
    """The environment of a name, seeded; where it has goals, they are the end of an observation."""

    def __init__(self, name: str | EnvName, **options: Any):
        self.name = parse(name) if isinstance(name, str) else name
        if self.name.goals == "oraclerep":
            options["use_oracle_rep"] = True
        self.env = make(self.name.env_id, **options)
        self._goal = np.zeros(0)

    def reset(self, seed: int) -> np.ndarray:
        """First observation of the episode `seed`, see `reset` above. The name must say the task."""
        if not self.name.goals:
            return reset(self.env, seed)[0]
        obs, info = reset(self.env, seed, options={"task_id": self.name.task})
        self._goal = np.asarray(info["goal"])
        return np.concatenate([obs, self._goal])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """(observation, reward, whether the episode is over, info)."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        obs = np.concatenate([obs, self._goal]) if self.name.goals else obs
        return obs, float(reward), bool(terminated or truncated), info


def goal_position(env: Any) -> list[float] | None:
    """The goal [x, y] of a maze that has been reset, else None."""
    goal = getattr(env.unwrapped, "cur_goal_xy", None)
    return None if goal is None else [float(x) for x in goal]
