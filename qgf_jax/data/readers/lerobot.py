"""LeRobot's folders, codebase versions 2.1 and 3.0 (Cadene et al., 2024), read with pyarrow.

`meta/info.json` says what a frame holds; `data/` has the frames, a file for each episode (2.1) or for
many (3.0). A frame is an observation and the action taken in it. Nothing comes after the last one,
whose action is therefore left out unless the episode terminated there. Videos are not read yet.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import check_size
from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Episode, Recording
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import paths

_VERSIONS = ("v2.1", "v3.0")
_STATES = ("observation.environment_state", "observation.state")
_REWARD, _DONE, _SUCCESS = "next.reward", "next.done", "next.success"


class _Folder(NamedTuple):
    """What `meta/` says."""

    place: str
    path: Path
    info: Mapping[str, Any]
    observations: tuple[tuple[str, int], ...]
    """Key and width of each part."""
    actions: str
    lengths: Mapping[int, int]
    """Frames of each episode, by its number."""

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        known = self.info["features"]
        extra = [key for key in (_REWARD, _DONE, _SUCCESS) if key in known]
        return [key for key, _ in self.observations] + [
            self.actions,
            "episode_index",
            "frame_index",
            *extra,
        ]


@OPENERS.declare
def _open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a folder. Raises `UserError` if it is none of LeRobot's, or of another version."""
    where, path = f"lerobot:{place}", paths.expand(place)
    _library(where)
    info = _info(where, path)
    observations = _observations(where, info, choice.observations)
    actions = choice.actions or "action"
    if actions not in info["features"]:
        raise UserError.unknown(f"action of {where}", actions, info["features"])
    folder = _Folder(
        where, path, info, observations, actions, _lengths(where, path, info, choice.split)
    )
    means = choice.ends or _ends_by_columns(where, info)
    files = [path / "meta" / "info.json", *_files(folder)]
    about = {
        "format": "lerobot",
        "version": info["codebase_version"],
        "observations": [[key, width] for key, width in observations],
        "actions": actions,
        "environment": {"id": str(info.get("robot_type") or ""), "fps": info.get("fps")},
        "tasks": _tasks(where, path),
    }
    name = path.resolve().name
    return Recording(
        where,
        name,
        about,
        Recording.digest(*files),
        None,
        lambda: _episodes(folder, means),
        files=tuple(files),
    )


def _library(where: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{where} needs pyarrow, which is not installed: run `pip install 'qgf-jax[lerobot]'`"
        ) from None
    return pyarrow.parquet


def _info(where: str, path: Path) -> Mapping[str, Any]:
    try:
        info = json.loads((path / "meta" / "info.json").read_bytes())
        version, features = info["codebase_version"], info["features"]
        shapes = {key: tuple(map(int, feature["shape"])) for key, feature in features.items()}
        widths = {key: math.prod(shape) for key, shape in shapes.items()}
        kinds = {key: str(feature["dtype"]) for key, feature in features.items()}
        frames, episodes = int(info["total_frames"]), int(info["total_episodes"])
    except FileNotFoundError:
        raise UserError(f"{where}: meta/info.json is missing: it is not LeRobot's layout") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: meta/info.json cannot be read ({error!r}): fetch it again"
        ) from None
    if version not in _VERSIONS:
        raise UserError(
            f"{where}: codebase version {version} is not read, only {' and '.join(_VERSIONS)}: "
            "convert it with LeRobot"
        )
    if frames < 1 or episodes < 1:
        raise UserError(f"{where}: it has {episodes} episodes of {frames} frames")
    counts = {"total_frames": frames, "total_episodes": episodes}
    return {**info, **counts, "widths": widths, "kinds": kinds}


def _observations(
    where: str, info: Mapping[str, Any], chosen: Sequence[str]
) -> tuple[tuple[str, int], ...]:
    """The states, or the chosen columns. Videos and images are named and left out."""
    kinds = info["kinds"]
    numbers = {
        key: info["widths"][key]
        for key in sorted(kinds)
        if key.startswith("observation") and kinds[key].startswith(("float", "int"))
    }
    if pictures := sorted(key for key in kinds if kinds[key] in ("video", "image")):
        log(f"data: {where}: videos and images are not read yet: {', '.join(pictures)}")
    keys = chosen or [key for key in _STATES if key in numbers]
    return _widths(where, keys, numbers)


