"""Writes any dataset as plain .npy files that are read at the disk's speed. No JAX."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.data import readers
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.readers.recording import ALL, Choice, Recording
from qgf_jax.data.readers.steps import Steps
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError
from qgf_jax.runs.failpoints import failpoint
from qgf_jax.runs.files import fingerprint, sha256
from qgf_jax.runtime import paths

_SLICE = 250_000
"""Rows that are written at once, or those of an episode that has more."""


class _Target(NamedTuple):
    """A folder to write, and what from."""

    folder: Path
    slices: Callable[[], Iterable[tuple[str, Rows]]]
    source: str
    """The SHA-256 that stands for all that `slices` gives."""
    about: Mapping[str, Any] | None = None

    def is_done(self) -> bool:
        """Whether the folder holds, whole, what it would be written with. Reads all of it."""
        try:
            manifest = Manifest.read(self.folder)
        except UserError:
            return False
        return manifest.record["source"] == self.source and not manifest.why_invalid()


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    name: str = "",
    choice: Choice = ALL,
) -> list[Path]:
    """Writes OUT/NAME, and OUT/NAME-val for validation data. Returns the folders.

    `source` is FORMAT:PLACE with a format of `readers`, NAME.npz or a folder NAME of npz files; `name`
    is another NAME than the source's, and `choice` what is taken of a source that has more than one of
    something. Reads piece by piece, with all checks of a training run. Raises `UserError` for bad data,
    or if such a folder exists, whatever it holds. Validation data from the same source, which a killed
    call has left, are kept.
    """
    if name:
        _check_name(name, "choose another --name")
        Manifest.refuse_existing(Path(out) / name)
    data, *validation = targets = _targets(str(source), Path(out), name, choice)
    Manifest.refuse_existing(data.folder)
    if not validation:  # what is there would be taken for these data's
        Manifest.refuse_existing(data.folder.with_name(f"{data.folder.name}-val"))
    missing = [target for target in validation if not target.is_done()]
    for target in missing:
        Manifest.refuse_existing(target.folder)
    written: list[Path] = []
    try:
        # Validation data first: a folder NAME says that all is done.
        for target in (*missing, data):
            Manifest.write(target.folder, target.slices(), target.source, target.about)
            written.append(target.folder)
            failpoint("converted")
    except UserError:
        for folder in written:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return [target.folder for target in targets]


def _check_name(name: str, remedy: str) -> None:
    """Raises `UserError` for what no folder beside others can be called."""
    bad = {"/", "\\", "\0"} & {*name} or not name or name.startswith((".", "-"))
    if bad or len(os.fsencode(name)) > _LONGEST_NAME:
        raise UserError(f"{name[:80]!r} is no name of a folder: {remedy}")


_LONGEST_NAME = 200
"""Bytes; a folder's name ends at 255, and -val and .partial come with it."""


def _targets(source: str, out: Path, name: str, choice: Choice) -> list[_Target]:
    """The data, and the validation data if there are any."""
    path = _npz_path(source)
    if path and not (path.is_file() and Steps.are_in(path)):
        if choice != ALL:
            raise UserError(f"{path}: there is nothing to choose of an npz file")
        return _npz_targets(path, out, name)
    parts = _parts(f"npz:{path}" if path else source, choice)
    if not name:
        _check_name(name := parts[0].name, "give --name")
    return [
        _Target(out / f"{name}{suffix}", *_contents(recording, choice))
        for suffix, recording in zip(("", "-val"), parts, strict=False)
    ]


def _npz_path(source: str) -> Path | None:
    """The path of an npz file, or of a folder of them; `None` for a source of another format."""
    form, colon, place = source.partition(":")
    if not colon or form not in readers.formats() or os.path.exists(source):
        return paths.expand(source)
    return paths.expand(place) if form == "npz" and place else None


def _parts(source: str, choice: Choice) -> list[Recording]:
    """The recording, and that of its validation data if it names such a part itself."""
    recording = readers.open_recording(source, choice)
    if choice.split or not recording.splits:
        return [recording]
    return [
        readers.open_recording(source, choice._replace(split=split)) for split in recording.splits
    ]


def _contents(
    recording: Recording, choice: Choice
) -> tuple[Callable[[], Any], str, dict[str, Any]]:
    """What is written of a recording, the SHA-256 that stands for it, and what is said about it.

    The same file is another dataset where something else of it was chosen.
    """
    about = recording.described() | {"sha256": recording.sha256}
    if choice.ends:
        about["ends"] = choice.ends
    if choice.split:
        about["split"] = choice.split
    try:
        identity = fingerprint(about)
    except TypeError as error:
        raise UserError(
            f"{recording.place}: its reader says what is no JSON ({error}): mend the reader"
        ) from None
    return lambda: _slices(recording), identity, about | {"source": recording.place}


def _slices(recording: Recording) -> Iterator[tuple[str, Rows]]:
    """Episodes as rows, as many at once as come to `_SLICE`.

    Raises `UserError` at the end if a file is no longer what its SHA-256 is of.
    """
    waiting: list[Rows] = []
    count = number = 0
    for episode in recording.checked():
        waiting.append(Rows.of_episode(episode))
        count += len(episode.observations)
        if count >= _SLICE:
            yield f"{number:05d}", Rows.joined(waiting)
            waiting, count, number = [], 0, number + 1
    if waiting:
        yield f"{number:05d}", Rows.joined(waiting)
    if recording.files and Recording.digest(*recording.files) != recording.sha256:
        raise UserError(f"{recording.place}: it was altered while it was read: convert it again")


def _npz_targets(source: Path, out: Path, title: str) -> list[_Target]:
    """npz files of the raw layout."""
    _check_may_be_npz(source)
    files, validation = Source.npz_files(source)
    if source.is_dir():
        name, identity = source.resolve().name, Source.open(source).fingerprint["sha256"]
    else:
        name, identity = source.stem, sha256(source)
    name = title or name
    targets = [_Target(out / name, lambda: _npz_slices(files), identity)]
    if validation:
        sums = {path.name: Rows.peek(path).identity for path in validation}
        identity = fingerprint(sums)
        targets.append(_Target(out / f"{name}-val", lambda: _npz_slices(validation), identity))
    return targets


def _check_may_be_npz(path: Path) -> None:
    """Raises `UserError` for what is not there, and for what plainly is of another format."""
    if not path.is_dir() and not path.is_file():
        hint = f", nor FORMAT:PLACE with a format of {', '.join(readers.formats())}"
        raise UserError(f"{path}: no such file or folder{hint * (':' in str(path))}")
    signs = {
        "d4rl:FILE or robomimic:FILE": path.suffix in (".hdf5", ".h5"),
        "lerobot:FOLDER": (path / "meta" / "info.json").is_file(),
        "minari:FOLDER": (path / "data" / "metadata.json").is_file(),
    }
    for source, is_of in signs.items():
        if is_of:
            raise UserError(f"{path} holds no npz files: say what format it has, {source}")


def _npz_slices(files: list[Path]) -> Iterator[tuple[str, Rows]]:
    for path in files:
        rows = Rows.read(path)
        rows.info.pop("qvel", None)  # the largest column, and nothing is computed from it
        yield path.stem, rows
