"""Environments of Gymnasium, whoever registers them, of a user's own function, and of Minari's datasets.

    Hopper-v5                            an id that Gymnasium knows
    gymnasium_robotics:FetchReach-v4     a package is imported first, Gymnasium's own convention
    my_lab.envs:make_arm                 a function of the user's that makes an environment
    minari:mujoco/hopper/medium-v0       the environment that a local Minari dataset was recorded in

`gymnasium:NAME` says of the first three that they are meant, as of an id with the form of another
family's names. A package or module must be installed, or in a folder that PYTHONPATH names.

Observations are boxes, or dictionaries of boxes, flattened in the order of their sorted keys, or by the
parts that the data name (`EnvName.parts`). Actions are boxes with any bounds. Such an environment has
one task, and its data say what rows are worth. No JAX, and Gymnasium is imported on first use.
"""

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import math
import random
import re
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.envs import spaces
from qgf_jax.envs.carried import Carried
from qgf_jax.envs.families import Bounds, EnvName, Family, Labels
from qgf_jax.errors import UserError, raised
from qgf_jax.runtime import children

_ID = re.compile(r"(?:[\w.]+:)?[\w/.-]+-v\d+")
"""[PACKAGE:][NAMESPACE/]NAME-vN"""
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""MODULE:FUNCTION"""
_LEARNING = ("NormalizeObservation", "NormalizeReward")
"""Wrappers of Gymnasium's that go by the mean and spread of what they have seen so far."""


@dataclasses.dataclass(frozen=True)
class _Name(EnvName):
    """What is written in the config stands for one environment and one task."""

    id: str = ""
    """What Gymnasium, or a dataset, knows it as."""
    written: str = ""
    """The same with the family where that must be said."""

    @property
    def env_id(self) -> str:
        return self.id

    @property
    def full(self) -> str:
        return self.written

    @property
    def label(self) -> str:
        return self.written + self._played_by


class _Gymnasium(Family):
    """Whatever `gymnasium.make`, or a function of the user's, gives."""

    title = "Gymnasium's"
    modules = ("gymnasium",)
    packages = ("gymnasium", "mujoco")
    says_success = False

    def claims(self, name: str) -> bool:
        """Whether it is an id or MODULE:FUNCTION."""
        return bool(_ID.fullmatch(name) or _FUNCTION.fullmatch(name))

    def parse(self, name: str) -> _Name:
        """Takes a name apart: an id or MODULE:FUNCTION. Raises `UserError` if it is neither."""
        if not self.claims(name):
            raise UserError(
                f"environment {name!r} is neither an id of Gymnasium's, as Hopper-v5 or "
                "gymnasium_robotics:FetchReach-v4, nor a function, as my_lab.envs:make_arm"
            )
        dataset = re.sub(r"[^\w.-]", "-", name.rpartition(":")[2])
        plain = Family.of(name) is self
        written = name if plain else f"{self.prefix}:{name}"
        return _Name(dataset, 1, family=self.prefix, id=name, written=written)

    def packages_of(self, name: str) -> tuple[str, ...]:
        """Those of all, and the package that a name begins with: most have their distribution's name."""
        module, colon, _ = EnvName.parse(name).env_id.partition(":")
        return (*self.packages, *[module.partition(".")[0]] * bool(colon))

    def make(self, name: EnvName) -> "_GymnasiumEnv":
        """The environment. Raises `UserError` if there is none, or if it is not made of boxes."""
        return _GymnasiumEnv(name, self.gym(name))

    def gym(self, name: EnvName, **options: Any) -> Any:
        """The environment as Gymnasium has it; `options` are those of `gymnasium.make`."""
        self.require()
        with contextlib.nullcontext() if "render_mode" in options else _unseen():
            made = self._open(name, options)
        _check_episodes(name.env_id, made)
        return made

    def _open(self, name: EnvName, options: Mapping[str, Any]) -> Any:
        if not self._is_module(name.env_id.partition(":")[0]) and ":" in name.env_id:
            raise UserError(
                f"{name.env_id}: there is no module {name.env_id.partition(':')[0]}: install it, or "
                "name its folder in PYTHONPATH, or mend the name"
            )
        return _make(name.env_id, options)

    @contextlib.contextmanager
    def headless(self) -> Generator[Callable[[Any], None]]:
        """Without looking for a screen."""
        with _unseen():
            yield lambda env: None

    def bounds(self, name: EnvName) -> Bounds | None:
        """Those of the action space; `None` where no environment can be made."""
        if self.missing():
            return None
        made = self.make(name)
        made.close()
        return made.bounds

    def labels(self, name: EnvName) -> Labels:
        """The data's own, with widths and bounds of the environment where it can be made."""
        if self.missing():
            return Labels(name)
        made = self.make(name)
        made.close()
        return Labels(name, (made.parts.width, made.action_dim), made.bounds)

    def rendered(self, name: EnvName, size: int) -> "_GymnasiumEnv":
        """The environment with `render`; pictures are as large as the environment makes them."""
        return _GymnasiumEnv(name, self.gym(name, render_mode="rgb_array"))

    def advice(self, dataset: str, folder: Path) -> str:
        """How data come here."""
        return (
            "convert some with `qgf convert FORMAT:PLACE`, and name the folder that it makes with "
            "--config.data.name (docs/data.md)"
        )


