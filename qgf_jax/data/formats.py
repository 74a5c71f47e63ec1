"""Reads npz files of the raw layout into arrays that have been looked at. No JAX here.

In OGBench's raw layout a row is a state and the action taken in it, `terminals` is 1 on the last row of
each trajectory, and that row's action is void. A file that says in another column where trajectories
end, or has the next observation in the same row, means something else by the same three keys.
"""

import contextlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qgf_jax.data.summary import Summary
from qgf_jax.errors import UserError, log_once

if TYPE_CHECKING:
    from qgf_jax.data.readers.recording import Episode


class Rows(NamedTuple):
    """A dataset as it is on disk: every row of every trajectory, R rows.

    Row t holds a state and the action taken in it; the action of a trajectory's last row is void.
    """

    observations: np.ndarray
    """[R, O] float32, or float16 if the file's are"""
    actions: np.ndarray
    """[R, A] float32"""
    ends: np.ndarray
    """[R] bool, true on the last row of each trajectory"""
    info: dict[str, np.ndarray]
    """`rewards`, `masks`, `qpos`, `qvel`, `button_states`, where the file has them"""

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Rows":
        """Reads and checks one npz file. Raises `UserError` naming file, key and cause.

        Sizes are checked before memory is taken for them.
        """
        path = Path(path)
        raw, _, _ = _read_npz(path)
        n = len(raw["observations"])
        for key, array in raw.items():
            _check_length(path, key, len(array), n)
            cls.check_numbers(path, key, array)
        actions, ends = raw.pop("actions"), raw.pop("terminals")
        _check_ends(path, ends)
        if not actions.any():
            raise UserError(f"{path}: actions are all 0: nothing can be learned from them")
        Summary.log_rounded(path, raw["observations"])
        return cls(
            observations=cls.as_kept(raw.pop("observations")),
            actions=actions.astype(np.float32, copy=False),
            ends=ends.astype(bool, copy=False),
            info=raw,
        )

    @staticmethod
    def peek(path: Path) -> "_Peek":
        """Reads and checks little but where trajectories end. Raises `UserError` as `read` does."""
        arrays, shapes, sums = _read_npz(path, ("terminals",))
        n = shapes["observations"][0]
        for key, shape in shapes.items():
            _check_length(path, key, shape[0], n)
        ends = arrays["terminals"]
        _check_ends(path, ends)
        widths = {key: shape[1] for key, shape in shapes.items() if len(shape) == 2}
        return _Peek(ends.astype(bool), widths, [path.stat().st_size, sums])

    @classmethod
    def of_episode(cls, episode: "Episode") -> "Rows":
        """Its T transitions as T + 1 rows, the last without an action."""
        length = len(episode.actions)
        info = dict(episode.info)
        if episode.rewards is not None:
            info["rewards"] = np.append(episode.rewards, np.float32(0))
        masks = np.ones(length + 1, np.float32)
        masks[length - 1] = 0.0 if episode.terminated else 1.0
        void = np.zeros((1, episode.actions.shape[1]), np.float32)
        actions = np.concatenate([episode.actions, void])
        ends = np.arange(length + 1) == length
        return cls(episode.observations, actions, ends, {**info, "masks": masks})

    @classmethod
    def joined(cls, pieces: Sequence["Rows"]) -> "Rows":
        """One after another; they have the same columns."""
        keys = pieces[0].info
        info = {key: np.concatenate([piece.info[key] for piece in pieces]) for key in keys}
        return cls(*map(np.concatenate, zip(*(piece[:3] for piece in pieces), strict=True)), info)

    def part(self, start: int, stop: int) -> "Rows":
        """Rows [start, stop), not copied."""
        info = {key: array[start:stop] for key, array in self.info.items()}
        arrays = (self.observations, self.actions, self.ends)
        return Rows(*(array[start:stop] for array in arrays), info)

    def at(self, numbers: np.ndarray) -> "Rows":
        """The rows of these numbers [K], copied."""
        info = {key: array[numbers] for key, array in self.info.items()}
        arrays = (self.observations, self.actions, self.ends)
        return Rows(*(array[numbers] for array in arrays), info)

    @staticmethod
    def as_kept(observations: np.ndarray) -> np.ndarray:
        """Observations in the type that they are kept in: float16 stays, all else becomes float32."""
        kept = np.float16 if observations.dtype == np.float16 else np.float32
        return np.asarray(observations, kept)

    @staticmethod
    def check_numbers(place: object, key: str, array: np.ndarray) -> None:
        """Refuses numbers that are not finite, or so large that sums of squares are not."""
        if array.dtype.kind not in "fiu" or not array.size:
            return
        # As Python's: float16 would round the bound to infinity, and integers have no -min.
        ends = float(array.max()), float(array.min())
        if all(abs(end) <= _LARGEST for end in ends):  # NaN if any is
            return
        wide = np.asarray(array, np.float64)
        bad = ~(np.abs(wide) <= _LARGEST).reshape(len(array), -1).all(axis=1)
        row = int(np.argmax(bad))
        what = f"larger than {_LARGEST:g}" if np.isfinite(array[row]).all() else "NaN or infinite"
        raise UserError(f"{place}: {key} is {what} in row {row}: collect it again")

    def check_labels(self, path: Path, heeded: Collection[str]) -> None:
        """Raises `UserError` if there are labels that nobody would heed; `heeded` are those that are."""
        _check_labels(path, self.info.keys() - set(heeded))

    def summarize(self, goal: np.ndarray | None = None) -> Summary:
        """Statistics; `goal` [R, G] where goals are not observations."""
        return Summary.of(self.observations, self.actions[~self.ends], goal)


