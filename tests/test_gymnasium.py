"""Gymnasium's environments: names, episodes that repeat, what is refused, what tables make of them."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import jax
import numpy as np
import pytest
import recordings
from conftest import ROOT, command, tiny

import qgf_jax
from qgf_jax import cli
from qgf_jax.data.converted import Manifest
from qgf_jax.data.load import Loaded
from qgf_jax.data.replay import replay
from qgf_jax.data.shards import Source
from qgf_jax.envs import spaces
from qgf_jax.envs.carried import Carried
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import UserError
from qgf_jax.evaluation.summary import summarize
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import versions

MODULE = '''
"""Environments as a lab might write them."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import TimeLimit


class Arm(gymnasium.Env):
    """A point that is pushed, seen as a dictionary."""

    made = 0

    def __init__(self, actions=None, discrete=False):
        Arm.made += 1
        box = Box(-10, 10, (2,), np.float32)
        self.observation_space = Dict({"z_goal": box, "at": Dict({"y": box, "x": box})})
        self.action_space = Discrete(3) if discrete else Box(
            np.array([0, -10], np.float32), np.array([2, 10], np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.x = self.x + 0.01 * action
        self.steps += 1
        over = self.steps == 4
        # Said at the end alone, as by many, and then under this name.
        said = {"is_success": bool(self.x[0] > 0.0)} if over else {}
        return self._seen(), float(self.x[0]), over, False, said

    def _seen(self):
        return {"z_goal": np.zeros(2, np.float32), "at": {"x": self.x, "y": -self.x}}

    def set_state(self, qpos, qvel):
        self.x = qpos


class Filmed(Arm):
    """The same with a camera, whose picture is no row of numbers."""

    def __init__(self):
        super().__init__()
        self.observation_space["camera"] = Box(0, 255, (4, 4, 3), np.uint8)

    def _seen(self):
        return {"camera": self.render(), **super()._seen()}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


def make_filmed(render_mode=None):
    return TimeLimit(Filmed(), 50)


def make_arm():
    return TimeLimit(Arm(), 50)


def make_endless():
    return Arm()


def make_buttons():
    return TimeLimit(Arm(discrete=True), 50)


def make_nothing():
    return 3


gymnasium.register("lab/Arm-v1", entry_point="arms_of_a_lab:Arm", max_episode_steps=50)
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The module as if somebody had installed it; workers, which are other processes, see it too."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "arms_of_a_lab.py").write_text(MODULE)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    yield tmp_path
    sys.modules.pop("arms_of_a_lab", None)
    gymnasium.registry.pop("lab/Arm-v1", None)


@pytest.mark.parametrize(
    ("name", "family", "dataset"),
    [
        ("Hopper-v5", "gymnasium", "Hopper-v5"),
        ("gymnasium:Hopper-v5", "gymnasium", "Hopper-v5"),
        ("ALE/Pong-v5", "gymnasium", "ALE-Pong-v5"),
        ("gymnasium_robotics:FetchReach-v4", "gymnasium", "FetchReach-v4"),
        ("gymnasium:highway-fast-v0", "gymnasium", "highway-fast-v0"),
        ("my_lab.envs:make_arm", "gymnasium", "make_arm"),
        ("gymnasium:my_lab.envs:make_arm", "gymnasium", "make_arm"),
        ("minari:mujoco/hopper/medium-v0", "minari", "mujoco-hopper-medium-v0"),
        ("cube-single-play-singletask-task2-v0", "", "cube-single-play-v0"),
        ("ogbench:cube-single-play-v0", "", "cube-single-play-v0"),
    ],
)
def test_names_say_their_family_and_come_back(name, family, dataset):
    parsed = EnvName.parse(name)
    assert (parsed.family, parsed.dataset) == (family, dataset)
    assert Family.of(name) is Family.of(parsed)
    again = EnvName.parse(parsed.full)
    assert again == parsed and again.full == parsed.full and again.label == parsed.label
    for task in parsed.tasks:  # as a worker is told
        assert EnvName.parse(parsed.with_task(task).full) == parsed.with_task(task)


def test_the_explicit_name_is_the_plain_one_where_that_is_enough():
    assert EnvName.parse("gymnasium:Hopper-v5") == EnvName.parse("Hopper-v5")
    assert EnvName.parse("gymnasium:highway-fast-v0").full == "gymnasium:highway-fast-v0"
    assert EnvName.parse("gymnasium:highway-fast-v0").env_id == "highway-fast-v0"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Hopper", "nor an id of Gymnasium's, such as Hopper-v5"),
        ("cube-v0", "singletask"),
        ("gymnasion:Hopper-v5", "family of environments 'gymnasion'.*did you mean 'gymnasium'"),
        ("minary:a-v0", "did you mean 'minari'"),
        ("nowhere:Hopper", "no module nowhere"),
        ("json:Arm.make", "after the module json comes a function, as make_arm"),
        ("gymnasium:Hopper", "neither an id of Gymnasium's"),
        ("minari:hopper", "no id of a Minari dataset"),
        ("minari:no/such-v0", "there is no such dataset"),
        ("Hoper-v5", "did you mean 'Hopper-v5'"),
        ("Nothing/Alike-v77", "PACKAGE:Id-v0"),
        ("no_such_package:Hopper-v5", "no module no_such_package"),
        ("json:no_such_function", "cannot be made .AttributeError"),
        ("json:loads", "cannot be made .TypeError"),
        ("arms_of_a_lab:make_nothing", "gives a int"),
        ("arms_of_a_lab:make_endless", "no limit of steps"),
        ("arms_of_a_lab:make_buttons", "actions are a space Discrete"),
        ("arms_of_a_lab:make_filmed", "'camera': images of shape .* choose other parts"),
        ("Taxi-v4", "observations: a space Discrete"),
        ("CartPole-v1", "actions are a space Discrete"),
    ],
)
def test_wrong_names_and_environments_are_explained_in_one_line(lab, name, hint, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(lab))
    with pytest.raises(UserError, match=hint) as caught:
        Family.of(name).make(EnvName.parse(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Hoper-v5", "Hopper", "gymnasion:Hopper-v5", "nowhere:make"])
def test_a_mistyped_name_answers_at_once_and_without_a_simulator(name):
    code = (
        "import sys, time\n"
        "from qgf_jax.envs.families import EnvName, Family\n"
        "started = time.process_time()\n"
        "try:\n"
        f"    Family.of({name!r}).labels(EnvName.parse({name!r}))\n"
        "except ValueError as error:\n"
        "    print(time.process_time() - started, 'mujoco' in sys.modules)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, simulator = said.stdout.split()
    assert float(seconds) < 0.5 and simulator == "False"


def test_a_run_records_the_versions_of_the_package_that_makes_its_environment():
    assert {"gymnasium", "mujoco"} <= versions("Hopper-v5").keys()
    assert versions("packaging:Some-v0")["packaging"] == importlib.metadata.version("packaging")
    assert versions("packaging.version:make").keys() == versions("packaging:Some-v0").keys()
    assert "ogbench" in versions("cube-single-play-v0")


def test_parsing_imports_no_simulator():
    names = ["Hopper-v5", "gymnasium_robotics:FetchReach-v4", "a.b:make", "minari:a/b-v0"]
    code = (
        "import sys\nfrom qgf_jax.envs.families import EnvName\n"
        f"for name in {names}: EnvName.parse(name)\n"
        "print({'gymnasium', 'mujoco', 'minari', 'jax'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


@pytest.mark.parametrize("name", ["arms_of_a_lab:make_arm", "arms_of_a_lab:lab/Arm-v1"])
def test_dictionaries_asymmetric_bounds_and_success_of_a_labs_own(lab, name):
    low, high = Family.of(name).bounds(EnvName.parse(name))
    assert low.tolist() == [0, -10] and high.tolist() == [2, 10]
    with EnvPool(name, 2, 2) as pool:
        assert (pool.obs_width, pool.action_dim) == (6, 2)
        first = pool.reset([0, 1], [7, 7])
        np.testing.assert_array_equal(first[0], first[1])
        np.testing.assert_array_equal(first[0, :2], -first[0, 2:4])  # at/x, at/y, z_goal: sorted
        chunk = np.full((1, 3, 2), [9.0, -99.0], np.float32)  # clipped, or the environment objects
        obs, (some,) = pool.step([0], chunk)
        np.testing.assert_allclose(obs[0, :2], first[0, :2] + [0.06, -0.3], rtol=1e-5)
        assert (some.done, some.success) == (False, None)
        obs, (rest,) = pool.step([0], chunk)
        assert (rest.steps, rest.done, rest.success) == (1, True, float(obs[0, 0] > 0))


def test_the_environment_of_a_minari_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    pytest.importorskip("minari")
    spec = {"id": "Pendulum-v1", "kwargs": {"g": 9.0}, "max_episode_steps": 30}
    recordings.write_minari(
        "lab/pole-v0", recordings.episodes(), metadata={"env_spec": json.dumps(spec)}
    )
    name = "minari:lab/pole-v0"
    made = Family.of(name).make(EnvName.parse(name))
    assert made.env.unwrapped.g == 9.0
    made.reset(0)
    assert [made.step(np.zeros(1))[2] for _ in range(30)].index(True) == 29
    with EnvPool(name, 1, 1) as pool:
        assert (pool.obs_width, pool.action_dim) == (3, 1)
    for bad in ("os:abort", "os:Abort-v0"):
        folder = tmp_path / "lab" / "pole-v0" / "data" / "metadata.json"
        found = json.loads(folder.read_text())
        folder.write_text(json.dumps({**found, "env_spec": json.dumps({**spec, "id": bad})}))
        with pytest.raises(UserError, match="what to import is not left to data"):
            Family.of(name).make(EnvName.parse(name))


def record_pendulum(path, episodes=8, steps=40):
    """Rows of noisy episodes in Pendulum-v1, cut off after `steps`; torques stay in [-1, 1]."""
    made, rng = (
        Family.of("Pendulum-v1").make(EnvName.parse("Pendulum-v1")),
        np.random.default_rng(0),
    )
    rows = []
    for episode in range(episodes):
        obs = made.reset(episode)
        for _ in range(steps):
            action = np.clip(-0.3 * obs[2:] + rng.normal(0, 0.3, 1), -1, 1).astype(np.float32)
            after, reward, _, _ = made.step(action)
            rows.append((obs, action, False, reward))
            obs = after
        rows.append((obs, np.zeros(1, np.float32), True, 0.0))
    observations, actions, terminals, rewards = map(np.array, zip(*rows, strict=True))
    np.savez(
        path,
        observations=observations,
        actions=actions,
        terminals=terminals,
        rewards=rewards.astype(np.float32),
        masks=np.ones(len(rows), np.float32),
    )
    return path


@pytest.fixture(scope="module")
def pendulum_run(tmp_path_factory):
    """A folder with data, and a run that was trained and evaluated on them by the commands."""
    folder = tmp_path_factory.mktemp("pendulum")
    record_pendulum(folder / "swings.npz")
    run = folder / "run"
    config = f"--config={ROOT}/experiments/configs/gymnasium.py:tiny"
    words = ["--config.env=Pendulum-v1", "--config.data.name=swings", f"--config.data.dir={folder}"]
    cli.main(["train", config, *words, f"--workdir={run}"])
    cli.main(["train", config, *words, f"--workdir={run}"])  # resumes, with nothing left to do
    evaluate(run)
    return folder


def evaluate(run):
    words = ["--methods=reference,qgf", "--weights=0.1,1", "--episodes=2"]
    cli.main(["evaluate", f"--workdir={run}", *words])


def test_from_rows_to_a_report(pendulum_run, capsys):
    run = pendulum_run / "run"
    cli.main(["report", f"--workdir={run}"])
    table = capsys.readouterr().out
    assert "return [95 %]" in table and "success" not in table and "score" not in table
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert {line["env"] for line in lines} == {"Pendulum-v1"} and len(lines) == 12
    assert all("success" not in line and line["length"] == 200 for line in lines)
    rows = json.loads((run / "report" / "summary.json").read_text())["rows"]
    assert all(row["success"] is None and "score" not in row for row in rows)
    page = (run / "report" / "index.html").read_text()
    assert (
        ">return [95 %]</th>" in page
        and ">success [95 %]</th>" not in page
        and "Wilson" not in page
    )
    assert (run / "report" / "sweep.png").stat().st_size > 1000
    assert sum(row["selected"] for row in rows if row["split"] == "report") == 2
    before = (run / "episodes.jsonl").read_bytes()
    evaluate(run)
    assert (run / "episodes.jsonl").read_bytes() == before  # nothing is played again


def test_a_report_has_scores_where_the_data_give_references(pendulum_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(pendulum_run / "run", run)
    record = json.loads((run / "config.json").read_text())
    record["dataset"]["references"] = [-2000.0, 0.0]
    (run / "config.json").write_text(json.dumps(record))
    cli.main(["report", f"--workdir={run}"])
    assert "score" in capsys.readouterr().out
    for row in json.loads((run / "report" / "summary.json").read_text())["rows"]:
        for key, value in row["return"].items():
            np.testing.assert_allclose(row["score"][key], (value + 2000) / 2000)


def test_the_weight_goes_by_return_where_there_is_no_success():
    def line(weight, episode, returned, **more):
        return {
            "env": "Pendulum-v1", "task": 1, "method": "qgf", "options": {}, "best_of": 1,
            "weight": weight, "split": ("selection", "report")[episode % 2], "seed": 0, "step": 9,
            "episode": episode, "return": returned, "length": 5, **more,
        }  # fmt: skip

    episodes = range(8)
    lines = [line(w, e, 10.0 * w + e) for w in (0.0, 1.0, 3.0) for e in episodes]
    rows = summarize(lines, (0.0, 20.0))
    assert {row["weight"] for row in rows if row["selected"]} == {3.0}
    for row in rows:
        assert row["success"] is None
        for key, value in row["return"].items():
            assert row["score"][key] == value / 20.0
    # Where one episode says so, what does not say so is none.
    told = summarize([*lines[:-1], line(3.0, 7, 37.0, success=1.0)])
    best = next(r for r in told if (r["weight"], r["split"]) == (3.0, "report"))
    assert best["success"]["mean"] == 0.25 and "score" not in best


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (
            {"observations": np.zeros((328, 4), np.float32)},
            "observations are 4 wide, Pendulum-v1 has 3",
        ),
        ({"actions": np.full((328, 2), 0.5, np.float32)}, "actions are 2 wide, Pendulum-v1 has 1"),
        ({"rewards": None}, "key 'rewards' is missing"),
    ],
)
def test_data_of_another_environment_are_refused(tmp_path, change, hint):
    with np.load(record_pendulum(tmp_path / "swings.npz")) as file:
        columns = {**file, **change}
    np.savez(tmp_path / "swings.npz", **{k: v for k, v in columns.items() if v is not None})
    config = tiny(env="Pendulum-v1", **{"data.dir": str(tmp_path), "data.name": "swings"})
    with pytest.raises(UserError, match=hint):
        Loaded.of(config)


def test_actions_beyond_the_bounds_are_refused(lab):
    """Of an arm whose first action is not negative."""
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(20, 6)).astype(np.float32),
        "actions": rng.uniform(0, 1, (20, 2)).astype(np.float32),
        "terminals": np.arange(20) % 10 == 9,
        "rewards": np.zeros(20, np.float32),
    }
    config = tiny(
        env="arms_of_a_lab:make_arm", **{"data.dir": str(lab), "data.name": "arm", "data.chunk": 1}
    )
    np.savez(lab / "arm.npz", **columns)
    Loaded.of(config)
    columns["actions"][7, 0] = -0.5
    np.savez(lab / "arm.npz", **columns)
    with pytest.raises(
        UserError, match="number 0 of the action in row 7 is -0.5, the environment takes 0 to 2"
    ):
        Loaded.of(config)


def record_arm(folder, chosen="z_goal,at/x"):
    """Episodes of the arm as a Minari dataset, of which some parts are converted; the folder."""
    name = "arms_of_a_lab:make_arm"
    made, rng = Family.of(name).make(EnvName.parse(name)), np.random.default_rng(0)
    episodes = []
    for seed in range(5):
        actions = rng.uniform([0, -10], [2, 10], (4, 2)).astype(np.float32)
        seen = [made.reset(seed)]
        steps = [made.step(action) for action in actions]
        observations = np.array(seen + [step[0] for step in steps])
        rewards = np.array([step[1] for step in steps])
        episodes.append(recordings.Played(observations, actions, rewards, terminated=True))

    def observe(rows):
        x, y, goal = np.split(rows, 3, axis=1)
        return {"at": {"x": x, "y": y}, "z_goal": goal}

    spaces = made.env.observation_space, made.env.action_space
    dataset = {"observation_space": spaces[0], "action_space": spaces[1], "observe": observe}
    recordings.write_minari("lab/arm-v0", episodes, **dataset)
    words = [f"--observations={chosen}", f"--out={folder}", "--name=arm"]
    cli.main(["convert", "minari:lab/arm-v0", *words])
    return folder / "arm"


@pytest.fixture
def arm(lab, monkeypatch):
    """The folder of data whose observations are z_goal and then at/x."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(lab / "minari"))
    pytest.importorskip("minari")
    return record_arm(lab)


@pytest.mark.whole
def test_parts_that_were_chosen_of_a_dictionary_are_what_is_seen_from_data_to_films(arm, capsys):
    run, env = arm.parent / "run", "arms_of_a_lab:make_filmed"
    words = [f"--config={ROOT}/tests/tiny_config.py", f"--config.env={env}"]
    words += ["--config.data.name=arm", f"--config.data.dir={arm.parent}", "--config.data.chunk=1"]
    cli.main(["train", *words, f"--workdir={run}"])
    evaluation = ["--methods=reference", "--episodes=1", "--workers=1", "--videos=1"]
    cli.main(["evaluate", f"--workdir={run}", *evaluation])
    assert len([*(run / "report" / "videos").glob("*.gif")]) == 1
    loaded = LoadedRun.open(run)
    assert loaded.run.env.parts == (("z_goal", 2), ("at/x", 2))
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if line["split"] == "report")
    assert line["env"] == env
    played, act = Family.of(env).make(loaded.run.env), loaded.actor("reference")
    obs, total = played.reset(1_000_000 + line["episode"]), 0.0
    raw = played.env.unwrapped
    for t in range(line["length"]):
        np.testing.assert_array_equal(obs, [0, 0, *raw.x])
        identity = np.array([1, line["episode"], t], np.int32)
        action = np.asarray(act(loaded.params_of(0), obs, identity, np.float32(0)))[0]
        obs, reward, *_ = played.step(action)
        total += reward
    np.testing.assert_allclose(line["return"], total, atol=1e-5)
    policy, key = qgf_jax.load_policy(run, method="reference"), jax.random.key(0)
    seen = raw._seen()
    np.testing.assert_array_equal(policy(seen, key), policy(obs, key))
    several = {"at": {"x": np.tile(raw.x, (3, 1))}, "z_goal": np.zeros((3, 2))}
    np.testing.assert_array_equal(policy(several, key), policy(np.tile(obs, (3, 1)), key))
    for wrong, hint in [
        ({"at": seen["at"]}, "observation 'z_goal' is missing"),
        ({**seen, "at": {"x": raw.x[:1]}}, "observation 'at/x' of shape .1,.: the run wants .2."),
        ({**seen, "z_goal": np.zeros((3, 2))}, "with the same B for all"),
    ]:
        with pytest.raises(UserError, match=hint):
            policy(wrong, key)


def test_an_environment_is_made_once_for_its_data(arm):
    env = "arms_of_a_lab:make_arm"
    module = sys.modules["arms_of_a_lab"]
    before = module.Arm.made
    config = tiny(env=env, **{"data.dir": str(arm.parent), "data.name": "arm", "data.chunk": 1})
    loaded = Loaded.of(config)
    assert module.Arm.made == before + 1
    assert loaded.spec["state"] == (4,) and loaded.spec["action_scale"] == (1.0, 10.0)


def test_parts_are_replayed_as_they_were_recorded(arm):
    source, env = Source.open(arm), "arms_of_a_lab:make_arm"
    rows = source.read(0, int(source.slices[-1]))
    rows.info.update(qpos=rows.observations[:, 2:], qvel=rows.observations[:, :2])
    Manifest.write(arm.parent / "states", [("all", rows)], about=source.about)
    found = replay(arm.parent / "states", env)
    assert found["sound"] and found["observations"]["largest"] < 1e-5


BOX = gymnasium.spaces.Box(-1, 1, (4,))
NESTED = gymnasium.spaces.Dict({"a": gymnasium.spaces.Dict({"b": BOX}), "c": BOX})


@pytest.mark.parametrize(
    ("space", "data", "widths"),
    [
        (NESTED, [], (("a/b", 4), ("c", 4))),
        (NESTED, [["observations", 8]], (("a/b", 4), ("c", 4))),  # D4RL's one box
        (NESTED, [["c", 4], ["a/b", 4]], (("c", 4), ("a/b", 4))),
        (NESTED, [["c", 4]], (("c", 4),)),
        (BOX, [["c", 2], ["object", 2]], (("", 4),)),  # there is nothing to choose from
        (BOX, [["observations", 4]], (("", 4),)),
        (BOX, "nonsense", (("", 4),)),
    ],
)
def test_what_is_seen_of_a_space_is_what_the_data_name(space, data, widths):
    assert spaces.Parts.as_in_data("here", space, spaces.named(data)).widths == widths


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        (
            ["object", 3],
            "have 3 numbers in 'object', the environment's have no such part, but at/x,",
        ),
        (["at/x", 3], "have 3 numbers in 'at/x', the environment's have 2: these are another"),
    ],
)
def test_parts_that_an_environment_lacks_are_named_before_training(arm, part, hint, capsys):
    source, folder = Source.open(arm), arm.parent / "other"
    rows = source.read(0, int(source.slices[-1]))
    rows = rows._replace(observations=rows.observations[:, :3])
    Manifest.write(folder, [("all", rows)], about={"observations": [part]})
    words = [f"--config={ROOT}/experiments/configs/gymnasium.py:tiny", "--config.data.name=other"]
    words += [f"--config.data.dir={arm.parent}", "--config.env=arms_of_a_lab:make_arm"]
    capsys.readouterr()
    assert command("train", *words, f"--workdir={arm.parent / 'run'}") == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and hint in said and not (arm.parent / "run").exists()


WITHOUT = """
import sys
sys.modules["ogbench"] = None
from qgf_jax import cli
cli.main(sys.argv[1:])
"""


@pytest.mark.whole
def test_without_ogbench_the_rest_works_and_its_names_say_what_to_install(pendulum_run):
    def run(*words):
        command = [sys.executable, "-c", WITHOUT, *words]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stderr.strip()

    config = f"--config={ROOT}/experiments/configs/gymnasium.py:tiny"
    words = [config, "--config.data.name=swings", f"--config.data.dir={pendulum_run}"]
    workdir = f"--workdir={pendulum_run / 'without'}"
    code, said = run("train", *words, "--config.env=Pendulum-v1", workdir)
    assert code == 0, said
    code, said = run("evaluate", workdir, "--methods=reference", "--episodes=1")
    assert code == 0, said
    assert run("report", workdir)[0] == 0
    for words_of in (
        ["train", *words, "--config.env=cube-single-play-singletask-v0", f"{workdir}2"],
        ["collect", "--env=cube-single-play-v0", f"--out={pendulum_run / 'cubes'}"],
    ):
        code, said = run(*words_of)
        assert code == 2 and "need ogbench" in said and "pip install" in said and "\n" not in said


@pytest.mark.parametrize("id", ["FetchReach-v4", "PointMaze_UMaze-v3"])
def test_a_robot_with_dictionaries_and_goals_from_rows_to_a_report(tmp_path, id):
    """Observations are flattened with the goal that is wanted, which then is a part of the state."""
    pytest.importorskip("gymnasium_robotics", exc_type=ImportError)
    name = f"gymnasium_robotics:{id}"
    try:
        made, rng = Family.of(name).make(EnvName.parse(name)), np.random.default_rng(0)
    except UserError as error:
        pytest.skip(f"gymnasium-robotics 1.4.2 makes Fetch with MuJoCo up to 3.11.0 alone: {error}")
    keys, widths = zip(*made.parts.widths, strict=True)
    assert keys == ("achieved_goal", "desired_goal", "observation")
    width = widths[0]
    rows = []
    for episode in range(6):
        obs = made.reset(episode)
        for _ in range(50):
            towards = np.zeros(made.action_dim)
            towards[:width] = 5.0 * (obs[width : 2 * width] - obs[:width])
            action = np.clip(towards + rng.normal(0, 0.2, len(towards)), -1, 1).astype(np.float32)
            after, reward, _, info = made.step(action)
            rows.append((obs, action, False, reward))
            obs = after
        assert info["success"] in (0.0, 1.0)
        rows.append((obs, np.zeros(made.action_dim, np.float32), True, 0.0))
    keys = ("observations", "actions", "terminals", "rewards")
    columns = dict(zip(keys, map(np.array, zip(*rows, strict=True)), strict=True))
    np.savez(tmp_path / "reach.npz", **columns)
    run, config = tmp_path / "run", f"--config={ROOT}/experiments/configs/gymnasium.py:tiny"
    words = [f"--config.env={name}", "--config.data.name=reach", f"--config.data.dir={tmp_path}"]
    cli.main(["train", config, *words, f"--workdir={run}"])
    cli.main(["evaluate", f"--workdir={run}", "--methods=reference,best_of", "--episodes=1"])
    cli.main(["report", f"--workdir={run}"])
    rows = json.loads((run / "report" / "summary.json").read_text())["rows"]
    assert rows and all(row["success"] is not None and row["env"] == name for row in rows)


def test_a_minari_environment_is_made_without_windows_and_not_without_its_wrappers():
    spec = {"id": "Hopper-v5", "kwargs": {"render_mode": "human", "frame_skip": 2}}
    plain = Carried("lab/x-v0", Path(), {"env_spec": json.dumps(spec)})
    assert plain.environment["options"] == {"frame_skip": 2}
    spec["additional_wrappers"] = [{"name": "RescaleAction"}]
    wrapped = Carried("lab/x-v0", Path(), {"env_spec": json.dumps(spec)})
    with pytest.raises(UserError, match="lab/x-v0 was recorded behind RescaleAction"):
        wrapped.environment  # noqa: B018
    odd = Carried("lab/x-v0", Path(), {"env_spec": json.dumps({**spec, "kwargs": "frame_skip"})})
    with pytest.raises(UserError, match="lab/x-v0 carries no environment"):
        odd.environment  # noqa: B018
