"""D4RL's HDF5 files (Fu et al., 2020, arXiv 2004.07219), read with h5py.

One row a step, all episodes one after another. `terminals` says that the task ended there, `timeouts`
that the episode was cut off. There is no observation after the last step of an episode unless the file
has `next_observations`; without it the last transition of each episode that was cut off is left out.
"""

from collections.abc import Iterator
from pathlib import Path

from qgf_jax.data.readers.hdf5 import Hdf5File
from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Episode, Recording
from qgf_jax.data.readers.steps import Steps
from qgf_jax.errors import UserError
from qgf_jax.runtime import paths

_INFO = ("qpos", "qvel")


@OPENERS.declare
def _open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of an HDF5 file. Raises `UserError` if it is none of D4RL's."""
    if choice.observations or choice.split or choice.ends:
        raise UserError(
            f"d4rl:{place}: D4RL's files have no observations, splits or ends to choose"
        )
    path, actions = paths.expand(place), choice.actions or "actions"
    with Hdf5File.open(path) as file:
        columns = _steps(file, actions).columns
        width = columns["observations"].shape[1]
    about = {
        "format": "d4rl",
        "version": "next_observations" if "next_observations" in columns else "",
        "observations": [["observations", width]],
        "actions": actions,
    }
    return Recording(
        f"d4rl:{place}",
        path.stem,
        about,
        Recording.digest(path),
        None,
        lambda: _episodes(path, actions),
        files=(path,),
    )


def _steps(file: Hdf5File, actions: str) -> Steps:
    path, root = file.path, file.root
    if "timeouts" not in root:
        raise UserError(
            f"{path}: /timeouts is missing, so nothing says where episodes were cut off: write it, 1 on "
            "the last step of each such episode"
        )
    found = {
        "observations": file.numbers(root, "observations", axes=2),
        "actions": file.numbers(root, actions, axes=2),
        "rewards": file.numbers(root, "rewards", axes=1),
    }
    if "next_observations" in root:
        found["next_observations"] = file.numbers(root, "next_observations", axes=2)
    infos = root.get("infos", {})
    found |= {key: file.numbers(infos, key, axes=2) for key in _INFO if key in infos}
    terminated, cut = (
        file.read(file.numbers(root, key, axes=1)) for key in ("terminals", "timeouts")
    )
    return Steps.of(str(path), found, terminated, cut, read=file.read)


def _episodes(path: Path, actions: str) -> Iterator[Episode]:
    with Hdf5File.open(path) as file:
        yield from _steps(file, actions).episodes()
