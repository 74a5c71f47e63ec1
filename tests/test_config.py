"""Configs: defaults from signatures, overrides with types, and errors that name the key."""

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qgf_guide.bounds import Field
from qgf_jax import config as configs
from qgf_jax import schema
from qgf_jax.cli import Parser
from qgf_jax.config import RunConfig
from qgf_jax.errors import UserError, log_once
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.parts import Part
from qgf_jax.runs.files import fingerprint

CONFIGS = Path(__file__).parent.parent / "experiments" / "configs"


@pytest.mark.parametrize("name", list(algorithms.METHODS))
def test_every_method_has_parts_that_exist(name):
    row = algorithms.METHODS[name]
    assert set(row.critics) <= set(Part.all("critic")) and set(row.policies) <= set(
        Part.all("policy")
    )
    assert row.sampler in Part.all("sampler") and row.selector in Part.all("selector")
    assert row.options.keys() <= row.all_options.keys()
    assert (name in algorithms.Method.named(name).serves) == row.acts
    for critic in row.critics:
        for preset in configs.PRESETS:
            config = configs.make(name, preset, critic)
            assert (config.critic, config.preset) == (critic, preset)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_shipped_config_resolves_in_each_variant(path, monkeypatch, tmp_path, maze_data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(maze_data)  # for smoke.py, which collects otherwise
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
        ({"train.steps": "many"}, "train.steps is 'many'; it must be a whole number"),
        ({"train.steps": "0"}, "from 1 to"),
        ({"train.steps": "2.5"}, "is 2.5; it must be a whole number"),
        ({"seed": "-1"}, "from 0 to"),
        ({"data.masks": "tasks"}, "did you mean 'task'"),
        ({"data.discount": "1.5"}, "above 0 and at most 1"),
        ({"env": ""}, "name an environment"),
        ({"data.standardize": "maybe"}, "is 'maybe'; it must be true or false"),
    ],
)
def test_wrong_overrides_are_explained(overrides, hint):
    with pytest.raises(UserError, match=hint):
        configs.load(QUICKSTART, overrides)


def test_overrides_are_read_in_both_spellings():
    _, words = Parser("qgf x", "").parse_known_args(["--config.a.b=1", "--config.c", "x=y"])
    assert Parser.parse_overrides(words) == {"a.b": "1", "c": "x=y"}
    for bad in (["--confg.a=1"], ["--config.a"], ["more"], ["--config.a", "more"]):
        with pytest.raises(UserError):
            Parser.parse_overrides(bad)


GOALS = str(CONFIGS / "goal_conditioned.py")


@pytest.mark.parametrize(
    ("algorithm", "env", "expected"),
    [
        ("gciql", "", {"policy.alpha": 0.003, "networks.policy_layer_norm": False}),
        ("gciql", "cube-single-play-v0", {"policy.alpha": 1.0}),
        ("gciql", "cube-single-noisy-v0", {"policy.alpha": 0.03}),
        ("gciql", "antmaze-large-explore-v0", {"policy.alpha": 0.01}),
        ("gciql", "antmaze-large-stitch-v0", {"policy.alpha": 0.3}),
        ("crl", "puzzle-3x3-play-v0", {"policy.alpha": 3.0, "networks.policy_layer_norm": False}),
        ("crl", "antsoccer-arena-navigate-v0", {"policy.alpha": 0.3}),
        ("crl", "pointmaze-large-stitch-v0", {"policy.alpha": 0.03}),
        ("hiql", "", {"goals.subgoal_steps": 25, "critics.ivl.online_code": True}),
        ("hiql", "scene-play-v0", {"goals.subgoal_steps": 10, "networks.policy_layer_norm": False}),
        ("hiql", "humanoidmaze-medium-navigate-v0", {"goals.subgoal_steps": 100}),
        ("hiql", "antmaze-medium-explore-v0", {"policy.low_inverse_temperature": 10.0}),
        ("gcivl", "", {"networks.policy_layer_norm": False, "critics.ivl.online_code": False}),
        ("gcbc", "", {"networks.policy_layer_norm": False}),
        ("qgf", "", {"networks.policy_layer_norm": True, "networks.ranking": "target"}),
        ("qgf", "cube-single-play-oraclerep-v0", {"networks.critic_output": "linear"}),
    ],
)
def test_what_the_sources_choose_by_environment_follows_the_environment(algorithm, env, expected):
    """That of the command line, not that of the variant."""
    overrides = {"algorithm": algorithm} | ({"env": env} if env else {})
    flat = configs.flatten(configs.load(f"{GOALS}:pointmaze_medium_small", overrides))
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("algorithm", "overrides", "key", "expected"),
    [
        ("gciql", {"env": "cube-single-play-v0", "policy.alpha": "0.5"}, "policy.alpha", 0.5),
        ("hiql", {"env": "scene-play-v0", "goals.subgoal_steps": "25"}, "goals.subgoal_steps", 25),
        ("fql", {"env": "cube-single-play-singletask-v0"}, "critics.td.rho", 0.0),
        ("fql", {"env": "antmaze-large-navigate-singletask-v0"}, "critics.td.rho", 1.0),
        ("qam", {"env": "antmaze-large-navigate-singletask-v0"}, "critics.td.rho", 0.5),
        ("rebrac", {"env": "cube-single-play-singletask-v0"}, "policy.delay", 2),
    ],
)
def test_what_the_user_says_stands_above_the_environment(algorithm, overrides, key, expected):
    critic = {"critic": "td"} if "td" in algorithms.METHODS[algorithm].critics else {}
    config = configs.load(
        GOALS if algorithms.METHODS[algorithm].goals else str(CONFIGS / "ogbench.py"),
        {"algorithm": algorithm, **critic, **overrides},
    )
    assert configs.flatten(config)[key] == expected


