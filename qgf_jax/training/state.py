"""The training state: all that a run is, besides its config and data."""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from qgf_jax.types import Array, Learner, Params, Spec


@flax.struct.dataclass
class _NonFiniteGuard:
    """Keeps the state finite: skips updates with a non-finite loss or gradient."""

    skipped: Array
    """[] int32, updates skipped so far"""
    in_a_row: Array
    """[] int32, how many of them just now; from `MOST_SKIPPED` on nothing is updated any more"""
    culprits: Array
    """[] int32, bit i for the i-th loss if that or its gradient was not finite the last time"""

    @classmethod
    def fresh(cls) -> "_NonFiniteGuard":
        """Of a state that has met nothing yet."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))

    def judge(self, bad: Array) -> tuple[Array, "_NonFiniteGuard"]:
        """Whether an update counts, and the guard after it.

        `bad` [L] bool: whether that loss or its gradient is not finite.
        """
        sound = ~bad.any() & (self.in_a_row < MOST_SKIPPED)
        return sound, _NonFiniteGuard(
            self.skipped + ~sound,
            jnp.where(sound, 0, self.in_a_row + 1),
            jnp.where(bad.any(), (bad << jnp.arange(len(bad))).sum(), self.culprits),
        )


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
    guard: _NonFiniteGuard = flax.struct.field(default_factory=_NonFiniteGuard.fresh)

    @classmethod
    def init(
        cls, seed: Array, learner: Learner, tx: optax.GradientTransformation, spec: Spec
    ) -> "TrainState":
        """The state before the first step; `seed` [] int may be traced, so vmap it for many seeds."""
        key = jax.random.key(seed)
        init_key, train_key = jax.random.split(key)
        params = learner.init(init_key, spec.example(), jnp.zeros(spec.chunk_dim))
        # Copies, not the same buffers twice: the state is donated as a whole.
        target_params = {name: jax.tree.map(jnp.copy, params[name]) for name in learner.targets}
        moving = {name: group for name, group in params.items() if name not in learner.still}
        return cls(jnp.zeros((), jnp.int32), train_key, params, target_params, tx.init(moving))

    def split(self, still: Collection[str]) -> tuple["TrainState", tuple[Params, Params]]:
        """The state of the groups that move, and groups and target copies that stand `still`."""

        def part(groups: Params, *, moving: bool) -> Params:
            return {name: x for name, x in groups.items() if (name not in still) == moving}

        mine = part(self.params, moving=True), part(self.target_params, moving=True)
        rest = part(self.params, moving=False), part(self.target_params, moving=False)
        return dataclasses.replace(self, params=mine[0], target_params=mine[1]), rest

    def joined(self, rest: tuple[Params, Params]) -> "TrainState":
        """The whole state again, with what `split` took away."""
        params, target_params = rest
        return dataclasses.replace(
            self, params=self.params | params, target_params=self.target_params | target_params
        )

    def step_key(self, step: Array) -> Array:
        """What the randomness of update number `step` is made of."""
        return jax.random.fold_in(self.key, step)

    def loss_keys(self, step: Array, losses: int) -> Array:
        """[L] keys of that update's losses."""
        key = self.step_key(step)
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(losses))
