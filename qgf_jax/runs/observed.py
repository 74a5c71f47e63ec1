"""What a caller hands over as an observation, as the rows that a run's programs take. No JAX."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs.spaces import Parts, Widths
from qgf_jax.errors import UserError
from qgf_jax.types import Spec


class Observed(NamedTuple):
    """How observations of a run come: as rows, as dictionaries of parts, with a goal apart."""

    spec: Spec
    parts: Widths
    """Key and width of each part, in order; empty where the run's data name none."""

    def rows(self, observation: Any, goal: Any = None, xp: Any = np) -> Any:
        """[O] or [B, O] as float32, the goal's numbers last, of the arrays of `xp`, NumPy or jax.numpy.

        `observation` is such an array without or with these numbers, or a dictionary of parts. `goal` is
        [G] or [B, G]. Raises `UserError` for other shapes.
        """
        if isinstance(observation, Mapping):
            obs = self._row(observation, xp)
        else:
            obs = xp.asarray(observation, np.float32)
        if goal is not None:
            obs = self._with_goal(obs, xp.asarray(goal, np.float32), xp)
        spec = self.spec
        if obs.ndim not in (1, 2) or obs.shape[-1] != spec.width:
            last = f", the goal's {spec.goal_width} last" * bool(spec.goal_width)
            raise UserError(
                f"observation of shape {obs.shape}: the run wants [{spec.width}] "
                f"or [B, {spec.width}]{last}"
            )
        return obs

    def _row(self, observation: Mapping[str, Any], xp: Any) -> Any:
        """[O] or [B, O] of a dictionary of the parts that the run's data name."""
        if not self.parts:
            raise UserError(
                "observation of parts: the run's data name none, so give it as one row of "
                f"{self.spec.width} numbers"
            )
        arrays = []
        for key, width in self.parts:
            found = Parts.find("the policy", observation, key)
            arrays.append(xp.atleast_1d(xp.asarray(found, np.float32)))
            if arrays[-1].shape[-1] != width or arrays[-1].shape[:-1] != arrays[0].shape[:-1]:
                raise UserError(
                    f"observation {key!r} of shape {arrays[-1].shape}: the run wants [{width}], or "
                    f"[B, {width}] with the same B for all"
                )
        return xp.concatenate(arrays, axis=-1)

    def _with_goal(self, obs: Any, goal: Any, xp: Any) -> Any:
        if goal.shape[-1:] != (self.spec.goal_width,):
            raise UserError(f"goal of shape {goal.shape}: the run wants [{self.spec.goal_width}]")
        try:
            batch = np.broadcast_shapes(obs.shape[:-1], goal.shape[:-1])
        except ValueError:
            raise UserError(f"{len(obs)} observations and {len(goal)} goals") from None
        both = (xp.broadcast_to(x, (*batch, x.shape[-1])) for x in (obs, goal))
        return xp.concatenate([*both], axis=-1)
