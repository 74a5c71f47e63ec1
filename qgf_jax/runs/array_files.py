"""Trees of arrays as Orbax files, below any path that the file system takes.

Orbax lists its files with patterns that begin with the whole path, and TensorStore accepts only paths in
UTF-8. So neither sees the user's path: both get a plain one that leads to the same folder.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.runs.tree import ArrayTree

_DESCRIPTORS = Path("/proc/self/fd")


class ArrayFiles(NamedTuple):
    """The Orbax files FOLDER/NAME, which hold one tree of arrays."""

    folder: Path
    """It exists; FOLDER/NAME need not."""
    name: str

    def write(self, tree: Any) -> None:
        """Writes a tree of NumPy arrays, and waits for it."""
        with _neutral(self.folder, writing=True) as folder, _checkpointer() as checkpointer:
            checkpointer.save(folder / self.name, tree)

    def read(self, template: Any) -> Any:
        """The tree.

        Each leaf comes as in `template`: a NumPy array for a NumPy array, which takes no memory of a
        device; else a JAX array with the sharding of the ShapeDtypeStruct.
        """
        with _neutral(self.folder) as folder, _checkpointer() as checkpointer:
            return checkpointer.restore(folder / self.name, template)

    def read_part(self, entries: Collection[str], sharding: Any) -> dict[str, Any]:
        """The `entries` of a dict of trees; reads no others.

        The trees are of dicts and lists, as Orbax recorded them, and the arrays have `sharding`.
        """
        import jax
        import orbax.checkpoint as ocp

        handler = ocp.PyTreeCheckpointHandler
        with _neutral(self.folder) as folder, _checkpointer(handler) as checkpointer:
            recorded = checkpointer.metadata(folder / self.name).item_metadata.tree
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                {entry: recorded[entry] for entry in entries},
            )
            how = ocp.checkpoint_utils.construct_restore_args(shapes)
            part = ocp.args.PyTreeRestore(item=shapes, restore_args=how, partial_restore=True)
            return checkpointer.restore(folder / self.name, args=part)

    def read_named(self) -> dict[str, Any]:
        """{path of a leaf, such as "params/critic/kernel": array}, in no special order."""
        with _neutral(self.folder) as folder, _checkpointer() as checkpointer:
            return dict(ArrayTree(checkpointer.restore(folder / self.name)).named())

    def merge(self) -> None:
        """Makes one database of the databases that each process has written.

        Orbax does that at the end of a save, but not where the path had the characters of a pattern.
        """
        from etils import epath
        from orbax.checkpoint import type_handlers

        with _neutral(self.folder) as folder:
            step = epath.Path(folder / self.name)
            context = type_handlers.get_ts_context(use_ocdbt=True)
            asyncio.run(type_handlers.merge_ocdbt_per_process_files(step, context, use_zarr3=False))

    @staticmethod
    def is_merged(files: Collection[str]) -> bool:
        """Whether Orbax can read files of these names, relative to FOLDER/NAME. Needs no JAX."""
        return "manifest.ocdbt" in files or not any(f.startswith("ocdbt.process_") for f in files)


@contextlib.contextmanager
def _neutral(folder: Path, *, writing: bool = False) -> Generator[Path]:
    """A path of plain characters to `folder`; it is valid until the block or the process ends."""
    if _DESCRIPTORS.is_dir():
        descriptor, failed = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), True
        try:
            yield _DESCRIPTORS / str(descriptor)
            failed = False
        finally:
            # After an error Orbax's threads may go on writing there, so the number is not given to
            # another folder.
            if not (writing and failed):
                os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory(prefix="qgf-") as temporary:
            link = Path(temporary) / "folder"
            link.symlink_to(folder, target_is_directory=True)
            yield link


def _checkpointer(handler: Callable[..., Any] | None = None) -> Any:
    """Orbax's, for this process alone: the state is replicated, and one host writes and reads it.

    `handler` is one of Orbax's classes; `None`: the one for whole trees.
    """
    import jax
    import orbax.checkpoint as ocp

    options: dict[str, Any] = {}
    if jax.process_count() > 1:
        me = jax.process_index()
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
        )
    if handler is None:
        return ocp.StandardCheckpointer(**options)
    return ocp.Checkpointer(handler(**options), **options)
