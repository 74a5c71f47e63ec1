"""The training state: all that a run is, besides its config and data."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from qgf_jax.types import Array, Learner, Params, Spec


@flax.struct.dataclass
class NonFiniteGuard:
    """Keeps the state finite: skips updates with a non-finite loss or gradient."""

    skipped: Array
    """[] int32, updates skipped so far"""
    in_a_row: Array
    """[] int32, how many of them just now; from `MOST_SKIPPED` on nothing is updated any more"""
    culprits: Array
    """[] int32, bit i for the i-th loss if that or its gradient was not finite the last time"""

    @classmethod
    def fresh(cls) -> "NonFiniteGuard":
        """Of a state that has met nothing yet."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))


MOST_SKIPPED = 10


@flax.struct.dataclass
class TrainState:
    """All that a run is, besides its config and data. With seeds, each leaf has a leading axis.

    Checkpoints are written with these names.
    """

    step: Array
    """[] int32, updates done"""
    key: Array
    """what randomness is made of, together with `step`; never changes"""
    params: Params
    target_params: Params
    """target copies of the groups that a learner lists in `targets`"""
    opt_state: Any
    guard: NonFiniteGuard = flax.struct.field(default_factory=NonFiniteGuard.fresh)

    def step_key(self, step: Array) -> Array:
        """What the randomness of update number `step` is made of."""
        return jax.random.fold_in(self.key, step)

    def loss_keys(self, step: Array, losses: int) -> Array:
        """[L] keys of that update's losses."""
        key = self.step_key(step)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(losses))


def seeds_of(config: Mapping[str, Any]) -> np.ndarray:
    """[S] uint32: `seed`, `seed` + 1, … of a config, each below 2**32."""
    return np.uint32(config["seed"]) + np.arange(config["seeds"], dtype=np.uint32)


def init_state(
    seed: Array, learner: Learner, tx: optax.GradientTransformation, spec: Spec
) -> TrainState:
    """The state before the first step; `seed` [] int may be traced, so vmap it for many seeds."""
    key = jax.random.key(seed)
    init_key, train_key = jax.random.split(key)
    params = learner.init(init_key, jnp.zeros(spec.obs_dim), jnp.zeros(spec.chunk_dim))
    # Copies, not the same buffers twice: the state is donated as a whole.
    target_params = {name: jax.tree.map(jnp.copy, params[name]) for name in learner.targets}
    return TrainState(jnp.zeros((), jnp.int32), train_key, params, target_params, tx.init(params))
