"""`load_policy`: restored actions are those of the trained state, single or batched, any seed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_jax
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.runs import policy


def test_restored_policy_is_what_was_trained(run_folder):
    restored = policy.restore(run_folder)
    obs, key = np.array([1.0, 2.0], np.float32), jax.random.key(0)
    every = qgf_jax.load_policy(run_folder, weight=0.5, seed=None)(obs, key)
    assert every.shape == (2, 3, 2)
    sample = algorithms.build_sample(restored.run.config, restored.spec, "qgf")
    for seed in (0, 1):
        one = qgf_jax.load_policy(run_folder, weight=0.5, seed=seed)
        groups = jax.tree.map(
            lambda x, seed=seed: x[seed], (restored.params, restored.target_params)
        )
        direct = jax.jit(sample)(
            algorithms.acting_params(*groups), jnp.asarray(obs), key, jnp.float32(0.5)
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
