"""Data without an environment, as data:NAME: they are trained on, and nothing is played.

What a robot has recorded has no simulator. The policy of such a run is restored with `load_policy`.
"""

from qgf_jax.envs.families import Env, EnvName, Family, Labels
from qgf_jax.errors import UserError


class _Recorded(Family):
    """Any name: that of a converted folder or an npz file."""

    title = "recorded"

    def make(self, name: EnvName) -> Env:
        """Raises `UserError`: there is none."""
        raise UserError(
            f"{name.env_id} are data without an environment, so nothing can be played: act with "
            "qgf_jax.load_policy, or train with the --config.env that they were recorded in"
        )

    def labels(self, name: EnvName) -> Labels:
        """The data's own columns; widths are what they are."""
        return Labels(name)


FAMILY = _Recorded()
