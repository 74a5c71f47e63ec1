"""Constants that give the guidance weight units: one pass over the data after training.

They are the standard deviations of Q and of its logit over the reference policy's actions in one state,
and the covariance of these actions. They belong to the reference policy and the target critic of one
checkpoint, and lie beside it (see `LoadedRun.calibration`).
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from qgf_jax.data.sampling import BatchSampler
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training.state import TrainState
from qgf_jax.types import Array, Obs, Params, Spec

STATES, ACTIONS = 2048, 16
"""Drawn from the data, and drawn from the policy in each of the states."""


def measure(
    config: Mapping[str, Any],
    spec: Spec,
    state: TrainState,
    dataset: Any,
    blocks: int = 1,
    *,
    stacked: bool = False,
) -> dict[str, Array]:
    """`q_std` and `logit_std` [S], medians over states, and the mean covariance by its axes.

    `logit_std` is of what a bounded critic has before its sigmoid, the unit of `scale=logit`; for other
    critics it equals `q_std`. The covariance is given as `values` [S, D], the variances along its axes,
    and `vectors` [S, D, D], the axes in columns. `dataset` is made of `blocks` of one shape, and
    `stacked` if it has a leading axis of length 1, as a piece on one of several devices has.
    """
    nets = Builder(config, spec).networks()
    sample = Builder(config, spec).sample("reference")
    feed = BatchSampler.of(config, spec, batch_size=STATES, blocks=blocks)

    def draw(data: Any, key: Array) -> Obs:
        data = jax.tree.map(lambda x: x[0], data) if stacked else data
        return feed.gather(data, feed.draw(data, key)).actor.obs

    obs = jax.jit(draw)(dataset, jax.random.key(0))

    scales = (nets.q_of, nets.q_logit_of) if nets.bounded else (nets.q_of,)

    def one_state(groups: tuple[Params, Params], obs: Obs, key: Array) -> tuple[Any, Array]:
        params = algorithms.acting_params(*groups)
        keys = jax.random.split(key, ACTIONS)
        actions = jax.vmap(lambda k: sample(params, obs, k, jnp.zeros(())))(keys)
        spreads = [jax.vmap(q(params["critic"], obs))(actions).std(ddof=1) for q in scales]
        return spreads, covariance(actions)

    def one_seed(groups: tuple[Params, Params]) -> dict[str, Array]:
        keys = jax.random.split(jax.random.key(1), STATES)
        one = functools.partial(one_state, groups)
        spreads, covariances = jax.lax.map(lambda x: one(*x), (obs, keys), batch_size=128)
        values, vectors = jnp.linalg.eigh(covariances.mean(axis=0))
        stds = [jnp.median(spread) for spread in spreads]
        return {"q_std": stds[0], "logit_std": stds[-1], "values": values, "vectors": vectors}

    return jax.jit(lambda groups: over_seeds(one_seed, groups))((state.params, state.target_params))


def covariance(actions: Array) -> Array:
    """[D, D] of `actions` [N, D], over N - 1; in full float32, whatever the networks' precision."""
    centred = actions - actions.mean(axis=0, keepdims=True)
    return jnp.matmul(centred.T, centred, precision="highest") / (len(actions) - 1)
