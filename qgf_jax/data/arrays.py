"""Data of your own, as arrays in memory. No JAX.

dataset = qgf_jax.Dataset.from_arrays(observations, actions, rewards, terminated, truncated)
qgf_jax.pretrain(config, "runs/mine", dataset)
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.readers.recording import Episode, Recording
from qgf_jax.data.readers.steps import Steps
from qgf_jax.data.shards import Source


class Dataset(NamedTuple):
    """Episodes in memory."""

    recording: Recording

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        *,
        next_observations: Any = None,
        bounds: tuple[Any, Any] | None = None,
        name: str = "arrays",
    ) -> "Dataset":
        """T steps of all episodes, one after another.

        `observations` [T, O] before each step, `actions` [T, A] in the environment's units, `rewards`
        [T]; `terminated` [T]: whether the step ended the task, `truncated` [T]: whether the episode was
        cut off there. Without `next_observations` [T, O] the last step of an episode that was cut off is
        left out, as nothing is known of what came after it. `bounds`: the least and the largest action
        [A], unless they are -1 and 1 or `config.env` says them. Raises `UserError` for arrays that do
        not fit.
        """
        columns = {"observations": observations, "actions": actions, "rewards": rewards}
        if next_observations is not None:
            columns["next_observations"] = next_observations
        steps = Steps.of(
            name,
            {key: np.asarray(column) for key, column in columns.items()},
            np.asarray(terminated),
            np.asarray(truncated),
        )
        return cls._of(name, bounds, steps.episodes)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Episode],
        *,
        bounds: tuple[Any, Any] | None = None,
        name: str = "episodes",
    ) -> "Dataset":
        """Of episodes, each with the observation after its last action; see `from_arrays`."""
        kept = list(episodes)
        return cls._of(name, bounds, lambda: iter(kept))

    @classmethod
    def _of(cls, name: str, bounds: tuple[Any, Any] | None, episodes: Any) -> "Dataset":
        box = (
            None if bounds is None else (np.asarray(bounds[0], float), np.asarray(bounds[1], float))
        )
        return cls(Recording(name, name, {"format": "arrays"}, "", box, episodes))

    def source(self) -> Source:
        """All rows, as if read from a file. Raises `UserError` for what is wrong with them."""
        rows = Rows.joined([Rows.of_episode(episode) for episode in self.recording.checked()])
        digest = hashlib.sha256()
        for array in (*rows[:3], *(rows.info[key] for key in sorted(rows.info))):
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return Source.of_rows(
            Path(self.recording.name), rows, digest.hexdigest(), self.recording.described()
        )
