"""Fitted Q evaluation: what `qgf` would earn under each of some weights, learned from the run's data.

Each weight has a critic of its own, which begins as the run's and learns by temporal differences along
the actions that the weight gives. These are guided by the run's critic, which stands still (Le,
Voloshin and Yue, 2019, arXiv 1903.08738, with gradient steps and a target copy).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.data.sampling import BatchSampler
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.training.weighing import Effort, draw
from qgf_jax.types import Array, Batch, Learner, Obs, Params, Spec


def fitted_values(
    config: Mapping[str, Any],
    spec: Spec,
    params: Params,
    dataset: Any,
    weights: np.ndarray,
    effort: Effort,
    blocks: int = 1,
) -> np.ndarray:
    """`criteria.Measured.evaluated` of each seed, [S, 1 + W, N], for `weights` [S, W].

    `params` are those of a `LoadedRun`; `dataset`, made of `blocks` of one shape, lies on the device.
    Weight 0 and `effort.evaluated` of the others are evaluated, the rest is NaN. One program: all seeds
    and weights meet the same batches and the same noise, and the host waits.
    """
    asked = np.concatenate([np.zeros_like(weights[:, :1]), weights[:, effort.evaluated]], axis=1)
    groups = {name: params[name] for name in ("policy", "critic")} | {"weights": jnp.asarray(asked)}

    @jax.jit
    def program(groups: Params, dataset: Any) -> Array:
        states = draw(config, spec, dataset, blocks, effort).obs
        feed = BatchSampler.of(config, spec, blocks=blocks)

        def batch(number: Array) -> Batch:
            key = jax.random.fold_in(jax.random.key(3), number)
            return feed.gather(dataset, feed.draw(dataset, key))

        evaluation = _Evaluation(config, spec, effort.updates)
        return over_seeds(lambda one: evaluation.values(one, batch, states), groups)

    found = np.asarray(jax.device_get(program(groups, dataset)))
    whole = np.full((*weights.shape, found.shape[-1]), np.nan, found.dtype)
    whole[:, effort.evaluated] = found[:, 1:]
    return np.concatenate([found[:, :1], whole], axis=1)


class _Evaluation:
    """Of one run's policies under `qgf`."""

    def __init__(self, config: Mapping[str, Any], spec: Spec, updates: int):
        builder = Builder(config, spec)
        self._nets, self._act = builder.networks(), builder.sample("qgf")
        self._tx, self._optimizer = make_optimizer(config), config["optimizer"]
        self._updates = updates

    def values(self, groups: Params, batch: Any, states: Obs) -> Array:
        """[1 + V, N], the value of each of one seed's `weights` [1 + V] in each of the states.

        `batch` gives that of an update by its number.
        """
        guide = {name: groups[name] for name in ("policy", "critic")}

        def one(weight: Array) -> Array:
            def guided(_: Params, obs: Obs, key: Array, __: Array) -> Array:
                # Whatever the critic has learned: it guides nothing.
                return self._act(guide, obs, key, weight)

            learner = Part.named("critic", "td").make(self._nets, guided, rho=0.0)
            members = self._learned(learner, guide["critic"], batch)

            def value(obs: Obs, key: Array) -> Array:
                return self._nets.mean_q(members, obs)(self._act(guide, obs, key, weight))

            keys = jax.random.split(jax.random.key(4), len(jax.tree.leaves(states)[0]))
            return jax.vmap(value)(states, keys)

        return jax.vmap(one)(groups["weights"])

    def _learned(self, learner: Learner, critic: Params, batch: Any) -> Params:
        """The target copy, which everything acts with, of what began as `critic`."""

        def update(state: TrainState, _: None) -> tuple[TrainState, None]:
            new, _ = train_step(
                state,
                batch(state.step),
                losses=learner.losses,
                tx=self._tx,
                tau=self._optimizer["tau"],
                lagged_target=self._optimizer["lagged_target"],
            )
            return new, None

        start = {"critic": critic}
        state = TrainState(
            jnp.zeros((), jnp.int32), jax.random.key(5), start, start, self._tx.init(start)
        )
        return jax.lax.scan(update, state, None, length=self._updates)[0].target_params["critic"]
