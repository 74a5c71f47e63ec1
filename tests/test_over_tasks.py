"""Numbers over tasks and seeds: those of rliable 1.2.0, and which rows they are of."""

import numpy as np
import pytest

from qgf_jax.evaluation import over_tasks, paired, summary
from qgf_jax.evaluation.over_tasks import _Scores
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm
from qgf_jax.report.tables import Table

# Seeds x tasks; what rliable's metrics and create_performance_profile say of them is below.
A = np.array([[.9, .2, .55], [.8, .4, .5], [1., .3, .6], [.7, .1, .45], [.85, .35, .5]])  # fmt: skip
B = np.array([[.6, .3, .5], [.8, .3, .7], [.75, .25, .4], [.9, .2, .55]])  # fmt: skip
SMALL = np.array([[.1, .9], [.2, .7], [.4, .95]])  # fmt: skip


def scores_of(table):
    return _Scores(list(table.T), [0] * table.shape[1])


@pytest.mark.parametrize(
    ("table", "iqm"), [(A, 0.5388888888888889), (B, 0.5083333333333333), (SMALL, 0.55)]
)
def test_interquartile_mean_is_rliables(table, iqm):
    assert scores_of(table).interquartile_mean == pytest.approx(iqm)


def test_probability_of_improvement_is_rliables():
    assert scores_of(A).improvement(scores_of(B)) == pytest.approx(0.5833333333333334)
    assert scores_of(B).improvement(scores_of(A)) == pytest.approx(0.4166666666666667)


def test_performance_profile_is_rliables():
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    a = [0.93333333, 0.86666667, 0.46666667, 0.26666667, 0.06666667]
    assert scores_of(A).profile(levels) == pytest.approx(a)
    assert scores_of(B).profile(levels) == pytest.approx([1.0, 0.83333333, 0.5, 0.16666667, 0.0])


def test_the_difference_over_tasks_is_the_mean_of_theirs_paired():
    """Over two runs of one task each, as separate trainings are."""
    seeds, episodes = 5, 8
    rng = np.random.default_rng(0)
    runs, gaps = [], []
    for task in (1, 2):
        ours, theirs = (rng.integers(2, size=(seeds, episodes)) for _ in range(2))
        gaps.append((ours - theirs).mean())
        lines = []
        for method, table in (("qgf", ours), ("reference", theirs)):
            for seed in range(seeds):
                played = lines_for(method, {task: table[seed].tolist()})
                lines += [{**line, "seed": seed} for line in played]
        runs.append(run_of(lines, str(task), "qgf"))
    found = next(x for x in over_tasks.aggregate(runs, "reference") if x["method"] == "qgf")
    assert found["difference"]["mean"] == pytest.approx(np.mean(gaps))
    assert found["difference"]["low"] < np.mean(gaps) < found["difference"]["high"]
    base = next(x for x in over_tasks.aggregate(runs, "reference") if x["method"] == "reference")
    assert base["difference"] is None


def test_seeds_are_resampled_together_in_the_tasks_of_a_run():
    """A seed that fails fails in every task of its run: more tasks make nothing surer."""
    column = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    widths = []
    for runs in ([0] * 8, range(8)):
        low, high = _Scores([column] * 8, [*runs]).improvement_interval(
            _Scores([column] * 8, [*runs])
        )
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 0
    low, high = scores_of(A).interquartile_interval()
    assert low < scores_of(A).interquartile_mean < high
    assert scores_of(np.tile(A[:1], (5, 1))).interquartile_interval() == pytest.approx((0.55, 0.55))


def lines_for(method, by_task, *, best_of=1, seeds=1, success=True, env="maze"):
    return [
        {
            "method": method, "weight": 0.0, "best_of": best_of, "options": {}, "env": env,
            "task": task, "episode": 2 * i + 1, "split": "report", "seed": seed, "step": 10,
            "return": float(value), "length": 5, **({"success": float(value)} if success else {}),
        }
        for task, values in by_task.items() for i, value in enumerate(values) for seed in range(seeds)
    ]  # fmt: skip


def run_of(lines, name="", training="", references=None):
    return Evaluated(summary.summarize(lines), by_arm(lines), name, training, references)


BASE = lines_for("best_of", {1: [0, 1], 2: [0, 0]}, best_of=4, seeds=2)
ARM = lines_for("fql", {1: [1, 1], 2: [0, 1]}, seeds=2)


def find(records, method):
    (one,) = [one for one in records if one["method"] == method]
    return one


def test_arms_that_have_all_tasks_are_put_together():
    some = lines_for("reference", {1: [1, 1]})
    made = over_tasks.aggregate([run_of([*BASE, *ARM, *some])])
    assert [one["method"] for one in made] == ["best of 4", "fql"]
    found = find(made, "fql")
    assert (found["tasks"], found["scores"], found["iqm"]["mean"]) == (2, 4, 0.75)
    assert found["profile"] == {"0.25": 1.0, "0.5": 0.5, "0.75": 0.5, "0.9": 0.5}
    assert (found["baseline"], found["improvement"]["mean"]) == ("best of 4", 1.0)
    assert find(made, "best of 4")["improvement"] is None


def test_one_task_is_no_aggregate_and_one_seed_has_no_interval():
    assert over_tasks.aggregate([run_of(lines_for("fql", {1: [1, 0]}))]) == []
    (found,) = over_tasks.aggregate([run_of(lines_for("fql", {1: [1, 0], 2: [1, 1]}))])
    assert found["iqm"] == {"mean": 0.75, "low": None, "high": None}


def test_runs_of_one_training_are_put_together_unless_they_repeat_a_task():
    first, second = (lines_for("fql", {1: [1, 1]}, env=env) for env in ("maze", "cube"))
    made = over_tasks.aggregate([run_of(first, "a", "fql, iql"), run_of(second, "b", "fql, iql")])
    assert [(one["trained_as"], one["tasks"]) for one in made] == [("fql, iql", 2)]
    runs = [run_of(ARM, name, "fql, iql") for name in ("a", "b")]
    assert [one["trained_as"] for one in over_tasks.aggregate(runs)] == ["a", "b"]


def test_tasks_of_two_simulators_are_not_put_together():
    device = [{**line, "env": "maze (jax)"} for line in ARM]
    made = over_tasks.aggregate([run_of([*BASE, *ARM, *device])])
    assert [(one["method"], one["tasks"]) for one in made] == [
        ("best of 4", 2), ("fql", 2), ("fql (jax)", 2),
    ]  # fmt: skip


def test_returns_count_between_references():
    lines = lines_for("fql", {1: [10, 20], 2: [30, 30]}, success=False)
    assert over_tasks.aggregate([run_of(lines)]) == []
    (found,) = over_tasks.aggregate([run_of(lines, references=(10.0, 50.0))])
    assert found["iqm"]["mean"] == pytest.approx((0.125 + 0.5) / 2)


def test_tables_show_aggregates():
    run = run_of([*BASE, *ARM])
    paired.compare([run])
    table = Table(run.rows, over_tasks.aggregate([run]))
    (line,) = [x for x in table.markdown().splitlines() if "| fql" in x and "/ 2 tasks" in x]
    assert "| 0.75 [0.75, 0.75] | best of 4 | 1.00 [1.00, 1.00] | +0.50 [" in line
    assert [part.title for part in table.parts()] == ["Results", "Differences", "All tasks"]
    assert "All tasks" not in [part.title for part in Table(run.rows).parts()]
