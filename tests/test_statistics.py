"""Intervals: coverage, strata, and the width that a sample without spread must have."""

import numpy as np
import pytest

from qgf_jax import statistics


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        data = [[(rng.uniform(size=50) < 0.6).astype(float)]]
        interval = statistics.success_interval(data)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.91 <= hits / 200 <= 1.0


def test_mean_interval_is_that_of_the_normal_for_many_numbers():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=4000)
    interval = statistics.mean_interval([[x]])
    half = 1.96 * x.std() / np.sqrt(4000)
    assert interval.mean == pytest.approx(x.mean())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)


def test_all_successes_are_not_certainty():
    """Wilson for 50 of 50: low = 1 / (1 + z ** 2 / n) = 0.9287."""
    interval = statistics.success_interval([[np.ones(50)]])
    assert interval.mean == interval.high == 1.0
    assert interval.low == pytest.approx(0.9287, abs=1e-4)
    nothing = statistics.success_interval([[np.zeros(50)]])
    assert (nothing.mean, nothing.low) == (0.0, 0.0) and nothing.high == pytest.approx(
        0.0713, abs=1e-4
    )


def test_spread_between_seeds_counts():
    """Two seeds, one always succeeds and one never: resampling seeds reaches both ends."""
    agree = statistics.mean_interval([[np.tile([0.0, 1.0], 50)] * 2])
    differ = statistics.mean_interval([[np.zeros(100), np.ones(100)]])
    assert agree.mean == differ.mean == 0.5
    assert agree.high - agree.low < 0.2 and (differ.low, differ.high) == (0.0, 1.0)


def test_tasks_are_strata():
    """A mean over tasks that differ for certain has no spread."""
    interval = statistics.mean_interval([[np.zeros(20)], [np.ones(30)]])
    assert interval == (0.5, 0.5, 0.5)


def test_tasks_share_the_drawn_seeds():
    """One checkpoint plays all tasks: a seed that fails fails in every task."""
    apart = [[np.ones(20), np.zeros(20)]] * 3
    interval = statistics.mean_interval(apart)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
