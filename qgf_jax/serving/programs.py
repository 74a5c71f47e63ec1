"""Programs that act, compiled before the first request; all of a request is numbers that they take."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.methods import table
from qgf_jax.methods.pace import Pace
from qgf_jax.runs.blocks import ROWS, alone, in_blocks
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import backend
from qgf_jax.types import Array, Params, Spec

FOLDS = 4
"""Numbers that are folded into a key at most: three of a seed, and a row's place in its request."""


class Way(NamedTuple):
    """A way to act for which there is one program: a method, whatever its weight and its numbers."""

    method: str
    best_of: int
    options: table.Options
    """Those that are part of the program."""
    arguments: tuple[str, ...]
    """The names of those whose values it is given."""

    @classmethod
    def of(cls, method: str, best_of: int | None = None) -> "tuple[Way, tuple[float, ...]]":
        """The way of a method, NAME or NAME:option=value, and the values of its `arguments`.

        `best_of` None is the method's own number. Raises `UserError` for a method that is none.
        """
        name, options = table.Method.parse(method)
        row = table.Method.named(name)
        n = row.best_of[0] if best_of is None else best_of
        if row.fixed_best_of and n not in row.best_of:
            raise UserError(f"{name} has {row.best_of[0]} candidates: leave best_of out")
        row.check_idle(options, n)
        options = row.without_idle(options, n)
        given = row.arguments(options)
        fixed = tuple((k, v) for k, v in options if k not in given)
        numbers = tuple(float(v) for k, v in options if k in given)
        # Methods with the same sampler share a program, as the reference and the best of N do.
        return cls(row.canonical, n, fixed, given), numbers


class Layout(NamedTuple):
    """Where the numbers of one request are in its row of 32-bit words [W]: one transfer brings all."""

    obs: int
    """O"""
    numbers: int
    """As many as the way's `arguments`."""
    previous: int
    """Numbers of a chunk, H * A, where chunks overlap; else 0."""

    @classmethod
    def of(cls, spec: Spec, pace: Pace, way: Way) -> "Layout":
        """That of a way to act, for the run's widths."""
        return cls(spec.width, len(way.arguments), spec.chunk_dim if pace.overlaps else 0)

    @property
    def floats(self) -> int:
        """How many words are floats: observation, weight, numbers, the chunk before."""
        return self.obs + 1 + self.numbers + self.previous

    @property
    def width(self) -> int:
        """W: the floats, then root and folds of the key, how many of them count, and `begun`."""
        return self.floats + FOLDS + 3

    def rows(
        self,
        obs: np.ndarray,
        weight: float,
        numbers: Sequence[float],
        seed: Sequence[int],
        previous: np.ndarray | None = None,
    ) -> np.ndarray:
        """[B, W] of observations [B, O], all with the same weight, numbers and seed.

        `seed` is the root of the key, then what is folded into it. `previous` [B, H, A] are the chunks
        before, if there are any.
        """
        rows = np.zeros((len(obs), self.width), np.uint32)
        floats = rows.view(np.float32)
        floats[:, : self.obs] = obs
        floats[:, self.obs : self.obs + 1 + self.numbers] = (weight, *numbers)
        if previous is not None and self.previous:
            floats[:, self.floats - self.previous : self.floats] = previous.reshape(len(obs), -1)
            rows[:, -1] = 1
        rows[:, self.floats] = seed[0]
        rows[:, self.floats + 1 : self.floats + len(seed)] = seed[1:]
        rows[:, -2] = len(seed) - 1
        return rows

    def split(self, row: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
        """(obs [O], weight [], numbers [k], previous [H * A], key, begun []) of a row [W]."""
        floats = jax.lax.bitcast_convert_type(row[: self.floats], jnp.float32)
        obs, weight, numbers, previous = jnp.split(
            floats, (self.obs, self.obs + 1, self.obs + 1 + self.numbers)
        )
        return obs, weight[0], numbers, previous, _key(row[self.floats :]), row[-1] > 0


def _key(words: Array) -> Array:
    """key(root), with each of the folds that count folded in."""
    key = jax.random.key(words[0])
    for i in range(FOLDS):
        key = jnp.where(i < words[FOLDS + 1], jax.random.fold_in(key, words[1 + i]), key)
    return key


class Program:
    """Acts in one way for up to as many rows as its largest batch size has, compiled for each size."""

    def __init__(self, loaded: LoadedRun, params: Params, way: Way, sizes: Sequence[int]):
        self.pace = loaded.pace(way.options)
        self.layout = Layout.of(loaded.spec, self.pace, way)
        self._params, self._shape = params, (loaded.spec.chunk, loaded.spec.action)
        self._calls = {size: self._compile(loaded, way, size) for size in sorted(sizes)}
        self.most = max(sizes)
        """Rows of one call."""

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Chunks [B, H, A] for rows [B, W], B at most `most`; one transfer each way."""
        size = next(size for size in self._calls if size >= len(rows))
        filled = np.zeros((size, self.layout.width), np.uint32)
        filled[: len(rows)] = rows
        return np.asarray(self._calls[size](self._params, filled))[: len(rows)]

    @backend.standardized
    def _compile(self, loaded: LoadedRun, way: Way, size: int) -> Callable[..., Any]:
        actor, layout = loaded.keyed(*way), self.layout

        def act(params: Params, row: Array) -> Array:
            obs, weight, numbers, previous, key, begun = layout.split(row)
            before = (previous.reshape(self._shape),) if layout.previous else ()
            return actor(params, obs, key, weight, *numbers, *before, begun=begun)

        def batch(params: Params, rows: Array) -> Array:
            if size == 1:  # as `load_policy` acts for one observation, to the last bit
                one = alone(functools.partial(act, params), way.best_of)
                return one(rows[0])[None]
            return in_blocks(functools.partial(act, params), size)(rows)

        shape = jax.ShapeDtypeStruct((size, layout.width), np.uint32)
        call = jax.jit(batch).lower(self._params, shape).compile()
        np.asarray(
            call(self._params, np.zeros(shape.shape, np.uint32))
        )  # what the first call loads
        return call


class Sizes(NamedTuple):
    """Batch sizes of the calls of a way to act."""

    usual: tuple[int, ...]
    as_played: tuple[int, ...]
    """For requests that must have the last bits of an evaluation."""

    @classmethod
    def of(cls, given: Sequence[int]) -> "Sizes":
        """Those that are given for all, or those that suit the device.

        On a CPU the time of a call goes with its rows, so each request acts alone, and an evaluation
        acts for `ROWS` at once: no action depends on who acts beside it.
        """
        if given:
            return cls(tuple(given), tuple(given))
        if jax.default_backend() == "cpu":
            return cls((1,), (ROWS,))
        return cls((1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8, 16, 32, 64))
