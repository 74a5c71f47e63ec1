"""Intervals for means over seeds and episodes. NumPy only."""

from typing import NamedTuple

import numpy as np

LEVEL = 0.95
_Z = 1.959963984540054  # the normal quantile of LEVEL


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def mean_interval(groups: list[list[np.ndarray]], *, resamples: int = 2000) -> Interval:
    """Stratified bootstrap of the mean of task means (Agarwal et al., 2021, section 4.2).

    `groups[task][seed]` holds one number per episode. Tasks are strata and stay; seeds are drawn
    with replacement, the same ones for every task, since one checkpoint plays them all, and episodes
    within a drawn seed. With one seed the interval speaks of that seed's episodes only, not of
    training again.
    """
    generator = np.random.default_rng(0)
    means, chosen = np.zeros(resamples), None
    for seeds in groups:
        if len(seeds) == 1:
            x = seeds[0]
            draws = [x[generator.integers(len(x), size=(resamples, len(x)))].mean(axis=1)]
        else:
            table = np.stack(
                [
                    x[generator.integers(len(x), size=(resamples, len(seeds), len(x)))].mean(axis=2)
                    for x in seeds
                ]
            )  # [seed, resamples, draw]
            if chosen is None or chosen.shape[1] != len(seeds):
                chosen = generator.integers(len(seeds), size=(resamples, len(seeds)))
            rows, columns = np.arange(resamples)[:, None], np.arange(len(seeds))[None]
            draws = list(table[chosen, rows, columns].T)
        means += np.mean(draws, axis=0) / len(groups)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    mean = np.mean([np.mean([x.mean() for x in seeds]) for seeds in groups])
    return Interval(float(mean), float(low), float(high))


def success_interval(groups: list[list[np.ndarray]]) -> Interval:
    """As `mean_interval`, for successes (0 or 1), never narrower than the Wilson score interval.

    The bootstrap of n successes out of n has no width at all, which claims too much: the Wilson
    interval (Wilson, 1927) of all episodes together is the least that is reported.
    """
    mean, low, high = mean_interval(groups)
    n = sum(len(x) for seeds in groups for x in seeds)
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    low, high = min(low, centre - half), max(high, centre + half)
    return Interval(mean, float(max(low, 0.0)), float(min(high, 1.0)))
