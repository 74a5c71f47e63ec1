"""Configurations of a method that is trained anew for each: which is chosen, and what is said of it."""

import csv
import json

import pytest
from test_paired import lines_for
from test_site import make_run

from qgf_jax import cli
from qgf_jax.errors import UserError
from qgf_jax.evaluation import rivals, summary
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm
from qgf_jax.report.tuned import TunedKey

ENV = "pointmaze-medium-navigate-v0"


def played(chosen_on, reported, method="fql", **more):
    """Lines with the successes of selection and of report episodes."""
    selection = lines_for(method, chosen_on, env=ENV, **more)
    moved = [{**one, "split": "selection", "episode": one["episode"] - 1} for one in selection]
    return [*moved, *lines_for(method, reported, env=ENV, **more)]


def evaluated(*lines):
    lines = [one for some in lines for one in some]
    return Evaluated(summary.summarize(lines), by_arm(lines))


@pytest.fixture
def run(tmp_path):
    """A function that makes an evaluated run of FQL with some alpha."""

    def make(name, alpha, lines, **changes):
        own = {"seeds": 1, "algorithm": "fql"} | changes
        more = {"policy.alpha": alpha} if own["algorithm"] == "fql" else {}
        return make_run(tmp_path / name, lines, **(own | more))

    return make


def report(tmp_path, *runs, tuned="-policy.alpha", more=()):
    """(the rows of the table, summary.json)"""
    out = tmp_path / "out"
    cli.main(["report", *map(str, runs), f"--out={out}", f"--tuned={tuned}", *more])
    rows = [*csv.DictReader((out / "table.csv").open())]
    return rows, json.loads((out / "summary.json").read_text())


def test_the_chosen_configuration_alone_is_reported(run, tmp_path, capsys):
    """By the selection episodes 10 is best, by the report episodes it is not."""
    runs = [
        run("a", 3.0, played([1, 0, 0, 0], [1, 1, 1, 1])),
        run("b", 10.0, played([1, 1, 1, 1], [1, 1, 0, 0])),
        run("c", 30.0, played([0, 0, 0, 0], [0, 0, 0, 0])),
    ]
    (row,), found = report(tmp_path, *runs)
    assert (row["trained_as"], row["success_mean"]) == ("fql, iql, alpha=10", "0.5")
    assert (row["optimism_gap"], row["optimism_configuration"]) == ("0.5", "alpha=3")
    text = capsys.readouterr().out
    assert "fql, iql, alpha=10" in text and "+0.50 at alpha=3" in text
    assert "one of 3 configurations, chosen as a weight is on the 4 selection episodes" in text
    assert "success: alpha=30: 0.00, alpha=10: 1.00 ←, alpha=3: 0.25" in text
    assert "the maximum over configurations and weights on these very report episodes" in text
    (record,) = found["tuned"]
    assert record["configurations"] == 3 and record["configuration"] == {"policy.alpha": 10.0}
    assert [one["selection"]["success"] for one in record["tried"]] == [0.0, 1.0, 0.25]
    assert [one["report"]["success"] for one in record["tried"]] == [0.0, 0.5, 1.0]
    assert [one["folders"] for one in record["tried"]] == [["c"], ["b"], ["a"]]
    page = (tmp_path / "out/index.html").read_text()
    assert 'href="b/index.html">fql, iql, alpha=10<' in page


@pytest.mark.parametrize(("tuned", "chosen"), [("policy.alpha", 3), ("-policy.alpha", 300)])
def test_of_equals_the_key_says_which_value_comes_first(run, tmp_path, tuned, chosen):
    """One episode of eight does not tell them apart."""
    runs = [
        run(str(alpha), float(alpha), played([1] * 6 + [i == 1, 1], [1, 0]))
        for i, alpha in enumerate((3, 30, 300))
    ]
    (row,), _ = report(tmp_path, *runs, tuned=tuned)
    assert row["configuration"] == f"alpha={chosen}"


