"""Constants that give the guidance weight units of its own: one pass over the data after training.

The spread of Q, and of its logit, among the reference policy's actions in one state, and the
covariance of these actions. All are of the reference policy and the slow critic of a checkpoint, and
beside it.
"""

import functools
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.data import sampling
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.runs.checkpoint import write_atomically
from qgf_jax.training.programs import over_seeds
from qgf_jax.training.state import TrainState
from qgf_jax.types import Array, Params, Spec

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

    `logit_std` is the spread of what a bounded critic has before its sigmoid, in which `scale=logit`
    is measured; of any other critic it is `q_std`. The covariance is `values` [S, D], the variances
    along its axes, and `vectors` [S, D, D], the axes in columns.
    The dataset is `stacked` if it has an axis of length 1 in front, as that of one of several devices.
    """
    nets = algorithms.build_networks(config, spec)
    sample = algorithms.build_sample(config, spec, "reference")
    feed = sampling.build(config, spec, batch_size=STATES, blocks=blocks)

    def draw(data: Any, key: Array) -> Array:
        data = jax.tree.map(lambda x: x[0], data) if stacked else data
        return feed.gather(data, feed.draw(data, key)).actor.obs

    obs = jax.jit(draw)(dataset, jax.random.key(0))

    scales = (nets.q_of, nets.q_logit_of) if nets.bounded else (nets.q_of,)

    def one_state(groups: tuple[Params, Params], obs: Array, key: Array) -> tuple[Any, Array]:
        params = algorithms.acting_params(*groups)
        keys = jax.random.split(key, ACTIONS)
        actions = jax.vmap(lambda k: sample(params, obs, k, jnp.zeros(())))(keys)
        spreads = [jax.vmap(q(params["critic"], obs))(actions).std(ddof=1) for q in scales]
        centred = actions - actions.mean(axis=0, keepdims=True)
        products = jnp.matmul(centred.T, centred, precision="highest")
        return spreads, products / (ACTIONS - 1)

    def one_seed(groups: tuple[Params, Params]) -> dict[str, Array]:
        keys = jax.random.split(jax.random.key(1), STATES)
        one = functools.partial(one_state, groups)
        spreads, covariance = jax.lax.map(lambda x: one(*x), (obs, keys), batch_size=128)
        values, vectors = jnp.linalg.eigh(covariance.mean(axis=0))
        stds = [jnp.median(spread) for spread in spreads]
        return {"q_std": stds[0], "logit_std": stds[-1], "values": values, "vectors": vectors}

    return jax.jit(lambda groups: over_seeds(one_seed, groups))((state.params, state.target_params))


def write(
    workdir: Path,
    config: Mapping[str, Any],
    spec: Spec,
    state: TrainState,
    dataset: Any,
    blocks: int = 1,
    *,
    stacked: bool = False,
) -> None:
    """calibration.npz for the state's step, unless there is no reference policy."""
    if "policy" not in state.params:
        return
    step = int(np.ravel(jax.device_get(state.step))[0])
    buffer = io.BytesIO()
    found: Any = jax.device_get(measure(config, spec, state, dataset, blocks, stacked=stacked))
    np.savez(buffer, step=np.int64(step), **found)
    write_atomically(workdir / "calibration.npz", buffer.getvalue())


def read(workdir: Path, step: int) -> dict[str, Array]:
    """The constants of the checkpoint at `step`, with a leading axis of seeds; empty if none.

    Files of earlier versions have no `logit_std`.
    """
    path = workdir / "calibration.npz"
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            names = ("q_std", "values", "vectors", *({"logit_std"} & {*file.files}))
            found = {name: jnp.asarray(file[name]) for name in names}
            return found if int(file["step"]) == step else {}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not readable ({error}): remove it and train again") from None