def _widths(
    where: str, keys: Sequence[str], numbers: Mapping[str, int]
) -> tuple[tuple[str, int], ...]:
    """Key and width of each of `keys`; `numbers` are the widths of all that are numbers."""
    for key in keys:
        if key not in numbers:
            raise UserError.unknown(f"observation of {where}", key, numbers)
    if not keys:
        known = ", ".join(numbers) or "none"
        raise UserError(
            f"{where}: it has no observation.state; choose columns of numbers ({known})"
        )
    return tuple((key, numbers[key]) for key in keys)


def _ends_by_columns(where: str, info: Mapping[str, Any]) -> str:
    """ "success" where a column says whether an episode ended the task. Raises `UserError` otherwise."""
    if _SUCCESS in info["features"]:
        return "success"
    raise UserError(
        f"{where}: without a column {_SUCCESS} nothing says whether an episode ended its task or was "
        "cut off: give --ends=terminated or --ends=truncated"
    )


def _lengths(where: str, path: Path, info: Mapping[str, Any], split: str) -> dict[int, int]:
    """The frames of each episode that is read. `split`: one of the info's splits, such as train."""
    with Recording.reading(where, "pyarrow"):
        records = _episode_records(where, path, info["codebase_version"])
        lengths = {int(record["episode_index"]): int(record["length"]) for record in records}
    if sorted(lengths) != list(range(info["total_episodes"])):
        raise UserError(
            f"{where}: meta/episodes lists {len(lengths)} episodes, info.json says "
            f"{info['total_episodes']}: fetch it again"
        )
    if sum(lengths.values()) != info["total_frames"]:
        raise UserError(
            f"{where}: the episodes have {sum(lengths.values())} frames, info.json says "
            f"{info['total_frames']}: fetch it again"
        )
    first, last = 0, len(lengths)
    if split:
        first, last = _range(where, info.get("splits") or {}, split, len(lengths))
    return {number: n for number, n in lengths.items() if first <= number < last}


def _episode_records(where: str, path: Path, version: str) -> list[dict[str, Any]]:
    if version == "v2.1":
        return _json_lines(path / "meta" / "episodes.jsonl")
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    wanted = ["episode_index", "length"]
    return [row for file in files for row in _table(where, file, wanted).to_pylist()]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _range(where: str, splits: Any, split: str, count: int) -> tuple[int, int]:
    """The first episode of a split, and the one after its last; `count`: of all episodes."""
    if not isinstance(splits, dict):
        raise UserError(f"{where}: splits are {str(splits)[:80]}, not NAME: FIRST:LAST")
    if split not in splits:
        raise UserError.unknown(f"split of {where}", split, splits)
    try:
        first, last = (int(x) for x in str(splits[split]).split(":"))
    except ValueError:
        raise UserError(f"{where}: split {split} is {splits[split]!r}, not FIRST:LAST") from None
    if not 0 <= first < last <= count:
        raise UserError(
            f"{where}: split {split} is {splits[split]!r}, but there are episodes 0 to {count - 1}"
        )
    return first, last


def _tasks(where: str, path: Path) -> list[str]:
    """What the episodes' tasks are called, by number."""
    old, new = path / "meta" / "tasks.jsonl", path / "meta" / "tasks.parquet"
    with Recording.reading(where, "pyarrow", StopIteration):
        if old.is_file():
            records = sorted(_json_lines(old), key=lambda x: int(x["task_index"]))
            return [str(x["task"]) for x in records]
        if not new.is_file():
            return []
        columns = _table(where, new, None).to_pydict()
        texts = next(v for k, v in columns.items() if k != "task_index")
        order = np.argsort(columns["task_index"])
        return [str(texts[i]) for i in order]


def _files(folder: _Folder) -> list[Path]:
    found = sorted((folder.path / "data").glob("*/*.parquet"))
    if not found:
        raise UserError(f"{folder.place}: data/ has no parquet files: fetch it again")
    return found


def _table(where: str, path: Path, columns: Sequence[str] | None) -> Any:
    """Columns of a parquet file, checked to fit first."""
    parquet = _library(where)
    with parquet.ParquetFile(path) as file:
        meta = file.metadata
        groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
        check_size(path, sum(group.total_byte_size for group in groups), path.stat().st_size)
        return file.read(columns=None if columns is None else [*columns])


