"""Selection with few episodes: budget, pairing, resuming, and a report that chooses the same weight."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from qgf_jax.errors import UserError
from qgf_jax.evaluation import halving, summary
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.choice import leading
from qgf_jax.evaluation.halving import Round
from qgf_jax.evaluation.sweep import Plan
from qgf_jax.report.tables import Table

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import bandit

WEIGHTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
SWEEP = [Arm("reference", 0.0, 1), *(Arm("qgf", weight, 1) for weight in WEIGHTS)]


def plan_of(arms=SWEEP, *, budget=25, tasks=(1,), seeds=1):
    return Plan("maze", tasks, seeds, arms, 2, 0, budget=budget)


def noisy(job):
    """A success more often the nearer the weight is to 4, on the same easy and hard episodes."""
    weight = job.acts_as.weight
    rng = np.random.default_rng((int(weight), job.task, job.episode, job.seed))
    hard = np.random.default_rng((job.task, job.episode)).normal()
    score = 1.5 - abs(weight - 4) - 0.7 * hard + 0.3 * rng.normal()
    length = int(100 - 20 * np.clip(score, 0, 4))
    return {"success": float(score > 0), "return": -float(length), "length": length}


def play(plan, outcome=noisy, lines=None):
    """What is played in each stage; `lines` grow by it."""
    lines, stages = [] if lines is None else lines, []
    for jobs in plan.stages(7, lines):
        stages.append(jobs)
        lines += [line for job in jobs for line in job.lines("maze", 7, outcome(job))]
    return stages, lines


def selected(lines):
    rows = summary.summarize(lines)
    return {row["weight"] for row in rows if row["selected"] and row["method"] == "qgf"}


def total(rounds):
    more = zip([Round(0, 0), *rounds], rounds, strict=False)
    return sum(now.weights * (now.episodes - before.episodes) for before, now in more)


def test_rounds_by_hand():
    assert halving.Round.plan(2, 4) == [(2, 2)] and halving.Round.plan(2, 25) == [(2, 12)]
    assert halving.Round.plan(6, 25) == [(6, 2), (3, 4), (2, 7)]
    assert halving.Round.plan(6, 50) == [(6, 4), (3, 9), (2, 14)]
    assert halving.Round.plan(8, 25) == [(8, 2), (2, 6)]  # two episodes first, so one round fewer
    assert halving.Round.plan(6, 8) == [(6, 1), (2, 2)]


@pytest.mark.parametrize("weights", range(2, 20))
def test_no_round_exceeds_the_budget(weights):
    for budget in range(weights + 2, 80):
        rounds = halving.Round.plan(weights, budget)
        assert total(rounds) <= budget and rounds[0].weights == weights
        assert rounds[0].episodes >= 1 and rounds[-1].weights >= 2 and rounds[-1].episodes >= 2
        for before, now in itertools.pairwise(rounds):
            assert now.weights < before.weights and now.episodes > before.episodes


def test_a_budget_below_the_least_is_one_line():
    with pytest.raises(
        UserError, match="budget of 7 is too small for the 6 weights of qgf: .*=8 or"
    ):
        plan_of(budget=7)
    assert plan_of(SWEEP[:2], budget=1)  # one weight each: nothing to choose


def test_all_in_play_meet_the_same_selection_episodes_and_the_chosen_one_is_reported():
    (*rounds, report), lines = play(plan_of())
    assert [len({job.acts_as.weight for job in jobs}) for jobs in rounds] == [6, 3, 2]
    for jobs, episodes in zip(rounds, ([0, 2], [4, 6], [8, 10, 12]), strict=True):
        met = {}
        for job in jobs:
            met.setdefault(job.acts_as.weight, []).append(job.episode)
        assert list(met.values()) == [episodes] * len(met)
    assert sum(map(len, rounds)) == 24
    (chosen,) = selected(lines)
    assert chosen == 4.0
    assert {job.arms[0] for job in report} == {SWEEP[0], Arm("qgf", chosen, 1)}
    assert {job.episode for job in report} == {1, 3}


def test_where_nothing_tells_weights_apart_small_and_large_ones_stay():
    """On the first two episodes all fail; on the others weight 6 alone does not."""

    def outcome(job):
        reached = float(job.acts_as.weight == 6.0 and job.episode > 2)
        return {"success": reached, "return": reached - 1, "length": 9}

    stages, lines = play(plan_of(), outcome)
    met = [sorted({job.acts_as.weight for job in jobs}) for jobs in stages]
    assert met == [[*WEIGHTS], [1.0, 3.0, 6.0], [1.0, 6.0], [0.0, 6.0]]
    assert selected(lines) == {6.0}


def test_a_report_ranks_the_last_rounds_weights_on_all_that_they_share():
    """And no other: weight 1 is the smallest, and as good as the best on what it has played."""

    def outcome(job):
        even = job.acts_as.weight in (1.0, 5.0, 6.0)  # with longer ways first
        lucky = {1.0: 90, 5.0: 80, 6.0: 70}.get(job.acts_as.weight, 100)
        return {"success": float(even), "return": -float(lucky + job.episode), "length": 9}

    stages, lines = play(plan_of(), outcome)
    assert {job.acts_as.weight for job in stages[2]} == {5.0, 6.0}
    rows = [row for row in summary.summarize(lines) if row["split"] == "selection"]
    assert {row["weight"]: row["ranked_on"] for row in rows} == {
        1.0: 0, 2.0: 0, 3.0: 0, 4.0: 0, 5.0: 7, 6.0: 7,
    }  # fmt: skip
    assert selected(lines) == {6.0}
    assert sum("cannot be selected" in gap for gap in Table(summary.summarize(lines)).gaps()) == 4


def test_no_dropped_weight_is_ranked_whatever_the_numbers():
    for weights in (2, 3, 6, 9, 13):
        for budget in range(weights + 2, 60, 11):
            arms = [Arm("qgf", float(1 + i), 1) for i in range(weights)]
            stages, lines = play(plan_of(arms, budget=budget))
            last = {job.acts_as.weight for job in stages[-2]}
            rows = [row for row in summary.summarize(lines) if row["split"] == "selection"]
            assert {row["weight"] for row in rows if row["ranked_on"]} == last
            assert selected(lines) <= last
            assert sum(row["episodes"] for row in rows) <= budget


def test_an_evaluation_that_was_killed_goes_on_to_the_same_choice():
    _, whole = play(plan_of())
    for cut in range(len(whole)):
        lines = whole[:cut]
        stages, _ = play(plan_of(), lines=lines)
        assert lines == whole and sum(map(len, stages)) == len(whole) - cut
    stages, _ = play(plan_of(), lines=list(whole))
    assert not any(stages)


def test_a_larger_budget_goes_on_where_a_smaller_one_ended():
    _, lines = play(plan_of(budget=8))
    before = list(lines)
    play(plan_of(budget=50), lines=lines)
    keys = [(line["weight"], line["method"], line["episode"]) for line in lines]
    assert lines[: len(before)] == before and len({*keys}) == len(keys)
    assert selected(lines) == {4.0}


def test_episodes_that_are_there_count_for_the_bandit_and_for_its_choice():
    whole = Plan("maze", (1,), 1, SWEEP, 2, 20)
    _, lines = play(whole)
    before = list(lines)
    stages, _ = play(plan_of(), lines=lines)
    assert not any(stages) and lines == before


def test_the_budget_is_of_all_seeds_together():
    stages, lines = play(plan_of(seeds=3))
    mine = [line for line in lines if line["split"] == "selection"]
    assert len(mine) == 24
    pairs = {(line["episode"], line["seed"]) for line in mine}
    assert pairs == {(0, 0), (2, 1), (4, 2), (6, 0), (8, 1), (10, 2), (12, 0)}
    (chosen,) = selected(lines)
    assert {job.seed for job in stages[-1]} == {0, 1, 2}
    assert {job.acts_as.weight for job in stages[-1]} == {0.0, chosen}
    rows = [row for row in summary.summarize(lines) if row["split"] == "selection"]
    assert {row["ranked_on"] for row in rows} == {0, 7}


def test_one_weight_is_chosen_for_all_tasks_together():
    """On task 1 alone weight 6 is best, on task 2 weight 1; 3 is not far behind on both."""
    truth = {1: (0, 1, 4, 2, 3, 5), 2: (5, 1, 4, 2, 3, 0)}

    def outcome(job):
        score = truth[job.task][int(job.acts_as.weight) - 1] + 0.1 * (job.episode % 3)
        return {"success": 1.0, "return": score, "length": 9}

    stages, lines = play(plan_of(tasks=(1, 2)), outcome)
    assert [len({job.acts_as.weight for job in jobs}) for jobs in stages] == [6, 3, 2, 2]
    for task in (1, 2):
        played = [line for line in lines if (line["split"], line["task"]) == ("selection", task)]
        assert len(played) == 24
    assert selected(lines) == {3.0}
    rows = summary.summarize(lines)
    together = [r for r in rows if r["task"] == summary.ALL_TASKS and r["split"] == "selection"]
    assert {row["weight"]: row["ranked_on"] for row in together if row["ranked_on"]} == {
        3.0: 14,
        5.0: 14,
    }


def test_methods_choose_apart_and_share_what_acts_alike():
    weights = (0.0, 1.0, 2.0)
    arms = [Arm("qgf", w, 1) for w in weights] + [
        Arm("qgf_jacobian", w, 1) for w in (*weights, 3.0, 4.0, 5.0)
    ]
    stages, lines = play(plan_of(arms))
    first = [job.arms for job in stages[0] if len(job.arms) > 1]
    assert first == [(arms[0], arms[3])] * 2  # weight 0 of both, while both are in round 1
    for jobs in stages:
        keys = [(job.acts_as, job.episode, job.seed, job.task) for job in jobs]
        assert len({*keys}) == len(keys)
    for method in ("qgf", "qgf_jacobian"):
        mine = [x for x in lines if (x["method"], x["split"]) == (method, "selection")]
        assert 20 < len(mine) <= 25
    again, _ = play(plan_of(list(reversed(arms))), lines=list(lines))
    assert not any(again)


def test_what_leads_by_hand():
    def cells(successes, returns):
        return {
            1: {
                (0, 2 * i): {"success": s, "return": r}
                for i, (s, r) in enumerate(zip(successes, returns, strict=True))
            }
        }

    played = {
        1.0: cells([1, 1, 1, 1, 1, 1, 1, 1], [-50] * 8),  # the highest success, slowly
        2.0: cells([1, 1, 1, 1, 1, 1, 1, 0], [-20] * 8),  # one fewer is noise, and it is faster
        3.0: cells(
            [1, 0, 1, 0, 1, 0, 1, 0], [-10] * 8
        ),  # faster still, but four fewer are not noise
        4.0: cells([1, 0, 1, 0, 1, 0, 1, 0], [-5] * 8),
        5.0: cells([0] * 8, [0] * 8),
    }
    order = [leading(played, count) for count in range(1, 6)]
    assert order == [[2.0], [1.0, 2.0], [1.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0], [*played]]
    alike = {w: cells([1, 1], [-9, -9]) for w in (3.0, 1.0, 2.0)}
    assert [leading(alike, count) for count in (1, 2)] == [[1.0], [1.0, 3.0]]
    single = {1.0: cells([1], [-9]), 2.0: cells([0], [-3])}
    assert leading(single, 1) == [2.0]  # a single success is no evidence, so the return has it


def test_without_success_the_return_leads_and_what_failed_comes_last():
    def cells(returned, *, failed):
        line = {"return": returned, **({"failed": "died"} if failed else {})}
        return {1: {(0, 0): line, (0, 2): line}}

    played = {
        1.0: cells(-5.0, failed=False),
        2.0: cells(-1.0, failed=True),
        3.0: cells(-2.0, failed=False),
    }
    assert [leading(played, count) for count in (1, 2)] == [[3.0], [1.0, 3.0]]


def test_few_episodes_choose_better_when_weights_that_trail_are_dropped():
    """Than with as many episodes of each weight, and not far from the fivefold number."""
    found = bandit.regrets("peak", 50, rules=("all_4", "bandit_25", "all_20"))
    equal, halved, many = (found[name].mean() for name in ("all_4", "bandit_25", "all_20"))
    assert many < halved < 0.8 * equal
