"""A weight with each request to a policy server of openpi's."""

import math
from typing import Any

import numpy as np

from qgf_guide import UserError


class WeightOfRequest:
    """A policy of openpi's whose requests may have a weight of their own, under "guidance_weight".

    `sample_kwargs` is the dictionary that the policy was made with, which it reads at each request.
    """

    def __init__(self, policy: Any, sample_kwargs: dict[str, Any]):
        self._policy, self._kwargs = policy, sample_kwargs
        self._usual, self.metadata = sample_kwargs["weight"], policy.metadata

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """What the policy answers. Raises `UserError` for a weight that is no finite number."""
        weight = obs.get("guidance_weight", self._usual)
        try:
            number = math.nan if np.ndim(weight) else float(weight)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"guidance_weight is {weight!r}: give one finite number")
        # Always of one type, so that the compiled program serves every weight.
        self._kwargs["weight"] = np.float32(number)
        return self._policy.infer({k: v for k, v in obs.items() if k != "guidance_weight"})

    def reset(self) -> None:
        """Between episodes; openpi's policies keep nothing."""