def test_what_follows_the_environment_is_a_key_of_its_method():
    for name, row in algorithms.METHODS.items():
        keys = {k for c in row.critics for k in configs.flatten(configs.make(name, critic=c))}
        assert row.by_env.keys() <= keys, name


@pytest.mark.parametrize(
    ("algorithm", "critic", "key", "past"),
    [
        ("rebrac", "td", "policy.delay", 1),
        ("hiql", "ivl", "critics.ivl.online_code", False),
        ("qgf", "dqc", "networks.ranking", "target"),
    ],
)
def test_a_run_from_before_a_key_means_what_it_meant(tmp_path, algorithm, critic, key, past):
    """It is read with the value of the past, and to go on with another is refused by name."""
    from qgf_jax.runs.run import Run

    new = configs.plain(configs.make(algorithm, critic=critic))
    *sections, name = key.split(".")
    old = json.loads(json.dumps(new))
    inner = old
    for section in sections:
        inner = inner[section]
    now = inner.pop(name)
    (tmp_path / "config.json").write_text(json.dumps({"config": old}))
    read = RunConfig.read_record(tmp_path / "config.json")["config"]
    assert configs.flatten(read)[key] == past != now
    assert (
        RunConfig(read).changes_to(new)
        == RunConfig(old).changes_to(new)
        == [f"{key}: {past!r} -> {now!r}"]
    )
    before, after = (
        Run(tmp_path, c, {}, {"sha256": ""}).identity for c in (configs._tuples(old), read)
    )
    assert before == after


FORMER = {
    "data.backup": 7,
    "goals.negative": False,
    "goals.waypoint": 3,
    "networks.ranking": "slow",
}
TODAY = {
    "data.n_step": 7,
    "goals.negative_reward": False,
    "goals.subgoal_steps": 3,
    "networks.ranking": "target",
}
ADVICE = [
    "qgf: advice: config key data.backup is now called data.n_step",
    "qgf: advice: config key goals.negative is now called goals.negative_reward",
    "qgf: advice: config key goals.waypoint is now called goals.subgoal_steps",
    "qgf: advice: 'slow' of config key networks.ranking is now called 'target'",
]


@pytest.fixture
def lines(capsys):
    """`lines()`: what was said on standard error; advice that earlier tests saw is new again."""
    log_once.cache_clear()
    yield lambda: capsys.readouterr().err.splitlines()
    log_once.cache_clear()


