"""The critic of a trained run, to guide a policy that the run knows nothing of."""

import dataclasses
import os
from typing import Any, Literal

import jax
import jax.numpy as jnp

from qgf_guide.bounds import Bound, Index, NonNegative
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.types import Array

_UNITS = ("environment", "networks")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoadedCritic:
    """What `load_critic` gives: `critic(features [O], action) -> Q []`, see there.

    A tree of JAX's, so that a compiled function may have it as an argument.
    """

    members: Any
    """The parameters of the ensemble, leaves [E, …]."""
    networks: Any = dataclasses.field(metadata={"static": True})
    units: str = dataclasses.field(metadata={"static": True})
    """Those of its actions, and so of its slope: "environment" or "networks"."""

    def __call__(self, features: Any, action: Any) -> Array:
        """Q [] of a chunk, [D] or [H, A], at one observation [O], a goal's numbers last.

        Raises `UserError` for other shapes, as of batches.
        """
        spec = self.networks.spec
        obs, chunk = (jnp.asarray(x, jnp.float32) for x in (features, action))
        if obs.shape != (spec.width,):
            raise UserError(
                f"features of shape {obs.shape}: the critic takes ({spec.width},), one observation; "
                "jax.vmap(critic) takes batches"
            )
        shapes = (spec.chunk_dim,), (spec.chunk, spec.action)
        if chunk.shape not in shapes:
            raise UserError(
                f"action of shape {chunk.shape}: the critic takes {shapes[0]} or {shapes[1]}, one "
                "chunk; jax.vmap(critic) takes batches"
            )
        if self.units == "environment":
            chunk = spec.to_networks(chunk.reshape(shapes[1]))
        return self.networks.q_of(self.members, spec.observation(obs))(chunk.ravel())


def load_critic(
    workdir: str | os.PathLike,
    *,
    critic: str = "",
    rho: float | None = None,
    seed: int = 0,
    step: int | None = None,
    units: Literal["environment", "networks"] = "environment",
) -> LoadedCritic:
    """Restores the critic of a run as a JAX function (features [O], action chunk) -> Q [].

        critic = qgf_jax.load_critic("runs/x")
        field = qgf_jax.guide(velocity, lambda a: critic(features, a), weight=3.0)
        action = qgf_jax.integrate(field, noise, num_steps=10)

    It sees one observation, as the data had them, and one chunk, [D] or [H, A]; `jax.vmap`, `jax.grad`
    and `jax.jit` apply, and `jax.jit` takes it as an argument too. It normalises observations as the run
    does. It has the parameters that act in the run: those of the target network where there is one.

    `units` are those of the action, and its slope is per such a unit. "environment": those of the data
    that the run was trained on. A policy that acts in others has to bring its actions there,
    `lambda a: critic(features, mean + std * a)`. "networks": those in which the run's bounds are -1 and
    1, or its actions have deviation 1, as `data.action_scale` says. Without a scale both are the same.

    `critic` is one of several that the run has, the first unless named; `rho` makes one Q of the
    members, their mean - rho * standard deviation, in place of the run's own way; `seed` is the place of
    a seed in the run. Raises `UserError` for a folder without a sound checkpoint, and for a run without
    such a critic.
    """
    if units not in _UNITS:
        raise UserError.unknown("units", str(units), _UNITS)
    if rho is not None:
        Bound.of(NonNegative).check("rho", rho)
    for what, number in {"seed": seed, "step": step}.items():
        if number is not None:
            Bound.of(Index).check(what, number)
    loaded = LoadedRun.open(workdir, step)
    if seed >= loaded.seeds:
        raise UserError(f"{workdir} has seeds 0 to {loaded.seeds - 1}, not {seed}")
    networks, group = Builder(loaded.run.config, loaded.spec).acting_critic(critic, rho)
    return LoadedCritic(loaded.params_of(seed)[group], networks, units)
