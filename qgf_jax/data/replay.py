"""Plays transitions of a dataset again, from the states of the simulator that it recorded. No JAX.

A file of another environment, or of another version of it, has the right widths as often as not; its
next observations are others.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source
from qgf_jax.envs import spaces
from qgf_jax.envs.families import Env, EnvName, Family
from qgf_jax.errors import UserError

_EPISODES = 20
_FIRST = 10
"""Transitions from the beginning of each of so many episodes; the last too, where versions differ."""
_STATE = ("qpos", "qvel", "button_states")

_APART = 0.1
"""A transition leads elsewhere if the two next observations differ by more than this part of how far it
went, or two rewards by more than this part of their spread.

Measured on 150 to 300 steps of random actions with states kept as float32: Hopper, HalfCheetah,
Walker2d, Swimmer, Reacher, Pusher, Ant and Humanoid v5 4e-5 at most, rewards 0.05 (Ant, whose contact
forces are no part of the state); the benchmark's mazes 2e-5, scenes and puzzles 0.004. Its cubes
move towards a pose that is one substep old: 0.04 in half of their experts' first steps, 0.08 at most.
Between Walker2d v4 and v5 it is 0.13 and more in a tenth of the steps, between HalfCheetah and Walker2d
1.4 in half of them.
"""
_SHARE = 0.05
"""So many transitions may lead elsewhere: contacts magnify what rounding leaves."""
_STILL = 0.1
"""What moves less than this part of the median is measured as if it had moved so far."""


class _Played(NamedTuple):
    """A transition, played again."""

    row: int
    moved: float
    """Distance from the recorded observation to the next one."""
    off: float | None
    """Distance from the recorded next observation to the one that was played; `None` if there is none,
    as after an action that ended the task in formats without final observations."""
    reward: float | None
    """The recorded one, if there is one."""
    reward_off: float


def replay(place: Path, env: str) -> dict[str, Any]:
    """What a few transitions of the data in `place`, played again in the environment `env`, differ by.

    Raises `UserError` if they lead elsewhere, or if they cannot be played: without a recorded state, or
    in an environment that cannot be put into one.
    """
    name = EnvName.parse(env)
    name = name.with_task(name.tasks[0])
    source = Source.open(place)
    name = name.seen_as(spaces.named(source.about.get("observations")))
    world = Family.of(name).make(name)
    played = [
        one for start, rows in _episodes(source) for one in _play(world, name, place, start, rows)
    ]
    found = {"observations": _observations_off(place, name, played)}
    if played[0].reward is not None:
        found["rewards"] = _rewards_off(place, name, played)
    return {
        "data": str(place), "env": name.full, "transitions": len(played), **found, "sound": True
    }  # fmt: skip


def _observations_off(place: Path, name: EnvName, played: Sequence[_Played]) -> dict[str, float]:
    """How far next observations are off, in parts of how far the transition went."""
    seen = [one for one in played if one.off is not None]
    if not seen:
        raise UserError(
            f"{place} cannot be checked: each of its episodes ends with its first action, and no "
            "observation is recorded after that"
        )
    moved = np.array([one.moved for one in seen])
    least = max(_STILL * float(np.median(moved)), 1e-6)
    off = np.array([one.off for one in seen]) / np.maximum(moved, least)
    _check(place, name, "next observation", seen, off)
    return _spread(off)


def _rewards_off(place: Path, name: EnvName, played: Sequence[_Played]) -> dict[str, float]:
    """How far rewards are off, in parts of their spread."""
    spread = max(float(np.std([one.reward for one in played])), 1e-3)
    off = np.array([one.reward_off for one in played]) / spread
    _check(place, name, "reward", played, off)
    return _spread(off)


def _episodes(source: Source) -> Iterator[tuple[int, Rows]]:
    """(number of its first row, rows) of a few episodes, evenly spread over what can be read at once."""
    ends = source.ends
    if not source.seekable:
        ends = ends[ends < source.slices[1]]
    firsts = np.append(0, ends[:-1] + 1)
    for i in np.unique(np.linspace(0, len(ends) - 1, _EPISODES).astype(int)):
        yield int(firsts[i]), source.read(int(firsts[i]), int(ends[i]) + 1)


def _play(world: Env, name: EnvName, place: Path, start: int, rows: Rows) -> Iterator[_Played]:
    state = _states(place, rows)
    last = len(rows.ends) - 2
    over = True
    for t in dict.fromkeys([*range(min(_FIRST, last + 1)), last] if last >= 0 else []):
        if over:
            with _raising(place, name):
                width = len(world.reset(0))
            _check_width(place, name, rows, width)
        _set_state(world, name, place, start + t, {key: column[t] for key, column in state.items()})
        with _raising(place, name):
            obs, reward, over, _ = world.step(rows.actions[t])
        before, after = rows.observations[t : t + 2]
        recorded = rows.info["rewards"][t] if "rewards" in rows.info else None
        unknown = "masks" in rows.info and not rows.info["masks"][t] and (before == after).all()
        yield _Played(
            start + t,
            float(np.linalg.norm(after - before)),
            None if unknown else float(np.linalg.norm(obs[: len(after)] - after)),
            recorded,
            abs(reward - recorded) if recorded is not None else 0.0,
        )


@contextlib.contextmanager
def _raising(place: Path, name: EnvName) -> Generator[None]:
    """What an environment raises is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(f"{place} cannot be checked: {name.env_id} raised {cause}") from error


def _states(place: Path, rows: Rows) -> dict[str, np.ndarray]:
    """The recorded states of the simulator. Raises `UserError` if there are none."""
    state = {key: rows.info[key] for key in _STATE if key in rows.info}
    if lacking := [key for key in ("qpos", "qvel") if key not in state]:
        raise UserError(
            f"{place} cannot be checked: it has no recorded state ({' and '.join(lacking)}): check the "
            "file that it was made from, if that has"
        )
    return state


def _check_width(place: Path, name: EnvName, rows: Rows, width: int) -> None:
    """Raises `UserError` unless observations have the environment's width, but for a goal at the end."""
    found = rows.observations.shape[1]
    if found > width or (found != width and not name.goals):
        raise UserError(
            f"{place}: observations are {found} wide, {name.env_id} has {width}: this is another "
            "environment's file"
        )


def _set_state(
    world: Any, name: EnvName, place: Path, row: int, state: dict[str, np.ndarray]
) -> None:
    try:
        done = hasattr(world, "set_state") and world.set_state(state)
    except (AssertionError, ValueError, TypeError, IndexError):
        widths = ", ".join(f"{key} of {np.size(value)}" for key, value in state.items())
        raise UserError(
            f"{place}: the state in row {row} ({widths}) does not fit {name.env_id}: this is another "
            "environment's file, or another version's"
        ) from None
    if not done:
        raise UserError(
            f"{place} cannot be checked: {name.env_id} cannot be put into a recorded state"
        )


def _check(
    place: Path, name: EnvName, what: str, played: Sequence[_Played], off: np.ndarray
) -> None:
    """Raises `UserError` if too many transitions lead elsewhere."""
    apart = ~(off <= _APART)  # NaN too
    if apart.mean() > _SHARE:
        row = played[int(np.argmax(apart))].row
        raise UserError(
            f"{place}: {apart.sum()} of {len(played)} transitions, the first in row {row}, have another "
            f"{what} in {name.env_id}: this is another environment's file, or another version's"
        )


def _spread(off: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(off)), "largest": float(off.max())}
