"""Fitted Q evaluation: what `qgf` would earn under each of some weights, learned from the run's data.

Each weight has a critic of its own, which begins as the run's and learns by temporal differences along
the actions that the weight gives (Le, Voloshin and Yue, 2019, arXiv 1903.08738, with gradient steps and
a target copy). These are guided by the run's critic, which stands still; so they are known before
anything is learned.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
from qgf_jax.training.weighing import Effort, Nearby
from qgf_jax.types import Array, Batch, Obs, Params, Spec


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
    Weight 0 and `effort.evaluated` of the others are evaluated, the rest is NaN. One program, in which
    all seeds and weights meet the same batches and the same noise.
    """
    asked = np.concatenate([np.zeros_like(weights[:, :1]), weights[:, effort.evaluated]], axis=1)
    groups = {name: params[name] for name in ("policy", "critic")} | {"weights": jnp.asarray(asked)}

    @jax.jit
    def program(groups: Params, dataset: Any) -> Array:
        feed = BatchSampler.of(config, spec, effort.transitions, blocks=blocks)
        evaluation = _Evaluation(
            config,
            Builder(config, spec),
            functools.partial(feed.gather, dataset),
            feed.draw(dataset, jax.random.key(3)),
            Nearby.draw(config, spec, dataset, blocks, effort).obs,
            effort.updates,
        )
        return over_seeds(evaluation.values, groups)

    found = np.asarray(jax.device_get(program(groups, dataset)))
    whole = np.full((*weights.shape, found.shape[-1]), np.nan, found.dtype)
    whole[:, effort.evaluated] = found[:, 1:]
    return np.concatenate([found[:, :1], whole], axis=1)


class _Evaluation(NamedTuple):
    """What all seeds and weights have in common."""

    config: Mapping[str, Any]
    builder: Builder
    gather: Callable[[Any], Batch]
    """Places of the data -> the transitions there."""
    places: Any
    """[B] of these, which critics learn from."""
    states: Obs
    """Each part [N, …], in which a policy is valued."""
    updates: int

    def values(self, groups: Params) -> Array:
        """[V, N], the value in each state of going on by each of one seed's `weights` [V]."""
        sample, nets = self.builder.sample("qgf"), self.builder.networks()

        def one(weight: Array) -> Array:
            def act(obs: Obs, key: Array) -> Array:
                return sample(groups, obs, key, weight)

            critic = self._learned(groups["critic"], self._next_actions(act))

            def value(obs: Obs, key: Array) -> Array:
                return nets.mean_q(critic, obs)(act(obs, key))

            return jax.vmap(value)(self.states, _keys(4, self.states))

        return jax.vmap(one)(groups["weights"])

    def _next_actions(self, act: Callable[[Obs, Array], Array]) -> Array:
        """[B, D], after the transition at each of the places."""

        def next_action(place_and_key: Any) -> Array:
            place, key = place_and_key
            after = self.gather(jax.tree.map(lambda x: x[None], place)).next_obs
            return act(jax.tree.map(lambda x: x[0], after), key)

        keys = _keys(5, self.places)
        return jax.lax.map(next_action, (self.places, keys), batch_size=min(256, len(keys)))

    def _learned(self, critic: Params, next_actions: Array) -> Params:
        """The target copy, which everything acts with, of what began as `critic`."""
        # To a critic these actions are what the next ones of the data are to SARSA. Without pessimism,
        # which would value a policy the less the more it leaves the data.
        nets, optimizer = self.builder.networks(), self.config["optimizer"]
        unasked = self.builder.sample("reference")
        learner = Part.named("critic", "td").make(nets, unasked, next="data", rho=0.0)
        tx = make_optimizer(self.config)

        def update(state: TrainState, rows: Array) -> tuple[TrainState, None]:
            batch = self.gather(jax.tree.map(lambda x: x[rows], self.places))
            batch = batch._replace(next_action=next_actions[rows], next_weight=batch.weight)
            how = {name: optimizer[name] for name in ("tau", "lagged_target")}
            return train_step(state, batch, losses=learner.losses, tx=tx, **how)[0], None

        shape = (self.updates, self.config["train"]["batch_size"])
        rows = jax.random.randint(jax.random.key(6), shape, 0, len(next_actions))
        start = {"critic": critic}
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, jax.random.key(7), start, start, tx.init(start))
        return jax.lax.scan(update, state, rows)[0].target_params["critic"]


def _keys(seed: int, tree: Any) -> Array:
    """One key for each row of a tree."""
    return jax.random.split(jax.random.key(seed), len(jax.tree.leaves(tree)[0]))
