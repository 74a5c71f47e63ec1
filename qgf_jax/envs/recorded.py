"""Data without an environment, as data:NAME: they are trained on, and nothing is played.

What a robot has recorded has no simulator. The policy of such a run is restored with `load_policy`.
"""

import dataclasses
from pathlib import Path

from qgf_jax.envs.families import Env, EnvName, Family, Labels
from qgf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Name(EnvName):
    """The name of a converted folder or of an npz file, all of it: there is one task."""

    @property
    def full(self) -> str:
        return self.env_id


class _Recorded(Family):
    """Any name."""

    title = "recorded"
    plays = False

    def parse(self, name: str) -> _Name:
        """Raises `UserError` for what no file or folder in a folder of data can be called."""
        name = name.removeprefix(f"{self.prefix}:")
        if not name or name.startswith(".") or {"/", "\\", "\0"} & {*name}:
            raise UserError(
                f"environment {self.prefix}:{name} names no data: write {self.prefix}:NAME, where NAME "
                "is a folder that `qgf convert` has made"
            )
        return _Name(name, 1, family=self.prefix)

    def make(self, name: EnvName) -> Env:
        """Raises `UserError`: there is none."""
        raise UserError(
            f"{name.env_id} are data without an environment, so nothing can be played: act with "
            "qgf_jax.load_policy, or train with the --config.env that they were recorded in"
        )

    def advice(self, dataset: str, folder: Path) -> str:
        """How data come here."""
        return f"make it with `qgf convert FORMAT:PLACE --out={folder} --name={dataset}`"

    def labels(self, name: EnvName) -> Labels:
        """The data's own columns; widths are what they are."""
        return Labels(name)


FAMILY = _Recorded()
