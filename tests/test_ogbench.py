"""All of OGBench that is installed: what resolves, what can be collected, what is refused by name."""

import os
import tempfile

import numpy as np
import pytest

from qgf_jax.envs import ogbench, ogbench_experts
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError

REGISTERED = {i for i, spec in ogbench._registry().items() if "ogbench" in str(spec.entry_point)}
OF_STATES = sorted(i for i in REGISTERED if not i.startswith(("visual-", "powderworld")))
REFUSED = sorted(REGISTERED - {*OF_STATES})
SCENES = sorted({i.removesuffix("-v0") for i in OF_STATES if "singletask" not in i})
KINDS = {"pointmaze": "navigate", "antmaze": "navigate", "humanoidmaze": "navigate"}
KINDS |= {"antsoccer": "navigate"}


def named(env_id, kind):
    """The name of data of a kind for what Gymnasium knows as `env_id`."""
    scene, single, task = env_id.removesuffix("-v0").partition("-singletask")
    return f"{scene}-{kind}{single}{task}-v0"


def kind_of(env_id):
    return KINDS.get(env_id.split("-")[0], "play")


def test_there_are_as_many_as_the_benchmark_says():
    assert len(SCENES) >= 24 and len(OF_STATES) >= 168 and len(REFUSED) >= 119


@pytest.mark.parametrize("env_id", OF_STATES)
def test_every_environment_of_states_resolves(env_id):
    name = EnvName.parse(named(env_id, kind_of(env_id)))
    assert name.family == "" and EnvName.parse(name.full) == name
    if not env_id.endswith("singletask-v0"):  # else the default task is spelled out
        assert name.env_id == env_id
    ogbench._check(name.env_id)
    for one in name.tasks:
        assert EnvName.parse(name.with_task(one).full).tasks == (one,)


@pytest.mark.parametrize("env_id", REFUSED)
def test_pixels_and_powderworld_are_refused_by_name(env_id):
    name = EnvName.parse(named(env_id, kind_of(env_id)))
    with pytest.raises(UserError, match=f"observations of {name.env_id} are pixels"):
        Family.of(name).labels(name)
    with pytest.raises(UserError, match=name.scene) as caught:
        Family.of(name).collector(name)
    assert "pixels" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scene", SCENES)
def test_what_has_an_expert_is_collected_and_the_rest_says_so_by_name(scene, monkeypatch):
    name = EnvName.parse(f"{scene}-{kind_of(scene)}-v0")
    if scene.startswith(("antmaze", "humanoidmaze", "antsoccer")):
        with pytest.raises(UserError, match=f"^{scene} needs a trained low-level policy"):
            Family.of(name).collector(name)
        return
    assert scene in ogbench_experts.SCENES
    whole = ogbench.FAMILY.gym
    monkeypatch.setattr(
        type(ogbench.FAMILY),
        "gym",
        lambda self, env_id, **options: whole(env_id, **{**options, "max_episode_steps": 12}),
    )
    rows = Family.of(name).collector(name).episode(3)
    assert rows["terminals"].tolist() == [False] * 11 + [True]
    assert np.abs(rows["actions"]).max() > 0 and np.isfinite(rows["observations"]).all()
    assert len(rows["qpos"]) == len(rows["qvel"]) == 12


def test_a_maze_that_is_made_leaves_no_file_and_no_descriptor(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    free = _lowest_free_descriptor()
    env = ogbench.FAMILY.make("pointmaze-medium-navigate-singletask-task1-v0")
    assert _lowest_free_descriptor() == free and not list(tmp_path.iterdir())
    assert len(env.reset(0)) == env.width


def _lowest_free_descriptor():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor
