"""Intervals of means over seeds and episodes, which are crossed: all seeds play the same episodes.

NumPy only. A table [S, E] holds one number for each seed and episode; a list of tables holds one
table for each task. The seeds of a list are the same in each table, since one checkpoint plays all
tasks. Tasks are strata: they stay, and the mean is that of the tasks' means.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qgf_jax.evaluation import student

_Tables = Sequence[np.ndarray]
"""[S, E] of each task."""
LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of LEVEL
# Student's t quantile of LEVEL, by degrees of freedom; what lies between is within 0.5 % of it.
_DEGREES = np.array([1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 30.0, np.inf])
_QUANTILES = np.array([12.7062, 8.0280, 6.0167, 4.3027, 3.1824, 2.7764, 2.4469, 2.2281, 2.0423, _Z])
SEED_SPREAD = 0.2
"""Two to four seeds are taken to differ by at least this part of the SD of one episode."""
FEW_SEEDS = 5
"""From so many seeds on, seeds are resampled."""

KINDS = {
    "episodes of one seed": "bootstrap over episodes; one seed, so it says nothing of training again",
    "t over seeds": "t interval over seeds, with the episodes' variance added (2 to 4 seeds)",
    "two-way bootstrap": "seeds and episodes resampled together, the same episodes for all seeds",
}
"""The kinds of interval in words; see `Interval.kind`."""
DIFFERENCE_KINDS = {
    "t over episodes": "t interval over episodes; one seed, so it says nothing of training again",
    "t over seeds": KINDS["t over seeds"],
    "two-way t": "t interval; variances of seeds and of episodes, less what both have counted",
}
"""The kinds of interval of a difference in words; see `Difference.kind`."""
POWER = 0.8
"""That of a difference which counts as detectable."""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def kind(seeds: int) -> str:
        """The key of `KINDS` that an interval over so many seeds has."""
        return _of_seeds(KINDS, seeds)

    @classmethod
    def of_mean(cls, tables: Sequence[np.ndarray], *, resamples: int = 2000) -> "Interval":
        """The mean of complete tables [S, E] and its interval, of the kind that `kind(S)` names."""
        tables = [np.asarray(table, float) for table in tables]
        mean = _mean(tables)
        if cls.kind(len(tables[0])) == "t over seeds":
            half = _t_half_width(tables)
            return cls(mean, mean - half, mean + half)
        return cls(mean, *_bootstrap(tables, resamples))

    @classmethod
    def of_success(cls, tables: Sequence[np.ndarray], *, resamples: int = 2000) -> "Interval":
        """As `of_mean`, for successes (0 or 1): inside [0, 1], and never without width.

        The least that is reported is the score interval (Wilson, 1927) of the number of *distinct*
        episodes: more seeds on the same episodes are no more episodes. A t interval becomes the score
        interval of as many episodes as would have its width (Kish, 1965: the effective sample size).
        """
        tables = [np.asarray(table, float) for table in tables]
        mean, n = _mean(tables), float(sum(table.shape[1] for table in tables))
        if cls.kind(len(tables[0])) == "t over seeds":
            half = _t_half_width(tables)
            if half > 0:
                n = min(n, _Z**2 * mean * (1 - mean) / half**2)
            low, high = _wilson(mean, n)
        else:
            low, high = _bootstrap(tables, resamples)
            least = _wilson(mean, n)
            low, high = min(low, least[0]), max(high, least[1])
        return cls(mean, float(max(low, 0.0)), float(min(high, 1.0)))

    @staticmethod
    def mean_and_error(tables: Sequence[np.ndarray]) -> tuple[float, float]:
        """The mean and its standard error, with seeds and episodes crossed; NaN: not played.

        Two-way clustered: variance between seeds plus that between episodes, less what both have counted
        (Cameron, Gelbach and Miller, 2011, eq. 2.11), and at least the greater of the two.
        """
        tables = [np.asarray(table, float) for table in tables]
        seeds, episodes, single = _variances(tables)
        between = float(episodes.sum())
        return _mean(tables), float(np.sqrt(max(seeds + between - single, seeds, between)))


class Difference(NamedTuple):
    """A mean difference of two arms on the same episodes, its 95 % interval and its test.

    A t interval with the two-way standard error. Of two to four seeds it is `Interval`'s own; of five
    and more, no bootstrap: no p below 1 / resamples comes of it, which Holm's factor then multiplies,
    and in a small trial it covered less. `benchmarks/coverage.py --paired` has both.
    """

    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference: at most .05 if and only if the interval leaves 0 out."""
    detectable: float
    """The least difference that such a test finds four times in five (80 % power, alpha .05)."""

    @staticmethod
    def kind(seeds: int) -> str:
        """The key of `DIFFERENCE_KINDS` that a difference over so many seeds has."""
        return _of_seeds(DIFFERENCE_KINDS, seeds)

    @classmethod
    def of(
        cls,
        arm: _Tables,
        baseline: _Tables,
        *,
        paired: bool,
        success: bool,
    ) -> "Difference":
        """`arm` less `baseline`, complete tables [S, E] of the same episodes.

        `paired`: both have the same seeds; else each has its own, S may differ, and only episodes are
        paired. `success`: values are from 0 to 1, and few pairs may differ. Such an interval is never
        narrower than that of Bonett and Price (2012), one pair more in either direction, of as many
        independent pairs as the table is worth (Kish, 1965).
        """
        both = [*zip(arm, baseline, strict=True)]
        samples = _samples(both, paired or len(arm[0]) == len(baseline[0]) == 1)
        gaps = [_per_episode(x) - _per_episode(y) for x, y in both]
        sizes, mean, found = [x.shape[1] for x in gaps], _mean(gaps), _Clustered.of(samples, gaps)
        error, freedom = found.error(sizes)
        quantile = student.quantile(0.5 + LEVEL / 2, freedom)
        low, high = mean - quantile * error, mean + quantile * error
        p = student.two_sided(mean / error, freedom) if error else float(mean == 0)
        detectable = (quantile + student.quantile(POWER, freedom)) * error
        if success:
            centre, least = _laplace(samples, found, sum(sizes))
            low, high = min(low, centre - _Z * least), max(high, centre + _Z * least)
            low, high = max(low, -1.0), min(high, 1.0)
            p = max(p, student.two_sided(centre / least, np.inf))
            detectable = max(detectable, (_Z + student.quantile(POWER, np.inf)) * least)
        return cls(mean, float(low), float(high), float(p), float(detectable))


