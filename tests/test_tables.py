"""Selection on one split, report on the other; nothing counted twice."""

import csv
import io
import re

import numpy as np
import pytest

from qgf_jax.evaluation import statistics, summary
from qgf_jax.report import tables
from qgf_jax.report.tables import Table


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
    rows = summary.summarize(LINES)
    report = [r for r in rows if r["split"] == "report"]
    assert [r["weight"] for r in report if r["method"] == "qgf" and r["selected"]] == [1.0]
    assert find(report, method="qgf", weight=1.0)["success"]["mean"] == 0.5
    assert find(report, method="reference")["selected"]
    best = Table(rows).optimistic()
    assert find(best, method="qgf")["weight"] == 3.0  # what choosing on the report would have said


@pytest.mark.parametrize(("lengths", "weight"), [((5, 4), 3.0), ((5, 5), 1.0)])
def test_ties_go_to_the_higher_return_then_to_the_smaller_weight(lengths, weight):
    lines = [
        *lines_for("qgf", 1.0, [1, 1], [1, 1], length=lengths[0]),
        *lines_for("qgf", 3.0, [1, 1], [1, 1], length=lengths[1]),
    ]
    rows = summary.summarize(lines)
    assert {r["weight"] for r in rows if r["selected"]} == {weight}


def test_candidates_are_selected_apart_and_seeds_together():
    lines = [
        *lines_for("qgf", 1.0, [1], [1], best_of=4), *lines_for("qgf", 2.0, [0], [1], best_of=4),
        *lines_for("qgf", 1.0, [0], [1]), *lines_for("qgf", 2.0, [1], [1]),
        *lines_for("qgf", 1.0, [0], [1], seed=1), *lines_for("qgf", 2.0, [1], [0], seed=1),
    ]  # fmt: skip
    chosen = {(r["best_of"], r["weight"]) for r in summary.summarize(lines) if r["selected"]}
    assert chosen == {(4, 1.0), (1, 2.0)}
    row = find(summary.summarize(lines), best_of=1, weight=2.0, split="report")
    assert (row["seeds"], row["episodes"], row["success"]["mean"]) == (2, 2, 0.5)


def test_a_learning_curve_selects_each_steps_weight_on_its_own_selection_episodes():
    early = [*lines_for("qgf", 1.0, [0, 0], [1, 1], step=5)]
    early += lines_for("qgf", 3.0, [1, 1], [0, 1], step=5)
    rows = summary.by_step([*LINES, *early])  # in any order
    found = [(r["step"], r["method"], r["weight"], r["success"]["mean"]) for r in rows]
    assert found == [(5, "qgf", 3.0, 0.5), (10, "reference", 0.0, 0.5), (10, "qgf", 1.0, 0.5)]
    newest = [r for r in summary.summarize(LINES) if r["selected"] and r["split"] == "report"]
    assert rows[1:] == newest


def test_lines_written_twice_and_older_checkpoints_do_not_count():
    lines = [*LINES, *LINES, *lines_for("qgf", 9.0, [1, 1], [1, 1], step=5)]
    assert summary.summarize(lines) == summary.summarize(LINES)


def test_another_simulator_has_rows_a_step_and_a_table_of_its_own():
    ours = [line | {"env": "maze (jax)"} for line in lines_for("qgf", 1.0, [1], [0], step=20)]
    rows = summary.summarize([*LINES, *ours])
    assert [r for r in rows if r["env"] == "maze"] == summary.summarize(LINES)
    assert find(rows, env="maze (jax)", split="report")["step"] == 20
    (part,) = Table(rows).parts()
    apart = part.by_env()
    assert {env: len(mine.lines) for env, mine in apart.items()} == {"maze": 4, "maze (jax)": 1}
    assert all(row["env"] == env for env, mine in apart.items() for row in mine.rows)


def test_table_and_csv_hold_every_report_row_with_its_interval():
    rows = summary.summarize(LINES)
    table = Table(rows).markdown()
    assert table.count("\n| maze") == 4 and "0.50 [0." in table and "qgf **←**" in table
    parsed = list(csv.DictReader(io.StringIO(Table(rows).csv())))
    assert len(parsed) == len(rows) == 8
    assert {"success_mean", "success_low", "return_high", "episodes"} <= parsed[0].keys()


