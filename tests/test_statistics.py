"""Intervals: coverage, strata, and the width that a sample without spread must have."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from qgf_jax.evaluation import statistics, student
from qgf_jax.evaluation.statistics import Difference, Interval

_SPEC = importlib.util.spec_from_file_location(
    "coverage_of_intervals", Path(__file__).parent.parent / "benchmarks" / "coverage.py"
)
coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(coverage)


def test_mean_interval_is_that_of_the_normal_for_many_numbers():
    x = np.random.default_rng(1).normal(3.0, 2.0, size=4000)
    interval = Interval.of_mean([x[None]])
    half = 1.96 * x.std() / np.sqrt(4000)
    assert interval.mean == pytest.approx(x.mean())
    assert interval.high - interval.mean == pytest.approx(half, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.1)


def test_all_successes_are_not_certainty():
    """Wilson for 50 of 50: low = 1 / (1 + z ** 2 / n) = 0.9287."""
    interval = Interval.of_success([np.ones((1, 50))])
    assert interval.mean == interval.high == 1.0
    assert interval.low == pytest.approx(0.9287, abs=1e-4)
    nothing = Interval.of_success([np.zeros((1, 50))])
    assert (nothing.mean, nothing.low) == (0.0, 0.0) and nothing.high == pytest.approx(
        0.0713, abs=1e-4
    )


@pytest.mark.parametrize("seeds", [2, 4, 6])
def test_spread_between_seeds_counts(seeds):
    """Half of the seeds always succeed and half never."""
    half = seeds // 2
    agree = Interval.of_success([np.tile([0.0, 1.0], (seeds, 50))])
    differ = Interval.of_success([np.repeat([[0.0], [1.0]], half, axis=0) * np.ones(100)])
    assert agree.mean == differ.mean == 0.5
    assert agree.high - agree.low < 0.4 < differ.high - differ.low
    assert 0 <= differ.low < 0.2 and 0.8 < differ.high <= 1


@pytest.mark.parametrize("seeds", [2, 4, 5, 10])
def test_the_same_episodes_again_are_no_more_episodes(seeds):
    """Seeds that agree in every episode: 50 episodes stay 50, in the floor and in the mean."""
    for x in (np.ones(50), np.tile([0.0, 1.0], 25)):
        one = Interval.of_success([x[None]])
        several = Interval.of_success([np.tile(x, (seeds, 1))])
        assert several.low <= one.low + 0.015 and several.high >= one.high - 0.015
    x = np.random.default_rng(0).normal(size=(1, 50))
    one = Interval.of_mean([x])
    several = Interval.of_mean([np.tile(x, (seeds, 1))])
    assert several.high - several.low > 0.95 * (one.high - one.low)


@pytest.mark.parametrize("seeds", [5, 10])
def test_seeds_that_fail_in_different_episodes_are_more_episodes(seeds):
    alike = (np.random.default_rng(0).uniform(size=(seeds, 200)) < 0.7).astype(float)
    one, several = Interval.of_success([alike[:1]]), Interval.of_success([alike])
    assert several.high - several.low < 0.8 * (one.high - one.low)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_one_failure_is_not_surer_than_none(seeds):
    table = np.ones((seeds, 50))
    none = Interval.of_success([table])
    table[1, 7] = 0
    assert Interval.of_success([table]).low < none.low + 0.01


def test_three_seeds_have_the_two_way_t():
    """By hand, the table of `test_the_standard_error_is_two_way`: variance 1 / 2, and 2.25 degrees."""
    found = Interval.of_mean([np.add.outer([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])])
    assert Interval.kind(3) == Interval.kind(4) == Difference.kind(5) == "two-way t"
    freedom = 0.5**2 / (2 * (1 / 3) ** 2 / 2)
    half = student.quantile(0.975, freedom) * np.sqrt(0.5)
    assert found.high == pytest.approx(half) and freedom == 2.25


def test_t_interval_of_seeds_that_differ_by_far_is_students():
    """Two seeds, no noise: mean +- t(1 degree) * |difference| / 2; four: t(3) * SD / 2."""
    far = Interval.of_mean([np.repeat([[0.0], [2.0]], 200, axis=1)])
    assert far.high - 1.0 == pytest.approx(12.706, rel=0.2)  # the allowance takes 13 % off
    x = np.array([[0.0], [1.0], [5.0], [9.0]])
    far = Interval.of_mean([np.repeat(x, 200, axis=1)])
    assert far.high - far.mean == pytest.approx(3.182 * x.std(ddof=1) / 2, rel=0.05)


def test_the_standard_error_is_two_way():
    """By hand: seeds and episodes add -1, 0 or 1 each, and nothing else does."""
    table = np.add.outer([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    mean, error = statistics.Interval.mean_and_error([table])
    # By seed 3 / 2 * (1 + 1) / 9, by episode the same, by neither 9 / 8 * 12 / 81.
    assert (mean, error) == (0.0, pytest.approx(np.sqrt(1 / 3 + 1 / 3 - 1 / 6)))
    table = np.array([[1.0, np.nan], [np.nan, 3.0]])
    assert statistics.Interval.mean_and_error([table]) == (
        2.0,
        pytest.approx(1.0),
    )  # two numbers: SD / sqrt 2


def test_tasks_are_strata():
    """A mean over tasks that differ for certain has no spread."""
    interval = Interval.of_mean([np.zeros((1, 20)), np.ones((1, 30))])
    assert interval == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("seeds", [2, 6])
def test_tasks_share_their_seeds(seeds):
    """One checkpoint plays all tasks: a seed that fails fails in every task."""
    table = np.repeat([[0.0], [1.0]], seeds // 2, axis=0) * np.ones(20)
    one, three = Interval.of_success([table]), Interval.of_success([table] * 3)
    assert three.high - three.low > 0.9 * (one.high - one.low)


def test_coverage():
    """Seeds and episodes differ or do not: the nested bootstrap of old misses, this one covers.

    Few repetitions, so bounds are loose; the whole table: `benchmarks/coverage.py`.
    """
    found = {}
    for seeds, spread, difficulty in (
        (2, 0.0, 0.4), (2, 0.1, 0.0), (2, 0.15, 0.4), (3, 0.15, 0.0), (3, 0.05, 1.0),
        (5, 0.1, 0.4), (10, 0.0, 0.4), (10, 0.1, 1.0), (1, 0.15, 0.4),
    ):  # fmt: skip
        case = coverage.Case(0.7, spread, difficulty, seeds, 50)
        found[case] = coverage.measure(case, repeats=100, resamples=200, when=["after"])["after"]
    for case, after in found.items():
        assert after["success"] >= 0.91 and after["return"] >= 0.88, (case, after)
        assert after["width"] < (0.65 if case.seeds == 2 else 0.55), (case, after)
    case = coverage.Case(0.7, 0.0, 0.4, 10, 50)
    assert coverage.measure(case, repeats=50, resamples=100)["before"]["success"] < 0.8
    for name in ("success", "return"):
        mean = np.mean([after[name] for case, after in found.items() if case.seeds > 2])
        assert 0.93 <= mean <= 0.97, (name, mean)
