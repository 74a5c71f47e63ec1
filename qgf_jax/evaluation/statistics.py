"""Intervals of means over seeds and episodes, which are crossed: all seeds play the same episodes.

NumPy only. A table [S, E] holds one number for each seed and episode; a list of tables holds one
table for each task. The seeds of a list are the same in each table, since one checkpoint plays all
tasks. Tasks are strata: they stay, and the mean is that of the tasks' means.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qgf_jax.evaluation import student

_Tables = Sequence[np.ndarray]
"""[S, E] of each task."""
LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of LEVEL
SEED_SPREAD = 0.2
"""Two seeds are taken to differ by at least this part of the SD of one episode."""
RESAMPLED_FROM = 5
"""From so many seeds on, seeds are resampled."""

KINDS = {
    "episodes of one seed": "bootstrap over episodes; one seed, so it says nothing of training again",
    "t over seeds": "t interval over two seeds, with the episodes' variance added",
    "two-way t": "t interval; variances of seeds and of episodes, less what both have counted",
    "two-way bootstrap": "seeds and episodes resampled together, the same episodes for all seeds",
}
"""The kinds of interval in words; see `Interval.kind`."""
DIFFERENCE_KINDS = {
    "t over episodes": "t interval over episodes; one seed, so it says nothing of training again",
    "t over seeds": KINDS["t over seeds"],
    "two-way t": KINDS["two-way t"],
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
        one, two, few, many = KINDS
        return one if seeds == 1 else two if seeds == 2 else few if seeds < RESAMPLED_FROM else many

    @classmethod
    def of_mean(cls, tables: Sequence[np.ndarray], *, resamples: int = 2000) -> "Interval":
        """The mean of complete tables [S, E] and its interval, of the kind that `kind(S)` names."""
        tables = [np.asarray(table, float) for table in tables]
        mean = _mean(tables)
        if cls._is_resampled(tables):
            return cls(mean, *_bootstrap(tables, resamples))
        error, quantile = _Clustered.of_means(tables).error_and_quantile
        return cls(mean, mean - quantile * error, mean + quantile * error)

    @classmethod
    def of_success(cls, tables: Sequence[np.ndarray], *, resamples: int = 2000) -> "Interval":
        """As `of_mean`, for successes (0 or 1): inside [0, 1], and never without width.

        A t interval is the score interval of as many episodes as have its width (Kish, 1965: the
        effective sample size). None is narrower than the score interval (Wilson, 1927) of the
        independent episodes that the table is worth, see `_independent`: seeds that play the same
        episodes say less of other episodes than as many new ones.
        """
        tables = [np.asarray(table, float) for table in tables]
        mean, size = _mean(tables), sum(table.size for table in tables)
        low, high = least = _wilson(mean, size * _independent(tables), _Z)
        if cls._is_resampled(tables):
            low, high = _bootstrap(tables, resamples)
        else:
            error, quantile = _Clustered.of_means(tables).error_and_quantile
            if error:
                low, high = _wilson(mean, min(mean * (1 - mean) / error**2, size), quantile)
        low, high = min(low, least[0]), max(high, least[1])
        return cls(mean, float(max(low, 0.0)), float(min(high, 1.0)))

    @classmethod
    def _is_resampled(cls, tables: _Tables) -> bool:
        return cls.kind(len(tables[0])) not in DIFFERENCE_KINDS

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

    A t interval with the two-way standard error. Of five and more seeds too: of a bootstrap comes no
    p below 1 / resamples, which Holm's factor then multiplies, and in a small trial it covered less.
    `benchmarks/coverage.py --paired` has both.
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
        one, two, more = DIFFERENCE_KINDS
        return one if seeds == 1 else two if seeds == 2 else more

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
        mean, found = _mean(gaps), _Clustered.of(samples, gaps)
        (error, quantile), freedom = found.error_and_quantile, found.freedom
        low, high = mean - quantile * error, mean + quantile * error
        p = student.two_sided(mean / error, freedom) if error else float(mean == 0)
        detectable = (quantile + student.quantile(POWER, freedom)) * error
        if success:
            centre, least = _laplace(samples, found)
            low, high = min(low, centre - _Z * least), max(high, centre + _Z * least)
            low, high = max(low, -1.0), min(high, 1.0)
            p = max(p, student.two_sided(centre / least, np.inf))
            detectable = max(detectable, (_Z + student.quantile(POWER, np.inf)) * least)
        return cls(mean, float(low), float(high), float(p), float(detectable))


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
    sizes: Sequence[int]
    """The episodes of each task."""
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
            [table.shape[1] for table in gaps],
            float(sum(np.mean([x.var() for x in tables]) / len(tables[0]) for tables in samples)),
        )

    @classmethod
    def of_means(cls, tables: _Tables) -> "_Clustered":
        """Those of a mean."""
        return cls.of([tables], [_per_episode(table) for table in tables])

    @property
    def two_way(self) -> float:
        """The variance, at least that by seed or by episode alone; see `Interval.mean_and_error`."""
        seeds, between = sum(self.seeds), float(self.episodes.sum())
        return max(seeds + between - self.single, seeds, between)

    @property
    def total(self) -> float:
        """The variance that counts.

        With two seeds their difference has one degree of freedom and is often small by chance. So all
        variances are added, and (`SEED_SPREAD` * SD of an episode) ** 2 / 2.
        """
        if min(self.counts) != 2:
            return self.two_way
        return float(sum(self.seeds) + self.episodes.sum() + SEED_SPREAD**2 * self.spread)

    @property
    def freedom(self) -> float:
        """Degrees of freedom (Satterthwaite, 1946), at least those of the seeds.

        Many where seeds agree, S - 1 where they differ by far.
        """
        pieces = [*zip(self.seeds, self.counts, strict=True)]
        pieces += zip(self.episodes, self.sizes, strict=True)
        uncertain = float(sum(x**2 / max(n - 1, 1) for x, n in pieces))
        return max(self.total**2 / uncertain, min(self.counts) - 1, 1.0) if uncertain else np.inf

    @property
    def error_and_quantile(self) -> tuple[float, float]:
        """The standard error, and by how many of it an interval reaches to either side."""
        return float(np.sqrt(self.total)), student.quantile(0.5 + LEVEL / 2, self.freedom)


def _laplace(samples: Sequence[_Tables], found: _Clustered) -> tuple[float, float]:
    """The difference of successes and its standard error with one pair more in either direction.

    Of as many pairs as would have the variance of the table; where no pair differs nothing says how
    much seeds have in common, so of its distinct episodes.
    """
    n = float(sum(found.sizes))
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


def _independent(tables: _Tables) -> float:
    """The share of episodes that count as independent (Kish, 1965), by the variances of successes.

    With one more episode that all seeds win and one that all lose: where seeds never differ, nothing
    else says how hard other episodes may be, and seeds x episodes count as the episodes alone.
    """
    found = _Clustered.of_means(
        [np.pad(x, [(0, 0), (1, 1)], constant_values=(0, 1)) for x in tables]
    )
    return min(1.0, found.single / found.two_way)


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


def _wilson(mean: float, n: float, quantile: float) -> tuple[float, float]:
    """The score interval of `mean` in `n` independent episodes."""
    centre = (mean + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    half = quantile * np.sqrt(mean * (1 - mean) / n + quantile**2 / (4 * n**2))
    half /= 1 + quantile**2 / n
    return float(centre - half), float(centre + half)