class _Peek(NamedTuple):
    """What is known of an npz file without reading all of it."""

    ends: np.ndarray
    """[R] bool, as in `Rows`."""
    widths: dict[str, int]
    """{key: numbers in a row}, of arrays [R, width]."""
    identity: list[Any]
    """Bytes of the file and, by key, the CRC-32 in its directory."""


def _check_length(path: Path, key: str, rows: int, n: int) -> None:
    if rows != n:
        raise UserError(f"{path}: {key} has {rows} rows, observations have {n}")


def _check_ends(path: Path, ends: np.ndarray) -> None:
    if not np.isin(ends, (0, 1)).all():
        row = int(np.argmax(~np.isin(ends, (0, 1))))
        raise UserError(f"{path}: terminals holds {ends[row]} in row {row}; it must be 0 or 1")
    if not len(ends) or not ends[-1]:
        raise UserError(f"{path}: the last row does not end a trajectory: the file was cut off")
    if ends.all():
        raise UserError(f"{path}: every row of terminals ends a trajectory: there is no transition")
    _check_compact(path, ends)


_LARGEST = 1e9
_LABELS = ("rewards", "masks")
_AXES = {"observations": 2, "actions": 2, "terminals": 1, "qpos": 2, "qvel": 2, "button_states": 2}
_AXES |= dict.fromkeys(_LABELS, 1)
_FLOATS = ("observations", "actions", "qpos", "qvel")
_NEEDED = ("observations", "actions", "terminals")
# Deflate packs zeros 1000:1, states of buttons 250:1, and trajectories as a whole 2:1 to 20:1.
_RATIO, _BOMB = 200, 2**26


def _read_npz(path: Path, keys: Collection[str] = ()) -> tuple[dict[str, np.ndarray], Any, Any]:
    """Arrays by key, all that are known or only `keys`; shapes and CRC-32s of all, by key."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as file:
            return _read_zip(path, file, keys)
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, RuntimeError):
        cause = "it is cut off or altered, or not an npz file: fetch or collect it again"
    except NotImplementedError:
        cause = "it is packed in a way that NumPy does not know: write it with numpy.savez"
    except ValueError:  # object arrays, bytes after an array
        cause = "it is not an npz file of plain number arrays"
    raise UserError(f"{path}: {cause}")


def _read_zip(
    path: Path, file: zipfile.ZipFile, keys: Collection[str]
) -> tuple[dict[str, np.ndarray], Any, Any]:
    members = _members(path, file)
    shapes = _check_declared(path, file, members)
    _check_others(path, file, shapes["observations"][0])
    sums = {key: info.CRC for key, info in sorted(members.items())}
    chosen = {key: info for key, info in members.items() if not keys or key in keys}
    return {key: _read_array(file, info) for key, info in chosen.items()}, shapes, sums


def _members(path: Path, file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays that are read, by key."""
    members = _known(path, file)
    _check_keys(path, _others(file))
    for key in _NEEDED:
        if key not in members:
            has = ", ".join(sorted(file.namelist()))[:60] or "nothing"
            raise UserError(f"{path}: key {key!r} is missing (the file has {has})")
    rows = _length(file, members["observations"])
    return {k: v for k, v in members.items() if k not in _LABELS or _length(file, v) == rows}


