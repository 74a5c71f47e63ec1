"""Criteria that choose the guidance weight from data and checkpoint alone, without any interaction.

A criterion is one function: from what `qgf calibrate` has measured to a `Choice`. None of them is
validated: docs/guidance.md says what is known.
"""

from typing import NamedTuple

import numpy as np

from qgf_jax.methods.parts import criterion


class Measured(NamedTuple):
    """What guided actions of `qgf` are like, by weight, of one training seed. Arrays of NumPy.

    W weights that rise by a constant factor, N states of the data; a guided action and the reference's
    own come from the same noise. Entries that a run cannot give are None.
    """

    weights: np.ndarray
    """[W]"""
    relative: np.ndarray
    """[], the weight nearest to 1 of `qgf_relative`, by least squares over the slopes."""
    gain: np.ndarray
    """[W, N], Q of the guided action less Q of the reference's, by the critic that guides."""
    promised: np.ndarray
    """[W, N], w Σ dt |g|², what `gain` would be if Q were as steep all along the way."""
    distance: np.ndarray
    """[W, N], from the guided action to the nearest one that the data have near the state."""
    own_distance: np.ndarray
    """[N], the same of the reference's action."""
    log_density: np.ndarray
    """[W, M], log p_0 of the guided action: how likely the reference is to take it."""
    rare: np.ndarray
    """[M], the 1 % quantile of log p_0 over the reference's own actions in the state."""
    log_ratio: np.ndarray
    """[W, M], log p_w - log p_0 of the guided action, whose mean is their KL divergence."""
    other_gain: np.ndarray | None = None
    """[W, N], as `gain`, by a critic that did not guide, of actions that it did not guide."""
    other_promised: np.ndarray | None = None
    """[W, N], as `promised`, of the actions of `other_gain` and by the critic that guided them."""
    disjoint: bool = False
    """Whether the critic of `other_gain` has learned from none of the trajectories that the one that
    guides has: the judge of `qgf calibrate --judge`, and no member of an ensemble."""
    evaluated: np.ndarray | None = None
    """[1 + W, N], the value of going on by a weight for good, by a critic that has learned it: Q of the
    guided action. Weight 0 comes first; NaN of weights that nobody has evaluated."""


class Choice(NamedTuple):
    """What a criterion makes of it."""

    weight: float
    """NaN where the run cannot say."""
    curve: np.ndarray | None = None
    """[W], what is bounded; None where nothing is."""
    limit: float = np.nan
    """The most that the curve may be."""


@criterion()
def _relative(m: Measured) -> Choice:
    """S0, a control: the raw weight that is nearest to 1 of qgf_relative."""
    return Choice(float(m.relative))


@criterion()
def _distance(m: Measured) -> Choice:
    """S1: the largest weight at which actions are as near to the data's as the reference's own."""
    return _within(m.weights, (m.distance - m.own_distance).mean(axis=1), 0.0)


@criterion()
def _near(m: Measured) -> Choice:
    """S1 with a tolerance: the largest weight at which that distance is 2 % above the reference's."""
    return _within(m.weights, m.distance.mean(axis=1) / m.own_distance.mean() - 1, 0.02)


@criterion()
def _typical(m: Measured) -> Choice:
    """S2: the largest weight at which half of the actions are among the reference's likeliest 99 %."""
    return _within(m.weights, (m.log_density < m.rare).mean(axis=1), 0.5)


@criterion()
def _agree(m: Measured) -> Choice:
    """S3: the smallest weight whose gain is within one standard error of the best, by the judge.

    The gain is the mean over states of what the judge says; the error is that of the difference to the
    best weight's, state by state. Weight 0, which gains 0, counts too. Of what was measured: nothing is
    interpolated.
    """
    if m.other_gain is None or not m.disjoint:
        return Choice(np.nan)
    gain = np.concatenate([np.zeros_like(m.other_gain[:1]), m.other_gain])
    return _smallest_of_the_best(m.weights, gain.astype(float))


@criterion(needs=("evaluation",), source="Le, Voloshin and Yue, 2019, arXiv 1903.08738")
def _evaluated(m: Measured) -> Choice:
    """S5: the smallest weight whose learned value is within one standard error of the best.

    By the rule of `agree`. Errors of the critics that have learned the values are in no standard error.
    """
    if m.evaluated is None:
        return Choice(np.nan)
    return _smallest_of_the_best(m.weights, m.evaluated.astype(float))


@criterion()
def _trust(m: Measured) -> Choice:
    """S4: the largest weight at which, in half of the states, Q rises by half of what its slope says.

    Q of a critic that did not guide. Members of an ensemble, which share their data, are a poor one.
    """
    if m.other_gain is None or m.other_promised is None:
        return Choice(np.nan)
    return _within(m.weights, _broken(m.other_gain, m.other_promised), 0.5)


@criterion()
def _trust_own(m: Measured) -> Choice:
    """S4 as `trust`, Q of the critic that guides: what its curvature allows, not its errors."""
    return _within(m.weights, _broken(m.gain, m.promised), 0.5)


@criterion()
def _divergence(m: Measured) -> Choice:
    """S6: the largest weight whose KL from the reference is at most that of best-of-16."""
    return _within(m.weights, m.log_ratio.mean(axis=1), np.log(16) - 15 / 16)


def _smallest_of_the_best(weights: np.ndarray, gain: np.ndarray) -> Choice:
    """The smallest weight that noise over states does not tell apart from the best one.

    `gain` [1 + W, N], that of weight 0 first. It is within one standard error of the difference in mean,
    state by state. NaN if no gain is finite.
    """
    means = gain.mean(axis=1)
    if not np.isfinite(means).any():
        return Choice(np.nan)
    short = gain[np.where(np.isfinite(means), means, -np.inf).argmax()] - gain
    with np.errstate(invalid="ignore"):  # of gains that are not finite, which are within nothing
        error = short.std(axis=1, ddof=1) / np.sqrt(short.shape[1])
    beyond = short.mean(axis=1) - error
    smallest = np.flatnonzero(beyond <= 0)[0]
    return Choice(float(np.append(0.0, weights)[smallest]), beyond[1:], 0.0)


def _broken(gain: np.ndarray, promised: np.ndarray) -> np.ndarray:
    """[W], the share of states in which less than half of what was promised, both [W, N], is gained."""
    # Not the quotient: where the slope is 0 nothing was promised.
    return (gain < 0.5 * promised).mean(axis=1)


def _within(weights: np.ndarray, curve: np.ndarray, limit: float) -> Choice:
    """The largest weight of which the curve is within the limit, wherever it was before.

    Between the last weight within it and the next one, the curve is taken to be straight in log w. 0 if
    no weight is within, and the largest that was measured if that is.
    """
    within = np.flatnonzero(curve <= limit)
    if not len(within):
        return Choice(0.0, curve, limit)
    last = within[-1]
    if last + 1 == len(weights):
        return Choice(float(weights[last]), curve, limit)
    rise = curve[last + 1] - curve[last]
    part = (limit - curve[last]) / rise if np.isfinite(rise) else 0.0
    weight = weights[last] * (weights[last + 1] / weights[last]) ** part
    return Choice(float(weight), curve, limit)
