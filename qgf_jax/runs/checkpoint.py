"""Checkpoints: Orbax steps, each sealed by the SHA-256 of its files.

Orbax restores an altered array file without a word, so a step counts only with its seal, written
after Orbax has committed and the step has been restored to the numbers that were to be saved. A step
whose files do not match is passed over, with one line that says so, and the one before it is used.
Nothing of this needs JAX, except writing and reading arrays.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import (
    ELSEWHERE,
    NoSoundCheckpointError,
    NotFiniteError,
    SaveError,
    UserError,
    log,
    remedy,
)
from qgf_jax.runs import array_files, failpoints
from qgf_jax.runs.array_files import named

_SEALS = "seals"
UNMERGED = (
    "an earlier version saved it below a path with brackets or the like, and its files were never "
    "merged: `qgf verify --rescue RUN` does it"
)
"""What `Checkpoints.fault` says of a step that `Checkpoints.rescue` mends."""
_attempts = itertools.count(1)


class RestoredState(NamedTuple):
    """A step that was restored."""

    step: int
    state: Any
    note: Any
    """What was given to `save` beside the state."""


class Checkpoints:
    """The sealed steps of a run folder.

    `identity` says whose steps they are, as {what: fingerprint}, or where there are several, as
    {what: (the one that is written, others that are as good)}: a step of another config, other data or
    another normalisation is not used, though each of its files may be sound. Without one, any is.

    As a context manager it saves in the background, and waits at the end of the block, whatever ends
    that: a save that is still going on when the interpreter ends would be lost.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int = 2,
        identity: Mapping[str, str | Sequence[str]] | None = None,
    ):
        self.root = Path(workdir).resolve() / "checkpoints"
        self.keep = keep
        self.identity = {
            what: (known,) if isinstance(known, str) else tuple(known)
            for what, known in (identity or {}).items()
        }
        self._saver: concurrent.futures.Executor | None = None
        self._saving: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """The steps that have a seal, oldest first; not yet looked into."""
        return sorted(int(p.stem) for p in (self.root / _SEALS).glob("[0-9]*.json"))

    def save(self, step: int, state: Any, note: Any = None) -> None:
        """Writes and seals a step, then removes all but the newest `keep`.

        `state` is any pytree of arrays, not replicated, and `note` any JSON. Raises `SaveError`, or
        `NotFiniteError` if the state holds a NaN or an infinity; then nothing is left of the step.
        Within a `with` it returns when the state has been copied, and what goes wrong later is raised
        by the next call of `poll`, `save` or `wait`.
        """
        self.wait()
        if step in self.steps() and not self.fault(step):
            return
        failpoints.failpoint("save")
        leaves = _to_host(state)
        if self._saver is None:
            self._write(step, leaves, note)
        else:
            self._saving = self._saver.submit(self._write, step, leaves, note)

    def wait(self) -> None:
        """Waits until the save in flight, if any, is sealed. Raises `SaveError` if it failed."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def poll(self) -> None:
        """`wait`, if that takes no time."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def clean(self) -> None:
        """Removes what killed runs and failed saves have left. For the one process that writes."""
        sealed = {str(step) for step in self.steps()}
        for path in self.root.glob("*/"):
            ours = re.fullmatch(r"\d+(\..*)?", path.name)  # a step, or one that was being written
            if ours and path.name not in sealed:
                shutil.rmtree(path, ignore_errors=True)
        for leftover in (self.root / _SEALS).glob(".*.tmp"):
            leftover.unlink()

    def restore(self, template: Any, step: int | None = None) -> RestoredState | None:
        """The newest sound step, or `step`. `None` if none was ever sealed.

        `template` gives the tree with shapes, types and shardings (arrays or ShapeDtypeStructs).
        Raises `NoSoundCheckpointError` if no sealed step is sound, `UserError` if the tree is another.
        """
        import jax

        step = self.newest_sound(step)
        if step is None:
            return None
        seal = self._read_seal(step)
        directory = self.root / str(step)
        check_tree(directory, seal["tree"], describe(template))
        failpoints.failpoint("restore")

        def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
            data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
            sharding = getattr(leaf, "sharding", None)
            return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)

        raw = array_files.read(self.root, str(step), jax.tree.map(abstract, template))

        def back(leaf: Any, data: Any) -> Any:
            return jax.random.wrap_key_data(data) if _is_key(leaf) else data

        return RestoredState(step, jax.tree.map(back, template, raw), seal["note"])

    def newest_sound(self, step: int | None = None) -> int | None:
        """The newest step whose files are what was sealed; `step` itself if it is named."""
        candidates = self.steps()[::-1] if step is None else [step]
        for candidate in candidates:
            if not (fault := self.fault(candidate)):
                return candidate
            log(f"qgf: warning: checkpoint {candidate} is not used: {fault}")
        if step is not None:
            sound = [str(s) for s in self.steps() if not self.fault(s)]
            raise UserError(
                f"{self.root}: step {step} is not there or not sound; these are: "
                f"{', '.join(sound) or 'none'}"
            )
        if candidates:
            if candidates != self.steps()[::-1]:  # a trainer is at work and has removed them since
                return self.newest_sound()
            mend = "train again in another --workdir"
            if any(self.fault(one) == UNMERGED for one in candidates):
                mend = f"`qgf verify --rescue {self.root.parent}` mends what can be"
            raise NoSoundCheckpointError(f"{self.root}: no sound checkpoint is left: {mend}")
        return None

    def fault(self, step: int) -> str:
        """What is wrong with a step, in one line; empty if it is sound. Needs no JAX."""
        try:
            seal = self._read_seal(step)
            wanted, found = seal["files"], _digests(self.root / str(step))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "it has no readable seal or no files"
        if not array_files.is_merged(wanted):
            return _difference(wanted, {k: v for k, v in found.items() if k in wanted}) or UNMERGED
        if difference := _difference(wanted, found):
            return difference
        for what, mine in self.identity.items():
            if seal["identity"].get(what) not in mine:
                return f"it was trained with another {what} than config.json says"
        return ""

    def digest(self, step: int) -> str:
        """SHA-256 of a sealed state's numbers, the same for equal states wherever they come from."""
        return self._read_seal(step)["state"]

    def _read_seal(self, step: int) -> dict[str, Any]:
        """Raises `OSError` or `ValueError` if the seal is not whole, or is that of another step."""
        seal = json.loads((self.root / _SEALS / f"{step}.json").read_text())
        if seal.pop("sha256", None) != fingerprint(seal) or seal["step"] != step:
            raise ValueError
        return seal

    def rescue(self, step: int) -> None:
        """Merges the files of a step of which `fault` says `UNMERGED`, and seals it again.

        In place: the seal before it holds until the new one is written, so a rescue that was killed
        can be done again. Raises `UserError` if the numbers are not those that were sealed.
        """
        seal, directory = self._read_seal(step), self.root / str(step)
        for name in _digests(directory).keys() - seal["files"].keys():
            (directory / name).unlink()  # of a rescue that was killed
        try:
            array_files.merge(self.root, str(step))
            failpoints.failpoint("merged")
            leaves = array_files.read_named(self.root, str(step))
            restored = _state_digest((name, leaves[name]) for name in seal["tree"])
        except Exception as error:
            raise UserError(f"{directory} cannot be rescued: {_cause(error)}: remove it") from error
        if restored != seal["state"]:
            raise UserError(f"{directory} cannot be rescued: its numbers are others: remove it")
        self._seal({**seal, "files": _digests(directory, sync=True)})

    def _write(self, step: int, leaves: "_Leaves", note: Any) -> None:
        directory, seals = self.root / str(step), self.root / _SEALS
        # A name never used before: TensorStore remembers what was at a path, and a second try at the
        # same one fails on files that the first has left and we have removed.
        writing = self.root / f"{step}.{os.getpid()}-{next(_attempts)}"
        _check_finite(leaves, step)
        try:
            seals.mkdir(parents=True, exist_ok=True)
            (seals / f"{step}.json").unlink(missing_ok=True)
            self.clean()
            check_space(self.root, tree_bytes(leaves.tree))
            array_files.write(self.root, writing.name, leaves.tree)
            failpoints.failpoint("write")
            writing.rename(directory)
            failpoints.failpoint("committed")
            record = {
                "step": step,
                "files": _digests(directory, sync=True),
                "tree": leaves.described,
                "state": _state_digest(named(leaves.tree)),
                "identity": {what: mine[0] for what, mine in self.identity.items()},
                "note": note,
            }
            self._check_restores(step, leaves, record["state"])
            failpoints.failpoint("seal")
            self._seal(record)
        except Exception as error:
            (seals / f"{step}.json").unlink(missing_ok=True)
            # Orbax leaves its half-written folder, which keeps a full disk full.
            for left in (directory, *self.root.glob(f"{writing.name}*")):
                shutil.rmtree(left, ignore_errors=True)
            if isinstance(error, UserError):
                raise
            raise SaveError(
                f"{directory} could not be saved (it needs {tree_bytes(leaves.tree) >> 20} MB, "
                f"{_free(self.root) >> 20} MB are free): {_cause(error)}: {remedy(error)}"
            ) from error
        failpoints.failpoint("sealed")
        self._remove_old(step)

    def _check_restores(self, step: int, leaves: "_Leaves", state: str) -> None:
        """Raises `SaveError` if a reader would not get the numbers that were to be saved."""
        try:
            restored = array_files.read(self.root, str(step), leaves.tree)
            cause = "" if _state_digest(named(restored)) == state else "they are other numbers"
        except Exception as error:
            cause = _cause(error)
        if cause:
            raise SaveError(
                f"{self.root / str(step)} was written, and does not restore: {cause}: look at the disk "
                "and run the command again"
            )

    def _seal(self, record: dict[str, Any]) -> None:
        """Writes the seal of a step, which says all of `record`."""
        sealed = record | {"sha256": fingerprint(record)}
        write_atomically(self.root / _SEALS / f"{record['step']}.json", json.dumps(sealed))

    def _remove_old(self, step: int) -> None:
        """Removes all but the newest `keep` steps up to `step`."""
        # Newer ones, if any, were found unsound: they must not push out those that are.
        older = [one for one in self.steps() if one <= step]
        for old in older[: -self.keep]:
            # Un-seal first: a run killed in between leaves rubbish, never a broken step.
            (self.root / _SEALS / f"{old}.json").unlink()
            _sync(self.root / _SEALS)
            failpoints.failpoint("delete")
            shutil.rmtree(self.root / str(old), ignore_errors=True)

    def __enter__(self) -> "Checkpoints":
        self._saver = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="save")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except UserError as error:
            if kind is None or issubclass(kind, SystemExit):
                raise  # an exit code of 0 would hide it
            log(f"qgf: error: {error}")  # what ended the block is raised
        finally:
            if self._saver is not None:
                self._saver.shutdown()
            self._saver = None


