"""Differences from a baseline: their intervals and tests, which rows they pair, how tables show them."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from qgf_jax import cli
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.evaluation import paired, student, summary
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm
from qgf_jax.evaluation.statistics import Difference, holm
from qgf_jax.runs.run import Run

_SPEC = importlib.util.spec_from_file_location(
    "coverage_of_differences", Path(__file__).parent.parent / "benchmarks" / "coverage.py"
)
coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(coverage)


# The numbers.


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (3.0, 1.0, 1 - 2 * np.arctan(3.0) / np.pi), (0.2, 2.0, 1 - 0.2 / np.sqrt(2.04)),
        (4.0, 2.0, 1 - 4 / np.sqrt(18.0)), (1.959964, np.inf, 0.05), (1.959964, 1e6, 0.05),
        (-2.570582, 5.0, 0.05), (2.042272, 30.0, 0.05), (6.0167, 1.5, 0.05), (0.0, 7.0, 1.0),
    ],
)  # fmt: skip
def test_students_t(t, freedom, p):
    assert student.two_sided(t, freedom) == pytest.approx(p, rel=2e-4)
    if t > 0:
        assert student.quantile(1 - p / 2, freedom) == pytest.approx(t, rel=1e-3)


def test_one_seed_is_the_paired_t_test():
    """Differences 1, 2, 3, 4: mean 2.5, SE sqrt(5 / 3) / 2, three degrees of freedom."""
    found = Difference.of(
        [np.array([[5.0, 4.0, 9.0, 5.0]])], [np.array([[4.0, 2.0, 6.0, 1.0]])],
        paired=True, success=False,
    )  # fmt: skip
    error = np.sqrt(5 / 3) / 2
    assert found.mean == 2.5 and found.p == pytest.approx(0.03047, abs=1e-5)
    assert found.high - 2.5 == pytest.approx(3.182446 * error) == 2.5 - found.low
    assert found.detectable == pytest.approx((3.182446 + 0.978472) * error, rel=1e-5)


def test_five_seeds_that_differ_have_four_degrees_of_freedom():
    table = np.repeat([[-2.0], [-1.0], [0.0], [1.0], [2.0]], 6, axis=1)
    found = Difference.of([table + 3], [np.zeros((5, 6))], paired=True, success=False)
    assert found.high - 3 == pytest.approx(2.776445 * np.sqrt(0.5))
    apart = Difference.of([table + 1], [table], paired=False, success=False)
    # Welch: SE 1, eight degrees of freedom; paired, the same seeds differ by 1 for certain.
    assert (apart.mean, apart.p) == (1.0, pytest.approx(0.346594, abs=1e-5))
    assert Difference.of([table + 1], [table], paired=True, success=False).p == 0.0


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("seeds", [3, 5])
def test_what_is_hard_for_both_arms_cancels(seeds, same):
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=50.0, size=40)
    arm, base = (hard + rng.normal(size=(seeds, 40)) for _ in range(2))
    found = Difference.of([arm + 1], [base], paired=same, success=False)
    assert found.high - found.low < 2.0 and found.p < 0.02


def test_arms_that_never_differ_may_still_differ():
    """Bonett and Price: 1 / 52 in either direction, +- 1.96 sqrt(2 / 52 / 52), whatever the seeds."""
    for seeds in (1, 3, 10):
        table = np.ones((seeds, 50))
        found = Difference.of([table], [table], paired=True, success=True)
        half = 1.959964 * np.sqrt(2) / 52
        assert found.mean == 0 and found.high == pytest.approx(half) == -found.low
        assert found.p == 1.0 and found.detectable == pytest.approx(
            2.801585 * np.sqrt(2) / 52, rel=1e-5
        )


def test_p_and_interval_agree():
    rng, leaves = np.random.default_rng(1), 0
    for _ in range(150):
        seeds, gain = int(rng.integers(1, 7)), rng.uniform(0, 0.5)
        base = (rng.uniform(size=(seeds, 20)) < 0.5).astype(float)
        arm = (rng.uniform(size=(seeds, 20)) < 0.5 + gain).astype(float)
        for success in (True, False):
            found = Difference.of([arm], [base], paired=True, success=success)
            assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
            leaves += found.p <= 0.05
    assert 60 < leaves < 240


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_coverage_of_differences():
    """Few repetitions, so bounds are loose; the whole table: `benchmarks/coverage.py --paired`."""
    for pair in (
        coverage.Pair(0.7, 0.0, 0.0, 1.0, 1, 50), coverage.Pair(0.7, 0.2, 0.07, 0.0, 2, 50),
        coverage.Pair(0.5, 0.2, 0.07, 1.0, 3, 50), coverage.Pair(0.7, 0.0, 0.12, 0.0, 5, 50),
        coverage.Pair(0.9, 0.06, 0.03, 0.4, 10, 50),
    ):  # fmt: skip
        found = coverage.measure_pair(pair, repeats=150)
        assert 0.91 <= found["coverage"] <= 1.0, (pair, found)
        assert pair.gain or found["found"] <= 0.08, (pair, found)


def test_a_detectable_difference_is_found_four_times_in_five():
    rng, effect, found = np.random.default_rng(0), 2.801585 / np.sqrt(50), []
    for _ in range(400):
        arm = rng.normal(effect, 1.0, size=(1, 50))
        made = Difference.of([arm], [np.zeros((1, 50))], paired=True, success=False)
        found.append((made.p <= 0.05, made.detectable))
    power, detectable = np.mean(found, axis=0)
    assert 0.74 < power < 0.85 and detectable == pytest.approx(effect, rel=0.04)


# The rows.


def lines_for(method, report, *, weight=0.0, best_of=1, seed=0, task=1, env="maze", success=True):
    """Report episodes with given successes, or returns where there is no success."""
    return [
        {
            "method": method, "weight": weight, "best_of": best_of, "options": {}, "env": env,
            "task": task, "episode": 2 * i + 1, "split": "report", "seed": seed, "step": 10,
            "return": float(value), "length": 5, **({"success": float(value)} if success else {}),
        }
        for i, value in enumerate(report)
    ]  # fmt: skip


def compared(*runs, baseline=None):
    """The report rows of runs, of which each is its lines, with their differences."""
    names = [f"run {i}" if len(runs) > 1 else "" for i in range(len(runs))]
    made = [
        Evaluated(summary.summarize(lines), by_arm(lines), name)
        for lines, name in zip(runs, names, strict=True)
    ]
    paired.compare(made, baseline)
    return [row for run in made for row in run.rows if row["split"] == "report"]


BASE = [*lines_for("best_of", [0, 0, 1, 1], best_of=4), *lines_for("reference", [0, 0, 0, 0])]
ARM = lines_for("qgf", [1, 1, 1, 0], weight=1.0)


def find(rows, **wanted):
    (row,) = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
    return row["paired"]


def test_rows_are_compared_with_best_of_4_by_default():
    rows = compared([*BASE, *ARM])
    found = find(rows, method="qgf")
    assert (found["baseline"], found["measure"]) == ("best of 4", "success")
    assert (found["mean"], found["pairs"], found["seeds"]) == (0.25, 4, 1)
    assert find(rows, method="best_of") is None
    assert find(rows, method="reference")["mean"] == -0.5
    two = [find(rows, method=name) for name in ("qgf", "reference")]
    assert holm([one["p"] for one in two]) == [one["p_holm"] for one in two]


def test_without_best_of_the_reference_is_the_baseline():
    rows = compared([*lines_for("reference", [0, 0, 0, 0]), *ARM])
    assert find(rows, method="qgf")["baseline"] == "reference"
    assert compared(ARM)[0]["paired"] is None


@pytest.mark.parametrize("text", ["best_of", "best of 4"])
def test_a_named_baseline_with_or_without_its_n(text):
    more = lines_for("best_of", [1, 1, 1, 1], best_of=16)
    rows = compared([*more, *BASE, *ARM], baseline=text)
    assert find(rows, method="qgf")["baseline"] == "best of 4"
    rows = compared([*more, *BASE, *ARM], baseline="qgf")
    assert find(rows, method="best_of", best_of=16)["baseline"] == "qgf, weight 1"
    assert find(rows, method="qgf") is None


def test_a_baseline_that_was_not_played_is_named():
    with pytest.raises(
        UserError, match="no selected report row of an arm 'dsrl': there are best of 4"
    ):
        compared([*BASE, *ARM], baseline="dsrl")


def test_only_pairs_that_both_have_played_count():
    arm = [line for line in ARM if line["episode"] != 7]  # the one it lost
    found = find(compared([*BASE, *arm]), method="qgf")
    assert (found["pairs"], found["mean"]) == (3, pytest.approx(2 / 3))
    assert find(compared([*BASE, *ARM[:1]]), method="qgf") is None  # a single pair says nothing


def test_pairs_are_of_seed_and_episode():
    """Seed 1 of the arm has other episodes than seed 1 of the baseline: seed 0 alone is compared."""
    base = [*BASE, *lines_for("best_of", [1, 1], best_of=4, seed=1)]
    arm = [*ARM, *lines_for("qgf", [0, 0, 0, 0], weight=1.0, seed=1)[2:]]
    found = find(compared([*base, *arm]), method="qgf")
    assert (found["seeds"], found["pairs"], found["mean"]) == (1, 4, 0.25)


def test_tasks_count_alike():
    lines = [
        *BASE, *ARM, *lines_for("best_of", [0, 0], best_of=4, task=2),
        *lines_for("reference", [0, 0], task=2), *lines_for("qgf", [1, 1], weight=1.0, task=2),
    ]  # fmt: skip
    found = find(compared(lines), method="qgf", task=summary.ALL_TASKS)
    assert (found["mean"], found["pairs"]) == ((0.25 + 1) / 2, 6)


def test_without_success_the_return_is_compared():
    base = lines_for("best_of", [1, 2, 3, 4], best_of=4, success=False)
    arm = lines_for("qgf", [2, 2, 4, 9], weight=1.0, success=False)
    found = find(compared([*base, *arm]), method="qgf")
    assert (found["measure"], found["mean"]) == ("return", 1.75)
    arm[3]["failed"] = "the simulator"
    assert find(compared([*base, *arm]), method="qgf")["mean"] == pytest.approx(2 / 3)


def test_where_nobody_succeeds_the_return_is_compared():
    """One success of an arm that is not even compared is enough for success to be the measure."""
    base = lines_for("best_of", [0, 0, 0, 0], best_of=4)
    arm = [{**line, "return": line["return"] + 3} for line in lines_for("qgf", [0] * 4, weight=1.0)]
    found = find(compared([*base, *arm]), method="qgf")
    assert (found["measure"], found["mean"]) == ("return", 3)
    found = find(compared([*base, *arm, *lines_for("reference", [0, 0, 1, 0])]), method="qgf")
    assert (found["measure"], found["mean"]) == ("success", 0)


def test_a_weight_that_is_not_selected_is_no_part_of_the_family():
    selection = [
        {**line, "split": "selection", "episode": line["episode"] - 1}
        for line in [*lines_for("qgf", [0, 0, 0, 0], weight=3.0), *ARM]
    ]
    rows = compared([*BASE, *ARM, *lines_for("qgf", [0, 0, 1, 1], weight=3.0), *selection])
    assert find(rows, method="qgf", weight=3.0)["p_holm"] is None
    assert find(rows, method="qgf", weight=1.0)["p_holm"] is not None
    assert sum(bool(row["paired"] and row["paired"]["p_holm"]) for row in rows) == 2


def test_runs_are_paired_over_seeds_of_the_same_number():
    first = [*BASE, *lines_for("best_of", [0, 0, 0, 0], best_of=4, seed=1)]
    same = find(compared(first, lines_for("fql", [1, 1, 1, 1], seed=1)), method="fql")
    assert (same["baseline"], same["same_seeds"]) == ("best of 4 (run 0)", True)
    assert (same["seeds"], same["mean"]) == (1, 1.0)
    other = [*lines_for("fql", [1, 1, 1, 1], seed=5), *lines_for("fql", [1, 1, 0, 0], seed=6)]
    apart = find(compared(first, other), method="fql")
    assert (apart["same_seeds"], apart["seeds"], apart["mean"]) == (False, 2, 0.75 - 0.25)


def test_a_run_is_compared_with_its_own_baseline_unless_one_is_named():
    second = [*lines_for("best_of", [1, 1, 1, 1], best_of=4), *ARM]
    (own,) = (r["paired"] for r in compared(BASE, second) if r["method"] == "qgf")
    assert (own["baseline"], own["mean"]) == ("best of 4 (run 1)", -0.25)
    rows = compared(BASE, second, baseline="best_of")
    gaps = {row["method"]: row["paired"] for row in rows[2:]}
    assert gaps["qgf"]["mean"] == 0.25 and gaps["best_of"]["mean"] == 0.5


# The report.


@pytest.fixture
def evaluated(run_folder, tmp_path):
    """Two runs with made-up episodes, of which the second has the seed after the first one's."""
    env = EnvName.parse(Run.open(run_folder).config["env"]).label
    folders = []
    for i in range(2):
        folders.append(shutil.copytree(run_folder, tmp_path / f"run{i}"))
        lines = [{**line, "env": env} for line in ([*BASE, *ARM], ARM)[i]]
        (folders[-1] / "episodes.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    path = folders[1] / "config.json"
    record = json.loads(path.read_text())
    record["config"]["seed"] += 1
    record["config"]["train"]["batch_size"] += 1  # or they would be seeds of one row
    path.write_text(json.dumps(record))
    return folders


def test_a_report_shows_differences(evaluated, capsys):
    cli.main(["report", f"--workdir={evaluated[0]}"])
    text = capsys.readouterr().out
    assert "| best of 4 | success | +0.25 [" in text and "adjusted for the 2 selected rows" in text
    report = evaluated[0] / "report"
    assert "+0.25</a> <small>[" in (report / "index.html").read_text()
    rows = json.loads((report / "summary.json").read_text())["rows"]
    made = find(rows, method="qgf")
    (line,) = (x for x in csv.DictReader((report / "table.csv").open()) if x["method"] == "qgf")
    assert (
        float(line["paired_p_holm"]) == made["p_holm"] > 0
        and line["paired_baseline"] == "best of 4"
    )
    cli.main(["report", f"--workdir={evaluated[0]}", "--baseline=reference"])
    assert "| reference | success | +0.75 [" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", f"--workdir={evaluated[0]}", "--baseline=x"])
    assert stop.value.code == 2 and "there are best of 4, qgf, reference" in capsys.readouterr().err


def test_runs_of_other_seeds_are_paired_over_episodes(evaluated, tmp_path, capsys):
    runs = ",".join(map(str, evaluated))
    cli.main(["report", f"--workdir={runs}", f"--out={tmp_path / 'both'}", "--baseline=best_of"])
    text = capsys.readouterr().out
    assert text.count("| best of 4 (qgf, iql (run0)) | success | +0.25 [") == 2
    assert "4 *" in text and "*: no seed in common" in text
    rows = [*csv.DictReader((tmp_path / "both.csv").open())]
    assert [x["paired_same_seeds"] for x in rows if x["method"] == "qgf"] == ["True", "False"]
