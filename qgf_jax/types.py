"""Shared types. Shapes: O observation, D action (a flattened chunk), B batch, E ensemble.

A type describes one example unless its name or docstring says otherwise. Importing this module does
not import JAX.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array
else:
    Array = Any

Params = dict[str, Any]
"""One entry per parameter group: "policy", "critic", "value" …"""
Metrics = dict[str, Array]

Velocity = Callable[[Array, Array], Array]
"""(action [D], t []) -> velocity [D], with observation and parameters already bound."""
Critic = Callable[[Array], Array]
"""action [D] -> Q [], with observation and parameters already bound."""
Slope = Callable[[Array, Array], tuple[Array, Array]]
"""(action [D], t []) -> (velocity [D], direction of guidance [D] before the weight)."""
Endpoint = Callable[..., Array]
"""(action [D], t [], velocity there [D], *, clip=True) -> the clean action [D] it leads to."""
Sample = Callable[[Params, Array, Array, Array], Array]
"""(params to act with, obs [O], key, weight []) -> action [D]; see `table.acting_params`."""


class Spec(NamedTuple):
    """What a run must know of its data, long after the data is out of network_input. Hashable."""

    obs_dim: int
    """O, the goal's numbers among them: a goal is the last `goal_dim` of an observation."""
    action_dim: int
    """Width of one action; in [-1, 1]."""
    chunk: int
    """Actions in a row that the policy gives at once."""
    obs_mean: tuple[float, ...] = ()
    """[O], or empty: observations are used as they are."""
    obs_std: tuple[float, ...] = ()
    goal_dim: int = 0
    """0: no goals."""
    backup: int = 0
    """Steps of a return, if they are not those of `chunk`."""

    @property
    def long_dim(self) -> int:
        """Width of the flattened actions of a whole return."""
        return (self.backup or self.chunk) * self.action_dim

    @property
    def chunk_dim(self) -> int:
        """D, the width of a flattened chunk; its first `action_dim` numbers are acted out first."""
        return self.chunk * self.action_dim

    def standardize(self, obs: Array) -> Array:
        """`obs` [O] as the networks see it."""
        if not self.obs_mean:
            return obs
        import jax.numpy as jnp

        return (obs - jnp.asarray(self.obs_mean, obs.dtype)) / jnp.asarray(self.obs_std, obs.dtype)


class Actor(NamedTuple):
    """The fields of a batch that depend on the policy's goal and on the length of its chunk."""

    obs: Array
    next_obs: Array
    """After the chunk, with goals; without, as in the batch."""
    weight: Array
    """[B], 0 where the chunk, not the return, runs over the end of its trajectory."""


class Batch(NamedTuple):
    """What a loss sees. Time is settled in it: no loss knows a horizon, a mask or a gamma."""

    obs: Array
    """[B, O], with the critics' goal if there are goals."""
    action: Array
    """[B, D], D = chunk * width of one action."""
    reward: Array
    """[B], discounted and summed over the n steps of a return."""
    discount: Array
    """[B], gamma ** n, and 0 where the future must not be bootstrapped."""
    next_obs: Array
    """[B, O], after n steps."""
    weight: Array
    """[B], 0 where the n steps run over the end of their trajectory, else 1."""
    actor: Actor
    """What a policy learner sees in place of the above."""
    long_action: Array
    """[B, n * width of one action], which begins with `action`."""
    waypoint: Any = None
    """[B, G], some steps on in the trajectory, or its last state but one; where one is asked for."""
    waypoint_to_goal: Any = None
    """[B, G], as many steps on, or the policy's goal if that comes first."""

    def for_actor(self) -> "Batch":
        """The batch with the policy's own goals. Reward and discount are not of these goals."""
        return self._replace(**self.actor._asdict())


Loss = Callable[[Params, Params, Batch, Array], tuple[Array, Metrics]]
"""(params, target_params, batch, key) -> (loss [], metrics)."""


class Learner(NamedTuple):
    """How some parameter groups start, which loss moves each, and which have slow copies."""

    init: Callable[[Array, Array, Array], Params]
    """(key, obs [O], action [D]) -> groups."""
    losses: Mapping[str, Loss]
    targets: tuple[str, ...] = ()
    every: Mapping[str, int] = {}
    """Groups that move only in every n-th update. Others move in each."""
    target_every: Mapping[str, int] = {}
    """Slow copies, of any learner's groups, that move only in every n-th update."""


def as_actor(learner: Learner) -> Learner:
    """A policy learner whose losses see a batch with the policy's goals."""

    def seen(loss: Loss) -> Loss:
        return lambda params, target, batch, key: loss(params, target, batch.for_actor(), key)

    return learner._replace(losses={name: seen(loss) for name, loss in learner.losses.items()})


def merge(*learners: Learner) -> Learner:
    """One learner that does what all of them do.

    Two losses, or two numbers of updates, for one group are a `ValueError`.
    """
    losses = _union("losses", (learner.losses for learner in learners))
    every = _union("periods", (learner.every for learner in learners))
    target_every = _union(
        "periods of the slow copy", (learner.target_every for learner in learners)
    )

    def init(key: Array, obs: Array, action: Array) -> Params:
        import jax

        groups: Params = {}
        for i, learner in enumerate(learners):
            groups |= learner.init(jax.random.fold_in(key, i), obs, action)
        return groups

    targets = tuple(name for learner in learners for name in learner.targets)
    return Learner(init, losses, targets, every, target_every)


def _union(what: str, parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries of `parts`, by parameter group. Two for one group are a `ValueError`."""
    union: dict[str, Any] = {}
    for part in parts:
        if twice := union.keys() & part.keys():
            raise ValueError(f"two {what} for the parameter group {sorted(twice)[0]!r}")
        union |= part
    return union