def test_bars_in_names_end_no_cell():
    rows = [{"trained_as": "qgf (a|b)", **row} for row in summary.summarize(LINES)]
    table = Table(rows).markdown()
    body = [line for line in table.splitlines() if line.startswith("| maze")]
    assert len(body) == 4
    for line in body:
        assert "qgf (a\\|b)" in line and len(re.findall(r"(?<!\\)\|", line)) == 10


def test_optimism_is_what_the_maximum_over_weights_would_have_added():
    """On the selection, weight 1 is ahead; on the report, weight 3 has 1.0 where 1 has 0.5."""
    rows = summary.summarize(LINES)
    tables.add_optimism(rows)
    assert [row for row in rows if "optimism" in row] == [
        find(rows, method="qgf", weight=1.0, split="report")
    ]
    assert find(rows, method="qgf", weight=1.0, split="report")["optimism"] == {
        "of": "success", "gap": 0.5, "weight": 3.0,
    }  # fmt: skip
    table = Table(rows)
    assert "| +0.50 at 3 |" in table.markdown() and "optimism: what" in table.markdown()
    (part,) = table.parts()
    shown = [line[part.head.index("optimism")] for line in part.lines]
    assert sorted(shown) == ["+0.50 at 3", "-", "-", "-"]
    assert [line["optimism_gap"] for line in csv.DictReader(io.StringIO(table.csv()))].count(
        "0.5"
    ) == 1


def test_without_weights_there_is_no_optimism():
    rows = summary.summarize(lines_for("reference", 0.0, [0, 1], [0, 1]))
    tables.add_optimism(rows)
    assert "optimism" not in Table(rows).markdown() + Table(rows).csv()


def test_optimism_goes_by_return_where_there_is_no_success():
    lines = [
        *lines_for("qgf", 1.0, [1, 1], [1, 1], length=4),
        *lines_for("qgf", 3.0, [1, 1], [1, 1], length=6),
    ]
    rows = summary.summarize([{k: v for k, v in x.items() if k != "success"} for x in lines])
    tables.add_optimism(rows)
    assert "| +0.0 |" in Table(rows).markdown().replace("  ", "")
    for line in lines[2:4]:
        line["return"] = -9.0
    rows = summary.summarize([{k: v for k, v in x.items() if k != "success"} for x in lines])
    tables.add_optimism(rows)
    assert find(rows, weight=1.0, split="report")["optimism"] == {
        "of": "return", "gap": 3.0, "weight": 3.0,
    }  # fmt: skip


def test_no_lines_no_rows():
    assert summary.summarize([]) == []


def test_options_are_arms_of_their_own_and_are_named():
    plain, other = lines_for("qgf", 1.0, [1], [0]), lines_for("qgf", 2.0, [1], [1])
    for line in other:
        line["options"] = {"schedule": "linear"}
    rows = summary.summarize(plain + other)
    chosen = {tables._cells(r)["method"]: r["weight"] for r in rows if r["selected"]}
    assert chosen == {"qgf": 1.0, "qgf:schedule=linear": 2.0}
    parsed = list(csv.DictReader(io.StringIO(Table(rows).csv())))
    assert {row["options"] for row in parsed} == {"", "schedule=linear"}


def on_task(task, *args, **kwargs):
    return [{**line, "task": task} for line in lines_for(*args, **kwargs)]


def test_one_weight_is_selected_for_all_tasks_together():
    """Each task alone would choose another weight than their mean does."""
    lines = [
        *on_task(1, "qgf", 1.0, [1] * 8, [1]), *on_task(2, "qgf", 1.0, [0] * 8, [0]),
        *on_task(1, "qgf", 3.0, [1, 0] * 4, [1]), *on_task(2, "qgf", 3.0, [1] * 8, [0]),
    ]  # fmt: skip
    rows = summary.summarize(lines)
    assert {(r["task"], r["weight"]) for r in rows if r["selected"]} == {
        (0, 3.0),
        (1, 3.0),
        (2, 3.0),
    }
    together = find(rows, task=summary.ALL_TASKS, weight=3.0, split="selection")
    assert (together["success"]["mean"], together["episodes"], together["seeds"]) == (0.75, 16, 1)
    assert {r["weight"] for r in summary.summarize(lines[:9] + lines[18:27]) if r["selected"]} == {
        1.0
    }


def test_an_arm_that_has_not_played_all_tasks_has_no_row_for_all():
    lines = [line for task in (1, 2, 3) for line in on_task(task, "reference", 0.0, [0], [1])]
    lines += [line for task in (1, 2) for line in on_task(task, "best_of", 0.0, [1], [1])]
    rows = summary.summarize(lines)
    assert {r["method"] for r in rows if r["task"] == summary.ALL_TASKS} == {"reference"}
    assert {r["task"] for r in rows if r["method"] == "best_of" and r["selected"]} == {1, 2}


