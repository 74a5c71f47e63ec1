"""What a client asks for: checked, and as the rows that a program takes. No sockets."""

import functools
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qgf_guide.bounds import Bound, Count, Finite, Seed
from qgf_jax.errors import UserError
from qgf_jax.runs.observed import Observed
from qgf_jax.serving.programs import FOLDS, Layout, Way

_KEYS = ("observation", "goal", "weight", "method", "best_of", "seed", "previous")
_MOST_LETTERS = 200
_FINITE, _COUNT, _SEED = Bound.of(Finite), Bound.of(Count), Bound.of(Seed)


class _Request(NamedTuple):
    """One request, and nothing in it that was not checked."""

    program: "Called"
    rows: np.ndarray
    """[B, W], as of `Layout.rows`."""
    batched: bool
    """Whether the observation had a batch axis, as the answer then has."""
    seed: Any
    """That of the request, or the one that was drawn."""


class Called(NamedTuple):
    """Which program a request is for."""

    way: Way
    as_played: bool = False
    """Whether it must have the last bits of an evaluation, for an identity as its seed."""


class Reader(NamedTuple):
    """Reads requests for a run that is served."""

    observed: Observed
    layouts: Mapping[Way, Layout]
    """The ways that are compiled."""
    methods: tuple[str, ...]
    """How they are asked for, the default first."""
    weight: float
    """Of requests without one."""
    most: int
    """Observations of one request."""
    apart: bool = False
    """Whether what an evaluation has played has a program of its own."""

    def read(self, message: Mapping[str, Any]) -> _Request:
        """The request that a dictionary is. Raises `UserError`, one line, for what is wrong in it."""
        for key in message:
            if key not in _KEYS:
                raise UserError.unknown("key", key[:_MOST_LETTERS], _KEYS)
        if "observation" not in message:
            raise UserError("message has no observation: send [O] or [B, O] numbers")
        given = {key: value for key, value in message.items() if value is not None}
        obs = self._observations(given)
        way, numbers = self._way(given)
        layout, batched = self.layouts[way], obs.ndim == 2
        obs = np.atleast_2d(obs)
        previous = self._previous(given, layout, (*obs.shape[: int(batched)],))
        seed = _scalar(given["seed"]) if "seed" in given else secrets.randbits(32)
        words = _words(seed)
        weight = self._weight(given)
        program = Called(way, self.apart and isinstance(seed, list | tuple))
        if not batched:
            return _Request(
                program, layout.rows(obs, weight, numbers, words, previous), False, seed
            )
        rows = layout.rows(obs, weight, numbers, (*words, 0), previous)
        # As `jax.random.split` does for a batch of `load_policy`.
        rows[:, layout.floats + len(words)] = np.arange(len(obs))
        return _Request(program, rows, True, seed)

    def _observations(self, given: Mapping[str, Any]) -> np.ndarray:
        """[O] or [B, O]"""
        observation = _numbers("observation", given.get("observation"))
        goal = _numbers("goal", given["goal"]) if "goal" in given else None
        if isinstance(goal, Mapping):
            raise UserError("goal is a dictionary: send [G] or [B, G] numbers")
        obs = self.observed.rows(observation, goal)
        if obs.ndim == 2 and not 0 < len(obs) <= self.most:
            raise UserError(f"{len(obs)} observations in one message: send 1 to {self.most}")
        return obs

    def _weight(self, given: Mapping[str, Any]) -> float:
        weight = _scalar(given.get("weight", self.weight))
        _FINITE.check("weight", weight)
        return weight

    def _way(self, given: Mapping[str, Any]) -> tuple[Way, tuple[float, ...]]:
        method, best_of = given.get("method", self.methods[0]), _scalar(given.get("best_of"))
        if not isinstance(method, str) or len(method) > _MOST_LETTERS:
            raise UserError(f"method must be a text of at most {_MOST_LETTERS} letters")
        if best_of is not None:
            _COUNT.check("best_of", best_of)
        way, numbers = _way_of(method, best_of)
        if way not in self.layouts:
            raise UserError(
                f"method {method!r}, best of {way.best_of}, is not served: "
                f"ask for {', '.join(self.methods)}, or start `qgf serve` with --methods and --best_of"
            )
        return way, numbers

    def _previous(
        self, given: Mapping[str, Any], layout: Layout, batch: tuple[int, ...]
    ) -> np.ndarray | None:
        if "previous" not in given:
            return None
        spec = self.observed.spec
        if not layout.previous:
            raise UserError(
                "previous means nothing to a method whose chunks are played to their end: ask for one "
                "with execute, delay or both"
            )
        previous = _numbers("previous", given["previous"])
        if previous.shape != (wanted := (*batch, spec.chunk, spec.action)):
            raise UserError(f"previous has shape {previous.shape}: send {wanted}")
        if spec.clip and np.abs(spec.to_networks(previous)).max() > 1.001:  # rounded as they please
            raise UserError(
                "previous is outside the box of actions: send a chunk that was answered"
            )
        return previous


_way_of = functools.lru_cache(256)(Way.of)
"""What clients ask for is mostly the same; to take it apart is half of the time of a reader."""


def _numbers(name: str, value: Any) -> Any:
    """Finite float32 of an array or a list, or a dictionary of such."""
    if isinstance(value, Mapping):
        return {key: _numbers(f"{name} {str(key)[:40]!r}", part) for key, part in value.items()}
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise UserError(f"{name} is no array: its rows differ in length") from None
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} is not of numbers: send floats")
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{name} has numbers that are not finite in float32: send others")
    return array


def _scalar(value: Any) -> Any:
    """A number out of an array without axes, or numbers out of one with an axis; else the value."""
    return value.tolist() if isinstance(value, np.ndarray) and value.size <= FOLDS else value


def _words(seed: Any) -> tuple[int, ...]:
    """The root of a seed's key and what is folded into it, as `Layout.rows` takes them.

    A number is that of `jax.random.key`. A list is folded into key(0), number by number, as an
    evaluation does with (task, episode, how many chunks came before).
    """
    if isinstance(seed, list | tuple):
        if not 0 < len(seed) < FOLDS:
            raise UserError(
                f"seed has {len(seed)} numbers: send one, or a list of 1 to {FOLDS - 1}"
            )
        for number in seed:
            _SEED.check("seed", number)
        return (0, *seed)
    _SEED.check("seed", seed)
    return (seed,)