def by_attributes(config):
    config.data.update(backup=7)
    config.goals["negative"] = False
    config.goals.waypoint = 3
    config.networks.ranking = "slow"
    assert (config.data.backup, config.goals["waypoint"]) == (7, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: configs.update(config, FORMER),
        lambda config: config.update_from_flattened_dict(FORMER),
        by_attributes,
        lambda config: [configs._override(config, k, str(v)) for k, v in FORMER.items()],
    ],
    ids=["update", "flattened", "attributes", "command line"],
)
def test_former_names_are_taken_with_one_line_of_advice_each(change, lines):
    config = configs.make("qgf", critic="dqc")
    for copied in (config, copy.deepcopy(config)):
        change(copied)
        flat = configs.flatten(copied)
        assert {key: flat[key] for key in TODAY} == TODAY
        assert not FORMER.keys() & flat.keys() - TODAY.keys()
        assert copied.is_locked
        with pytest.raises(UserError, match="unknown config key .data.backups.: did you mean"):
            copied.data.backups = 7
    assert lines() == ADVICE


def test_a_former_name_of_another_methods_key_is_left_out_and_a_typing_error_is_not(lines):
    config = configs.make("qgf")
    configs.update(config, {"policy.delay": 3, "critics.ivl.online_code": True})
    with pytest.raises(UserError, match="unknown config key 'data.backups'"):
        configs.update(config, {"data.backups": 3})
    assert lines() == []


def test_what_the_user_says_by_a_former_name_stands_above_the_environment(lines):
    overrides = {"algorithm": "hiql", "env": "scene-play-v0", "goals.waypoint": "25"}
    assert configs.load(GOALS, overrides).goals.subgoal_steps == 25
    assert lines() == ADVICE[2:3]


def test_a_plain_config_with_a_former_name_is_told_the_name():
    config = configs.plain(configs.make())
    config["data"]["backup"] = config["data"].pop("n_step")
    with pytest.raises(UserError, match="config key data.backup is now called data.n_step"):
        configs.check(config)


def as_before(config):
    """A config as the version before the renames recorded it."""
    old = json.loads(json.dumps(config))
    old["data"]["backup"] = old["data"].pop("n_step")
    old["goals"]["negative"] = old["goals"].pop("negative_reward")
    old["goals"]["waypoint"] = old["goals"].pop("subgoal_steps")
    if old["networks"]["ranking"] == "target":
        old["networks"]["ranking"] = "slow"
    return old


@pytest.mark.parametrize(
    ("algorithm", "critic", "oldest", "older", "today"),
    [
        ("hiql", "ivl", "b510e9194ff3", "62a2c6d2a182", "c10754be1052"),
        ("qgf", "dqc", "4341085c5e56", "e1cd9f42ef6b", "d85eb26046eb"),
        ("rebrac", "td", "85757dd99ff4", "dee0049200b4", "0e48cae0d27a"),
        ("gcbc", "none", "bd80a66f53ad", "69fbe7790dd7", "44526b2e996a"),
    ],
)
def test_a_run_from_before_a_rename_is_recognised(
    tmp_path, lines, algorithm, critic, oldest, older, today
):
    """By the fingerprints that the version before wrote: today's, and those of former generations."""
    config = configs.make(algorithm, critic=critic)
    config.env, config.data.n_step, config.data.dir = "pointmaze-medium-navigate-v0", 7, "/d"
    plain = configs.plain(config)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": as_before(plain)}))
    read = RunConfig.read_record(path)["config"]
    assert read == plain and RunConfig(read).changes_to(plain) == []
    (line,) = lines()
    assert f"{path} has names of an older version: data.backup is now data.n_step" in line
    assert ("networks.ranking=slow is now target" in line) == (critic != "dqc")
    found = [fingerprint(RunConfig(read).identity(generation))[:12] for generation in range(3)]
    assert found == [oldest, older, today]
    other = {**plain, "goals": plain["goals"] | {"subgoal_steps": 99}}
    assert fingerprint(RunConfig(other).identity())[:12] != today
    before = plain["goals"]["subgoal_steps"]
    assert RunConfig(read).changes_to(other) == [f"goals.subgoal_steps: {before} -> 99"]


