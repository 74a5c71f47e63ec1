"""What a reader of a format gives: episodes, one after another. No JAX.

    class Recording: what a source says of itself, and how its episodes are read
    class Episode: the observations, actions and rewards of one

`Recording.checked` is the one place that looks at the numbers, whatever the format.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.summary import Rounding
from qgf_jax.errors import UserError, log, raised
from qgf_jax.runs import files
from qgf_jax.runtime.plugins import ByModule


class Choice(NamedTuple):
    """What a user picks of a source that has more than one of something."""

    observations: tuple[str, ...] = ()
    """Keys whose numbers make an observation, in this order; empty: all that are rows of numbers."""
    actions: str = ""
    """The key of the actions, such as robomimic's `actions_abs`; empty: the format's own."""
    ends: str = ""
    """"terminated" or "truncated": what the end of an episode means where the source says only that
    it ended; empty: refuse such a source."""
    split: str = ""
    """The source's own word for a part of its episodes, such as robomimic's `valid`; empty: all."""


ALL = Choice()
"""What the format takes by itself."""


class Episode(NamedTuple):
    """T transitions and the observations around them."""

    observations: np.ndarray
    """[T + 1, O], the last one after the last action"""
    actions: np.ndarray
    """[T, A], in the units of the environment"""
    rewards: np.ndarray | None
    """[T]; `None` where the source has none"""
    terminated: bool
    """Whether the last action ended the task; else the episode was cut off, and its future counts."""
    info: Mapping[str, np.ndarray] = {}
    """Further columns, [T + 1, …], such as the simulator's `qpos` and `qvel`."""
    lost: int = 0
    """Transitions left out, because the source has no observation after them."""

    @classmethod
    def without_final(
        cls,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray | None,
        info: Mapping[str, np.ndarray] = {},
        *,
        terminated: bool,
    ) -> "Episode":
        """T observations and T actions, of a source that has no observation after the last action.

        If that terminated, what came after it is discounted to nothing, so nobody asks what it was, and
        the last rows stand in its place. Else the last transition is left out.
        """
        if not terminated:
            rewards = None if rewards is None else rewards[:-1]
            return cls(observations, actions[:-1], rewards, False, info, lost=1)
        info = {key: np.concatenate([array, array[-1:]]) for key, array in info.items()}
        observations = np.concatenate([observations, observations[-1:]])
        return cls(observations, actions, rewards, True, info)


class Recording(NamedTuple):
    """A source of episodes, opened and checked as far as that is quick."""

    place: str
    """Where it lies, for messages."""
    name: str
    """What a converted folder is called unless the user says otherwise."""
    about: Mapping[str, Any]
    """Plain JSON for the manifest: `format`, `version`, `observations` (key and width of each part, in
    order), `actions` (key), `environment` (Gymnasium id and options), `references` (returns that count
    as 0 and 1), as far as they are known."""
    sha256: str
    """Of the source's files."""
    bounds: tuple[np.ndarray, np.ndarray] | None
    """[A] each, the least and the largest action, where the source says them."""
    episodes: Callable[[], Iterator[Episode]]
    """Reads all, one after another."""
    splits: tuple[str, ...] = ()
    """The source's own words for its training and its validation data, where it says both."""
    files: tuple[Path, ...] = ()
    """Those that `sha256` is of, where they are read later than it."""

    @staticmethod
    def digest(*paths: Path) -> str:
        """The SHA-256 of files together, in this order; of one file its own."""
        sums = []
        for path in paths:
            state = path.stat()
            sums.append(_sha256(path, state.st_size, state.st_mtime_ns))
        if len(sums) == 1:
            return sums[0]
        return hashlib.sha256(bytes.fromhex("".join(sums))).hexdigest()

    @staticmethod
    @contextlib.contextmanager
    def reading(place: object, library: str, *errors: type[Exception]) -> Generator[None]:
        """Turns the errors of `library`, and of the operating system, into one line about `place`."""
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise UserError.unreadable(place, error) from None
            raise UserError(
                f"{place}: {library} cannot read it: {raised(error)}: {_AGAIN}"
            ) from None
        except (
            KeyError,
            ValueError,
            TypeError,
            IndexError,
            RuntimeError,
            EOFError,
            *errors,
        ) as error:
            raise UserError(
                f"{place}: {library} cannot read it: {raised(error)}: {_AGAIN}"
            ) from None

    def described(self) -> dict[str, Any]:
        """What a manifest keeps: `about`, and the bounds of actions, `None` where there is none."""
        about = dict(self.about)
        if self.bounds is not None:
            about["bounds"] = [
                [float(x) if np.isfinite(x) else None for x in np.ravel(bound)]
                for bound in self.bounds
            ]
        return about

    def checked(self) -> Iterator[Episode]:
        """The episodes, as float32 of one width; float16 observations stay such.

        Raises `UserError` that names episode and fault.
        Says at the end in a line each how many transitions were left out, and which observations
        float32 cannot hold.
        """
        first: dict[str, tuple[int, ...]] | None = None
        lost, moved, rounding = 0, False, Rounding()
        for number, episode in enumerate(self.episodes()):
            lost += episode.lost
            if episode.lost and not len(episode.actions):
                continue
            where = f"{self.place}: episode {number}"
            given, episode = episode, _checked(where, episode)
            rounding.add(given.observations, episode.observations)
            self._check_bounds(where, episode.actions.shape[1])
            here = _columns(episode)
            _check_like(where, here, first := first or here)
            moved = moved or bool(episode.actions.any())
            yield episode
        if first is None:
            short = ", but such as have one transition and no observation after it" * bool(lost)
            raise UserError(f"{self.place}: there is no episode{short}")
        if not moved:
            raise UserError(f"{self.place}: actions are all 0: nothing can be learned from them")
        rounding.log(self.place)
        if lost:
            log(
                f"data: {self.place}: {lost} transitions are left out, each the last of its episode, as "
                "there is no observation after it"
            )

    def _check_bounds(self, where: str, width: int) -> None:
        for bound in self.bounds or ():
            if bound.shape not in ((), (width,)):
                raise UserError(
                    f"{where}: actions are {width} wide, bounds have shape {bound.shape}: one is "
                    "another dataset's"
                )


