"""A family of environments from one file of another package: trained, evaluated and reported."""

import importlib
import json

import numpy as np
import pytest
from conftest import ROOT, tiny

from qgf_jax import cli
from qgf_jax.data.load import Loaded
from qgf_jax.envs import families
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError

FILE = '''
"""Points that move on a plane, and are to reach the place of their task."""

import numpy as np

from qgf_jax.envs.families import Family

PLACES = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)


class PointEnv:
    action_dim = 2

    def __init__(self, task):
        self._place = PLACES[task - 1]

    def reset(self, seed):
        self._xy = np.random.default_rng(seed).uniform(-0.2, 0.2, 2).astype(np.float32)
        self._steps = 0
        return self._xy

    def step(self, action):
        self._xy = self._xy + 0.2 * np.asarray(action)
        self._steps += 1
        success = bool(np.linalg.norm(self._xy - self._place) < 0.3)
        return self._xy, success - 1.0, success or self._steps == 30, {"success": success}


class Points(Family):
    names = ("plane-v0",)
    tasks = (1, 2)

    def make(self, name):
        return PointEnv(name.task)


FAMILY = Points()
'''
ENTRIES = "[qgf_jax.environments]\npoints = points_of_somebody:FAMILY\nbroken = json:loads\n"
NAME = "points:plane-v0-task2"


@pytest.fixture
def points(tmp_path, monkeypatch):
    """The file as if somebody had installed it; workers, which are other processes, see it too."""
    site = tmp_path / "site"
    info = site / "points_of_somebody-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "points_of_somebody.py").write_text(FILE)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: points-of-somebody\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    importlib.invalidate_caches()
    families._family.cache_clear()
    yield tmp_path
    families._family.cache_clear()


def columns(rng, trajectories=8, steps=20):
    """Walks towards the place of task 2, the last row of each without an action."""
    rows = []
    for _ in range(trajectories):
        xy = rng.uniform(-0.2, 0.2, 2)
        for t in range(steps + 1):
            ahead = np.array([0.0, 1.0]) - xy
            action = np.clip(2.0 * ahead + rng.normal(0.0, 0.3, 2), -1.0, 1.0)
            success = np.linalg.norm(xy - [0.0, 1.0]) < 0.3
            rows.append((xy, action, t == steps, success - 1.0, 1.0 - success))
            xy = xy + 0.2 * action
    arrays = map(np.array, zip(*rows, strict=True))
    names = ("observations", "actions", "terminals", "rewards", "masks")
    kinds = {"terminals": bool}
    return {k: a.astype(kinds.get(k, np.float32)) for k, a in zip(names, arrays, strict=True)}


@pytest.fixture
def data(points):
    np.savez(points / "plane-v0.npz", **columns(np.random.default_rng(0)))
    return points