def test_order_of_lines_changes_no_interval():
    """Of the mean over tasks too, whose seeds are drawn together."""
    lines = [
        line
        for task in (1, 2)
        for seed in (0, 1)
        for line in on_task(task, "qgf", 1.0, [seed] * 9, [seed] * 9, seed=seed)
    ]
    rows = summary.summarize(lines)
    together = find(rows, task=summary.ALL_TASKS, split="report")["success"]
    assert together["low"] < 0.05 and together["high"] > 0.95  # a seed fails everywhere or nowhere
    swapped = sorted(lines, key=lambda line: (line["task"], line["seed"] * (3 - 2 * line["task"])))
    assert summary.summarize(swapped) == rows


def test_tasks_that_were_added_one_by_one_keep_the_weights_they_reported():
    lines = []
    for task, values in ((1, {1.0: 1, 3.0: 0.8, 10.0: 0}), (2, {1.0: 0, 3.0: 0.8, 10.0: 1})):
        for weight, share in values.items():
            selection = [1] * round(10 * share) + [0] * round(10 - 10 * share)
            report = [1] if share == 1 else []  # the task's own choice alone was reported
            lines += on_task(task, "qgf", weight, selection, report)
    rows = [r for r in summary.summarize(lines) if r["split"] == "report"]
    assert {(r["task"], r["weight"], r["selected"]) for r in rows} == {
        (1, 1.0, True),
        (2, 10.0, True),
    }


def test_episodes_that_no_simulator_could_play_are_counted_and_shown():
    lines = lines_for("qgf", 1.0, [0, 1], [0, 1, 1])
    lines[2]["failed"] = "died with exit code 3"
    rows = summary.summarize(lines)
    assert [(row["split"], row["failed"]) for row in rows] == [("selection", 0), ("report", 1)]
    assert "3 (1 not played to the end)" in Table(rows).markdown()
    assert find(rows, split="report")["success"]["mean"] == pytest.approx(2 / 3)  # not left out
    assert [line["failed"] for line in csv.DictReader(io.StringIO(Table(rows).csv()))] == [
        "0",
        "1",
    ]


def selected(lines):
    return {r["weight"] for r in summary.summarize(lines) if r["selected"]}


MANY = [1, 1, 0, 1, 1, 1, 0, 1, 1, 1] * 5


def test_only_episodes_that_all_weights_have_played_rank_them():
    """Thirty episodes at 0.9 do not beat fifty at 0.8 where on the thirty common ones both have 0.9."""
    first, rest = [1, 1, 1, 1, 1, 0, 1, 1, 1, 1] * 3, [1, 1, 0, 1, 0, 1, 0, 1, 1, 0] * 2
    lines = lines_for("qgf", 1.0, first + rest, [1]) + lines_for("qgf", 3.0, first, [1])
    assert selected(lines) == {1.0}
    rows = summary.summarize(lines)
    few = find(rows, weight=3.0, split="selection")
    assert (few["missing"], few["ranked_on"]) == (20, 30)
    assert find(rows, weight=1.0, split="selection")["ranked_on"] == 30
    (line,) = Table(rows).gaps()
    assert "weight 3: 20 selection episodes" in line and "ranked on the 30" in line
    assert line in Table(rows).markdown()
    assert Table(summary.summarize(LINES)).gaps() == []


@pytest.mark.parametrize("played", [1, 2, 10])
def test_a_few_lucky_episodes_neither_win_nor_hide_all_others(played):
    """Where weight 9 has played, it succeeds and the others fail; they have fifty episodes each."""
    unlucky = [0] * played + MANY[played:]
    lines = [
        *lines_for("qgf", 1.0, unlucky, [1]), *lines_for("qgf", 3.0, [0] * 50, [1]),
        *lines_for("qgf", 9.0, [1] * played, [1]),
    ]  # fmt: skip
    assert selected(lines) == {1.0}
    rows = summary.summarize(lines)
    assert find(rows, weight=1.0, split="selection")["ranked_on"] == 50
    assert any("weight 9" in gap and "too few" in gap for gap in Table(rows).gaps())


def test_a_single_pair_parts_no_weights():
    lines = lines_for("qgf", 1.0, [0], [1]) + lines_for("qgf", 3.0, [1], [1])
    assert selected(lines) == {1.0}


