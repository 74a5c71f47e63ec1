"""Every number that a user can set has bounds; what lies outside is one line before anything runs."""

import functools
import math

import numpy as np
import pytest
from conftest import MAZE, tiny

from qgf_guide import bounds
from qgf_guide.bounds import Bound
from qgf_jax import cli, schema
from qgf_jax import config as configs
from qgf_jax.data.collect import collect
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms

HUGE = 10**400
INDEX, COUNT = "a whole number from 0 to 2147483647", "a whole number from 1 to 2147483647"
COUNTS = f"one or more numbers, each {COUNT}"
FINITE = "one or more numbers, each a finite number"
POSITIVE, SHARE = "a finite number above 0", "a number above 0 and at most 1"
OPEN = "a number above 0 and below 1"
MARGIN = "a number of at least 0 and below 1"
GOALS = "three probabilities that sum to 1: of the current row, of a later one of its trajectory, of any"
LONG = "1" + "0" * 49 + "… (401 characters)"

# key, text on the command line, what the line says it is, and what it must be
TEXTS = [
    ("data.action_clip", "1.5", "1.5", MARGIN),
    ("data.action_clip", "1", "1.0", MARGIN),
    ("data.action_clip", "-1e-9", "-1e-09", MARGIN),
    ("data.discount", "0", "0.0", SHARE),
    ("data.discount", "1.5", "1.5", SHARE),
    ("data.reward_scale", "0", "0.0", POSITIVE),
    ("data.reward_shift", "nan", "nan", "a finite number"),
    ("data.chunk", "0", "0", COUNT),
    ("data.n_step", "-1", "-1", INDEX),
    ("optimizer.learning_rate", "-1", "-1.0", POSITIVE),
    ("optimizer.learning_rate", "0", "0.0", POSITIVE),
    ("optimizer.learning_rate", "1e999", "inf", POSITIVE),
    ("optimizer.learning_rate", "1e39", "1e+39", POSITIVE),  # infinite in float32
    ("optimizer.learning_rate", "nan", "nan", POSITIVE),
    ("optimizer.learning_rate", str(HUGE), "inf", POSITIVE),
    ("optimizer.learning_rate", "true", "'true'", POSITIVE),
    ("optimizer.clip_norm", "-1", "-1.0", "a finite number of at least 0"),
    ("optimizer.tau", "5", "5.0", SHARE),
    ("optimizer.tau", "1e-50", "1e-50 (0.0 in float32)", SHARE),
    ("critics.iql.expectile", "2", "2.0", OPEN),
    ("critics.iql.expectile", "1", "1.0", OPEN),
    ("critics.iql.expectile", "0.999999999", "0.999999999 (1.0 in float32)", OPEN),
    ("networks.policy_hidden", "(0,)", "(0,)", COUNTS),
    ("networks.policy_hidden", "()", "()", COUNTS),
    ("networks.critic_hidden", "64,-64", "(64, -64)", COUNTS),
    ("networks.critic_hidden", "64,2.5", "(64, 2.5)", COUNTS),
    ("networks.ensemble", "0", "0", COUNT),
    ("eval.weights", "(1e999,)", "(inf,)", FINITE),
    ("eval.weights", "0,nan", "(0.0, nan)", FINITE),
    ("eval.weights", "", "()", FINITE),
    ("eval.weights", "a", "'a'", FINITE),
    ("eval.episodes", "500001", "500001", "a whole number from 1 to 500000"),
    ("goals.critic", "(0.5, 0.6, -0.1)", "(0.5, 0.6, -0.1)", GOALS),
    ("goals.critic", "(0.5, 0.6, 0.1)", "(0.5, 0.6, 0.1)", GOALS),
    ("goals.critic", "()", "()", GOALS),
    ("goals.actor", "(nan, 0, 1)", "(nan, 0, 1)", GOALS),
    ("seed", "-1", "-1", "a whole number from 0 to 4294967295"),
    ("seed", "4294967296", "4294967296", "a whole number from 0 to 4294967295"),
    ("seeds", "0", "0", COUNT),
    ("train.steps", str(HUGE), LONG, COUNT),
    ("train.steps", "9" * 5000, "inf", COUNT),
    ("train.steps", "2.5", "2.5", COUNT),
    ("train.steps", "True", "'True'", COUNT),
    ("train.batch_size", "-256", "-256", COUNT),
    ("policy.time_grid", "-1", "-1", INDEX),
    ("sampler.cap", "-1", "-1.0", POSITIVE),
    ("sampler.num_steps", "0", "0", COUNT),
    ("devices", "0", "0", "all or a whole number of at least 1"),
    ("devices", "two", "two", "all or a whole number of at least 1"),
]