@functools.lru_cache(maxsize=2**20)
def _sha256(path: Path, size: int, changed: int) -> str:
    """Read once as long as the file's size and time of change stay, however many parts it has."""
    return files.sha256(path)


def _checked(where: str, episode: Episode) -> Episode:
    _check_shapes(where, episode)
    arrays = {"observations": episode.observations, "actions": episode.actions, **episode.info}
    arrays |= {} if episode.rewards is None else {"rewards": episode.rewards}
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise UserError(f"{where}: {key} has type {array.dtype}; it must be plain numbers")
        Rows.check_numbers(where, key, array)
    return episode._replace(
        observations=Rows.as_kept(episode.observations),
        actions=np.asarray(episode.actions, np.float32),
        rewards=None if episode.rewards is None else np.asarray(episode.rewards, np.float32),
    )


def _check_shapes(where: str, episode: Episode) -> None:
    """Raises `UserError` for arrays that are not those of one episode."""
    length = len(episode.actions)
    for key, array in {"observations": episode.observations, "actions": episode.actions}.items():
        if array.ndim != 2 or not array.shape[1]:
            raise UserError(
                f"{where}: {key} have shape {array.shape}: they must be rows of numbers"
            )
    if not length:
        raise UserError(f"{where} has no transition: take it out")
    if len(episode.observations) != length + 1:
        raise UserError(
            f"{where}: {len(episode.observations)} observations and {length} actions: there must be one "
            "observation more than there are actions"
        )
    if episode.rewards is not None and episode.rewards.shape != (length,):
        raise UserError(f"{where}: rewards have shape {episode.rewards.shape}, not {(length,)}")
    _check_rows(where, episode.info, length + 1)


def _check_rows(where: str, columns: Mapping[str, np.ndarray], rows: int) -> None:
    """Raises `UserError` for a column without a row for each observation."""
    for key, array in columns.items():
        if not array.ndim:
            raise UserError(f"{where}: {key} has shape (): it must have a row for each observation")
        if len(array) != rows:
            raise UserError(f"{where}: {key} has {len(array)} rows, observations have {rows}")


def _columns(episode: Episode) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each array that there is."""
    arrays = {"observations": episode.observations, "actions": episode.actions, **episode.info}
    shapes = {key: array.shape[1:] for key, array in arrays.items()}
    return shapes if episode.rewards is None else shapes | {"rewards": ()}


def _check_like(
    where: str, here: Mapping[str, tuple[int, ...]], before: Mapping[str, tuple[int, ...]]
) -> None:
    for key in sorted(here.keys() | before.keys()):
        if here.get(key) != before.get(key):
            now, then = (
                f"of shape {shapes[key]} a row" if key in shapes else "missing"
                for shapes in (here, before)
            )
            raise UserError(
                f"{where}: {key} are {now}, before it {then}: these are episodes of two datasets"
            )


OPENERS = ByModule()
"""Module, called as its format is -> (place, choice) -> `Recording`."""


_AGAIN = "it is cut off, altered or of another format"