def test_a_seed_that_has_hardly_begun_does_not_hide_the_others():
    lines = [x for seed in range(3) for x in lines_for("qgf", 1.0, [], MANY, seed=seed)]
    lines += lines_for("qgf", 1.0, [], [1], seed=3)
    row = find(summary.summarize(lines), split="report")
    assert (row["seeds"], row["episodes"], row["left_out"]) == (3, 150, 1)


def test_common_pairs_are_of_seed_and_episode():
    """On seed 0, which both have played, weight 3 is better; seed 1 of weight 1 says nothing of it."""
    lines = [
        *lines_for("qgf", 1.0, [0] * 9, [1]), *lines_for("qgf", 1.0, [1] * 9, [1], seed=1),
        *lines_for("qgf", 3.0, [1] * 4 + [0] * 5, [1]),
    ]  # fmt: skip
    assert selected(lines) == {3.0}
    assert find(summary.summarize(lines), weight=3.0, split="selection")["ranked_on"] == 9


def test_a_weight_without_common_episodes_cannot_be_selected():
    apart = lines_for("qgf", 3.0, [0] * 4 + [1] * 3, [1])[4:]  # its episodes 8, 10 and 12
    lines = lines_for("qgf", 1.0, [0, 1, 0], [1]) + lines_for("qgf", 2.0, [0, 0, 0], [1]) + apart
    assert selected(lines) == {1.0}
    (line,) = [g for g in Table(summary.summarize(lines)).gaps() if "cannot be selected" in g]
    assert "weight 3" in line
    without = lines_for("qgf", 9.0, [], [1])
    assert selected(lines + without) == {1.0}
    assert any(
        "weight 9: without selection" in g for g in Table(summary.summarize(lines + without)).gaps()
    )


def with_returns(weight, successes, returns, seed=0):
    lines = lines_for("qgf", weight, successes, [], seed=seed)
    return [line | {"return": r} for line, r in zip(lines, returns, strict=True)]


@pytest.mark.parametrize(
    ("weights", "chosen"),
    [
        # (success of 40 episodes, mean return, spread of returns) of each weight
        ({1.0: (40, -200, 5), 3.0: (39, -150, 5)}, 3.0),  # one episode is noise, 50 steps are not
        ({1.0: (30, -100, 5), 3.0: (40, -150, 5)}, 3.0),  # ten episodes are not noise
        ({1.0: (40, -151, 60), 3.0: (40, -150, 60)}, 1.0),  # neither says anything: the smaller
        ({0.0: (0, -200, 0), 1.0: (39, -101, 60), 3.0: (39, -100, 60), 9.0: (40, -200, 5)}, 1.0),
    ],
)
def test_the_smallest_weight_within_one_standard_error_is_selected(weights, chosen):
    rng, lines = np.random.default_rng(0), []
    for weight, (successes, mean, spread) in weights.items():
        noise = rng.normal(size=40)
        noise = (noise - noise.mean()) / noise.std()
        reached = rng.permutation([1] * successes + [0] * (40 - successes))
        lines += with_returns(weight, reached, mean + spread * noise)
    assert selected(lines) == {chosen}


def test_the_standard_error_is_of_paired_differences():
    """Episodes differ by hundreds of steps and weights by five in each of them: that is no noise."""
    hard = np.linspace(-900, -100, 20)
    lines = with_returns(1.0, [1] * 20, hard - 5) + with_returns(3.0, [1] * 20, hard)
    assert selected(lines) == {3.0}
    other = np.random.default_rng(0).permutation(hard) + 5  # as far ahead on average, and unpaired
    assert selected(with_returns(1.0, [1] * 20, hard) + with_returns(3.0, [1] * 20, other)) == {1.0}


def test_without_success_a_weight_whose_episodes_failed_is_not_chosen():
    """One that breaks the simulator at once has lost no reward yet."""
    lines = with_returns(1.0, [0] * 5, [-100.0] * 5) + with_returns(3.0, [0] * 5, [0.0] * 5)
    for line in lines:
        del line["success"]
        if line["weight"] == 3.0:
            line["failed"] = "died"
    assert selected(lines) == {1.0}