def _of_seeds(kinds: Mapping[str, str], seeds: int) -> str:
    """Which of three kinds an interval over so many seeds has."""
    one, few, many = kinds
    return one if seeds == 1 else few if seeds < FEW_SEEDS else many


def holm(chances: Sequence[float]) -> list[float]:
    """p values adjusted for that there are several (Holm, 1979): reject what is below alpha."""
    adjusted, least = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        least = max(least, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = least
    return adjusted


def _samples(both: Sequence[tuple[np.ndarray, np.ndarray]], paired: bool) -> list[_Tables]:
    """The pairs' differences; or those of each arm, less what is common to both in an episode."""
    if paired:
        return [[x - y for x, y in both]]
    centres = [(_per_episode(x) + _per_episode(y)) / 2 for x, y in both]
    return [[x - c for x, c in zip(one, centres, strict=True)] for one in zip(*both)]


def _per_episode(table: np.ndarray) -> np.ndarray:
    return table.mean(axis=0, keepdims=True)


class _Clustered(NamedTuple):
    """The variances of a difference of means, and what they are of."""

    seeds: Sequence[float]
    """Clustered by seed, for each sample: the pairs' differences, or each arm with seeds of its own."""
    episodes: np.ndarray
    """[T], clustered by episode."""
    single: float
    """Clustered by neither."""
    counts: Sequence[int]
    """The seeds of each sample."""
    spread: float
    """The variance of one episode over the number of seeds."""

    @classmethod
    def of(cls, samples: Sequence[_Tables], gaps: _Tables) -> "_Clustered":
        """`gaps`: the mean difference [1, E] of each episode."""
        parts = [_variances(tables) for tables in samples]
        return cls(
            [part[0] for part in parts],
            _variances(gaps)[1],
            sum(part[2] for part in parts),
            [len(tables[0]) for tables in samples],
            float(sum(np.mean([x.var() for x in tables]) / len(tables[0]) for tables in samples)),
        )

    @property
    def total(self) -> float:
        """The variance, at least that by seed or by episode alone; see `Interval.mean_and_error`."""
        seeds, between = sum(self.seeds), float(self.episodes.sum())
        return max(seeds + between - self.single, seeds, between)

    def error(self, sizes: Sequence[int]) -> tuple[float, float]:
        """The standard error and its degrees of freedom, with tasks of `sizes` episodes.

        That of two to four seeds is as in `_t_half_width`.
        """
        total = self.total
        if Difference.kind(min(self.counts)) == "t over seeds":
            total = float(sum(self.seeds) + self.episodes.sum() + SEED_SPREAD**2 * self.spread)
        pieces = [*zip(self.seeds, self.counts, strict=True)]
        pieces += zip(self.episodes, sizes, strict=True)
        uncertain = float(sum(x**2 / max(n - 1, 1) for x, n in pieces))
        return float(np.sqrt(total)), max(total**2 / uncertain, 1.0) if uncertain else np.inf


def _laplace(samples: Sequence[_Tables], found: _Clustered, episodes: int) -> tuple[float, float]:
    """The difference of successes and its standard error with one pair more in either direction.

    Of as many pairs as would have the variance of the table; where no pair differs nothing says how
    much seeds have in common, so of its distinct episodes.
    """
    n = float(episodes)
    if found.single and found.total:
        n *= min(found.counts) * min(1.0, found.single / found.total)
    pairs = samples[0]
    if len(samples) == 2:  # each seed of the one with each of the other
        pairs = [x[:, None] - y[None] for x, y in zip(*samples, strict=True)]
    better = (n * np.mean([np.maximum(x, 0).mean() for x in pairs]) + 1) / (n + 2)
    worse = (n * np.mean([np.maximum(-x, 0).mean() for x in pairs]) + 1) / (n + 2)
    error = np.sqrt((better + worse - (better - worse) ** 2) / (n + 2))
    return float(better - worse), float(error)


def _mean(tables: Sequence[np.ndarray]) -> float:
    return float(np.mean([np.nanmean(table) for table in tables]))


def _variances(tables: Sequence[np.ndarray]) -> tuple[float, np.ndarray, float]:
    """The variance of the mean clustered by seed [], by episode of each task [T], and by neither []."""
    counts = [np.sum(~np.isnan(table)) for table in tables]
    shares = [
        np.nan_to_num(table - np.nanmean(table)) / (n * len(tables))
        for table, n in zip(tables, counts, strict=True)
    ]
    count = len(tables[0])
    by_seed = np.sum([share.sum(axis=1) for share in shares], axis=0)
    seeds = float(np.sum(by_seed**2)) * count / (count - 1) if count > 1 else 0.0
    episodes = [
        np.sum(share.sum(axis=0) ** 2) * share.shape[1] / max(share.shape[1] - 1, 1)
        for share in shares
    ]
    single = [np.sum(x**2) * n / max(n - 1, 1) for x, n in zip(shares, counts, strict=True)]
    return seeds, np.array(episodes), float(np.sum(single))


def _t_half_width(tables: Sequence[np.ndarray]) -> float:
    """Half the width of a t interval: seeds, episodes and an allowance for seeds that agree by luck.

    With two seeds their difference has one degree of freedom and is often small by chance. So a known
    variance is added, (`SEED_SPREAD` * SD of an episode) ** 2 / S, and the degrees of freedom are
    Satterthwaite's (1946): many where seeds agree, S - 1 where they differ by far. Noise of single
    episodes counts in both variances, as in the two-way bootstrap.
    """
    seeds, episodes, _ = _variances(tables)
    count = len(tables[0])
    spread = np.mean([table.var() for table in tables])
    total = seeds + episodes.sum() + SEED_SPREAD**2 * spread / count
    if total == 0:
        return 0.0
    freedom = [max(table.shape[1] - 1, 1) for table in tables]
    uncertain = seeds**2 / (count - 1) + np.sum(episodes**2 / freedom)
    # Smooth in 1 / degrees.
    quantile = np.exp(np.interp(-uncertain / total**2, -1 / _DEGREES, np.log(_QUANTILES)))
    return float(quantile * np.sqrt(total))


def _bootstrap(tables: Sequence[np.ndarray], resamples: int) -> tuple[float, float]:
    """Two-way percentile bootstrap (Owen, 2007: pigeonhole) of the mean of task means.

    Seeds are drawn with replacement, the same ones for every task, and episodes of each task with
    replacement, the same ones for every drawn seed. One seed stays.
    """
    generator = np.random.default_rng(0)
    count = len(tables[0])
    chosen = np.zeros((resamples, 1), int)
    if count > 1:
        chosen = generator.integers(count, size=(resamples, count))
    rows, means = np.arange(resamples)[:, None], np.zeros(resamples)
    for table in tables:
        episodes = generator.integers(table.shape[1], size=(resamples, table.shape[1]))
        of_seeds = np.stack([row[episodes].mean(axis=1) for row in table], axis=1)  # [resamples, S]
        means += of_seeds[rows, chosen].mean(axis=1) / len(tables)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _wilson(mean: float, n: float) -> tuple[float, float]:
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    return float(centre - half), float(centre + half)
