"""The guidance weights that `qgf calibrate` has chosen, beside the checkpoint they belong to. No JAX.

weights.json has them, with what was bounded, and is sealed by its own fingerprint; weights.npz has all
that was measured, and its SHA-256 stands in weights.json.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.methods.parts import Part
from qgf_jax.runs.files import fingerprint, sha256, write_atomically
from qgf_jax.runs.run import Run

_RECORD, _ARRAYS = "weights.json", "weights.npz"
_AGAIN = "give `qgf calibrate` again"


def check_can_be_evaluated(run: Run) -> None:
    """Raises `UserError` unless Q of the run's critic is a return, which an evaluation goes on from."""
    critic = run.config["critic"].split(",")[0]
    if "returns" not in Part.named("critic", critic).provides:
        raise UserError(
            f"{run.workdir}: Q of its critic {critic!r} is no return, so its weights cannot be "
            "evaluated: leave --evaluate out, or train --config.critic=iql"
        )


class ChosenWeights(NamedTuple):
    """What weights.json says."""

    step: int
    """Of the checkpoint."""
    state: str
    """That checkpoint's digest, as of `Checkpoints.digest`."""
    criteria: Mapping[str, Mapping[str, Any]]
    """By criterion: `weights`, a number for each seed or null, `limit` and `curves`."""
    grid: list[list[float]]
    """[S, W], the weights that curves have a number for."""
    judge: Mapping[str, Any] | None = None
    """The run whose critic judged, if one did: folder, `data.part`, step, the checkpoint's digest."""

    def of_seeds(self) -> dict[str, np.ndarray]:
        """By criterion that has chosen for all seeds, their weights [S]."""
        chosen = {name: found["weights"] for name, found in self.criteria.items()}
        return {k: np.array(v, np.float32) for k, v in chosen.items() if None not in v}

    def write(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        """Writes both files; killed in between, they are refused. Raises `SaveError`."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_atomically(folder / _ARRAYS, buffer.getvalue())
        said = {k: v for k, v in self._asdict().items() if v is not None}
        record = {**said, "arrays": sha256(folder / _ARRAYS)}
        sealed = record | {"sha256": fingerprint(record)}
        write_atomically(folder / _RECORD, json.dumps(sealed, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "ChosenWeights | None":
        """What lies in a run folder; `None` if nothing does. Raises `UserError` if it was altered."""
        path = folder / _RECORD
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text())
            seal, arrays = record.pop("sha256"), record.pop("arrays")
            if fingerprint({**record, "arrays": arrays}) != seal:
                raise ValueError
            chosen = cls(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{path}: it was altered: {_AGAIN}") from None
        path = folder / _ARRAYS
        if not path.is_file() or sha256(path) != arrays:
            raise UserError(f"{path}: it was altered or is missing: {_AGAIN}")
        return chosen

    @classmethod
    def of_checkpoint(
        cls, folder: Path, step: int, state: str, command: str = "qgf calibrate"
    ) -> "ChosenWeights":
        """Those of one checkpoint. Raises `UserError` if there are none, or they were altered.

        `command` is what chooses them.
        """
        chosen = cls.read(folder)
        if chosen is None:
            raise UserError(
                f"{folder} has no weight that was chosen from its data: give `{command}`"
            )
        if (chosen.step, chosen.state) != (step, state):
            raise UserError(
                f"{folder / _RECORD} is of another checkpoint, at step {chosen.step}, not of that at "
                f"step {step}: {_AGAIN}"
            )
        return chosen
