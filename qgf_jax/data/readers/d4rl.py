"""D4RL's HDF5 files (Fu et al., 2020, arXiv 2004.07219), read with h5py.

One row a step, all episodes one after another. `terminals` says that the task ended there, `timeouts`
that the episode was cut off. There is no observation after the last step of an episode unless the file
has `next_observations`; without it the last transition of each episode that was cut off is left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.readers import hdf5
from qgf_jax.data.readers.recording import ALL, Choice, Episode, Recording
from qgf_jax.errors import UserError

_INFO = ("qpos", "qvel")


def open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of an HDF5 file. Raises `UserError` if it is none of D4RL's."""
    if choice.observations or choice.split or choice.ends:
        raise UserError(
            f"d4rl:{place}: D4RL's files have no observations, splits or ends to choose"
        )
    path, actions = Path(place), choice.actions or "actions"
    with hdf5.opened(path) as file:
        columns = _columns(path, file, actions)
        width = columns["observations"].shape[1]
        _ends(path, file)
    about = {
        "format": "d4rl",
        "version": "next_observations" if "next_observations" in columns else "",
        "observations": [["observations", width]],
        "actions": actions,
    }
    return Recording(
        f"d4rl:{place}", path.stem, about, hdf5.sha256(path), None, lambda: _episodes(path, actions)
    )


def _columns(path: Path, file: Any, actions: str) -> dict[str, Any]:
    """The datasets by their names here, unread; all have as many rows as there are observations."""
    axes = {"observations": 2, actions: 2, "rewards": 1, "terminals": 1, "timeouts": 1}
    if "timeouts" not in file:
        raise UserError(
            f"{path}: /timeouts is missing, so nothing says where episodes were cut off: write it, 1 on "
            "the last step of each such episode"
        )
    found = {key: hdf5.numbers(path, file, key, axes=n) for key, n in axes.items()}
    if "next_observations" in file:
        found["next_observations"] = hdf5.numbers(path, file, "next_observations", axes=2)
    infos = file.get("infos", {})
    found |= {key: hdf5.numbers(path, infos, key, axes=2) for key in _INFO if key in infos}
    rows = len(found["observations"])
    for key, column in found.items():
        if len(column) != rows:
            raise UserError(f"{path}: {key} has {len(column)} rows, observations have {rows}")
    found["actions"] = found.pop(actions)
    return found


def _ends(path: Path, file: Any) -> tuple[np.ndarray, np.ndarray]:
    """[R] bool each: whether the task ended, and whether the episode ended, with a row's action."""
    flags = []
    for key in ("terminals", "timeouts"):
        flag = hdf5.read(path, hdf5.numbers(path, file, key, axes=1))
        if not np.isin(flag, (0, 1)).all():
            row = int(np.argmax(~np.isin(flag, (0, 1))))
            raise UserError(f"{path}: {key} holds {flag[row]} in row {row}; it must be 0 or 1")
        flags.append(flag.astype(bool))
    terminated, cut = flags
    if not len(terminated):
        raise UserError(f"{path}: it has no rows")
    ended = terminated | cut
    if not ended.any():
        raise UserError(f"{path}: neither terminals nor timeouts end an episode anywhere")
    return terminated, ended


def _episodes(path: Path, actions: str) -> Iterator[Episode]:
    with hdf5.opened(path) as file:
        columns = _columns(path, file, actions)
        terminated, ended = _ends(path, file)
        # Rows after the last end are an episode that was still running when the file was closed.
        last = np.flatnonzero(ended)
        stops = [*(last + 1), *([len(ended)] if last[-1] + 1 < len(ended) else [])]
        start = 0
        for stop in map(int, stops):
            episode = _episode(path, columns, start, stop, bool(terminated[stop - 1]))
            if len(episode.actions):
                yield episode
            start = stop


def _episode(
    path: Path, columns: dict[str, Any], start: int, stop: int, terminated: bool
) -> Episode:
    """The rows [start, stop), which end an episode."""
    here = {key: hdf5.read(path, column, start, stop) for key, column in columns.items()}
    observations, following = here["observations"], here.get("next_observations")
    info = {key: here[key] for key in _INFO if key in here}
    if following is not None:
        _check_order(path, observations, following, start)
        observations = np.concatenate([observations, following[-1:]])
    elif terminated:  # discounted to nothing, so what it holds does not count
        observations = np.concatenate([observations, observations[-1:]])
    else:
        return Episode(
            observations, here["actions"][:-1], here["rewards"][:-1], False, info, lost=1
        )
    # Nothing is known of the simulator after the last action.
    info = {key: np.concatenate([array, array[-1:]]) for key, array in info.items()}
    return Episode(observations, here["actions"], here["rewards"], terminated, info)


def _check_order(path: Path, observations: np.ndarray, following: np.ndarray, start: int) -> None:
    """Raises `UserError` unless the observation after a row is the next row's."""
    far = ~np.isclose(observations[1:], following[:-1], rtol=1e-4, atol=1e-6).all(axis=1)
    if far.any():
        row = start + int(np.argmax(far))
        raise UserError(
            f"{path}: next_observations of row {row} is not the observation of row {row + 1}: rows are "
            "not in the order of time, or an end is missing there"
        )