def test_a_configuration_and_a_weight_are_one_choice():
    """Weight 3 is the better one of the first run, and 1 that of the second, which is best of all."""
    first = evaluated(played([0, 0, 0, 0], [1], weight=1.0), played([0, 0, 1, 1], [1], weight=3.0))
    second = evaluated(played([1, 1, 1, 1], [0], weight=1.0), played([0, 0, 0, 0], [1], weight=3.0))
    ranked = rivals.rank([first, second])
    chosen = {(one.place, one.row["weight"]) for one in ranked if one.row["selected"]}
    assert chosen == {(1, 1.0)}
    made = rivals.together(ranked, [first, second])
    assert [row["success"]["mean"] for row in made.rows if row["split"] == "report"] == [0.0]
    assert {key.weight for key in made.played} == {1.0}
    # What each run marks for itself stays as it was.
    assert {row["weight"] for row in first.rows if row["selected"]} == {3.0}


def test_of_equals_the_first_configuration_comes_before_a_smaller_weight():
    runs = [evaluated(played([1, 0], [1], weight=weight)) for weight in (3.0, 1.0)]
    ranked = rivals.rank(runs)
    chosen = {(one.place, one.row["weight"]) for one in ranked if one.row["selected"]}
    assert chosen == {(0, 3.0)}


def test_values_without_an_order_are_named():
    with pytest.raises(UserError, match="policy.alpha: 3, null have no order"):
        TunedKey("policy.alpha", False).order(["3", "null"])


def test_a_weight_of_0_is_printed_beside_others(run, tmp_path):
    guided = [
        run(name, 1.0, [*played([0], [0], "qgf"), *played([1], [1], "qgf", weight=1.0)], algorithm="qgf",
            **{"critics.iql.expectile": expectile})
        for name, expectile in (("a", 0.7), ("b", 0.9))
    ]  # fmt: skip
    _, found = report(tmp_path, *guided, tuned="critics.iql.expectile")
    assert "expectile=0.7, weight 0: 0.00 ←, expectile=0.7, weight 1: 1.00" in " ".join(
        found["notes"]
    )


def test_configurations_of_other_tasks_are_chosen_apart_and_are_one_arm_over_all(run, tmp_path):
    def of(task, alpha, selection, reported):
        env = f"pointmaze-medium-navigate-singletask-task{task}-v0"
        lines = played(selection, reported, task=task)
        return run(f"{task}_{alpha:g}", alpha, lines, env=env)

    runs = [
        of(1, 3.0, [1, 1, 1, 1], [1, 1]), of(1, 30.0, [0, 0, 0, 0], [0, 0]),
        of(2, 3.0, [0, 0, 0, 0], [0, 0]), of(2, 30.0, [1, 1, 1, 1], [1, 0]),
    ]  # fmt: skip
    rows, found = report(tmp_path, *runs)
    chosen = {row["task"]: (row["configuration"], row["success_mean"]) for row in rows}
    assert chosen == {"1": ("alpha=3", "1.0"), "2": ("alpha=30", "0.5")}
    (arm,) = found["aggregates"]
    assert (arm["trained_as"], arm["tasks"]) == ("fql, iql", 2)


def test_a_run_of_another_method_stays_and_is_what_rows_are_compared_with(run, tmp_path):
    guided = run("qgf", 1.0, played([1, 1], [0, 0, 1, 1], "qgf", weight=1.0), algorithm="qgf")
    runs = [
        run("a", 3.0, played([1, 1], [1, 1, 1, 1])),
        run("b", 30.0, played([0, 0], [0, 0, 0, 0])),
        guided,
    ]
    rows, _ = report(tmp_path, *runs, more=["--baseline=qgf"])
    found = {row["trained_as"]: row for row in rows}
    assert found.keys() == {"fql, iql, alpha=3", "qgf, iql"}
    assert float(found["fql, iql, alpha=3"]["paired_mean"]) == 0.5


