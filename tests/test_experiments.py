"""Configs of experiments resolve, networks have the paper's sizes, the map's figures are the counts'."""

import importlib.util
import itertools
import json
import re

import jax
import numpy as np
import pytest
from conftest import ROOT

from qgf_jax import cli
from qgf_jax import config as configs
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import METHODS
from qgf_jax.types import Spec

HERE = ROOT / "experiments"
PAPER, GOALS = f"{HERE}/configs/paper.py", f"{HERE}/configs/goal_conditioned.py"
# (observation, goal that is none, action) of an environment, by the benchmark's own rules: 19 numbers of
# the arm, and 9 for each cube, of which the goal has 3, or 4 for each button, of which it has 1.
CUBES = {"single": 1, "triple": 3, "quadruple": 4, "octuple": 8}
OTHERS = {"pointmaze": (2, 2, 2), "scene": (40, 6, 5), "Hopper": (11, 0, 3)}


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def references():
    for path in sorted((HERE / "configs").glob("*.py")):
        variants = getattr(module(path), "VARIANTS", None)
        yield from [f"{path}:{name}" for name in variants] if variants else [str(path)]


REFERENCES = list(references())
costs = module(HERE / "paper_costs.py")


def spec_of(config):
    """The widths of a config's data, without a simulator."""
    name, chunk = config["env"], config["data"]["chunk"]
    kind, form = name.split("-")[:2]
    if kind == "cube":
        state, goal, action = 19 + 9 * CUBES[form], 3 * CUBES[form], 5
    elif kind == "puzzle":
        buttons = int(form[0]) * int(form[2])
        state, goal, action = 19 + 4 * buttons, buttons, 5
    else:
        state, goal, action = OTHERS[kind]
    seen = EnvName.parse(name).goals
    goal = state if seen == "observation" else goal
    return Spec((state,), action, chunk, (goal,) if seen else None, config["data"]["n_step"])


KNOWN = {}
"""Shapes by what they follow from, as many configs differ in numbers alone."""


def shapes(reference, **choice):
    """Parameter group -> tree of shapes."""
    config = configs.plain(configs.load(reference, choice))
    spec = spec_of(config)
    idle = ("env", "eval", "train", "data", "preset")
    key = str(({k: v for k, v in config.items() if k not in idle}, spec))
    if key not in KNOWN:
        init, empty = Builder(config, spec).learner().init, np.zeros(spec.chunk_dim)
        KNOWN[key] = jax.eval_shape(init, jax.random.key(0), spec.example(), empty)
    return KNOWN[key]


def size(group):
    return sum(x.size for x in jax.tree.leaves(group))


def suits(reference, method):
    try:
        return bool(configs.load(reference, {"algorithm": method}))
    except UserError:
        return False


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r.rpartition("/")[2])
def test_every_variant_resolves_and_builds(reference):
    assert all(size(group) for group in shapes(reference).values())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_from_some_variant(method):
    """From one after the other, beginning with another for each method, so that all kinds have turns."""
    first = [*METHODS].index(method) * 5 % len(REFERENCES)
    order = REFERENCES[first:] + REFERENCES[:first]
    found = next(reference for reference in order if suits(reference, method))
    assert all(size(group) for group in shapes(found, algorithm=method).values())


# The paper's sizes: of networks as it has them on cube-triple, 46 observations and 5 x 5 actions.

MATRICES = {  # multiply-adds of one pass, by methods of the public code: group -> number
    "qgf": {"policy": 3_260_416, "critic": 2 * 3_219_456, "value": 3_193_856},
    "edp": {"actor": 3_260_416},
    "fql": {"policy": 3_245_056, "actor": 3_244_032},
    "qam": {"policy": 3_245_056, "actor": 3_245_056},
    "cfgrl": {"actor": 3_293_184},
    "dac": {"actor": 3_211_264 + 4_292_608},
    "qsm_bc": {"actor": 3_211_264 + 4_292_608},
    "robust_q": {"noisy_critic": 3_235_840},
}


def named(group, *words):
    """Numbers in leaves whose name is one of `words`; in those of norms alone if "norm" is one."""
    return sum(
        leaf.size
        for path, leaf in jax.tree.leaves_with_path(group)
        if path[-1].key in words and ("Norm" in jax.tree_util.keystr(path)) == ("norm" in words)
    )


@pytest.mark.parametrize("method", MATRICES)
def test_matrices_are_those_of_the_public_code(method):
    groups = shapes(f"{PAPER}:cube_triple", algorithm=method)
    for name, number in MATRICES[method].items():
        assert named(groups[name], "kernel") == number, name


def test_networks_of_qgf_have_the_norms_of_the_public_code():
    """None in the policy's last layer; the critics' follow each of four."""
    groups = shapes(f"{PAPER}:cube_triple")
    norms = {name: named(group, "norm", "scale", "bias") for name, group in groups.items()}
    assert norms == {"policy": 3 * 2048, "critic": 2 * 4 * 2048, "value": 4 * 2048}


@pytest.mark.parametrize(
    ("variant", "members", "label"),
    [
        ("cube_triple_512", 2, "825K"),
        ("cube_triple", 2, "3.2M"),
        ("cube_triple_2048", 2, "12.7M"),
        ("cube_triple_td_qam_10", 10, "3.2M"),
    ],
)
def test_a_member_of_the_critic_has_the_size_that_figure_9_names(variant, members, label):
    """Zhou et al., 2026, Fig. 9; matrices and biases, without layer norms."""
    critic = shapes(f"{PAPER}:{variant}")["critic"]
    one = named(critic, "kernel", "bias") / members
    assert label in (f"{one / 1e3:.0f}K", f"{one / 1e6:.1f}M")


