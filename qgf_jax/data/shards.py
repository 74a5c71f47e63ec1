"""A dataset on disk as one long sequence of rows that is read in pieces, whatever its layout. No JAX.

There are three layouts: an npz file; a folder of npz files, the slices, in the order of their names; and
a folder that `qgf convert` has made.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.converted import MANIFEST, Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.summary import Summary
from qgf_jax.envs import spaces
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError
from qgf_jax.runs.files import fingerprint, sha256
from qgf_jax.runtime import paths


class Source(NamedTuple):
    """A dataset on disk, opened and checked as far as that is quick."""

    path: Path
    slices: np.ndarray
    """[S + 1] Rows before each slice, and in all; a slice ends where a trajectory does."""
    ends: np.ndarray
    """[T] The last row of each trajectory."""
    widths: dict[str, int]
    read: Callable[[int, int], Rows]
    """(start, stop) -> rows [start, stop); do not change them."""
    seekable: bool
    """Whether `read` reads only these rows; else it reads a whole slice, in which they must lie."""
    fingerprint: dict[str, Any]
    """Name, SHA-256 (see `open`), rows, trajectories."""
    summary: Summary | None = None
    """If it is known already."""
    about: Mapping[str, Any] = {}
    """What the manifest of converted data says of where they come from, see `Recording.about`."""

    @property
    def transitions(self) -> int:
        """The number of rows that have a successor."""
        return int(self.slices[-1]) - len(self.ends)

    @classmethod
    def find(cls, name: str, folder: str = "", family: Family | None = None) -> "Source":
        """Opens dataset `name`, in `folder` or in the search path of its family. Never downloads.

        A folder `name` that `qgf convert` has made comes first, then the file `name`.npz, then a folder
        `name` of npz files. Raises `UserError` if there is none, or for bad data.
        """
        return cls.open(_find(name, folder, family))

    @classmethod
    def open(cls, path: Path) -> "Source":
        """Opens a dataset of any of the three layouts. Raises `UserError` for bad data.

        The SHA-256 is the file's; for a folder of slices it is that of their names, sizes and CRC-32s,
        as hashing all slices would take minutes; for converted data it is that of their source.
        """
        if Manifest.is_in(path):
            return _open_converted(path)
        if path.is_dir():
            return _open_folder(path)
        return cls.of_rows(path, Rows.read(path), sha256(path))

    @classmethod
    def of_rows(
        cls, path: Path, rows: Rows, identity: str, about: Mapping[str, Any] | None = None
    ) -> "Source":
        """Rows that are in memory already; `identity` is the SHA-256 that stands for them."""
        ends = np.flatnonzero(rows.ends)
        widths = {"observations": rows.observations.shape[1], "actions": rows.actions.shape[1]}
        record = {
            "file": path.name,
            "sha256": identity,
            "rows": len(rows.ends),
            **_describe_ends(ends),
        }
        slices = np.array([0, len(rows.ends)])
        return cls(path, slices, ends, widths, rows.part, False, record, about=about or {})

    def pieces(self) -> list[int]:
        """The rows before each piece that is read at once, and in all.

        A slice, or as many trajectories as come to some size where no more need be read.
        """
        if not self.seekable:
            return self.slices.tolist()
        bounds = self.ends + 1
        wanted = np.arange(_PIECE, bounds[-1], _PIECE)
        return np.unique([0, *bounds[np.searchsorted(bounds, wanted)], bounds[-1]]).tolist()

    def part(self, name: str) -> "Source":
        """The trajectories that `data.part` names, as if there were no others; "all": the source itself.

        Raises `UserError` if none is left.
        """
        if name == "all":
            return self
        kept = np.arange(len(self.ends)) % 2 == ("even", "odd").index(name)
        if not kept.any():
            raise UserError(
                f"{self.path}: data.part={name} leaves no trajectory, as there is one in all: set "
                "data.part=even or all"
            )
        lengths = np.diff(self.ends, prepend=-1) * kept
        before = np.append(0, np.cumsum(lengths))  # rows that are kept before each trajectory
        ends = before[1:][kept] - 1
        ahead = self.ends[kept] - ends  # rows that are not, before each one that is kept

        def read(start: int, stop: int) -> Rows:
            rows = np.arange(start, stop)
            rows += ahead[np.searchsorted(ends, rows)]
            first = int(rows[0])
            return self.read(first, int(rows[-1]) + 1).at(rows - first)

        # A slice of which nothing is left is none.
        slices = np.unique(before[np.searchsorted(self.ends, self.slices)])
        record = {**self.fingerprint, "rows": int(slices[-1]), **_describe_ends(ends)}
        return self._replace(slices=slices, ends=ends, read=read, fingerprint=record, summary=None)

    @staticmethod
    def npz_files(path: Path) -> tuple[list[Path], list[Path]]:
        """The npz files of a dataset that is one, or a folder of them: data, and all validation data.

        Raises `UserError` if a folder has no data.
        """
        if path.is_dir():
            return _slice_paths(path), sorted(path.glob("*-val.npz"))
        validation = _validation_path(path)
        return [path], [validation] if validation else []

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "Source":
        """The data that a config names. Raises `UserError` if there are none, or for bad data."""
        name, options = EnvName.parse(config["env"]), config["data"]
        family = Family.of(name)
        own = family.source(name, options["dir"])
        if own is not None:
            return own
        return cls.find(options["name"] or name.dataset, options["dir"], family)

    @staticmethod
    def env_of(config: Mapping[str, Any]) -> EnvName:
        """The environment that a config names, seen as its data have it where these name their parts.

        Only their manifest is read; data that are not there, or wrong, are said to be so by `of_config`.
        """
        name, options = EnvName.parse(config["env"]), config["data"]
        try:
            path = _find(options["name"] or name.dataset, options["dir"], Family.of(name))
            record = Manifest.read(path).record if Manifest.is_in(path) else {}
        except UserError:
            return name
        return name.seen_as(spaces.named(record.get("about", {}).get("observations")))

    def validation(self) -> "Source | None":
        """The validation data that belong to it; to a folder of slices, those of the first slice."""
        path = _validation_path(self.path)
        return Source.open(path) if path else None


_PIECE = 250_000


def _find(name: str, folder: str = "", family: Family | None = None) -> Path:
    """The path of a dataset, see `Source.find`."""
    family = family or Family.of("")
    parents = [paths.expand(p) for p in ([folder] if folder else family.search_path)]
    for parent in parents:
        own = parent / name
        if Manifest.is_in(own):
            return own
        if (path := parent / f"{name}.npz").is_file():
            return path
        if any(own.glob("*.npz")):
            return own
        _check_whole(own)
    looked = " and ".join(str(parent) for parent in parents)
    advice = family.advice(name, parents[0])
    raise UserError(f"dataset {name}.npz is not in {looked}: {advice}")


def _check_whole(folder: Path) -> None:
    """Raises `UserError` for converted data that have lost their manifest."""
    if any(folder.glob("*.npy")) and not Manifest.is_in(folder):
        raise UserError(f"{folder}: its {MANIFEST} is missing: convert again")


def _validation_path(path: Path) -> Path | None:
    """The path of the validation data that belong to `path`, see `Source.validation`."""
    if path.is_dir() and not Manifest.is_in(path):
        first = _slice_paths(path)[0]
        validation = first.with_name(f"{first.stem}-val.npz")
        return validation if validation.is_file() else None
    if path.is_dir():
        validation = path.with_name(f"{path.name}-val")
        _check_whole(validation)
        return validation if Manifest.is_in(validation) else None
    validation = path.with_name(f"{path.stem}-val.npz")
    return validation if validation.is_file() else None


def _slice_paths(folder: Path) -> list[Path]:
    """The npz files of a folder, without validation data. Raises `UserError` if none is left."""
    paths = [p for p in sorted(folder.glob("*.npz")) if not p.stem.endswith("-val")]
    if not paths:
        raise UserError(f"{folder}: it has no npz files but validation's: put the others there")
    return paths


def _open_folder(folder: Path) -> Source:
    paths = _slice_paths(folder)
    peeks = [Rows.peek(path) for path in paths]
    for path, peek in zip(paths, peeks, strict=True):
        if peek.widths != peeks[0].widths:
            raise UserError(
                f"{path}: its arrays are {peek.widths} wide, those of {paths[0].name} "
                f"{peeks[0].widths}: these are slices of two datasets"
            )
    slices = np.cumsum([0, *(len(peek.ends) for peek in peeks)])
    ends = np.flatnonzero(np.concatenate([peek.ends for peek in peeks]))
    identity = {path.name: peek.identity for path, peek in zip(paths, peeks, strict=True)}
    record = {
        "file": folder.name,
        "sha256": fingerprint(identity),
        "rows": int(slices[-1]),
        "slices": len(paths),
        **_describe_ends(ends),
    }
    read = _Slices(paths, slices, [fingerprint({"": peek.identity}) for peek in peeks])
    return Source(folder, slices, ends, peeks[0].widths, read, False, record)


class _Slices:
    """Reads whole slices, and keeps the last one."""

    def __init__(self, paths: Sequence[Path], slices: np.ndarray, identities: Sequence[str]):
        self._paths, self._slices, self._identities = paths, slices, identities
        self._last: tuple[int, Rows] | None = None

    def __call__(self, start: int, stop: int) -> Rows:
        i = int(np.searchsorted(self._slices, start, "right")) - 1
        if self._last is None or self._last[0] != i:
            self._last = None  # frees it before the next one is read
            path = self._paths[i]
            rows = Rows.read(path)
            rows.info.pop("qvel", None)
            if fingerprint({"": Rows.peek(path).identity}) != self._identities[i]:
                raise UserError(f"{path}: it was altered while in use: start again")
            self._last = (i, rows)
        first = int(self._slices[i])
        return self._last[1].part(start - first, stop - first)


def _open_converted(folder: Path) -> Source:
    manifest = Manifest.read(folder)
    record, fields = manifest.record, manifest.open_fields()
    slices = np.cumsum([0, *record["slices"].values()])
    terminals = fields["terminals"].read(0, int(slices[-1]))
    ends = np.flatnonzero(terminals)
    if len(ends) != record["trajectories"] or not terminals[-1]:
        raise UserError(f"{fields['terminals'].file.path}: it was altered: convert again")
    columns = ("observations", "actions", "terminals")
    info = [name for name in fields if name not in columns]

    def read(start: int, stop: int) -> Rows:
        arrays = [fields[name].read(start, stop) for name in columns]
        return Rows(*arrays, {name: fields[name].read(start, stop) for name in info})

    widths = {name: field.shape[1] for name, field in fields.items() if len(field.shape) == 2}
    identity = _identity(manifest) | _describe_ends(ends)
    summary, about = Summary.read(record["summary"]), record.get("about", {})
    return Source(folder, slices, ends, widths, read, True, identity, summary, about)


def _identity(manifest: Manifest) -> dict[str, Any]:
    record = manifest.record
    identity = {
        "file": manifest.folder.name,
        "sha256": record["source"] or fingerprint(record["files"]),
        "rows": sum(record["slices"].values()),
        "slices": len(record["slices"]),
    }
    references = record.get("about", {}).get("references")
    return identity | ({"references": references} if references else {})


def _describe_ends(ends: np.ndarray) -> dict[str, Any]:
    """What a run's record says of trajectories, by the numbers of their last rows."""
    lengths = np.diff(ends, prepend=-1)
    return {
        "trajectories": len(lengths),
        "rows_per_trajectory": [int(lengths.min()), int(lengths.max())],
    }