def made():
    config = configs.make()
    config.env = "cube-single-play-singletask-v0"
    return config


def resolved(**changes):
    """Plain dicts with values that a ConfigDict may not take."""
    config = configs.plain(made())
    for key, value in changes.items():
        *sections, name = key.split(".")
        functools.reduce(dict.get, sections, config)[name] = value
    return config


def line_of(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize(("key", "text", "shown", "wanted"), TEXTS)
def test_text_out_of_bounds_is_one_line(key, text, shown, wanted):
    line = line_of(configs._override, made(), key, text)
    assert line == f"config key {key} is {shown}; it must be {wanted}"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train.steps": True}, f"config key train.steps is True; it must be {COUNT}"),
        ({"train.steps": HUGE}, f"config key train.steps is {LONG}; it must be {COUNT}"),
        (
            {"networks.policy_hidden": (8, True)},
            f"config key networks.policy_hidden is (8, True); it must be {COUNTS}",
        ),
        (
            {"eval.weights": (0.0, math.inf)},
            f"config key eval.weights is (0.0, inf); it must be {FINITE}",
        ),
        (
            {"data.standardize": 1},
            "config key data.standardize is 1; it must be true or false",
        ),
        (
            {"seed": 2**32 - 2, "seeds": 3},
            "config keys seed and seeds are 4294967294 and 3; the last seed, seed + seeds - 1, "
            "must be below 4294967296",
        ),
        (
            {"wandb.mode": "foo"},
            "config key wandb.mode is 'foo': it must be one of disabled, offline, online",
        ),
        ({"wandb.mode": "onlin"}, "config key wandb.mode is 'onlin': did you mean 'online'?"),
        ({"sampler.units": "varianc"}, "config key sampler.units is 'varianc': did you mean"),
        ({"networks.activation": "gelo"}, "config key networks.activation is 'gelo': did you mean"),
        (
            {"eval.simulator": "webots"},
            "config key eval.simulator is 'webots': it must be one of jax, mujoco",
        ),
        ({"train.stepz": 3}, "unknown config key 'train.stepz': did you mean 'train.steps'?"),
        ({"critic": "dqn"}, "unknown critic of qgf 'dqn': did you mean 'dqc'?"),
    ],
)
def test_config_that_python_made_is_checked_too(changes, line):
    found = line_of(configs.check, resolved(**changes))
    assert found == line if line.endswith("?") or "must be" in line else found.startswith(line)


def test_sound_values_at_the_edges_are_taken():
    edges = {
        "seed": 2**32 - 3, "seeds": 3, "optimizer.tau": 1.0, "data.discount": 1.0,
        "data.action_clip": 0.0, "eval.weights": (-1.0, np.float32(3.0)),
        "networks.policy_hidden": (1,), "train.steps": 2**31 - 1,
        "optimizer.learning_rate": 1e-30, "critics.iql.expectile": 1e-6, "goals.actor": (0, 1, 0),
        "devices": "8",
    }  # fmt: skip
    configs.check(resolved(**edges))


def test_a_run_that_python_begins_is_checked_before_it_has_a_folder(tmp_path):
    from qgf_jax.training.loop import pretrain

    config = tiny(**{"optimizer.tau": 1.0})
    config["optimizer"]["tau"] = 5.0
    assert line_of(pretrain, config, tmp_path / "run").startswith("config key optimizer.tau is 5.0")
    del config["optimizer"]["tau"]
    assert "optimizer.tau is missing" in line_of(pretrain, config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"episodes": 0}, f"--episodes is 0; it must be {COUNT}"),
        ({"seed": -1}, "--seed is -1; it must be a whole number from 0 to 4294967295"),
        # Its validation episodes would be other seeds' training episodes: NumPy pads with zeros.
        ({"seed": 2**32}, "--seed is 4294967296; it must be a whole number from 0 to 4294967295"),
    ],
)
def test_collecting_from_python_is_checked_too(changes, line, tmp_path):
    assert line_of(collect, MAZE, **{"episodes": 1, "out": tmp_path / "x", **changes}) == line
    assert not list(tmp_path.iterdir())


def test_config_of_an_older_version_lacks_keys_and_is_taken():
    config = resolved()
    del config["precision"], config["data"]["window"]
    configs.check(config)


