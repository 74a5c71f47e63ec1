"""Which of a method's weights is chosen on its selection episodes, and which lead so far. No JAX."""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation.statistics import Interval

Line = Mapping[str, Any]
Cell = dict[tuple[int, int], Line]
"""(seed, episode) -> line: what one arm played of one task and split."""
Tasks = Mapping[int, Cell]
"""What one arm played of each task."""


class _Choice(NamedTuple):
    """The chosen weight, and what it was chosen on."""

    weight: float
    pairs: int
    """(Seed, episode) pairs that all ranked weights have played."""
    ranked: tuple[float, ...]
    """The weights that were compared; one that shares too few pairs with the others is not."""


def choose(candidates: Mapping[float, Tasks]) -> _Choice:
    """The smallest weight that noise does not tell from the best.

    Success first, where there is such: kept are the weights whose success is within one standard error
    of the highest. Of these, kept are the weights whose return is within one standard error of the
    highest; the smallest of them is chosen (the one-standard-error rule of Breiman et al., 1984). The
    standard error is that of the paired difference over the pairs that all weights have played. Without
    a success, only weights with the fewest failed episodes are ranked: the return of one that the
    simulator could not play to its end says nothing.
    """
    pairs, ranked = comparable(candidates)
    weights = ranked
    names = _measures(candidates[ranked[0]])
    if "success" not in names:
        failed = {w: _failures(candidates[w], pairs) for w in weights}
        weights = [w for w in weights if failed[w] == min(failed.values())]
    for name in names:
        weights = _near_best({w: _tables(candidates[w], pairs, name) for w in weights})
    return _Choice(weights[0], sum(map(len, pairs.values())), tuple(ranked))


def leading(candidates: Mapping[float, Tasks], count: int) -> list[float]:
    """The `count` weights that lead, or all that can be compared if those are fewer; smallest first.

    As `choose` compares, but nothing is final here, so where noise may be all that parts weights, their
    mean return does: the weights whose success is within one standard error of the highest come first,
    by their return, then those near the highest of what is left. Without a success, fewer failed
    episodes come first, then higher returns. Of exact equals, as of weights that have all failed, those
    stay that are spread the most, so that neither small nor large ones are given up unseen.
    """
    pairs, left = comparable(candidates)
    returns = {w: _mean(_tables(candidates[w], pairs, "return")) for w in left}
    if "success" not in _measures(candidates[left[0]]):
        failed = {w: _failures(candidates[w], pairs) for w in left}
        return _first({w: (failed[w], -returns[w]) for w in left}, count)
    layers = _layers({w: _tables(candidates[w], pairs, "success") for w in left})
    return _first({w: (layers[w], -returns[w]) for w in left}, count)


def _layers(tables: Mapping[float, list[np.ndarray]]) -> dict[float, int]:
    """How many weights are in the layers above each: those near the highest, near that of the rest…"""
    ranks: dict[float, int] = {}
    while left := {w: table for w, table in tables.items() if w not in ranks}:
        ranks |= dict.fromkeys(_near_best(left), len(ranks))
    return ranks


def _first(ranks: Mapping[float, tuple[float, float]], count: int) -> list[float]:
    """The `count` weights of the lowest ranks; of equals with too few places, evenly spread ones."""
    found: list[float] = []
    for rank in sorted(set(ranks.values())):
        equals, places = sorted(w for w in ranks if ranks[w] == rank), count - len(found)
        if len(equals) > places:
            gap = (len(equals) - 1) / max(places - 1, 1)
            equals = [equals[round(i * gap)] for i in range(places)]
        found += equals
    return sorted(found)


def comparable(candidates: Mapping[float, Tasks]) -> tuple[dict[int, set], list[float]]:
    """The (seed, episode) pairs of each task that weights are compared on, and these weights."""
    return common(
        {w: {t: set(cell) for t, cell in tasks.items()} for w, tasks in candidates.items()}
    )


def _measures(played: Tasks) -> tuple[str, ...]:
    """What weights go by, in this order."""
    line = next(iter(next(iter(played.values())).values()))
    return ("success", "return") if "success" in line else ("return",)


def _near_best(tables: Mapping[float, list[np.ndarray]]) -> list[float]:
    """The weights that noise does not tell from the one with the highest mean."""
    best = max(tables, key=lambda w: _mean(tables[w]))
    return [w for w in tables if w == best or _ties(tables[best], tables[w])]


def _mean(tables: list[np.ndarray]) -> float:
    return Interval.mean_and_error(tables)[0]


def _failures(played: Tasks, shared: Mapping[int, Set]) -> int:
    return sum(
        bool(played[task][pair].get("failed")) for task, pairs in shared.items() for pair in pairs
    )


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


def _tables(played: Tasks, shared: Mapping[int, Set], name: str) -> list[np.ndarray]:
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
    gap, error = Interval.mean_and_error([a - b for a, b in zip(best, other, strict=True)])
    return gap <= error