class _Minari(_Gymnasium):
    """The environments that Minari's datasets were recorded in."""

    title = "Minari's"

    def parse(self, name: str) -> _Name:
        """The id of a dataset. Raises `UserError` if it is none."""
        if not re.fullmatch(r"[\w/.-]+-v\d+", name):
            raise UserError(
                f"environment minari:{name} is no id of a Minari dataset, as minari:lab/hop-v0"
            )
        written = f"{self.prefix}:{name}"
        return _Name(name.replace("/", "-"), 1, family=self.prefix, id=written, written=written)

    def claims(self, name: str) -> bool:
        """None: the form of its names says nothing."""
        return False

    def _open(self, name: EnvName, options: Mapping[str, Any]) -> Any:
        """The environment by the id and options that the dataset's metadata say."""
        recorded = Carried.of(name.env_id.partition(":")[2]).environment
        if not _ID.fullmatch(recorded["id"]) or ":" in recorded["id"]:
            raise UserError(
                f"{name.env_id} was recorded in {recorded['id']!r}, and what to import is not left to "
                "data: name the environment yourself"
            )
        limit = recorded["max_episode_steps"]
        limited = {"max_episode_steps": limit} if limit else {}
        return _make(recorded["id"], {**recorded["options"], **limited, **options})


FAMILY = _Gymnasium()
MINARI = _Minari()