def test_a_file_that_sets_values_itself_is_checked(tmp_path):
    (tmp_path / "c.py").write_text(
        "from qgf_jax import config as configs\n"
        "def get_config():\n"
        "    config = configs.make()\n"
        "    config.env = 'cube-single-play-singletask-v0'\n"
        "    config.data.update(action_clip=1.5)\n"
        "    return config\n"
    )
    line = line_of(configs.load, str(tmp_path / "c.py"))
    assert line == f"config key data.action_clip is 1.5; it must be {MARGIN}"


def test_every_value_of_every_method_is_declared_with_bounds_that_hold_its_default():
    for name, row in algorithms.METHODS.items():
        for critic in row.critics:
            for preset in configs.PRESETS:
                flat = configs.flatten(configs.make(name, preset, critic))
                fields = schema.fields(name, critic)
                assert fields.keys() == flat.keys()
                for key, value in flat.items():
                    assert fields[key].bound.holds(value), (name, critic, preset, key)
        for field in row.all_options.values():
            assert field.bound.holds(field.default)
        known = {k: v for critic in row.critics for k, v in schema.fields(name, critic).items()}
        for key, values in row.by_env.items():
            assert [v for v in values.values() if not known[key].bound.holds(v)] == []
        assert not row.weights or Bound.of(bounds.Weights).holds(row.weights)
    assert schema.fields("qgf", "iql")["preset"].bound.words == tuple(configs.PRESETS)


def test_a_number_without_bounds_cannot_be_declared():
    for kind in (int, float, tuple[int, ...]):
        with pytest.raises(LookupError, match=r"qgf_guide/bounds\.py"):
            Bound.of(kind)


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (bounds.Finite, (0, -3e38, np.float32(2)), (math.inf, -math.inf, math.nan, 3.5e38, "1", None)),
        (bounds.Positive, (1e-45, 3e38), (0, -0.0, 1e-46, True)),
        (bounds.NonNegative, (0, -0.0, 1e-46), (-1e-46, -1)),
        (bounds.OpenFraction, (1e-45, 1 - 6e-8), (0, 1, 1 - 1e-8)),
        (bounds.Share, (1, 1e-45), (0, 1 + 1e-6)),
        (bounds.Margin, (0, 1 - 6e-8), (1, 1 - 1e-9)),
        (bounds.Count, (1, np.int64(2), 2**31 - 1), (0, 1.0, True, 2**31, HUGE)),
        (bounds.Seed, (0, 2**32 - 1), (-1, 2**32, False, 0.0)),
        (bounds.Counts, ((1,), [1, 2]), ((), (0,), 1, "1", (1.0,))),
    ],
)  # fmt: skip
def test_kinds_hold_what_they_say(kind, inside, outside):
    bound = Bound.of(kind)
    assert [x for x in inside if not bound.holds(x)] == []
    assert [x for x in outside if bound.holds(x)] == []


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (bounds.Count, "1e6", 1_000_000),
        (bounds.Finite, "2", 2.0),
        (bounds.Counts, "(16, 8)", (16, 8)),
        (bounds.Counts, "[16,8,]", (16, 8)),
        (bounds.Counts, "32", (32,)),
        (bounds.Weights, "-1,0", (-1.0, 0.0)),
        (bounds.OptionalGoals, "0,1,0", (0, 1, 0)),
        (bounds.OptionalGoals, "()", ()),
        (bounds.Goals, "0,1,0", (0.0, 1.0, 0.0)),
        (bool, "FALSE", False),
    ],
)
def test_text_is_read_as_its_kind(kind, text, value):
    found = Bound.of(kind).read("it", text)
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("collect --env=x --episodes=-1", f"--episodes: the value is -1; it must be {COUNT}"),
        ("collect --env=x --episodes=0", f"--episodes: the value is 0; it must be {COUNT}"),
        ("collect --env=x --workers=-2", f"--workers: the value is -2; it must be {COUNT}"),
        ("collect --env=x --seed -1", "--seed: the value is -1; it must be a whole number from 0"),
        ("collect --env=x --seed=4294967296", "--seed: the value is 4294967296; it must be"),
        ("evaluate --workdir=x --weights=nan", f"--weights: the value is (nan,); it must be {FINITE}"),
        ("evaluate --workdir=x --weights -1,nan", "--weights: the value is (-1.0, nan); it must be"),
        ("evaluate --workdir=x --weights 1e999", "--weights: the value is (inf,); it must be"),
        ("evaluate --workdir=x --weights=", "--weights: the value is (); it must be"),
        ("evaluate --workdir=x --best_of 0,4", "--best_of: the value is (0, 4); it must be"),
        ("evaluate --workdir=x --best_of -1", f"--best_of: the value is (-1,); it must be {COUNTS}"),
        ("evaluate --workdir=x --tasks -1,2", f"--tasks: the value is (-1, 2); it must be {COUNTS}"),
        ("evaluate --workdir=x --episodes=-1", "--episodes: the value is -1; it must be a whole"),
        ("evaluate --workdir=x --selection_episodes=-1", "--selection_episodes: the value is -1; it"),
        ("evaluate --workdir=x --videos=-1", "--videos: the value is -1; it must be a whole number"),
        ("evaluate --workdir=x --workers=0", f"--workers: the value is 0; it must be {COUNT}"),
        ("evaluate --workdir=x --step=-1", f"--step: the value is -1; it must be {INDEX}"),
        ("evaluate --workdir=x --envs=jax:-1", f"--envs: the value is -1; it must be {INDEX}"),
        ("evaluate --workdir=x --envs=-1", f"--envs: the value is -1; it must be {INDEX}"),
        ("train --config=x --cpu_threads=0", f"--cpu_threads: the value is 0; it must be {COUNT}"),
        ("import-official x --config=x --workdir=x --cpu_threads=-1", "--cpu_threads: the value is"),
    ],
)  # fmt: skip
def test_flags_out_of_bounds_are_one_line(words, line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"qgf: error: argument {line}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_flag_of_a_command_reads_a_kind_or_a_text(command, monkeypatch):
    """A bare int or float is a number without bounds."""
    parsers = []

    def parse(self, args=None, namespace=None):
        parsers.append(self)
        raise UserError("seen enough")

    monkeypatch.setattr(cli.Parser, "parse_known_args", parse)
    with pytest.raises(SystemExit):
        cli.main([command])
    (parser,) = parsers
    assert [a.dest for a in parser._actions if a.type in (int, float)] == []
    assert all(a.type is not None for a in parser._actions if isinstance(a.default, int | float)
               and not isinstance(a.default, bool))  # fmt: skip


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["--weights", "-1,0"], ["--weights=-1,0"]),
        (["--weights", "-.5", "--x"], ["--weights=-.5", "--x"]),
        (["--weights", "-inf"], ["--weights=-inf"]),
        (["--config.a.b", "-1"], ["--config.a.b=-1"]),
        (["--config.a.b", "x.pkl", "y.pkl"], ["--config.a.b=x.pkl", "y.pkl"]),
        (["--weights=1", "-1"], ["--weights=1", "-1"]),
        (["--json", "--step", "3"], ["--json", "--step", "3"]),
        (["--config.a.b"], ["--config.a.b"]),
        (["--config.a.b", "--workdir=x"], ["--config.a.b", "--workdir=x"]),
        (["--rescue", "-1dir"], ["--rescue", "-1dir"]),
        (["--rescue", "-info"], ["--rescue", "-info"]),
        (["--", "-1"], ["--", "-1"]),
    ],
)
def test_value_after_a_blank_is_the_flags(words, joined):
    assert cli._joined(words) == joined