def _episodes(folder: _Folder, means: str) -> Iterator[Episode]:
    """`means`: "terminated", "truncated", or "success" for what the column of that name says."""
    seen: set[int] = set()
    for number, pieces in itertools.groupby(_pieces(folder), key=lambda piece: piece[0]):
        if number in seen:
            raise UserError(f"{folder.place}: episode {number} is there twice")
        seen.add(number)
        parts = [columns for _, columns in pieces]
        if number in folder.lengths:
            frames = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            yield _episode(folder, number, frames, means)
    if missing := sorted(folder.lengths.keys() - seen):
        raise UserError(
            f"{folder.place}: episode {missing[0]} is in meta/episodes and not in data/"
        )


def _pieces(folder: _Folder) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(number of an episode, columns of frames of it that stand one after another in a file)."""
    for path in _files(folder):
        columns = _frames(folder, path)
        numbers = columns["episode_index"]
        changes = np.flatnonzero(np.diff(numbers)) + 1
        for part in np.split(np.arange(len(numbers)), changes):
            if len(part):
                here = slice(part[0], part[-1] + 1)
                yield int(numbers[part[0]]), {key: array[here] for key, array in columns.items()}


def _frames(folder: _Folder, path: Path) -> dict[str, np.ndarray]:
    """The columns of one file, [frames] or [frames, width]."""
    with Recording.reading(path, "pyarrow"):
        table = _table(folder.place, path, None)
        has = {*table.column_names}
        for key in folder.columns:
            if key not in has:
                raise UserError(f"{path}: column {key} is missing")
        widths = {**dict(folder.observations), folder.actions: None}
        return {key: _column(path, table, key, wide=key in widths) for key in folder.columns}


def _column(path: Path, table: Any, key: str, *, wide: bool) -> np.ndarray:
    """A column as an array; `wide`: [frames, width], of lists of one length."""
    import pyarrow

    types, column = pyarrow.types, table.column(key).combine_chunks()
    if column.null_count:
        raise UserError(f"{path}: {key} has {column.null_count} frames without a value")
    if not types.is_nested(column.type):
        values, width = column, 1
    else:
        width = _length(path, key, column)
        values = column.flatten()
    if values.null_count or not _is_plain(values.type):
        raise UserError(f"{path}: {key} has values that are no numbers")
    array = values.to_numpy(zero_copy_only=False).reshape(len(column), width)
    if width > 1 and not wide:
        raise UserError(f"{path}: {key} has {width} numbers a frame; it must have one")
    return array if wide else array[:, 0]


def _is_plain(kind: Any) -> bool:
    """Whether an Arrow type is of plain numbers."""
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _length(path: Path, key: str, column: Any) -> int:
    """Of each of the lists of a column. Raises `UserError` if they differ, or if they are no lists."""
    import pyarrow

    types = pyarrow.types
    if types.is_fixed_size_list(column.type):
        return column.type.list_size
    if not (types.is_list(column.type) or types.is_large_list(column.type)):
        raise UserError(
            f"{path}: {key} has type {column.type}: it must be numbers or lists of them"
        )
    lengths = column.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise UserError(f"{path}: {key} has lists of different lengths")
    return lengths[0] if lengths else 1


def _episode(folder: _Folder, number: int, frames: Mapping[str, np.ndarray], means: str) -> Episode:
    where = f"{folder.place}: episode {number}"
    length, said = len(frames["frame_index"]), folder.lengths[number]
    if length != said:
        raise UserError(f"{where} has {length} frames, meta/episodes says {said}")
    if (frames["frame_index"] != np.arange(length)).any():
        raise UserError(f"{where}: its frames are not numbered 0, 1, 2 …: fetch it again")
    for key, width in (
        *folder.observations,
        (folder.actions, folder.info["widths"][folder.actions]),
    ):
        if frames[key].shape[1] != width:
            raise UserError(
                f"{where}: {key} is {frames[key].shape[1]} wide, info.json says {width}"
            )
    for key in {_DONE, _SUCCESS} & frames.keys():
        if not np.isin(frames[key], (0, 1)).all():
            raise UserError(f"{where}: {key} must be 0 or 1")
    if _DONE in frames and np.asarray(frames[_DONE]).astype(bool)[:-1].any():
        raise UserError(f"{where}: {_DONE} is true before its last frame")
    ended = {"success": lambda: bool(frames[_SUCCESS][-1]), "terminated": lambda: True}
    return Episode.without_final(
        np.concatenate([frames[key] for key, _ in folder.observations], axis=1),
        frames[folder.actions],
        frames.get(_REWARD),
        terminated=ended.get(means, lambda: False)(),
    )