class _Leaves(NamedTuple):
    """A state on the host, which no later step can change."""

    tree: Any
    described: dict[str, str]
    """As `describe` says."""


def _to_host(state: Any) -> _Leaves:
    import jax
    import numpy as np

    def copy(leaf: Any) -> np.ndarray:
        return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    return _Leaves(jax.tree.map(copy, state), describe(state))


def tree_bytes(tree: Any) -> int:
    """What the arrays of a tree, or their shapes, take."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _is_key(leaf: Any) -> bool:
    import jax

    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(tree: Any) -> dict[str, str]:
    """{path of a leaf: "float32[3, 4]"}."""
    return {name: describe_leaf(leaf) for name, leaf in named(tree)}


def describe_leaf(leaf: Any) -> str:
    """Type and shape, as in "float32[3, 4]"."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def check_tree(where: object, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises `UserError` at the first leaf of two descriptions that is not the same."""
    for name in sorted(wanted.keys() | found.keys()):
        here, there = wanted.get(name, "nothing"), found.get(name, "nothing")
        if here != there:
            raise UserError(
                f"{where} is of another network: {name} is {there} there, {here} in this "
                "config: use the config it was trained with"
            )


def _state_digest(leaves: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of all numbers in a tree, by name: equal for two runs that are in the same state."""
    import numpy as np

    digest = hashlib.sha256()
    for name, leaf in leaves:
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        # As a view of the numbers, hashing which leaves other threads to run; a copy would hold them.
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_finite(leaves: _Leaves, step: int) -> None:
    import jax
    import numpy as np

    for name, leaf in named(leaves.tree):
        if jax.dtypes.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise NotFiniteError(
                f"{name} is not finite at step {step}: not saved, the checkpoints before it stay; "
                "lower optimizer.learning_rate or look at the data"
            )


def check_space(root: Path, state_bytes: int) -> None:
    """Raises `SaveError` if `root`'s disk has no room for a state of `state_bytes` and its files.

    Asked before Orbax is, as that leaves threads behind which go on writing when it runs out of space.
    """
    needed = state_bytes + state_bytes // 10 + 2**18
    if (free := _free(root)) < needed:
        raise SaveError(
            f"{root}: a checkpoint needs {needed / 2**20:.1f} MB, {free / 2**20:.1f} MB are free: "
            "make room and run the command again"
        )


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def fingerprint(record: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _digests(directory: Path, *, sync: bool = False) -> dict[str, list[Any]]:
    """{name: [bytes, SHA-256]} of every file below `directory`, forced to disk if `sync`."""
    found: dict[str, list[Any]] = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
        found[path.relative_to(directory).as_posix()] = [path.stat().st_size, digest]
    if sync:  # names too, not contents alone
        for path in (*(p for p in directory.rglob("*") if p.is_dir()), directory, directory.parent):
            _sync(path)
    return found


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first file that is not what was sealed, in one line; empty if all are."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if wanted.get(name) != found[name]:
            return f"{name} was altered or added"
    return ""


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:80]


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes, elsewhere: str = ELSEWHERE) -> None:
    """`path` holds all of `content` or what it held before, whatever happens in between.

    Raises `SaveError`, which for a place that nobody may write to advises `elsewhere`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        failpoints.failpoint(f"rename_{path.name.lstrip('0123456789').lstrip('.')}")
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise SaveError.at(path, error, elsewhere) from error
    finally:
        with contextlib.suppress(OSError):  # what hindered the writing may hinder this
            temporary.unlink()
