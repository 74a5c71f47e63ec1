"""Configs: defaults from signatures, overrides with types, and errors that name the key."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from qgf_jax import algorithms
from qgf_jax import config as configs
from qgf_jax.errors import UserError

CONFIGS = Path(__file__).parent.parent / "experiments" / "configs"


def test_defaults_read_from_the_source_are_those_of_the_functions():
    from qgf_jax.critics import CRITICS
    from qgf_jax.guidance import RULES
    from qgf_jax.networks import build
    from qgf_jax.policies import POLICIES
    from qgf_jax.samplers import SAMPLERS

    pairs = [(build, algorithms.factory_defaults("networks", "build"))]
    pairs += [(f, algorithms.policy_defaults(name)) for name, f in POLICIES.items()]
    pairs += [(f, algorithms.critic_defaults(name)) for name, f in CRITICS.items()]
    for module, registry in (("samplers", SAMPLERS), ("guidance", RULES)):
        pairs += [(f, algorithms.factory_defaults(module, name)) for name, f in registry.items()]
    for function, found in pairs:
        real = inspect.signature(function).parameters.values()
        assert found == {p.name: p.default for p in real if p.kind is p.KEYWORD_ONLY}, function


@pytest.mark.parametrize("name", list(algorithms.METHODS))
def test_every_method_has_parts_that_exist(name):
    from qgf_jax.critics import CRITICS
    from qgf_jax.guidance import RULES
    from qgf_jax.policies import POLICIES
    from qgf_jax.samplers import SAMPLERS

    row = algorithms.METHODS[name]
    assert set(row.critics) <= set(CRITICS) and set(row.policies) <= set(POLICIES)
    assert row.sampler in SAMPLERS
    assert row.options.get("rule", "unguided") in RULES
    assert row.options.keys() <= algorithms.sampler_defaults(name).keys()
    assert name in algorithms.served_by(name)
    for critic in row.critics:
        for preset in configs.PRESETS:
            config = configs.make(name, preset, critic)
            assert (config.critic, config.preset) == (critic, preset)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_shipped_config_resolves_in_each_variant(path, monkeypatch, tmp_path, maze_data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(maze_data)  # for smoke.py, which collects what is missing
    (maze_data / "smoke").exists() or (maze_data / "smoke").symlink_to(maze_data)
    plain = configs.load(str(path))
    assert configs.plain(plain)["env"]
    module = importlib.util.spec_from_file_location("c", path)
    namespace = importlib.util.module_from_spec(module)
    module.loader.exec_module(namespace)
    for variant in getattr(namespace, "VARIANTS", {}):
        assert configs.plain(configs.load(f"{path}:{variant}"))["train"]["steps"] > 0


QUICKSTART = str(CONFIGS / "quickstart.py")


def test_overrides_keep_types():
    overrides = {
        "train.steps": "7",
        "optimizer.learning_rate": "1",
        "networks.policy_hidden": "(16, 8)",
        "networks.critic_hidden": "32",
        "data.standardize": "false",
        "eval.weights": "0,2",
        "env": "cube-single-play-singletask-v0",
    }
    flat = configs.flatten(configs.load(QUICKSTART, overrides))
    assert flat["train.steps"] == 7 and flat["optimizer.learning_rate"] == 1.0
    assert flat["networks.policy_hidden"] == (16, 8) and flat["networks.critic_hidden"] == (32,)
    assert flat["data.standardize"] is False and flat["eval.weights"] == (0.0, 2.0)
    assert isinstance(flat["optimizer.learning_rate"], float)


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ({"policy.tme_grid": "3"}, "did you mean 'policy.time_grid'"),
        ({"train.steps": "many"}, "train.steps: 'many' is not a int"),
        ({"train.steps": "0"}, "at least 1"),
        ({"train.steps": "2.5"}, "not a int"),
        ({"seed": "-1"}, "at least 0"),
        ({"data.masks": "tasks"}, "did you mean 'task'"),
        ({"data.discount": "1.5"}, r"in \(0, 1\]"),
        ({"env": ""}, "name an environment"),
        ({"data.standardize": "maybe"}, "is not a bool"),
    ],
)
def test_wrong_overrides_are_explained(overrides, hint):
    with pytest.raises(UserError, match=hint):
        configs.load(QUICKSTART, overrides)


def test_overrides_are_read_in_both_spellings():
    words = ["--config.a.b=1", "--config.c", "x=y"]
    assert configs.parse_overrides(words) == {"a.b": "1", "c": "x=y"}
    for bad in (["--confg.a=1"], ["--config.a"], ["more"]):
        with pytest.raises(UserError):
            configs.parse_overrides(bad)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [("nowhere.py", "no config file"), (f"{CONFIGS}/ogbench.py:cube_singel_small", "cube_single")],
)
def test_wrong_files_and_variants_are_explained(reference, hint):
    with pytest.raises(UserError, match=hint):
        configs.load(reference)


def test_a_config_survives_json(tmp_path):
    import json

    plain = configs.plain(configs.load(QUICKSTART))
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert configs.read(tmp_path / "config.json") == plain
    assert configs.changed(plain, plain) == []
    moved = plain | {"data": plain["data"] | {"dir": "elsewhere/", "name": "renamed"}}
    assert configs.changed(plain, moved) == []


def test_configs_errors_and_environment_workers_need_no_jax():
    """A mistake must not wait for JAX, and a worker process must not carry it."""
    code = (
        "import sys, qgf_jax.cli.train, qgf_jax.envs.worker, qgf_jax.data.collect, qgf_jax.run\n"
        "from qgf_jax import config\n"
        f"config.load({QUICKSTART!r})\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
