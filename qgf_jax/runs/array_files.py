"""Trees of arrays as Orbax files, below any path that the file system takes.

Orbax lists its files with patterns that begin with the whole path, and TensorStore wants paths in
UTF-8, so neither is ever told the path of a user: both get one that leads to the same folder.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import Any

_DESCRIPTORS = Path("/proc/self/fd")


def write(folder: Path, name: str, tree: Any) -> None:
    """Writes a tree of NumPy arrays to FOLDER/NAME, which is not there yet, and waits for it."""
    with _neutral(folder, writing=True) as place, _checkpointer() as checkpointer:
        checkpointer.save(place / name, tree)


def read(folder: Path, name: str, template: Any) -> Any:
    """The tree in FOLDER/NAME.

    Each leaf comes as in `template`: an array of NumPy for one of NumPy, which takes no memory of a
    device, else a JAX array with the sharding of the ShapeDtypeStruct.
    """
    with _neutral(folder) as place, _checkpointer() as checkpointer:
        return checkpointer.restore(place / name, template)


def read_part(folder: Path, name: str, entries: Collection[str], sharding: Any) -> dict[str, Any]:
    """The `entries` of the dict in FOLDER/NAME; the others are not read.

    Trees are of dicts and lists, as Orbax has noted them down, and arrays lie as `sharding` says.
    """
    import jax
    import orbax.checkpoint as ocp

    with _neutral(folder) as place, _checkpointer(ocp.PyTreeCheckpointHandler) as checkpointer:
        noted = checkpointer.metadata(place / name).item_metadata.tree
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            {entry: noted[entry] for entry in entries},
        )
        how = ocp.checkpoint_utils.construct_restore_args(shapes)
        wanted = ocp.args.PyTreeRestore(item=shapes, restore_args=how, partial_restore=True)
        return checkpointer.restore(place / name, args=wanted)


def read_named(folder: Path, name: str) -> dict[str, Any]:
    """{path of a leaf, such as "params/critic/kernel": array} of FOLDER/NAME, in no special order."""
    with _neutral(folder) as place, _checkpointer() as checkpointer:
        return dict(named(checkpointer.restore(place / name)))


def named(tree: Any) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of each leaf, the path as in "params/critic/kernel"."""
    import jax

    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def merge(folder: Path, name: str) -> None:
    """Makes one database of the databases that each process has written to FOLDER/NAME.

    Orbax does that at the end of a save, and did not where the path had the characters of a pattern.
    """
    from etils import epath
    from orbax.checkpoint import type_handlers

    with _neutral(folder) as place:
        step = epath.Path(place / name)
        context = type_handlers.get_ts_context(use_ocdbt=True)
        asyncio.run(type_handlers.merge_ocdbt_per_process_files(step, context, use_zarr3=False))


def is_merged(files: Collection[str]) -> bool:
    """Whether Orbax can read a step with files of these names, relative to it. Needs no JAX."""
    return "manifest.ocdbt" in files or not any(name.startswith("ocdbt.process_") for name in files)


@contextlib.contextmanager
def _neutral(folder: Path, *, writing: bool = False) -> Generator[Path]:
    """A path of plain characters to `folder`, which exists; it ends with the block or the process."""
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
        with tempfile.TemporaryDirectory(prefix="qgf-") as place:
            link = Path(place) / "folder"
            link.symlink_to(folder, target_is_directory=True)
            yield link


def _checkpointer(handler: Callable[..., Any] | None = None) -> Any:
    """Orbax's, for this process alone: a state is replicated, and one host writes and reads it.

    `handler` is one of Orbax's classes; `None`: that of whole trees.
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
