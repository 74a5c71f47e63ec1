"""Seeds of one config as one run: which are, how it is called, and that no seed is trained twice."""

import pytest
from conftest import ROOT

from qgf_jax.errors import UserError
from qgf_jax.sweep import Job, Needs
from qgf_jax.sweep.plan import Plan

TINY = str(ROOT / "tests" / "tiny_config.py")


def packed_of(folder, jobs, most):
    found, _ = Plan.with_configs(jobs, folder, most=most)
    return {name: one.members for name, one in found.jobs.items()}


def test_seeds_that_nothing_else_tells_apart_are_one_run(tmp_path):
    grid = lambda name, seeds, **more: Job.grid({"seed": seeds}, config=TINY, name=name, **more)
    jobs = grid("a", [8, 9, 10, 11, 13]) + grid("b", [0, 1], overrides={"data.discount": 0.9})
    (after,) = grid("c", [0], after=["a_seed=9"])
    jobs += [*grid("d", [3, 4]), Job(source="d_seed=3", add="td"), after]
    found, configs = Plan.with_configs(jobs, tmp_path, most=3)
    names = ["a_seed=8..10", "a_seed=11", "a_seed=13", "b_seed=0..1", "d_seed=3", "d_seed=4"]
    assert [*found.jobs] == [*names, "d_seed=3_td", "c_seed=0"]
    first = found.jobs["a_seed=8..10"]
    assert first.members == ("a_seed=8", "a_seed=9", "a_seed=10")
    assert dict(first.job.overrides) == {"seed": "8", "seeds": "3"}
    assert (configs[first.name]["seed"], configs[first.name]["seeds"]) == (8, 3)
    assert found.jobs["c_seed=0"].job.after == ("a_seed=8..10",)
    assert [*Plan.with_configs(jobs, tmp_path)[0].jobs] == [job.name for job in jobs], (
        "unless asked for"
    )
    two = [Job(config=TINY, overrides={"seed": s, "seeds": 2}) for s in (0, 1)]
    assert packed_of(tmp_path, two, 4) == {job.name: () for job in two}


def test_a_seed_stays_where_its_folder_has_planned_it(tmp_path):
    grid = lambda *seeds, **more: Job.grid({"seed": seeds}, config=TINY, name="a", **more)
    Plan.with_configs(grid(0), tmp_path)[0].write()
    first = ("a_seed=1", "a_seed=2")
    for most in (2, 1, 8):
        found, _ = Plan.with_configs(grid(0, 1, 2), tmp_path, most=most)
        found.write()
        assert {n: one.members for n, one in found.jobs.items()} == {
            "a_seed=0": (), "a_seed=1..2": first,
        }  # fmt: skip
    assert packed_of(tmp_path, grid(2, 3, 4), 2) == {
        "a_seed=1..2": first, "a_seed=3..4": ("a_seed=3", "a_seed=4"),
    }  # fmt: skip
    hours = [Job(config=TINY, name=n, overrides={"seed": 2}, needs=Needs(hours=2)) for n in first]
    (one,) = Plan.with_configs(hours[1:], tmp_path)[0].jobs.values()
    assert one.job.needs.hours == 4 and dict(one.job.overrides)["seed"] == "1"
    with pytest.raises(UserError, match="and by now they differ in more than the seed"):
        Plan.with_configs(grid(1) + grid(2, overrides={"data.discount": 0.9}), tmp_path)
    further = Job(source="a_seed=2", add="td")
    with pytest.raises(
        UserError, match="its source a_seed=2 is one of several seeds in a_seed=1..2"
    ):
        Plan.with_configs([*grid(2), further], tmp_path)