def _known(path: Path, file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays whose keys mean something, by key. Raises `UserError` for two of one key."""
    known: dict[str, zipfile.ZipInfo] = {}
    for info in file.infolist():
        key = info.filename.removesuffix(".npy")
        if key in known:
            raise UserError(f"{path}: there are two arrays {key!r}: write the file again")
        if key in _AXES:
            known[key] = info
    return known


_REGULAR = "ogbench.utils.load_dataset's regular layout"
_COMPACT = "ogbench.utils.load_dataset's compact layout"
_D4RL = "D4RL's layout"
_GYMNASIUM = "Gymnasium's and Minari's layout"
_BUFFER = "robomimic's layout or a replay buffer's"
_STEPS = "RLDS's layout"
_EPISODES = "a layout with a column of episodes"
_KEYS = {
    _REGULAR: ("next_observations", "next_observation", "next_obs", "next_states"),
    _COMPACT: ("valids", "valid"),
    _D4RL: ("timeouts", "timeout", "infos/timeouts"),
    _GYMNASIUM: (
        "truncations", "truncation", "truncateds", "truncated",
        "terminations", "termination", "terminateds", "terminated",
    ),
    _BUFFER: ("dones", "done", "dones_float", "done_bool", "not_done", "final_observations"),
    _STEPS: ("is_first", "is_last", "is_terminal"),
    _EPISODES: (
        "episode_ends", "episode_starts", "episode_ids", "episode_id", "episode_index",
        "episode_lengths", "episode", "episodes", "ends", "traj_ends", "traj_lengths", "traj_id",
        "traj_ids", "trajectory_id", "trajectory_ids", "trajectory",
    ),
}  # fmt: skip
_LAYOUTS = {key: layout for layout, keys in _KEYS.items() for key in keys}
"""Key that is a sign of a layout -> what layout."""


def _check_keys(path: Path, keys: Iterable[str]) -> None:
    """Raises `UserError` if one of `keys` is a sign of another layout."""
    keys = {*keys}
    if keys >= {"terminated", "truncated"}:
        raise UserError(
            f"{path}: key 'terminated' is of a file of steps: run `qgf convert npz:{path}` and name the "
            "folder that it makes (docs/data.md)"
        )
    for key in sorted(keys):
        if layout := _LAYOUTS.get(key.lower()):
            raise _of_layout(path, f"key {key!r}", layout)


def _check_compact(path: Path, ends: np.ndarray) -> None:
    """Raises `UserError` if terminals [R] are those of the compact layout, whatever keys there are."""
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    if len(lengths) % 2 == 0 and (lengths[1::2] == 1).all() and (lengths[::2] > 1).all():
        raise _of_layout(path, "a trajectory that ends twice", _COMPACT)


def _of_layout(path: Path, sign: str, layout: str) -> UserError:
    remedy = "use the original file" if "load_dataset" in layout else "rewrite it"
    return UserError(
        f"{path}: {sign} is of {layout}; only OGBench's raw one is read: {remedy} (docs/data.md)"
    )


def _length(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> int | None:
    """The number of rows by an array's header; `None` if that cannot be read."""
    with contextlib.suppress(Exception), file.open(info) as stream:  # the errors of any parser
        return header(stream)[0][0]
    return None


def _others(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The arrays that are not read, by key."""
    keys = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
    return {key: info for key, info in keys.items() if key not in _AXES}


def _check_others(path: Path, file: zipfile.ZipFile, rows: int) -> None:
    """Logs columns that are not read; refuses those that a user would expect to be read."""
    columns = []
    for key, info in _others(file).items():
        if _length(file, info) == rows:  # nobody reads it
            columns.append(key)
    _check_labels(path, columns)
    if columns:
        log_once(f"data: {path.parent}: columns that are not read: {', '.join(sorted(columns))}")


def _check_labels(path: Path, keys: Iterable[str]) -> None:
    """Raises `UserError` if one of `keys`, of one entry a row, would be ignored for the task's own.

    Anything else under such a name, as a few numbers about the file, is harmless.
    """
    for key in sorted(keys):
        if key.lower() in _SETTLED_BY_THE_TASK:
            raise UserError(
                f"{path}: column {key!r} would not be read, as rewards and masks come from the task: "
                "take it out of the file"
            )


_SETTLED_BY_THE_TASK = ("rewards", "reward", "masks", "mask", "discounts", "discount", "returns")


def _check_declared(
    path: Path, file: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> dict[str, tuple[int, ...]]:
    """Checks what directory and headers say, before any array is read. Returns the shapes."""
    total, shapes = 0, {}
    for key, info in members.items():
        shape, dtype, size = _declared(path, file, key, info)
        _check_type(path, key, shape, dtype)
        _check_shape(path, key, shape)
        _check_bytes(path, key, math.prod(shape) * dtype.itemsize, size)
        total, shapes[key] = total + size, shape
    check_size(path, total, sum(info.compress_size for info in members.values()))
    return shapes


def read_array(path: Path, file: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of plain numbers, whose size is checked before memory is taken for it."""
    shape, dtype, size = _declared(path, file, key, info)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise UserError(f"{path}: {key} has type {dtype}; it must be plain numbers")
    _check_bytes(path, key, math.prod(shape) * dtype.itemsize, size)
    return _read_array(file, info)


def _declared(
    path: Path, file: zipfile.ZipFile, key: str, info: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type by the array's header, and the bytes after it by the directory."""
    with file.open(info) as stream:
        try:
            shape, _, dtype = header(stream)
        except Exception:  # NumPy parses it as Python and lets any of that parser's errors out
            raise UserError(
                f"{path}: {key} has a header that cannot be read: it is cut off or altered"
            ) from None
        return shape, dtype, info.file_size - stream.tell()


def _check_bytes(path: Path, key: str, expected: int, size: int) -> None:
    if size != expected:
        raise UserError(
            f"{path}: {key} says it holds {expected} bytes, the file has {size}: "
            "it was cut off or altered"
        )


def _check_type(path: Path, key: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.hasobject or dtype.kind not in "fiub":
        raise UserError(f"{path}: {key} has type {dtype}; it must be plain numbers")
    if key == "observations" and dtype.kind in "iu" and len(shape) > 2:
        raise UserError(
            f"{path}: observations are images of shape {shape[1:]}, which are not supported: use "
            "the dataset of states, without visual- in its name"
        )
    if key in _FLOATS and dtype.kind != "f":
        raise UserError(f"{path}: {key} has type {dtype}; it must be floating point")


def _check_shape(path: Path, key: str, shape: tuple[int, ...]) -> None:
    if len(shape) != _AXES[key]:
        raise UserError(f"{path}: {key} has shape {shape}; it must have {_AXES[key]} axes")
    if len(shape) == 2 and not shape[1]:
        raise UserError(f"{path}: {key} has shape {shape}; its rows are empty")


def check_size(place: object, declared: int, packed: int) -> None:
    """Refuses what unpacks to more than trajectories do, or to more than the memory.

    `declared`: bytes of the arrays that will be in memory at once; `packed`: those of the file.
    """
    if declared > _BOMB and declared > _RATIO * packed:
        raise UserError(
            f"{place}: it unpacks from {packed} to {declared} bytes, which no trajectories do: "
            "collect it again"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if declared > memory:
        raise UserError(
            f"{place}: it takes {declared / 2**30:.1f} GB and the machine has "
            f"{memory / 2**30:.1f}: use a part of it"
        )


def empty_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that nobody has filled, placed so that JAX on a CPU takes it as it is, uncopied."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + _LINE, np.uint8)
    begins = -raw.ctypes.data % _LINE
    return raw[begins : begins + size].view(dtype).reshape(shape)


_LINE = 64  # bytes


def header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of a .npy stream, which then stands at its numbers."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    return read(stream)


def _read_array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with file.open(info) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # reading to the end is what checks the CRC-32
            raise ValueError
    return array