def _make(name: str, options: Mapping[str, Any]) -> Any:
    """The environment of an id, or of a function. Raises `UserError` with the cause in one line."""
    import gymnasium

    module, colon, rest = name.partition(":")
    if not colon and name not in gymnasium.registry:
        near = difflib.get_close_matches(name, gymnasium.registry, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "name its package too, as PACKAGE:Id-v0"
        raise UserError(f"Gymnasium knows no environment {name!r}: {advice}")
    try:
        # What they print must not look like our output.
        with contextlib.redirect_stdout(sys.stderr):
            if _ID.fullmatch(name):
                return gymnasium.make(name, disable_env_checker=True, **options)
            made = _call(getattr(importlib.import_module(module), rest), options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a package or a user's function raises
        raise UserError(f"environment {name} cannot be made ({raised(error)})") from error
    if not isinstance(made, gymnasium.Env):
        raise UserError(
            f"{name} gives a {type(made).__name__}: it must give an environment of Gymnasium's"
        )
    return made


def _call(function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """What a user's function makes; it gets those of the options that it takes."""
    if not options:
        return function()
    taken = inspect.signature(function).parameters
    every = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    return function(**{key: option for key, option in options.items() if every or key in taken})


def _check_episodes(name: str, env: Any) -> None:
    """Raises `UserError` if episodes may never end, or depend on those before them."""
    wrappers = list(_layers(env))
    for one in wrappers:
        kind = type(one).__name__
        if kind in _LEARNING and getattr(one, "update_running_mean", True):
            raise UserError(
                f"{name}: its wrapper {kind} changes with all that it has seen, so an episode would "
                "depend on those before it: leave it out (data.standardize does the same for "
                "observations, data.reward_scale for rewards), or set update_running_mean=False"
            )
    limited = getattr(env, "spec", None) is not None and env.spec.max_episode_steps
    if not limited and "TimeLimit" not in {type(one).__name__ for one in wrappers}:
        raise UserError(
            f"{name} has no limit of steps, so an episode may never end: wrap it in "
            "gymnasium.wrappers.TimeLimit, or register it with max_episode_steps"
        )


def _layers(env: Any) -> Generator[Any]:
    """The environment's wrappers from the outermost to itself."""
    while env is not None:
        yield env
        env = getattr(env, "env", None)


@contextlib.contextmanager
def _unseen() -> Generator[None]:
    """MuJoCo looks for no screen as it is imported meanwhile."""
    with children.variable("MUJOCO_GL", "disable"):
        yield


class _GymnasiumEnv:
    """An environment of Gymnasium as rows of numbers, its first state a function of the seed."""

    def __init__(self, name: EnvName, env: Any):
        self.env = env
        self._name = name.env_id
        self.parts = spaces.Parts.as_in_data(name.env_id, env.observation_space, name.parts)
        """Keys and widths of an observation's parts, in order."""
        self.bounds = spaces.bounds(name.env_id, env.action_space)
        """The least and the largest action [A] each."""
        self.action_dim = len(self.bounds[0])
        self._low, self._high = self.bounds
        self._shape, self._dtype = env.action_space.shape, env.action_space.dtype
        self.draws_globally = not type(env.unwrapped).__module__.startswith("gymnasium.")
        """Whether its steps may draw from Python's global generator; Gymnasium's own do not."""

    def reset(self, seed: int) -> np.ndarray:
        """First observation [O] of the episode `seed`.

        Environments draw from a generator of their own; some from Python's and NumPy's global ones too.
        """
        random.seed(seed)
        np.random.seed(seed)
        self.env.action_space.seed(seed)
        return self.parts.row(self._name, self.env.reset(seed=seed)[0])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, Mapping[str, Any]]:
        """(observation [O], reward, whether the episode is over, info) after `action` [A].

        `info["success"]` is the environment's `success` or `is_success`, if it says either. Raises
        `UserError` for a success or reward that is not one number.
        """
        # Half the time of numpy.clip, which counts beside a simulator of 20 microseconds a step.
        inside = np.minimum(np.maximum(action, self._low), self._high)
        action = inside.astype(self._dtype, copy=False).reshape(self._shape)
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (said := info.get("success")) is None:
            said = info.get("is_success")
        if not isinstance(reward, float):
            reward = self._number("reward", reward, finite=False)
        over = bool(terminated or truncated)
        obs = self.parts.row(self._name, observation)
        if said is None:
            return obs, float(reward), over, {}
        success = min(max(self._number("success", said), 0.0), 1.0)
        return obs, float(reward), over, {"success": success}

    def _number(self, what: str, said: Any, *, finite: bool = True) -> float:
        """What the environment says as one number; an array of one is one."""
        try:
            number = float(np.asarray(said, np.float64).reshape(()))
        except (TypeError, ValueError):
            number = None
        if number is None or (finite and math.isnan(number)):
            raise UserError(f"{self._name}: its {what} is {said!r:.60}, which is not one number")
        return number

    def close(self) -> None:
        """Ends what the environment has started."""
        self.env.close()

    def set_state(self, columns: Mapping[str, np.ndarray]) -> bool:
        """Puts MuJoCo into the state `qpos`, `qvel`; false without it, or in another simulator."""
        simulator = self.env.unwrapped
        if not (hasattr(simulator, "set_state") and {"qpos", "qvel"} <= columns.keys()):
            return False
        simulator.set_state(columns["qpos"], columns["qvel"])
        return True

    def render(self) -> np.ndarray:
        """A picture [h, w, 3]. Raises `UserError` if the environment draws none."""
        picture = np.zeros(0)
        with contextlib.suppress(NotImplementedError):  # Gymnasium's own, of one that draws nothing
            picture = np.asarray(self.env.render())
        if picture.ndim != 3:
            raise UserError(
                f"{self._name}: its render() gives no picture [h, w, 3]: give the function that "
                "makes it an argument render_mode, and heed render_mode='rgb_array'"
            )
        return picture
