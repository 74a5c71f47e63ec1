"""What the readers of HDF5 files share: nothing outside the file is read, and no size is believed."""

import contextlib
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import check_size
from qgf_jax.data.readers.recording import Recording
from qgf_jax.errors import UserError


class Hdf5File(NamedTuple):
    """An HDF5 file that is open."""

    path: Path
    root: Any
    """The file as h5py has it."""

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> "Generator[Hdf5File]":
        """Any error of h5py within the block is one line about `path`."""
        h5py = cls.library()
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        with Recording.reading(path, "h5py"), h5py.File(path, "r") as file:
            yield cls(path, file)

    @staticmethod
    def library(extra: str = "hdf5") -> Any:
        """h5py. Raises `UserError`, with what to install, where it is not there."""
        try:
            import h5py
        except ImportError:
            raise UserError(
                f"HDF5 files need h5py, which is not installed: run `pip install 'qgf-jax[{extra}]'`"
            ) from None
        return h5py

    def numbers(self, group: Any, key: str, *, axes: int | None = None) -> Any:
        """The dataset `key` of `group`, unread; `UserError` unless it is plain numbers in this file."""
        name = f"{group.name.rstrip('/')}/{key}"
        found = self.array(group, key)
        if found.dtype.kind not in "fiub" or found.dtype.hasobject:
            raise UserError(f"{self.path}: {name} has type {found.dtype}; it must be plain numbers")
        if axes is not None and found.ndim != axes:
            raise UserError(
                f"{self.path}: {name} has shape {found.shape}; it must have {axes} axes"
            )
        return found

    def array(self, group: Any, key: str) -> Any:
        """The dataset `key` of `group`, of any type, unread; `UserError` unless it lies in this file."""
        h5py, name = self.library(), f"{group.name.rstrip('/')}/{key}"
        link = group.get(key, getlink=True)
        if link is None:
            has = ", ".join(sorted(group))[:80] or "nothing"
            raise UserError(f"{self.path}: {name} is missing (there is {has})")
        remedy = "copy the numbers into this one"
        if isinstance(link, h5py.ExternalLink):
            raise UserError(f"{self.path}: {name} is a link to another file: {remedy}")
        found = group[key]
        if found.file.filename != self.root.filename:  # by a link on the way, or the group's own
            raise UserError(f"{self.path}: {name} is a link to another file: {remedy}")
        if not isinstance(found, h5py.Dataset):
            raise UserError(f"{self.path}: {name} is a group, where an array should be")
        if found.is_virtual or found.external:
            raise UserError(f"{self.path}: {name} lies in another file: {remedy}")
        return found

    def read(self, found: Any, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) of a dataset, checked to fit first."""
        stop = len(found) if stop is None else stop
        declared = math.prod((stop - start, *found.shape[1:])) * found.dtype.itemsize
        check_size(self.path, declared, self.path.stat().st_size)
        return np.asarray(found[start:stop])

    def groups(self, parent: Any) -> list[str]:
        """Names of the groups in `parent`, by the number at their end. Raises `UserError` for links."""
        h5py = self.library()
        for name in parent:
            if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
                raise UserError(
                    f"{self.path}: {parent.name}/{name} is a link: put the episode itself there"
                )
        names = [k for k in parent if isinstance(parent[k], h5py.Group)]
        for name in names:
            if not name.rpartition("_")[2].isdecimal():
                raise UserError(
                    f"{self.path}: {parent.name}/{name} is none of the episodes NAME_NUMBER"
                )
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
