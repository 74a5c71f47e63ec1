"""Intervals of means over seeds and episodes, which are crossed: all seeds play the same episodes.

NumPy only. A table [S, E] holds one number for each seed and episode; a list of tables holds one
table for each task. The seeds of a list are the same in each table, since one checkpoint plays all
tasks. Tasks are strata: they stay, and the mean is that of the tasks' means.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def kind(seeds: int) -> str:
        """The key of `KINDS` that an interval over so many seeds has."""
        names = list(KINDS)
        return names[0] if seeds == 1 else names[1] if seeds < FEW_SEEDS else names[2]

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