def test_what_was_gained_until_the_simulator_failed_says_nothing():
    lines = with_returns(1.0, [1] * 4, [-100.0] * 4) + with_returns(1.0, [1] * 4, [-50.0] * 4, 1)
    broken = [{**line, "return": 0.0, "length": 1, "success": 0.0} for line in lines[:1]]
    broken[0]["failed"] = "died"
    (row,) = summary.summarize(broken + lines[1:])
    assert (row["return"]["mean"], row["failed"], row["success"]["mean"]) == (-75.0, 1, 7 / 8)
    for line in lines:
        line["failed"] = "died"
    assert summary.summarize(lines)[0]["return"]["mean"] == -75.0  # there is nothing else to show


def test_seeds_that_disagree_are_noise_to_the_selection():
    """A seed gains 30 steps in each episode, the other loses 20: fifty agreeing episodes are no help."""
    lines = []
    for seed, gain in ((0, 30), (1, -20)):
        lines += with_returns(1.0, [1] * 50, [-100] * 50, seed)
        lines += with_returns(3.0, [1] * 50, [-100 + gain] * 50, seed)
    assert selected(lines) == {1.0}


def test_a_row_counts_the_episodes_that_all_its_seeds_have_played():
    """An evaluation that was stopped: seed 1 has met the easy half alone."""
    lines = lines_for("qgf", 1.0, [], [1, 0] * 5) + lines_for("qgf", 1.0, [], [1] * 9, seed=1)
    lines = [line for line in lines if line["seed"] == 0 or line["episode"] % 4 == 1]
    row = find(summary.summarize(lines), split="report")
    assert (row["success"]["mean"], row["seeds"], row["episodes"], row["left_out"]) == (
        1.0,
        2,
        10,
        5,
    )
    assert ["5 report episodes" in line for line in Table([row]).gaps()] == [True]
    apart = [line for line in lines if line["seed"] == 0 or line["episode"] == 99]
    assert find(summary.summarize(apart), split="report")["seeds"] == 1
    apart = (
        lines[:1] + [line for line in lines if line["seed"]][1:]
    )  # nothing that both have played
    row = find(summary.summarize(apart), split="report")
    assert (row["seeds"], row["episodes"], row["left_out"]) == (1, 4, 1)


def test_each_row_names_its_kind_of_interval():
    for seeds, name in ((1, "episodes of one seed"), (2, "t over seeds"), (5, "two-way bootstrap")):
        lines = [line for s in range(seeds) for line in lines_for("qgf", 1.0, [], [1, 0], seed=s)]
        rows = summary.summarize(lines)
        assert [row["interval"] for row in rows] == [name]
        assert f"{name}: {statistics.KINDS[name]}" in Table(rows).markdown()
        assert name in Table(rows).csv()


def test_a_complete_line_counts_whatever_failed_before_or_after():
    whole = lines_for("qgf", 1.0, [], [1, 1])
    failed = [line | {"failed": "died", "success": 0.0} for line in whole]
    for lines in (failed + whole, whole + failed, whole + whole + failed[:1]):
        assert summary.summarize(lines) == summary.summarize(whole)
    assert find(summary.summarize(failed + failed), split="report")["failed"] == 2
    assert summary.unique(failed + whole + whole) == whole


def test_score_is_measured_from_the_lower_reference():
    plain = Table(summary.summarize(LINES))
    table = Table(summary.summarize(LINES, (-10.0, 10.0)))
    for row in table.rows:
        assert row["score"] == {k: (v + 10) / 20 for k, v in row["return"].items()}
    assert "| score [95 %] " in table.markdown()
    assert "score_mean,score_low,score_high" in table.csv()
    for text in (plain.markdown(), plain.csv()):
        assert "score" not in text


def test_tables_without_success_go_by_the_return():
    silent = [{k: v for k, v in line.items() if k != "success"} for line in LINES]
    rows = summary.summarize(silent)
    table = Table(rows)
    assert all(row["success"] is None for row in rows) and table.optimistic()
    assert "success" not in table.markdown()
    assert "| return [95 %] " in table.markdown()
    # Beside those of an environment that says it.
    both = Table([*rows, *({**row, "env": "cube"} for row in summary.summarize(LINES))])
    head, _, *body = both.markdown().split("\n\n")[0].splitlines()
    place = head.split("|").index(next(c for c in head.split("|") if "success" in c))
    assert {line.split("|")[place].strip() == "-" for line in body if "maze" in line} == {True}
    read = list(csv.DictReader(io.StringIO(both.csv())))
    assert {row["success_mean"] == "" for row in read if row["env"] == "maze"} == {True}
    assert all(row["success_mean"] for row in read if row["env"] == "cube")