@pytest.mark.whole
def test_from_its_data_to_a_report(data, capsys):
    """With a folder that `qgf convert` has made, which keeps the columns with labels."""
    run, config = data / "run", f"--config={ROOT}/tests/tiny_config.py"
    cli.main(["convert", str(data / "plane-v0.npz"), f"--out={data / 'converted'}"])
    words = [config, f"--config.env={NAME}", f"--config.data.dir={data / 'converted'}"]
    cli.main(["train", "--dry_run", *words])
    assert '"observation": 2' in capsys.readouterr().out
    cli.main(["train", *words, f"--workdir={run}"])
    arms = ["--methods=reference,qgf", "--weights=1", "--episodes=2", "--selection_episodes=1"]
    cli.main(["evaluate", f"--workdir={run}", *arms, "--envs=3"])
    played = (run / "episodes.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stop:  # before anything is played
        cli.main(["evaluate", f"--workdir={run}", *arms, "--episodes=9", "--videos=1"])
    assert stop.value.code == 2 and "cannot be drawn" in capsys.readouterr().err
    assert (run / "episodes.jsonl").read_bytes() == played
    cli.main(["report", f"--workdir={run}"])
    rows = json.loads((run / "report" / "summary.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"reference", "qgf"}
    assert {(row["env"], row["task"]) for row in rows} == {("points:plane-v0", 2)}
    lines = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert all(0 < line["length"] <= 30 and "path" not in line for line in lines)
    assert all(line["return"] == line["success"] - line["length"] for line in lines)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", f"--workdir={run}", *arms, "--envs=jax"])
    assert stop.value.code == 2 and "no simulator on the device" in capsys.readouterr().err


def test_rewards_and_masks_are_the_files_own(data):
    config = tiny(env=NAME, **{"data.dir": str(data), "data.chunk": 1, "data.discount": 0.5})
    dataset = Loaded.of(config).take()
    rows = columns(np.random.default_rng(0))
    keep = ~rows["terminals"]
    np.testing.assert_array_equal(dataset.reward, rows["rewards"][keep])
    np.testing.assert_array_equal(dataset.discount, 0.5 * rows["masks"][keep])
    assert 0 < rows["masks"][keep].mean() < 1


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"rewards": None}, "key 'rewards' is missing"),
        ({"masks": 2.0}, r"masks leave \[0, 1\]"),
        ({"rewards": np.nan}, "rewards is NaN or infinite in row 0"),
        (
            {"observations": np.zeros((168, 3), np.float32)},
            "observations are 3 wide, points:plane-v0",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(points, change, hint):
    rows = columns(np.random.default_rng(0))
    for key, value in change.items():
        whole = value if isinstance(value, np.ndarray) else None
        rows[key] = np.full_like(rows[key], value or 0) if whole is None else whole
        if value is None:
            del rows[key]
    np.savez(points / "plane-v0.npz", **rows)
    with pytest.raises(UserError, match=hint):
        Loaded.of(tiny(env=NAME, **{"data.dir": str(points)}))


def test_without_masks_no_row_ends_the_task(data):
    rows = columns(np.random.default_rng(0))
    del rows["masks"]
    np.savez(data / "plane-v0.npz", **rows)
    dataset = Loaded.of(tiny(env=NAME, **{"data.dir": str(data)})).take()
    assert (dataset.discount == dataset.discount[0]).all() and dataset.discount[0] > 0


def test_names_say_the_family(points):
    name = EnvName.parse("points:plane-v0")
    assert (name.dataset, name.task, name.tasks, name.goals) == ("plane-v0", 1, (1,), "")
    second = EnvName.parse(NAME)
    assert (second.full, second.label, second.tasks) == (NAME, "points:plane-v0", (2,))
    assert EnvName.parse(name.with_task(2).full) == second and hash(second) == hash(second)
    assert second.played_in("jax").label == "points:plane-v0 (jax)"
    assert second.played_in("mujoco") == second
    of_default = EnvName.parse("cube-single-play-v0")
    assert Family.of("ogbench:cube-single-play-v0") is Family.of(of_default)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pointz:plane-v0", "family of environments 'pointz'.*did you mean 'points'"),
        ("points:plan-v0", "points environment 'plan-v0'.*did you mean 'plane-v0'"),
        ("points:plane-v0-task3", "has tasks 1 to 2, not 3"),
        ("broken:x", "broken: .* is no `Family`"),
    ],
)
def test_wrong_names_are_explained(points, name, hint):
    with pytest.raises(UserError, match=hint):
        EnvName.parse(name)


def test_what_the_family_does_not_have_is_explained(data, tmp_path, capsys):
    for words, hint in (
        (["collect", f"--env={NAME}", f"--out={tmp_path}"], "no scripted expert"),
        (
            ["train", f"--config={ROOT}/tests/tiny_config.py", f"--config.env={NAME}", "--workdir=r",
             f"--config.data.dir={tmp_path / 'nowhere'}"],
            "dataset plane-v0.npz is not in",
        ),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and hint in said and "\n" not in said