def test_seeds_in_several_folders_are_one_configuration(run, tmp_path):
    runs = [
        run(f"{alpha:g}_{seed}", alpha, played([wins] * 4, [wins, wins]), seed=seed)
        for alpha, wins in ((3.0, 0), (30.0, 1))
        for seed in (0, 1)
    ]
    (row,), found = report(tmp_path, *runs)
    assert (row["configuration"], row["seeds"], row["episodes"]) == ("alpha=30", "2", "4")
    assert found["tuned"][0]["tried"][0]["folders"] == ["30_0", "30_1"]


def test_two_keys_and_one_that_nothing_differs_in(run, tmp_path):
    runs = [
        run(f"{alpha:g}{normal}", alpha, played([wins] * 4, [1]), **{"policy.normalize_q": normal})
        for alpha, normal, wins in ((3.0, True, 0), (3.0, False, 1), (9.0, True, 0))
    ]
    keys = "policy.normalize_q,policy.alpha,networks.ensemble"
    (row,), _ = report(tmp_path, *runs, tuned=keys)
    assert row["configuration"] == "normalize_q=False, alpha=3"


def no_selection(lines):
    return [one for one in lines if one["split"] == "report"]


@pytest.mark.parametrize(
    ("flags", "other", "message"),
    [
        ({}, {"train.steps": 7}, "is no configuration beside {a}: train.steps: "),
        ({"lines": no_selection}, {}, "b: no selection episodes of fql in"),
        ({"lines": lambda _: []}, {}, "b: no selection episodes of fql in"),
        ({"alpha": 3.0, "seed": 0}, {}, "have the same policy.alpha"),
        ({}, {"algorithm": "qgf"}, "there are no two"),
        ({"tuned": "policy.alpa"}, {}, "policy.alpha"),
        ({"tuned": "dataset.sha256"}, {}, "config key 'dataset.sha256'"),
        ({"tuned": "policy.alpha,-policy.alpha"}, {}, "each key of the config once"),
        ({"tuned": "seed"}, {}, "seed is no hyperparameter"),
        ({"more": ["--select_on=1"]}, {}, "leave --select_on out"),
    ],
    ids=[
        "steps",
        "selection",
        "none",
        "twice",
        "alone",
        "unknown",
        "data",
        "key",
        "seed",
        "select_on",
    ],
)
def test_bad_use_is_one_line(run, tmp_path, capsys, flags, other, message):
    lines = played([1, 0], [1, 0])
    first = run("a", 3.0, lines)
    second = flags.get("lines", lambda own: own)(lines)
    other = run("b", flags.get("alpha", 10.0), second, **other)
    with pytest.raises(SystemExit) as stop:
        report(
            tmp_path, first, other,
            tuned=flags.get("tuned", "-policy.alpha"), more=flags.get("more", ()),
        )  # fmt: skip
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message.format(a=first) in line


def test_a_run_alone_has_nothing_to_choose(run, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(run("a", 3.0, played([1], [1]))), "--tuned=policy.alpha"])
    assert stop.value.code == 2 and "one of several runs" in capsys.readouterr().err


def test_a_configuration_with_too_few_common_episodes_is_named(run, tmp_path, capsys):
    runs = [
        run("a", 3.0, played([1] * 8, [1])),
        run("b", 10.0, played([0] * 8, [1])),
        run("c", 30.0, played([1], [1])),
    ]
    (row,), found = report(tmp_path, *runs)
    assert row["configuration"] == "alpha=3"
    assert [one["ranked"] for one in found["tuned"][0]["tried"]] == [False, True, True]
    assert "alpha=30: 1.00 (not ranked: too few episodes in common)" in capsys.readouterr().out


def test_keys_are_parsed():
    assert TunedKey.parse("-policy.alpha,policy.x") == (
        ("policy.alpha", True), ("policy.x", False),
    )  # fmt: skip
    with pytest.raises(UserError, match="each key"):
        TunedKey.parse("-")
