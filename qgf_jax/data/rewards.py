"""Rewards by a function of the user's in place of the data's: `data.rewards=MODULE:FUNCTION`. No JAX.

def rewards(rows):  # data.formats.Rows, some whole or partial episodes of the data
    return -abs(rows.observations[:, 0] - rows.actions[:, 0])  # [R], one number a row
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError, raised


def own_rewards(name: str) -> Callable[[Source], Source]:
    """What gives a source its rewards by the function `name`; with "" what leaves it as it is.

    The function sees actions in the data's own units, and arrays that it cannot change. Raises
    `UserError` if there is none such, and on reading if it fails or does not give a finite number for
    each row.
    """
    if not name:
        return lambda source: source
    function = _function(name)

    def applied(source: Source) -> Source:
        return source._replace(
            read=lambda start, stop: _with(
                name, function, source.path, source.read(start, stop), start
            )
        )

    return applied


def _function(name: str) -> Callable[[Rows], Any]:
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise UserError(f"data.rewards={name} is not MODULE:FUNCTION, as my_lab.tasks:rewards")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever importing it raises
        raise UserError(
            f"data.rewards={name} cannot be imported ({raised(error)}): mend the name, or add the "
            "module's folder to PYTHONPATH"
        ) from error
    if not callable(found):
        raise UserError(f"data.rewards={name} is no function")
    return found


def _with(name: str, function: Callable[[Rows], Any], path: Path, rows: Rows, first: int) -> Rows:
    """The rows with these rewards; `first` is the first one's number. That of a last row is void."""
    try:
        rewards = np.array(function(_locked(rows)), np.float32)
    except Exception as error:  # whatever the function raises
        raise UserError(f"data.rewards={name} failed on {path} ({raised(error)})") from error
    if rewards.shape != rows.ends.shape:
        raise UserError(
            f"data.rewards={name} gave an array of shape {rewards.shape} for {len(rows.ends)} rows: it "
            "must give one number for each"
        )
    rewards[rows.ends] = 0.0
    if not np.isfinite(rewards).all():
        row = int(np.argmin(np.isfinite(rewards)))
        raise UserError(f"data.rewards={name} gave {rewards[row]} for row {first + row} of {path}")
    return rows._replace(info={**rows.info, "rewards": rewards})


def _locked(rows: Rows) -> Rows:
    """The same rows in views that cannot be written to: they may be the dataset itself."""

    def view(array: np.ndarray) -> np.ndarray:
        locked = array.view()
        locked.flags.writeable = False
        return locked

    info = {key: view(array) for key, array in rows.info.items()}
    return Rows(view(rows.observations), view(rows.actions), view(rows.ends), info)
