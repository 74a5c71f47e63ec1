"""Shared types. Shapes: D action (a flattened chunk), B batch, E ensemble.

A type describes one example unless its name or docstring says otherwise. Importing this module does
not import JAX.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_guide.types import Array as Array
from qgf_guide.types import Critic as Critic
from qgf_guide.types import Direction as Direction
from qgf_guide.types import Endpoint as Endpoint
from qgf_guide.types import Velocity as Velocity


class Obs(NamedTuple):
    """An observation by its parts, each as the environment has it; networks scale and encode them."""

    state: Any
    """Of the shape `Spec.state`."""
    goal: Any = None
    """Of the shape `Spec.goal`; `None` where a run has no goals."""


Params = dict[str, Any]
"""One entry per parameter group: "policy", "critic", "value" …"""
Metrics = dict[str, Any]
"""Numbers by name. A loss may give a `Summary` for one; training then reports arrays alone."""

Sample = Callable[[Params, Obs, Array, Array], Array]
"""(params, obs, key, weight []) -> action [D]; params as of `table.acting_params`."""


@dataclasses.dataclass(frozen=True)
class Staged:
    """A `Sample` that can be left half-way and gone on with: what a sampler with "stages" gives."""

    whole: Sample
    begin: Callable[[Params, Obs, Array, Array], tuple[Array, Array]]
    """(params, obs, key, weight []) -> (where the flow is half-way [D], the action it leads to [D])."""
    finish: Callable[[Params, Obs, Array, Array], Array]
    """(params, obs, where it is half-way [D], weight []) -> action [D]; as `whole` after `begin`."""

    def __call__(self, params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        """The action of `whole`."""
        return self.whole(params, obs, key, weight)


class Spec(NamedTuple):
    """What a run must know of its data, long after the data are gone. Hashable.

    `record()` is what config.json has of it, and `Spec.of` reads that.
    """

    state: tuple[int, ...]
    """The shape of a state."""
    action: int
    """Width of one action."""
    chunk: int
    """Actions in a row that the policy gives at once."""
    goal: tuple[int, ...] | None = None
    """The shape of a goal; `None`: no goals."""
    n_step: int = 0
    """Steps of a return; 0: as many as those of a chunk."""
    state_mean: tuple[float, ...] = ()
    """Numbers of a state, row by row, or empty: states are used as they are."""
    state_std: tuple[float, ...] = ()
    goal_mean: tuple[float, ...] = ()
    goal_std: tuple[float, ...] = ()
    action_shift: tuple[float, ...] = ()
    """Of one action, or empty: networks give and take the environment's own units."""
    action_scale: tuple[float, ...] = ()
    """An action of the environment's is `action_shift` + `action_scale` times one of the networks'."""
    clip: bool = True
    """Whether the networks' actions are kept in the box [-1, 1]."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Spec":
        """The spec that a run's config.json records, whichever version wrote it.

        Raises `KeyError` with the name of a field that is missing, `TypeError` or `ValueError` if one
        is of the wrong kind.
        """
        fields = _read_flat(record) if record.keys() & {"obs_dim", "action_dim"} else record
        spec = cls(
            state=_shape(fields["state"]),
            action=_index(fields["action"]),
            chunk=_index(fields["chunk"]),
            goal=None if fields.get("goal") is None else _shape(fields["goal"]),
            n_step=_index(fields.get("n_step", 0)),
            **{name: tuple(map(float, fields.get(name, ()))) for name in _SCALES},
            clip=bool(fields.get("clip", True)),
        )
        if {len(spec.mean), len(spec.std)} not in ({0}, {spec.width}):
            raise ValueError(
                "means or standard deviations are not as many as an observation's numbers"
            )
        if {len(spec.action_shift), len(spec.action_scale)} not in ({0}, {spec.action}):
            raise ValueError("shifts or scales of actions are not as many as an action's numbers")
        return spec

    @property
    def goal_width(self) -> int:
        """Numbers of a goal; 0: no goals."""
        return 0 if self.goal is None else math.prod(self.goal)

    @property
    def width(self) -> int:
        """O, the numbers of an observation that is one row, a goal's last."""
        return math.prod(self.state) + self.goal_width

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the numbers of an observation [width], or empty."""
        return self.state_mean + self.goal_mean

    @property
    def std(self) -> tuple[float, ...]:
        """The same of the standard deviations."""
        return self.state_std + self.goal_std

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> "Spec":
        """The spec with the normalisation `mean` and `std` [width]."""
        size = math.prod(self.state)
        return self._replace(
            state_mean=tuple(mean[:size]),
            state_std=tuple(std[:size]),
            goal_mean=tuple(mean[size:]),
            goal_std=tuple(std[size:]),
        )

    def unscaled(self) -> "Spec":
        """The spec without normalisation, of observations and of actions."""
        return self.scaled((), ())._replace(action_shift=(), action_scale=())

    def record(self) -> dict[str, Any]:
        """As JSON; what is said of actions only where it is not as it always was."""
        said = {"action_shift": (), "action_scale": (), "clip": True}
        return {k: v for k, v in self._asdict().items() if said.get(k) != v or k not in said}

    def to_environment(self, action: Any) -> Any:
        """Actions [..., A] of the networks' in the environment's units."""
        if not self.action_scale:
            return action
        shift, scale = (
            np.broadcast_to(np.array(x, np.float32), action.shape)
            for x in (self.action_shift, self.action_scale)
        )
        return shift + scale * action

    def to_networks(self, action: Any) -> Any:
        """Actions [..., A] of the environment's in the networks' units, not clipped."""
        if not self.action_scale:
            return action
        shift, scale = (np.array(x, np.float32) for x in (self.action_shift, self.action_scale))
        return (action - np.broadcast_to(shift, action.shape)) / np.broadcast_to(
            scale, action.shape
        )

    @property
    def chunk_dim(self) -> int:
        """D, the width of a flattened chunk; its first `action` numbers are acted out first."""
        return self.chunk * self.action

    @property
    def return_steps(self) -> int:
        """Steps of a return."""
        return self.n_step or self.chunk

    @property
    def long_dim(self) -> int:
        """Width of the flattened actions of a whole return."""
        return self.return_steps * self.action

    @property
    def steps(self) -> int:
        """Transitions in a row that an example is made of: the chunk's or the return's."""
        return max(self.chunk, self.return_steps)

    def observation(self, flat: Any) -> Obs:
        """The parts of observations that are rows of numbers, `flat` [..., width].

        Environments hand over such rows, a goal's numbers last. Nothing else takes them apart. Raises
        `ValueError` for another width.
        """
        if flat.shape[-1] != self.width:
            raise ValueError(f"an observation is {self.width} numbers wide, not {flat.shape[-1]}")
        batch, size = flat.shape[:-1], math.prod(self.state)
        state = flat[..., :size].reshape(*batch, *self.state)
        if self.goal is None:
            return Obs(state)
        return Obs(state, flat[..., size:].reshape(*batch, *self.goal))

    def example(self) -> Obs:
        """An observation of zeros, to initialise networks with."""
        return self.observation(np.zeros(self.width, np.float32))


_SCALES = ("state_mean", "state_std", "goal_mean", "goal_std", "action_shift", "action_scale")


def _read_flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of an earlier version as one of today.

    That version had the goal's numbers among those of an observation, as the last ones.
    """
    goal = _index(record.get("goal_dim", 0))
    spec = Spec(
        state=(_index(record["obs_dim"]) - goal,),
        action=record["action_dim"],
        chunk=record["chunk"],
        goal=(goal,) if goal else None,
        n_step=record.get("backup", 0),
    )
    return spec.scaled(record.get("obs_mean", ()), record.get("obs_std", ()))._asdict()


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_index(size) for size in value)


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a whole number")
    return value