def test_negative_values_after_a_blank_reach_the_command(capsys):
    parser = cli.Parser("qgf x", "")
    parser.add_argument("--weights", type=bounds.Weights)
    parser.add_argument("params")
    flags, rest = parser.parse_known_args(["--weights", "-1,0", "--config.seed", "3", "file"])
    assert flags.weights == (-1.0, 0.0) and flags.params == "file"
    assert cli.Parser.parse_overrides(rest) == {"seed": "3"}


def test_options_of_methods_and_policies_are_bounded(run_folder):
    import qgf_jax

    for text, line in {
        "qgf_smooth:sigma=nan": "option sigma of qgf_smooth is nan; it must be a finite number",
        "qgf_smooth:sigma=-1": "option sigma of qgf_smooth is -1.0; it must be a finite number of",
        "qgf:cap=0": "option cap of qgf is 0.0; it must be a finite number above 0",
        "qgf_regularized:epsilon=1e999": "option epsilon of qgf_regularized is inf; it must be",
    }.items():
        assert line_of(algorithms.parse, text).startswith(line)
    weight = line_of(qgf_jax.load_policy, run_folder, weight=math.nan)
    assert weight == "weight is nan; it must be a finite number"
    for wrong in ({"best_of": 2.5}, {"seed": 0.5}, {"step": -1}, {"best_of": 0}):
        said = line_of(qgf_jax.load_policy, run_folder, **wrong)
        assert said.startswith(f"{next(iter(wrong))} is {next(iter(wrong.values()))}; it must be a")
    samples = line_of(qgf_jax.load_policy, run_folder, "qgf_smooth", samples=True)
    assert samples == f"option samples of qgf_smooth is True; it must be {COUNT}"