def test_the_two_readings_of_table_3():
    def read(kind, algorithm, domain="cube_quadruple"):
        config = configs.load(f"{PAPER}:{domain}_{kind}", {"algorithm": algorithm})
        return config.policy.bc_weight if algorithm == "dac" else config.eval.weights

    assert (read("printed", "qgf"), read("printed", "qgf_jacobian")) == ((0.1,), (0.02,))
    assert (read("swapped", "qgf"), read("swapped", "qgf_jacobian")) == ((0.02,), (0.1,))
    assert read("printed", "qfql") == read("swapped", "qfql") == (0.06,)
    pairs = itertools.product(("printed", "swapped"), ("scene", "puzzle_4x4"))
    assert [read(kind, "dac", domain) for kind, domain in pairs] == [300.0, 100.0, 100.0, 300.0]


# The map of the paper.


def test_figures_of_the_map_are_those_of_the_counts():
    counts = json.loads(costs.COUNTS.read_text())
    assert counts.keys() == costs.trainings().keys(), (
        "run python experiments/paper_costs.py --count"
    )
    text = costs.PAGE.read_text()
    assert costs.page(text, counts) == text, "run python experiments/paper_costs.py"
    assert {*re.findall(r"<!-- gpu (\w+) -->\d", text)} == costs.ROWS.keys()


def test_hours_are_those_of_100_tflop_a_second():
    one = costs.Training("paper.py:cube_triple")
    counts = {key: {"flops_per_update": 36e9} for key in costs.trainings()}
    assert one.config().train.steps == 500_000 and costs.ROWS["figure_5_qgf"][0][1] == 200
    assert costs.hours(counts, "figure_5_qgf") == pytest.approx(36e9 * 5e5 * 200 / 1e14 / 3600)
    assert costs.page("<!-- gpu figure_5_qgf -->7.5 h", counts) == "<!-- gpu figure_5_qgf -->10 h"


def test_a_count_is_that_of_a_dry_run(monkeypatch):
    monkeypatch.setenv("QGF_CACHE", "off")
    (training, _), *_ = costs.ROWS["figure_5_robust_q"]
    one = training._replace(settings=(*training.settings, "devices=1"))
    counted = json.loads(costs.COUNTS.read_text())[training.digest()]
    assert costs.count(one)["flops_per_update"] == counted["flops_per_update"]
    assert counted["train"] == training.flags


def test_what_changes_no_count_changes_no_digest():
    training = costs.Training("paper.py:cube_triple")

    def digest(*settings):
        return training._replace(settings=settings).digest()

    assert digest("eval.episodes=3", "train.steps=7") == digest() == digest("algorithm=qgf")
    changed = [digest(x) for x in ("train.batch_size=8", "algorithm=bptt", "networks.ensemble=3")]
    assert len({digest(), *changed}) == 4


def test_commands_of_the_map_are_understood(capsys):
    text = costs.PAGE.read_text().replace("$PAPER", PAPER).replace("$GOALS", GOALS)
    commands = re.findall(r"`qgf train (--config[^`…]+)`", text)
    assert len(commands) > 10
    for command in commands:
        cli.main(["train", *command.split(), "--show"])
    assert "--config.env=puzzle-4x5" in capsys.readouterr().out
    for name in re.findall(r"--methods=([\w,]+)", text):
        assert {*name.split(",")} <= METHODS.keys()


@pytest.mark.parametrize("path", sorted((HERE / "sweeps").glob("*.py")), ids=lambda path: path.stem)
def test_every_sweep_can_be_planned(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)  # which configs are named from
    cli.main(["sweep", str(path), f"--out={tmp_path / 'runs'}", "--dry_run", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) >= 4 and not list(tmp_path.iterdir())


def test_baselines_have_as_many_configurations_as_a_guided_arm_has_weights():
    study, baselines = (module(HERE / f"sweeps/{name}.py") for name in ("study", "baselines"))
    assert baselines.TASKS == study.TASKS
    found = baselines.jobs()
    for guided in study.jobs():
        own = [job for job in found if job.config == guided.config]
        same = {pair for pair in guided.overrides if pair[0] in ("seed", "seeds")}
        assert len(same) == 2 and all(same < {*job.overrides} for job in own)
        by_slope = dict(flag.split("=") for flag in guided.evaluations[0])
        methods = [dict(job.overrides)["algorithm"] for job in own]
        for method in {*methods}:
            tried = [job for job in own if dict(job.overrides)["algorithm"] == method]
            flags = [dict(flag.split("=") for flag in job.evaluations[0]) for job in tried]
            assert all(one["--methods"] == method for one in flags)
            assert all(one["--episodes"] == by_slope["--episodes"] for one in flags)
            weights = flags[0].get("--weights", "")
            assert (
                len(tried) * len(weights.split(",")) == len(by_slope["--weights"].split(",")) == 6
            )
            if method == "robust_q":
                assert weights == by_slope["--weights"]
            if weights:
                assert flags[0]["--budget"] == by_slope["--budget"]
        assert {*methods} == {*baselines.ARMS, "cfgrl", "robust_q"}


def test_values_that_are_tried_are_those_that_the_report_is_told_of():
    """Of each key the Makefile's flag says whether larger values are nearer to cloning."""
    makefile = (ROOT / "Makefile").read_text()
    told = re.search(r"^TUNED := (.*)$", makefile, re.MULTILINE).group(1)
    baselines = module(HERE / "sweeps/baselines.py")
    keys = {
        key
        for values in (baselines.ARMS, baselines.MAZES)
        for one in values.values()
        for key in one
    }
    assert {word.removeprefix("-") for word in told.split(",")} == keys
    assert told in baselines.__doc__
