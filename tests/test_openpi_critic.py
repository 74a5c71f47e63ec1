"""examples/openpi/export_critic.py: the file has the run's own Q."""

import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from qgf_jax.errors import UserError
from qgf_jax.runs.loaded import LoadedRun

FOLDER = ROOT / "examples" / "openpi"
sys.path.insert(0, str(FOLDER))

import critic as critics
import export_critic


def test_the_file_has_the_critic_of_the_run(run_folder, tmp_path, monkeypatch, capsys):
    """With the run's normalisation of observations; scales of actions are folded in as well."""
    path = tmp_path / "critic.npz"
    loaded = LoadedRun.open(run_folder)
    spec = loaded.spec._replace(action_shift=(0.5, -1.0), action_scale=(2.0, 3.0))
    opened = type("Opened", (), {"open": staticmethod(lambda run: loaded)})
    monkeypatch.setattr(export_critic, "LoadedRun", opened)
    object.__setattr__(loaded, "spec", spec)
    export_critic.main(str(run_folder), str(path))

    rng = np.random.default_rng(0)
    obs = rng.normal(3.0, 5.0, (4, spec.width)).astype(np.float32)
    actions = rng.uniform(-1, 1, (4, spec.chunk_dim)).astype(np.float32)
    nets, members = loaded.networks(), loaded.params_of(0)["critic"]

    @jax.jit
    def expected(obs, action):
        inner = spec.to_networks(action.reshape(spec.chunk, spec.action)).ravel()
        return nets.q_of(members, spec.observation(obs))(inner)

    found = jax.jit(critics.Critic.load(path))(jnp.asarray(obs), jnp.asarray(actions))
    np.testing.assert_allclose(found, jax.vmap(expected)(obs, actions), atol=2e-6, rtol=1e-5)
    assert np.abs(found).max() > 1e-3 and loaded.spec.mean and found.shape == (4,)
    loaded.run.config["networks"]["activation"] = "mish"
    with pytest.raises(UserError, match="networks.activation is mish"):
        export_critic.arrays(run_folder)


def test_the_script_says_in_one_line_what_is_wrong(tmp_path, monkeypatch, capsys):
    script = str(FOLDER / "export_critic.py")
    for words in ([str(tmp_path), str(tmp_path / "x.npz")], []):
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(script, run_name="__main__")
        assert stop.value.code == 2 and not list(tmp_path.iterdir())
        error = capsys.readouterr().err
        assert error.count("\n") == 1 if words else "critic.npz" in error