def test_a_run_with_former_names_is_advised_once_however_its_path_is_written(
    tmp_path, lines, monkeypatch
):
    """As `qgf evaluate runs/a --out=runs/b` reads it: by the user's path, and to copy it by its own."""
    from qgf_jax.runs.run import Run

    plain = configs.plain(configs.make("qgf", critic="dqc"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps({"config": as_before(plain)}))
    monkeypatch.chdir(tmp_path)
    record = RunConfig.read_record(Path("run/config.json"))
    Run(Path("run"), record["config"], {}, {}).beside("out").link()
    assert RunConfig.read_record(Path("out/config.json"))["config"] == plain
    (line,) = lines()
    assert line.startswith(f"qgf: advice: {tmp_path}/run/config.json has names of an older version")


@pytest.mark.parametrize("copied", [copy.copy, lambda config: config.copy_and_resolve_references()])
def test_a_copied_config_knows_its_keys(copied, lines):
    config = copied(configs.make("qgf", critic="dqc"))
    assert config.is_locked
    config.data.backup = 7
    assert config.data.n_step == 7 and lines() == ADVICE[:1]
    for section, known in ((config, "seeds"), (config.data, "n_steps")):
        with pytest.raises(UserError, match=f"unknown config key .*{known}x"):
            section[f"{known}x"] = 1


def test_what_a_resumed_run_may_change_and_what_hosts_may_differ_in_is_said_by_the_fields():
    plain = configs.plain(configs.make())
    flat = configs.flatten(plain)
    kept = RunConfig(plain).identity()
    may_change = {key for key in flat if key.startswith(("eval.", "wandb."))} | {
        "data.dir", "data.name", "data.mode", "train.steps", "train.steps_per_dispatch", "frozen.run",
        "train.log_every", "train.save_every", "train.keep", "train.check_replicas", "devices",
        "parallel", "train.calibrate",
    }  # fmt: skip
    fields = schema.fields("qgf", "iql")
    assert {key for key, field in fields.items() if field.may_change} == may_change
    assert not may_change & kept.keys()
    hosts = ("eval.", "wandb.", "data.dir", "data.name", "frozen.run")
    own = {key for key in flat if key.startswith(hosts)}
    assert flat.keys() - RunConfig(plain).shared().keys() == own


def test_every_key_of_a_section_has_help():
    for section in (schema._Root, schema._Sampler, *schema._SECTIONS.values()):
        for name, field in Field.declared_in(section).items():
            assert field.help and not field.help.endswith("."), (section, name)


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("nowhere.py", "no config file"),
        (f"{CONFIGS}/ogbench.py:cube_singel_small", "cube_single"),
        (f"{CONFIGS}/quickstart.py:small", "has no variants: leave :small out"),
    ],
)
def test_wrong_files_and_variants_are_explained(reference, hint):
    with pytest.raises(UserError, match=hint):
        configs.load(reference)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("c.data.backu = 3", "unknown config key 'data.backu'"),
        ("c.data.chnk = 3", "unknown config key 'data.chnk': did you mean 'data.chunk'"),
        ("c.data.chunk = = 3", r"mine\.py, line 4: SyntaxError"),
        ("c.data.chunk = 1 / 0", r"mine\.py, line 4: ZeroDivisionError: division by zero"),
        ("c.data.chunk = 'a'", "TypeError"),
        ("return None", "get_config returned no config"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(tmp_path, text, hint):
    file = tmp_path / "mine.py"
    file.write_text(
        "from qgf_jax import config\ndef get_config(**choice):\n    c = config.make(**choice)\n"
        f"    {text}\n    return c\n"
    )
    with pytest.raises(UserError, match=hint) as error:
        configs.load(str(file))
    assert "\n" not in str(error.value)


def test_a_config_survives_json(tmp_path):
    plain = configs.plain(configs.load(QUICKSTART))
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert RunConfig.read_record(tmp_path / "config.json") == plain
    assert RunConfig(plain).changes_to(plain) == []
    moved = plain | {"data": plain["data"] | {"dir": "elsewhere/", "name": "renamed"}}
    assert RunConfig(plain).changes_to(moved) == []


def test_configs_errors_and_environment_workers_need_no_jax():
    """A mistake must not wait for JAX, and a worker process must not carry it."""
    code = (
        "import sys, qgf_jax.cli.train, qgf_jax.envs.worker, qgf_jax.data.collect, qgf_jax.runs.run\n"
        "from qgf_jax import config\n"
        f"config.load({QUICKSTART!r})\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_method_of_a_package_that_is_missing_is_named():
    """Else its keys would be unknown, and a sound run would look like one of another config."""
    config = configs.plain(configs.make())
    with pytest.raises(UserError, match="unknown method 'mimic'"):
        RunConfig({**config, "algorithm": "mimic"}).identity(1)
    assert RunConfig({"algorithm": 3, "critic": None}).identity(1) is not None
