"""Unpacks npz files into plain .npy files that are read at the disk's speed. No JAX."""

import os
from pathlib import Path
from typing import NamedTuple

from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source, npz_files
from qgf_jax.errors import UserError
from qgf_jax.runs.failpoints import failpoint
from qgf_jax.runs.files import fingerprint, sha256


class _Target(NamedTuple):
    """A folder to write, and what from."""

    folder: Path
    files: list[Path]
    source: str
    """The SHA-256 that stands for `files`."""

    def is_done(self) -> bool:
        """Whether the folder holds, whole, what the files are converted to. Reads all of it."""
        try:
            manifest = Manifest.read(self.folder)
        except UserError:
            return False
        return manifest.record["source"] == self.source and not manifest.why_invalid()


def convert(source: str | os.PathLike, out: str | os.PathLike) -> list[Path]:
    """Writes OUT/NAME, and OUT/NAME-val for validation data, from NAME.npz or a folder NAME.

    Reads slices one by one, with all checks of `Rows.read`. Raises `UserError` for bad data, or
    if such a folder exists, whatever it holds. Validation data from the same source, which a killed call
    has left, are kept. Returns the folders.
    """
    data, *validation = targets = _targets(Path(source), Path(out))
    Manifest.refuse_existing(data.folder)
    missing = [target for target in validation if not target.is_done()]
    for target in missing:
        Manifest.refuse_existing(target.folder)
    for target in (*missing, data):  # validation data first: a folder NAME says that all is done
        slices = ((path.stem, Rows.read(path)) for path in target.files)
        Manifest.write(target.folder, slices, source=target.source)
        failpoint("converted")
    return [target.folder for target in targets]


def _targets(source: Path, out: Path) -> list[_Target]:
    """The data, and the validation data if there are any."""
    if not source.is_dir() and not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    files, validation = npz_files(source)
    if source.is_dir():
        name, identity = source.name, Source.open(source).fingerprint["sha256"]
    else:
        name, identity = source.stem, sha256(source)
    targets = [_Target(out / name, files, identity)]
    if validation:
        sums = {path.name: Rows.peek(path).identity for path in validation}
        targets.append(_Target(out / f"{name}-val", validation, fingerprint(sums)))
    return targets
