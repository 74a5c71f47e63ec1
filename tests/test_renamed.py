"""Old Python names go on working, each with one line of advice."""

import importlib
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

import qgf_jax
from qgf_guide import flow
from qgf_jax import errors, renamed
from qgf_jax.training import loop

BELOW = ["critics.iql", "policies.flow_bc"]
FORMER = json.loads((Path(__file__).parent / "data/names_of_2c3455c.json").read_text())


@pytest.fixture(autouse=True)
def advice_is_new():
    errors.log_once.cache_clear()


@pytest.mark.parametrize("old", [*renamed._MODULES, *BELOW])
def test_an_old_module_is_the_one_of_today(old, capsys):
    sys.modules.pop(f"qgf_jax.{old}", None)
    new = renamed._whole(renamed._today(old))
    module = importlib.import_module(f"qgf_jax.{old}")
    assert vars(module).get("_module", module) is importlib.import_module(new)
    said = capsys.readouterr().err.splitlines()
    assert said.count(f"qgf: advice: qgf_jax.{old} is an old name: use {new}") == 1
    importlib.import_module(f"qgf_jax.{old}")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("whole", renamed._ATTRIBUTES)
def test_an_old_attribute_is_the_one_of_today(whole, capsys):
    module, _, old = whole.rpartition(".")
    former = {new: name for name, new in renamed._MODULES.items() if new == module}
    outside = module.startswith("qgf_guide.")  # known under its old name alone
    home = importlib.import_module(f"qgf_jax.{former[module] if outside else module}")
    errors.log_once.cache_clear()
    capsys.readouterr()
    place, _, path = renamed._ATTRIBUTES[whole].rpartition(":")
    today = renamed._whole(place or module)
    new = f"{today}.{path}"
    today = operator.attrgetter(path)(importlib.import_module(today))
    for said in (f"qgf: advice: {renamed._whole(module)}.{old} is an old name: use {new}\n", ""):
        assert getattr(home, old) == today
        if old not in vars(home):  # else the module imports it, and it works without advice
            assert capsys.readouterr().err == said


# The steps of earlier functions, which no longer exist as such, and what users' code had no use for.
GONE = {
    "algorithms": "CRITIC_SETTINGS critic_fields factory_fields free_options learner_fields "
    "policy_fields sampler_fields",
    "array_files": "is_merged merge read read_named write",
    "bounds": "of_source",
    "checkpoint": "check_space describe_leaf",
    "children": "leave_working_folder_last",
    "cli": "add_cpu_threads limit_cpu_threads several_paths",
    "config": "DISPATCH PLACES",
    "costs": "FILE main",
    "data.collect": "parse",
    "data.collect_device": "episodes",
    "data.experts": "KINDS MAZES NOISE NOT_SCRIPTED Rows STACKING STRAIGHT Steps check episode make_env "
    "rows_of stitched",
    "data.formats": "SEARCH_PATH",
    "data.labels": "oracle_goals relabel transform",
    "data.missing": "missing",
    "data.shards": "Field fault read_manifest",
    "envs.mazes": "cells distances maze subgoals vertices",
    "envs.ogbench": "actor_goals goal_position",
    "envs.unrendered": "unrendered",
    "episodes": "fault",
    "evaluate": "Act Waited Write episode_seed play turns",
    "evaluate_device": "Episode Play compile_play play",
    "global_batch": "divided_over draw mean normal randint split summary",
    "guidance": "Rule",
    "metrics": "LeftOut",
    "networks": "Arithmetic",
    "official": "check flat tree",
    "policies.gaussian": "init",
    "policies.matching": "draw mean",
    "run": "Work check_same common create_beside",
    "schema": "Hindsight",
    "tables": "Line count intervals label task_label",
    "train": "clip_groups delayed loss_keys step_key",
    "vectors": "on_vectors",
}


@pytest.mark.parametrize(("module", "names"), FORMER.items(), ids=[*FORMER])
def test_every_public_name_of_an_earlier_version_is_found_or_known_to_be_gone(module, names):
    gone = GONE.get(module, "").split()
    try:
        home = importlib.import_module(f"qgf_jax.{module}".rstrip("."))
    except ModuleNotFoundError:
        assert gone == sorted(names)
    else:
        assert gone == sorted(name for name in names if not hasattr(home, name))


def test_what_became_private_is_found_with_advice(capsys):
    from qgf_jax import networks

    assert networks.VelocityField is networks._VelocityField
    said = capsys.readouterr().err
    assert said.endswith(
        "VelocityField is an old name: it is private now, as _VelocityField, and may change\n"
    )


def test_names_come_by_either_import(capsys):
    for name in ("algorithms", "flow"):
        sys.modules.pop(f"qgf_jax.{name}", None)
        vars(qgf_jax).pop(name, None)
    scope = {}
    exec("from qgf_jax import algorithms, flow as old\nfrom qgf_jax.flow import rest", scope)  # noqa: S102
    assert scope["old"]._module is flow and scope["rest"] is flow.flow_endpoint
    assert scope["algorithms"].METHODS is qgf_jax.METHODS
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_an_old_module_takes_the_place_of_no_function(monkeypatch):
    sys.modules.pop("qgf_jax.pretrain", None)
    module = importlib.import_module("qgf_jax.pretrain")
    assert module.pretrain is loop.pretrain and module._next_stop is loop._next_stop
    monkeypatch.setattr(loop, "pretrain", lambda *args: args)
    assert qgf_jax.pretrain(1, 2) == (1, 2)


def test_an_old_module_that_is_called_can_be_reloaded():
    """It reloads the module of today. In a process of its own, as others hold what was there before."""
    code = """
import importlib, qgf_jax.pretrain
from qgf_jax.training import loop
before, loop.added = loop.pretrain, True
module = importlib.reload(qgf_jax.pretrain)
assert module is qgf_jax.pretrain is importlib.import_module("qgf_jax.pretrain")
assert module._module is loop and loop.added and module.pretrain is loop.pretrain is not before
assert callable(module)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["flows", "flow.x", "critics.sarsa", "policy.x"])
def test_a_module_that_never_was_is_none(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"qgf_jax.{name}")


@pytest.mark.parametrize("module", ["", ".errors", ".flow", ".core.flow", ".envs.ogbench"])
def test_an_attribute_that_never_was_is_none(module):
    home = importlib.import_module(f"qgf_jax{module}")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = home.nothing


def test_importing_the_package_imports_nothing_else():
    code = (
        "import sys; before = {*sys.modules}; import qgf_jax; "
        "print(*sorted(n for n in {*sys.modules} - before if not n.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = {name for name in done.stdout.split() if name.partition(".")[0] == "qgf_jax"}
    assert new == {"qgf_jax", "qgf_jax.renamed"}
    assert len(done.stdout.split()) < 40 and "numpy" not in done.stdout