class Actor(NamedTuple):
    """The fields of a batch that depend on the policy's goal and on the length of its chunk."""

    obs: Obs
    next_obs: Obs
    """After the chunk, with goals; without, as in the batch."""
    weight: Array
    """[B], 0 where the chunk, not the return, runs over the end of its trajectory."""


class Batch(NamedTuple):
    """What a loss sees. Time is settled in it: no loss knows a horizon, a mask or a gamma."""

    obs: Obs
    """Each part [B, …], with the critics' goal if there are goals."""
    action: Array
    """[B, D], D = chunk * width of one action."""
    reward: Array
    """[B], discounted and summed over the n steps of a return."""
    discount: Array
    """[B], gamma ** n, and 0 where the future must not be bootstrapped."""
    next_obs: Obs
    """Each part [B, …], after n steps."""
    weight: Array
    """[B], 0 where the n steps run over the end of their trajectory, else 1."""
    actor: Actor
    """What a policy learner sees in place of the above."""
    long_action: Array
    """[B, n * width of one action], which begins with `action`."""
    subgoal: Any = None
    """[B, …], the goal some steps on in the trajectory, at most its last but one; if asked for."""
    subgoal_to_goal: Any = None
    """[B, …], as many steps on, or the policy's goal if that comes first."""
    next_action: Any = None
    """[B, D], the data's chunk from `next_obs` on; if asked for."""
    next_weight: Any = None
    """[B], `weight`, and 0 where it would count and runs over the end of its trajectory."""

    def policy_view(self) -> "Batch":
        """The batch with the policy's own goals. Reward and discount are not of these goals."""
        return self._replace(**self.actor._asdict())

    def next_view(self) -> "Batch":
        """The batch for a loss that bootstraps on the data's next chunk."""
        return self._replace(weight=self.next_weight)


class Summary(NamedTuple):
    """A metric that is reported as its mean, its least and its largest number."""

    numbers: Array


