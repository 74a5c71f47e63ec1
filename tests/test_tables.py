"""Selection on one split, report on the other; nothing counted twice."""

import csv
import io

import pytest

from qgf_jax import page, tables
from qgf_jax.run import Run


def lines_for(method, weight, selection, report, *, seed=0, best_of=1, step=10, length=5):
    """Lines with given successes per episode."""
    out = []
    for split, values in enumerate((selection, report)):
        for i, success in enumerate(values):
            out.append(
                {
                    "method": method, "weight": weight, "best_of": best_of, "options": {},
                    "env": "maze", "task": 1, "episode": 2 * i + split,
                    "split": ("selection", "report")[split], "seed": seed, "step": step,
                    "return": -float(length), "success": float(success), "length": length,
                }
            )  # fmt: skip
    return out


LINES = [
    *lines_for("reference", 0.0, [0, 0], [0, 1]),
    *lines_for("qgf", 0.0, [0, 0], [0, 1]),
    *lines_for("qgf", 1.0, [1, 1], [1, 0]),
    *lines_for("qgf", 3.0, [1, 0], [1, 1]),
]


def find(rows, **wanted):
    (row,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return row


def test_weight_is_selected_on_selection_episodes_alone():
    rows = tables.summarize(LINES)
    report = [r for r in rows if r["split"] == "report"]
    assert [r["weight"] for r in report if r["method"] == "qgf" and r["selected"]] == [1.0]
    assert find(report, method="qgf", weight=1.0)["success"]["mean"] == 0.5
    assert find(report, method="reference")["selected"]
    best = tables.optimistic(rows)
    assert find(best, method="qgf")["weight"] == 3.0  # what choosing on the report would have said


@pytest.mark.parametrize(("lengths", "weight"), [((5, 4), 3.0), ((5, 5), 1.0)])
def test_ties_go_to_the_higher_return_then_to_the_smaller_weight(lengths, weight):
    lines = [
        *lines_for("qgf", 1.0, [1, 1], [1, 1], length=lengths[0]),
        *lines_for("qgf", 3.0, [1, 1], [1, 1], length=lengths[1]),
    ]
    rows = tables.summarize(lines)
    assert {r["weight"] for r in rows if r["selected"]} == {weight}


def test_candidates_are_selected_apart_and_seeds_together():
    lines = [
        *lines_for("qgf", 1.0, [1], [1], best_of=4), *lines_for("qgf", 2.0, [0], [1], best_of=4),
        *lines_for("qgf", 1.0, [0], [1]), *lines_for("qgf", 2.0, [1], [1]),
        *lines_for("qgf", 1.0, [0], [1], seed=1), *lines_for("qgf", 2.0, [1], [0], seed=1),
    ]  # fmt: skip
    chosen = {(r["best_of"], r["weight"]) for r in tables.summarize(lines) if r["selected"]}
    assert chosen == {(4, 1.0), (1, 2.0)}
    row = find(tables.summarize(lines), best_of=1, weight=2.0, split="report")
    assert (row["seeds"], row["episodes"], row["success"]["mean"]) == (2, 2, 0.5)


def test_lines_written_twice_and_older_checkpoints_do_not_count():
    lines = [*LINES, *LINES, *lines_for("qgf", 9.0, [1, 1], [1, 1], step=5)]
    assert tables.summarize(lines) == tables.summarize(LINES)


def test_another_simulator_has_rows_a_step_and_a_table_of_its_own(tmp_path):
    ours = [line | {"env": "maze (jax)"} for line in lines_for("qgf", 1.0, [1], [0], step=20)]
    rows = tables.summarize([*LINES, *ours])
    assert [r for r in rows if r["env"] == "maze"] == tables.summarize(LINES)
    assert find(rows, env="maze (jax)", split="report")["step"] == 20
    (tmp_path / "config.json").write_text("{}")
    made = page.render(Run(tmp_path, {"env": "maze"}, {}, {}), rows, [])
    parts = made.split("<h2>")[1:]
    assert [part.split("</h2>")[0] for part in parts] == ["maze", "maze (jax)"]
    assert [part.count("<tr") - 1 for part in parts] == [4, 1]


def test_table_and_csv_hold_every_report_row_with_its_interval():
    rows = tables.summarize(LINES)
    table = tables.markdown(rows)
    assert table.count("\n| maze") == 4 and "0.50 [0." in table and "qgf **←**" in table
    parsed = list(csv.DictReader(io.StringIO(tables.as_csv(rows))))
    assert len(parsed) == len(rows) == 8
    assert {"success_mean", "success_low", "return_high", "episodes"} <= parsed[0].keys()


def test_no_lines_no_rows():
    assert tables.summarize([]) == []


def test_options_are_arms_of_their_own_and_are_named():
    plain, other = lines_for("qgf", 1.0, [1], [0]), lines_for("qgf", 2.0, [1], [1])
    for line in other:
        line["options"] = {"schedule": "linear"}
    rows = tables.summarize(plain + other)
    chosen = {tables.label(r): r["weight"] for r in rows if r["selected"]}
    assert chosen == {"qgf": 1.0, "qgf:schedule=linear": 2.0}
    parsed = list(csv.DictReader(io.StringIO(tables.as_csv(rows))))
    assert {row["options"] for row in parsed} == {"", "schedule=linear"}


def on_task(task, *args, **kwargs):
    return [{**line, "task": task} for line in lines_for(*args, **kwargs)]


def test_one_weight_is_selected_for_all_tasks_together():
    """Each task alone would choose another weight than their mean does."""
    lines = [
        *on_task(1, "qgf", 1.0, [1, 1], [1, 1]), *on_task(2, "qgf", 1.0, [0, 0], [0, 0]),
        *on_task(1, "qgf", 3.0, [1, 0], [1, 0]), *on_task(2, "qgf", 3.0, [1, 1], [0, 0]),
    ]  # fmt: skip
    rows = tables.summarize(lines)
    assert {(r["task"], r["weight"]) for r in rows if r["selected"]} == {
        (0, 3.0),
        (1, 3.0),
        (2, 3.0),
    }
    together = find(rows, task=tables.ALL_TASKS, weight=3.0, split="selection")
    assert (together["success"]["mean"], together["episodes"], together["seeds"]) == (0.75, 4, 1)


def test_an_arm_that_has_not_played_all_tasks_has_no_row_for_all():
    lines = [line for task in (1, 2, 3) for line in on_task(task, "reference", 0.0, [0], [1])]
    lines += [line for task in (1, 2) for line in on_task(task, "best_of", 0.0, [1], [1])]
    rows = tables.summarize(lines)
    assert {r["method"] for r in rows if r["task"] == tables.ALL_TASKS} == {"reference"}
    assert {r["task"] for r in rows if r["method"] == "best_of" and r["selected"]} == {1, 2}


def test_order_of_lines_changes_no_interval():
    """Of the mean over tasks too, whose seeds are drawn together."""
    lines = [
        line
        for task in (1, 2)
        for seed in (0, 1)
        for line in on_task(task, "qgf", 1.0, [seed] * 9, [seed] * 9, seed=seed)
    ]
    rows = tables.summarize(lines)
    together = find(rows, task=tables.ALL_TASKS, split="report")["success"]
    assert (together["low"], together["high"]) == (0.0, 1.0)  # a seed fails everywhere or nowhere
    swapped = sorted(lines, key=lambda line: (line["task"], line["seed"] * (3 - 2 * line["task"])))
    assert tables.summarize(swapped) == rows


def test_tasks_that_were_added_one_by_one_keep_the_weights_they_reported():
    lines = []
    for task, values in ((1, {1.0: 1, 3.0: 0.8, 10.0: 0}), (2, {1.0: 0, 3.0: 0.8, 10.0: 1})):
        for weight, share in values.items():
            selection = [1] * round(10 * share) + [0] * round(10 - 10 * share)
            report = [1] if share == 1 else []  # the task's own choice alone was reported
            lines += on_task(task, "qgf", weight, selection, report)
    rows = [r for r in tables.summarize(lines) if r["split"] == "report"]
    assert {(r["task"], r["weight"], r["selected"]) for r in rows} == {
        (1, 1.0, True),
        (2, 10.0, True),
    }


def test_episodes_that_no_simulator_could_play_are_counted_and_shown():
    lines = lines_for("qgf", 1.0, [0, 1], [0, 1, 1])
    lines[2]["failed"] = "died with exit code 3"
    rows = tables.summarize(lines)
    assert [(row["split"], row["failed"]) for row in rows] == [("selection", 0), ("report", 1)]
    assert "3 (1 not played to the end)" in tables.markdown(rows)
    assert find(rows, split="report")["success"]["mean"] == pytest.approx(2 / 3)  # not left out
    assert [line["failed"] for line in csv.DictReader(io.StringIO(tables.as_csv(rows)))] == [
        "0",
        "1",
    ]
