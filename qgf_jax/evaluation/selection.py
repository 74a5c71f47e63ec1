"""The choice of a guidance weight, from paired differences between weights."""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation import statistics

Played = Mapping[int, Mapping[tuple[int, int], Mapping[str, Any]]]
"""task -> (seed, episode) -> line: the selection episodes of one weight."""


class _Choice(NamedTuple):
    """The chosen weight, and what it was chosen on."""

    weight: float
    pairs: int
    """(Seed, episode) pairs that all ranked weights have played."""
    ranked: tuple[float, ...]
    """The weights that were compared; one that shares too few pairs with the others is not."""


def choose(candidates: Mapping[float, Played]) -> _Choice:
    """The smallest weight that noise does not tell from the best.

    Success first: kept are the weights whose success is within one standard error of the highest.
    Of these, kept are the weights whose return is within one standard error of the highest; the
    smallest of them is chosen (the one-standard-error rule of Breiman et al., 1984). The standard
    error is that of the paired difference over the pairs that all weights have played.
    """
    pairs, ranked = common(
        {w: {t: set(cell) for t, cell in tasks.items()} for w, tasks in candidates.items()}
    )
    weights = ranked
    for name in ("success", "return"):
        tables = {w: _tables(candidates[w], pairs, name) for w in weights}
        best = max(weights, key=lambda w: statistics.mean_and_error(tables[w])[0])
        weights = [w for w in weights if w == best or _ties(tables[best], tables[w])]
    return _Choice(weights[0], sum(map(len, pairs.values())), tuple(ranked))


def common(candidates: Mapping[Any, Mapping[int, Set]]) -> tuple[dict[int, set], list[Any]]:
    """What candidates have all played of each task, and the candidates of which that is true.

    `candidates[name][task]` is a set, of episodes for example. Candidates join in the order of how
    much they have played, so that the odd one is left out: one with which the numbers that are
    compared, candidates times what they share, would be fewer than without it, or none in some task.
    """

    def size(name: Any) -> tuple[int, Any]:
        return -_count(candidates[name]), name

    first, *others = sorted(candidates, key=size)
    shared, joined = {task: set(played) for task, played in candidates[first].items()}, [first]
    for name in others:
        less = {task: played & candidates[name].get(task, set()) for task, played in shared.items()}
        enough = (len(joined) + 1) * _count(less) >= len(joined) * _count(shared)
        if all(less.values()) and enough:
            shared = less
            joined.append(name)
    return shared, sorted(joined)


def _count(parts: Mapping[int, Set]) -> int:
    return sum(map(len, parts.values()))


def _tables(played: Played, shared: Mapping[int, Set], name: str) -> list[np.ndarray]:
    """[S, E] of each task; NaN where a seed and an episode are no common pair."""
    seeds = sorted({seed for pairs in shared.values() for seed, _ in pairs})
    tables = []
    for task, pairs in sorted(shared.items()):
        episodes = sorted({episode for _, episode in pairs})
        table = np.full((len(seeds), len(episodes)), np.nan)
        for seed, episode in pairs:
            value = played[task][seed, episode][name]
            table[seeds.index(seed), episodes.index(episode)] = value
        tables.append(table)
    return tables


def _ties(best: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether noise may be all that parts them; of a single pair nobody can say."""
    if sum(np.sum(~np.isnan(table)) for table in best) < 2:
        return True
    gap, error = statistics.mean_and_error([a - b for a, b in zip(best, other, strict=True)])
    return gap <= error
