"""One weight for all tasks, chosen on a few, over runs and within one; and what choosing costs."""

import json
import shutil

import numpy as np
import pytest
from test_paired import lines_for

from qgf_jax import cli
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.evaluation import selection_cost, summary
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, by_arm
from qgf_jax.evaluation.selected_on import select_on
from qgf_jax.runs.run import Run


def chosen_on(successes, weight, task, **more):
    """Selection episodes."""
    lines = lines_for("qgf", successes, weight=weight, task=task, **more)
    return [{**x, "split": "selection", "episode": x["episode"] - 1} for x in lines]


def run_of(lines, name=""):
    return Evaluated(summary.summarize(lines), by_arm(lines), name)


def selected(*runs):
    """{task: selected weights of report rows}."""
    found = {}
    for row in (row for run in runs for row in run.rows):
        if row["selected"] and row["split"] == "report" and row["method"] == "qgf":
            found.setdefault(row["task"], []).append(row["weight"])
    return found


def played(best):
    """{task: lines}: weight `best[task]` succeeds in all 8 selection episodes, the others in none."""
    return {
        task: [
            line
            for w in (1.0, 3.0)
            for line in (
                *chosen_on([w == right] * 8, w, task),
                *lines_for("qgf", [w == 1.0, 1.0], weight=w, task=task),
            )
        ]
        for task, right in best.items()
    }


# By hand: tasks 2 and 4 say 3.0, 1 and 3 say 1.0, and 5 says so too.
TASKS = played({1: 1.0, 2: 3.0, 3: 1.0, 4: 3.0, 5: 1.0})


def test_runs_of_a_task_each_take_the_weight_of_the_tasks_that_select():
    runs = [run_of(lines, f"task {task}") for task, lines in TASKS.items()]
    assert selected(*runs) == {1: [1.0], 2: [3.0], 3: [1.0], 4: [3.0], 5: [1.0]}
    select_on(runs, (2, 4))
    assert selected(*runs) == {task: [3.0] for task in TASKS}
    select_on(runs, (1, 3))
    assert selected(*runs) == {task: [1.0] for task in TASKS}


def test_a_run_of_many_tasks_takes_it_too_and_reports_it_over_all():
    run = run_of([line for lines in TASKS.values() for line in lines])
    assert selected(run) == {task: [1.0] for task in (*TASKS, ALL_TASKS)}
    select_on([run], (2, 4))
    assert selected(run) == {task: [3.0] for task in (*TASKS, ALL_TASKS)}


def test_the_mean_over_the_tasks_that_select_decides_and_not_the_sum_of_episodes():
    """Task 2 has 8 episodes, .5 to 1 for weight 3; task 4 has 32, .75 to .5: the means .625 and .75."""
    lines = [
        *chosen_on([1, 0] * 4, 1.0, 2), *chosen_on([1] * 8, 3.0, 2),
        *chosen_on([1, 1, 1, 0] * 8, 1.0, 4), *chosen_on([1, 0, 1, 0] * 8, 3.0, 4),
    ]  # fmt: skip
    lines += [
        x for w in (1.0, 3.0) for t in (2, 4) for x in lines_for("qgf", [1], weight=w, task=t)
    ]
    run = run_of(lines)
    select_on([run], (2, 4))
    assert selected(run)[2] == [3.0]  # of all 40 episodes, 1.0 has 28 successes and 3.0 has 24


def test_only_weights_that_all_selecting_tasks_have_played_are_chosen():
    more = chosen_on([1] * 40, 9.0, 2)  # more than all others together, and in one task alone
    lines = [line for task in (2, 4) for line in TASKS[task]]
    lines = [x for x in lines if x["weight"] != 3.0 or x["split"] == "report" or x["task"] == 2]
    run = run_of([*lines, *more])
    select_on([run], (2, 4))
    assert selected(run)[2] == [1.0]


def test_a_method_with_one_weight_has_nothing_to_choose():
    lines = [*TASKS[2], *lines_for("best_of", [1, 0], best_of=4, task=2)]
    run = run_of([x for x in lines if x["weight"] != 1.0])
    select_on([run], (2, 4))  # 3.0 is the only weight of qgf
    assert all(row["selected"] for row in run.rows)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (TASKS[2], "maze, qgf: no selection episodes of task 4"),
        (
            [*TASKS[2], *lines_for("qgf", [1, 1], weight=1.0, task=4)],
            "no selection episodes of task 4",
        ),
        (
            [x for x in [*TASKS[2], *TASKS[4]] if (x["weight"] == 1.0) == (x["task"] == 2)],
            "no weight has selection episodes in each",
        ),
    ],
    ids=["no run", "no selection", "no common weight"],
)
def test_what_is_missing_is_said_in_a_line(lines, message):
    with pytest.raises(UserError, match=message):
        select_on([run_of(lines)], (2, 4))


def test_two_runs_of_a_task_are_refused():
    with pytest.raises(UserError, match="a and b both have task 2 of maze"):
        select_on([run_of(TASKS[2], "a"), run_of(TASKS[2], "b")], (2,))


# The cost.


def test_the_cost_of_selection_by_hand():
    """Two weights, two episodes: 3.0 has won both and 1.0 none; 1.0 reports .25 and 3.0 .75."""
    lines = [
        *chosen_on([0, 0], 1.0, 1), *chosen_on([1, 1], 3.0, 1),
        *lines_for("qgf", [1, 0, 0, 0], weight=1.0), *lines_for("qgf", [1, 1, 1, 0], weight=3.0),
        *lines_for("best_of", [1, 1], best_of=4),
    ]  # fmt: skip
    (curve,) = selection_cost.curves(run_of(lines))
    assert (curve["method"], curve["measure"], curve["weights"]) == ("qgf", "success", 2)
    none, one, two = curve["points"]
    # By lot: their mean. One episode of each never tells them apart: the smaller. Both: 3.0.
    assert (none["each"], none["spent"], none["success"]["mean"]) == (0, 0, 0.5)
    assert (one["each"], one["spent"], one["success"]["mean"]) == (1, 2, 0.25)
    assert (two["each"], two["spent"], two["success"]["mean"]) == (2, 4, 0.75)
    assert two["success"]["low"] == two["success"]["high"] == 0.75
    assert curve["as_played"] is None


def test_the_share_of_subsamples_that_choose_a_weight():
    """3.0 is better in two episodes of four, so of two it is chosen where these are both."""
    lines = []
    for weight, returns in ((1.0, [0, 0, 0, 0]), (3.0, [0, 0, 10, 10])):
        made = chosen_on([0] * 4, weight, 1)
        lines += [{**x, "return": float(r)} for x, r in zip(made, returns, strict=True)]
    lines += [*lines_for("qgf", [0], weight=1.0), *lines_for("qgf", [1], weight=3.0)]
    (curve,) = selection_cost.curves(run_of(lines))
    mean = {point["each"]: point["success"]["mean"] for point in curve["points"]}
    rng = np.random.default_rng(0)
    drawn = [{*rng.permutation([0, 2, 4, 6])[:2].tolist()} for _ in range(40)]
    assert mean == {0: 0.5, 1: 0.0, 2: np.mean([pair == {4, 6} for pair in drawn]), 4: 1.0}
    assert 0 < mean[2] < 0.4
    assert selection_cost.curves(run_of(lines)) == [curve]  # the same at every call


def test_unequal_numbers_are_a_point_as_played():
    """Halving: three weights play 2, two of them 2 more; the chosen one alone has reported."""
    lines = [
        *chosen_on([0, 0], 1.0, 1), *chosen_on([1, 1, 1, 1], 3.0, 1), *chosen_on([0, 1, 0, 0], 9.0, 1),
        *lines_for("qgf", [1, 1, 1, 0], weight=3.0),
    ]  # fmt: skip
    (curve,) = selection_cost.curves(run_of(lines))
    assert curve["points"] == []
    assert curve["as_played"] == {"spent": 10, "weight": 3.0, "success": 0.75}


def test_where_tasks_select_for_others_their_episodes_are_spent():
    run = run_of([line for lines in TASKS.values() for line in lines])
    select_on([run], (2, 4))
    (curve,) = selection_cost.curves(run, (2, 4))
    assert curve["task"] == ALL_TASKS
    last = curve["points"][-1]
    assert (last["each"], last["spent"]) == (8, 2 * 8 * 2)  # weights x episodes x tasks
    assert last["success"]["mean"] == 0.5  # what 3.0 reports over all five


# The report.


@pytest.fixture
def run(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    env = EnvName.parse(Run.open(run_folder).config["env"]).label
    lines = [{**line, "env": env} for line in TASKS[1]]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def test_a_report_says_what_selected_and_what_it_cost(run, capsys):
    cli.main(["report", f"--workdir={run}", "--select_on=1"])
    text = capsys.readouterr().out
    assert "selection episodes of task 1, which are others" in text and "| n = 8" in text
    found = json.loads((run / "report" / "summary.json").read_text())
    assert found["select_on"] == [1] and found["selection_cost"][0]["points"][-1]["spent"] == 16
    assert (run / "report" / "selection_cost.png").stat().st_size > 1000
    assert "Cost of selection" in (run / "report" / "index.html").read_text()


def test_a_task_without_episodes_is_one_line(run, tmp_path, capsys):
    for more in ([], [f"--out={tmp_path / 'out'}"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", f"--workdir={run}", "--select_on=1,3", *more])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no selection episodes of task 3" in line
    assert not (tmp_path / "out.md").exists() and not (run / "report").exists()
