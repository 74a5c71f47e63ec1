"""`load_policy`: restored actions are those of the trained state, single or batched, any seed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_jax
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.runs import tree
from qgf_jax.runs.array_files import ArrayFiles
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.loaded import LoadedRun


def test_restored_policy_is_what_was_trained(run_folder):
    restored = LoadedRun.open(run_folder)
    obs, key = np.array([1.0, 2.0], np.float32), jax.random.key(0)
    every = qgf_jax.load_policy(run_folder, weight=0.5, seed=None)(obs, key)
    assert every.shape == (2, 3, 2)
    sample = restored.sampler("qgf")
    for seed in (0, 1):
        one = qgf_jax.load_policy(run_folder, weight=0.5, seed=seed)
        params = restored.params_of(seed)
        direct = jax.jit(sample)(
            params, restored.spec.observation(obs), key, jnp.float32(0.5)
        ).reshape(3, 2)
        np.testing.assert_allclose(one(obs, key), direct, atol=2e-3)
        np.testing.assert_allclose(every[seed], direct, atol=2e-3)
        batch = one(np.tile(obs, (4, 1)), key)
        assert batch.shape == (4, 3, 2)
        assert len(np.unique(np.asarray(batch).reshape(4, -1), axis=0)) == 4  # noise for each
    assert not np.allclose(every[0], every[1])


def test_weight_and_method_matter(run_folder):
    obs, key = np.ones(2, np.float32), jax.random.key(1)
    act = lambda **kw: np.asarray(qgf_jax.load_policy(run_folder, **kw)(obs, key))
    reference = act(method="reference")
    np.testing.assert_allclose(act(method="qgf", weight=0.0), reference, atol=1e-5)
    assert np.abs(act(method="qgf", weight=5.0) - reference).max() > 1e-3
    assert act(method="best_of").shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"method": "qgff"}, "did you mean 'qgf'"),
        ({"seed": 2}, "seeds 0 to 1"),
        ({"step": 3}, "is not there or not sound"),
    ],
)
def test_wrong_calls_are_explained(run_folder, options, hint):
    with pytest.raises(UserError, match=hint):
        qgf_jax.load_policy(run_folder, **options)


def test_wrong_observation_is_explained(run_folder):
    with pytest.raises(UserError, match=r"shape \(3,\)"):
        qgf_jax.load_policy(run_folder)(np.zeros(3), jax.random.key(0))


def test_missing_run_is_explained(tmp_path):
    with pytest.raises(UserError, match="run `qgf train` first"):
        qgf_jax.load_policy(tmp_path)


ALONE = """
import json, sys
import numpy as np
import qgf_jax
qgf_jax.load_policy
before = list(sys.modules)
import jax
policy = qgf_jax.load_policy(sys.argv[1], "qgf_relative", best_of=2)
policy(np.zeros(2, np.float32), jax.random.key(0))
print(json.dumps([before, list(sys.modules)]))
"""
UNUSED = ("ogbench", "mujoco", "gymnasium", "dm_control", "optax")


def test_acting_imports_no_optimiser_no_data_and_no_simulator(run_folder):
    command = [sys.executable, "-c", ALONE, str(run_folder)]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert out.returncode == 0, out.stderr
    named, acting = json.loads(out.stdout.splitlines()[-1])
    for modules in (named, acting):
        assert not {name.split(".")[0] for name in modules} & {*UNUSED}
        ours = {".".join(name.split(".")[:2]) for name in modules}
        assert not ours & {"qgf_jax.training", "qgf_jax.data", "qgf_jax.evaluation"}
    assert "jax" in acting and "qgf_jax.methods.samplers" in acting


def test_a_loaded_run_is_what_acts_of_the_checkpoint_and_nothing_else(run_folder):
    loaded = LoadedRun.open(run_folder)
    checkpoints = Checkpoints(run_folder, identity=loaded.run.identity)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, part, _ = checkpoints.restore_part(("params", "target_params"), here, 4)
    assert step == loaded.step == 4 and part.keys() == {"params", "target_params"}
    whole = ArrayFiles(checkpoints.root, "4").read_named()
    found = dict(tree.ArrayTree(part).named())
    expected = {k: v for k, v in whole.items() if k.split("/")[0] in part}
    assert found.keys() == expected.keys() and len(found) < len(whole)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    params = {"critic", "value", "policy", "online_critic", "calibration"}
    assert loaded.params.keys() == params and loaded.seeds == 2
    for group, source in (("critic", "target_params"), ("online_critic", "params")):
        wanted = part[source]["critic"]
        jax.tree.map(np.testing.assert_array_equal, loaded.params[group], wanted)
    online, target = (
        part[entry]["critic"]["params"]["MLP_0"]["Dense_0"]["kernel"]
        for entry in ("params", "target_params")
    )
    assert np.any(online != target)


def test_an_altered_file_is_not_loaded(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    step = folder / "checkpoints" / "4"
    path = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert LoadedRun.open(folder).step == 2
    with pytest.raises(UserError, match="step 4 is not there or not sound"):
        LoadedRun.open(folder, 4)


def test_candidates_are_ranked_by_the_critic_that_the_config_names(run_folder):
    """Online: the critic of the moment, which here likes what the target network dislikes."""
    loaded = LoadedRun.open(run_folder)
    negate = lambda tree: jax.tree.map(lambda x: -x if x.shape[-1] == 1 else x, tree)
    opposed = loaded.params | {"online_critic": negate(loaded.params["critic"])}
    obs, key = loaded.spec.observation(jnp.ones(2)), jax.random.key(3)

    def action(ranking, params):
        run = loaded.run
        config = {**run.config, "networks": {**run.config["networks"], "ranking": ranking}}
        mine = dataclasses.replace(loaded, run=run._replace(config=config), params=params)
        return np.asarray(mine.sampler("best_of", 4)(mine.params_of(0), obs, key, 0.0))

    same = loaded.params | {"online_critic": loaded.params["critic"]}
    np.testing.assert_allclose(action("online", same), action("target", opposed), atol=1e-6)
    assert not np.allclose(action("online", opposed), action("target", opposed))


def test_parameters_of_other_networks_are_named(run_folder, monkeypatch):
    """As after a change of the networks between two versions, of which no fingerprint tells."""
    build = Builder.learner

    def wider(self):
        networks = {**self.config["networks"], "critic_hidden": (9,)}
        return build(self._replace(config={**self.config, "networks": networks}))

    monkeypatch.setattr(Builder, "learner", wider)
    with pytest.raises(UserError, match=r"checkpoints/4 is of another network: .*critic.* in this"):
        LoadedRun.open(run_folder)


def test_a_weight_that_is_no_number_is_named(run_folder):
    with pytest.raises(UserError, match="weight is a; it must be a finite number"):
        qgf_jax.load_policy(run_folder, weight="a")