def _key_each(key: Array, size: int, _example: Batch) -> Array:
    import jax

    return jax.random.split(key, size)


def _all(batch: Batch) -> Batch:
    return batch


class Loss(NamedTuple):
    """A loss of one example. Training vmaps it, weights it and averages it, over all devices.

    With `combine`, the loss of an example depends on the whole global batch: `example` then returns any
    tree, of which `combine` gets the device's examples and those of all devices.
    """

    example: Callable[[Params, Params, Batch, Any], Any]
    """(params, target_params, x, noise) -> (loss [], metrics). `x` is one example: no field has a batch
    axis. A metric is averaged over all examples, or a `Summary`."""
    draw: Callable[[Array, int, Batch], Any] = _key_each
    """(key, G, x) -> the random numbers of a global batch of G examples, a tree with a leading axis G.

    Of the example `x` only shapes and dtypes are known. By default each example gets one key."""
    weighted: bool = True
    """Whether the loss of an example is multiplied by its `weight`."""
    combine: Callable[[Any, Any, Array], tuple[Array, Metrics]] | None = None
    """(mine, whole, rows) -> (losses [B], metrics [B, …]): `mine` is what `example` returned for this
    device's B examples, `whole` the same of the global batch, in which they are the `rows` [B]."""
    view: Callable[[Batch], Batch] = _all
    """What the loss sees of a batch: all, or a view such as `Batch.policy_view`."""


class Learner(NamedTuple):
    """How some parameter groups start, which loss moves each, and which have a target copy."""

    init: Callable[[Array, Obs, Array], Params]
    """(key, obs, action [D]) -> groups."""
    losses: Mapping[str, Loss]
    """The loss of each group, which moves no other group."""
    targets: tuple[str, ...] = ()
    """Groups that have a target copy."""
    every: Mapping[str, int] = {}
    """Groups that move only in every n-th update. Others move in each."""
    target_every: Mapping[str, int] = {}
    """Target copies, of any learner's groups, that move only in every n-th update."""
    still: tuple[str, ...] = ()
    """Groups that nothing moves, nor their target copies."""

    def stilled(self) -> "Learner":
        """The learner with the same groups, none of which is learned."""
        return Learner(self.init, {}, self.targets, still=tuple(self.losses))

    def renamed(self, suffix: str) -> "Learner":
        """The learner with its groups under other names, "critic" as "critic" + `suffix`.

        Its losses see them under the names that they know, in the place of others of these names.
        """

        def init(key: Array, obs: Obs, action: Array) -> Params:
            return {f"{name}{suffix}": x for name, x in self.init(key, obs, action).items()}

        def moved(loss: Loss) -> Loss:
            def example(params: Params, target_params: Params, x: Batch, noise: Any) -> Any:
                groups = self.own_groups(params, suffix), self.own_groups(target_params, suffix)
                return loss.example(*groups, x, noise)

            return loss._replace(example=example)

        def named(values: Mapping[str, Any]) -> dict[str, Any]:
            return {f"{name}{suffix}": value for name, value in values.items()}

        return Learner(
            init,
            named({name: moved(loss) for name, loss in self.losses.items()}),
            tuple(named(dict.fromkeys(self.targets))),
            named(self.every),
            named(self.target_every),
        )

    @staticmethod
    def own_groups(groups: Params, suffix: str) -> Params:
        """`groups` in which those whose names end in `suffix` stand under their names without it."""
        own = {name.removesuffix(suffix): x for name, x in groups.items() if name.endswith(suffix)}
        return {**groups, **own}

    def as_actor(self) -> "Learner":
        """The learner of a policy: its losses see a batch with the policy's goals."""
        losses = {k: loss._replace(view=Batch.policy_view) for k, loss in self.losses.items()}
        return self._replace(losses=losses)

    @classmethod
    def merge(cls, *learners: "Learner") -> "Learner":
        """One learner that does what all of them do.

        Two losses, or two numbers of updates, for one group are a `ValueError`.
        """

        def init(key: Array, obs: Obs, action: Array) -> Params:
            import jax

            groups: Params = {}
            for i, learner in enumerate(learners):
                groups |= learner.init(jax.random.fold_in(key, i), obs, action)
            return groups

        return cls(
            init,
            _union("losses", (learner.losses for learner in learners)),
            tuple(name for learner in learners for name in learner.targets),
            _union("periods", (learner.every for learner in learners)),
            _union("periods of the target copy", (learner.target_every for learner in learners)),
            tuple(name for learner in learners for name in learner.still),
        )


def _union(what: str, parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries of `parts`, by parameter group. Two for one group are a `ValueError`."""
    union: dict[str, Any] = {}
    for part in parts:
        if twice := union.keys() & part.keys():
            raise ValueError(f"two {what} for the parameter group {sorted(twice)[0]!r}")
        union |= part
    return union
