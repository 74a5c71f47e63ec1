"""Checkpoints: Orbax steps, each sealed by the SHA-256 of its files.

Orbax restores an altered array file without complaint, so a step counts only with its seal. The seal is
written after Orbax has committed the step and the step has been restored to the numbers that were to be
saved. A step whose files do not match is skipped with one line that says so, and the step before it is
used. Only reading and writing arrays needs JAX.
"""

import concurrent.futures
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import NoSoundCheckpointError, NotFiniteError, SaveError, UserError, log, said
from qgf_jax.methods.lazy import jax
from qgf_jax.runs.array_files import ArrayFiles
from qgf_jax.runs.failpoints import failpoint
from qgf_jax.runs.files import fingerprint, sha256, sync, write_atomically
from qgf_jax.runs.tree import ArrayTree

_SEALS = "seals"
UNMERGED = (
    "an earlier version saved it below a path with brackets or the like, and its files were never "
    "merged: `qgf verify --rescue RUN` does it"
)
"""What `Checkpoints.why_invalid` says of a step that `Checkpoints.rescue` mends."""
_attempts = itertools.count(1)


class RestoredState(NamedTuple):
    """A checkpoint's content."""

    step: int
    state: Any
    note: Any
    """The JSON value that was saved beside the state."""


class Checkpoints:
    """The sealed steps of a run folder.

    `identity` says which run the steps belong to: {what: fingerprint}, or {what: (the fingerprint that
    is written, others that are accepted)}. A step of another config, other data or another
    normalisation is not used, even if its files are sound. Without an identity any step is used.

    As a context manager it saves in the background and waits at the end of the block: a save that is
    still running when the interpreter ends would be lost.
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
        """The steps that have a seal, oldest first; their files are not checked."""
        return sorted(int(p.stem) for p in (self.root / _SEALS).glob("[0-9]*.json"))

    def save(self, step: int, state: Any, note: Any = None) -> None:
        """Writes and seals a step, then removes all but the newest `keep` steps.

        `state` is any pytree of arrays, not replicated; `note` is any JSON value. Raises `SaveError`, or
        `NotFiniteError` if the state holds a NaN or an infinity; then nothing is left of the step.
        Inside a `with` block it returns once the state has been copied; the next call of `poll`, `save`
        or `wait` raises what went wrong later.
        """
        self.wait()
        if step in self.steps() and not self.why_invalid(step):
            return
        failpoint("save")
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
        """Removes what killed runs and failed saves have left. For the process that writes."""
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
        step = self.newest_sound(step)
        if step is None:
            return None
        seal = self._read_seal(step)
        ArrayTree(template).check_same(self.root / str(step), seal["tree"])
        failpoint("restore")

        def abstract(leaf: Any, numbers: Any) -> jax.ShapeDtypeStruct:
            sharding = getattr(leaf, "sharding", None)
            return jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=sharding)

        arrays = jax.tree.map(abstract, template, ArrayTree(template).keys_as_numbers())
        numbers = ArrayFiles(self.root, str(step)).read(arrays)
        return RestoredState(step, ArrayTree(template).restore_keys(numbers), seal["note"])

    def check_space(self, template: Any, *, states: int = 1) -> None:
        """Raises `SaveError` if the disk has no room for so many `states` like `template`.

        Asked before Orbax is: where space runs out, Orbax leaves threads behind that go on writing.
        """
        state_bytes = states * ArrayTree(template).bytes()
        needed = state_bytes + state_bytes // 10 + 2**18
        if (free := _free_bytes(self.root)) < needed:
            raise SaveError(
                f"{self.root}: a checkpoint needs {needed / 2**20:.1f} MB, {free / 2**20:.1f} MB are "
                "free: make room and run the command again"
            )

    def restore_part(
        self, entries: Sequence[str], sharding: Any, step: int | None = None
    ) -> RestoredState | None:
        """As `restore`, but only some entries of the state, such as "params", without a template.

        Their trees are of dicts and lists; arrays lie as `sharding` says.
        """
        step = self.newest_sound(step)
        if step is None:
            return None
        note = self._read_seal(step)["note"]
        failpoint("restore")
        part = ArrayFiles(self.root, str(step)).read_part(entries, sharding)
        return RestoredState(step, part, note)

    def newest_sound(self, step: int | None = None) -> int | None:
        """The newest step whose files match its seal; `step` itself if it is given.

        `None` if no step was ever sealed. Raises `UserError` if `step` is not sound,
        `NoSoundCheckpointError` if none is.
        """
        if step is not None:
            return self._check_sound(step)
        candidates = self.steps()[::-1]
        faults = {}
        for candidate in candidates:
            if not (why := self.why_invalid(candidate)):
                return candidate
            log(f"qgf: warning: checkpoint {candidate} is not used: {why}")
            faults[candidate] = why
        if not candidates:
            return None
        if candidates != self.steps()[::-1]:  # a trainer is at work and has removed them since
            return self.newest_sound()
        mend = "train again in another --workdir"
        if UNMERGED in faults.values():
            mend = f"`qgf verify --rescue {self.root.parent}` mends what can be mended"
        raise NoSoundCheckpointError(f"{self.root}: no sound checkpoint is left: {mend}")

    def _check_sound(self, step: int) -> int:
        """`step`, if it is sound. Raises `UserError` that names those that are."""
        if not (why := self.why_invalid(step)):
            return step
        log(f"qgf: warning: checkpoint {step} is not used: {why}")
        sound = [str(s) for s in self.steps() if not self.why_invalid(s)]
        raise UserError(
            f"{self.root}: step {step} is not there or not sound; these are: "
            f"{', '.join(sound) or 'none'}"
        )

    def why_invalid(self, step: int) -> str:
        """What is wrong with a step, in one line; "" if it is sound. Needs no JAX."""
        try:
            seal = self._read_seal(step)
            sealed, files = seal["files"], _digests(self.root / str(step))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "it has no readable seal or no files"
        if not ArrayFiles.is_merged(sealed):
            return _difference(sealed, {k: v for k, v in files.items() if k in sealed}) or UNMERGED
        if difference := _difference(sealed, files):
            return difference
        for what, accepted in self.identity.items():
            if seal["identity"].get(what) not in accepted:
                return f"it was trained with another {what} than config.json says"
        return ""

    def digest(self, step: int) -> str:
        """SHA-256 of a sealed state's numbers; equal states have equal digests."""
        return self._read_seal(step)["state"]

    def _read_seal(self, step: int) -> dict[str, Any]:
        """Raises `OSError` or `ValueError` if the seal is not whole, or is that of another step."""
        seal = json.loads((self.root / _SEALS / f"{step}.json").read_text())
        if seal.pop("sha256", None) != fingerprint(seal) or seal["step"] != step:
            raise ValueError
        return seal

    def rescue(self, step: int) -> None:
        """Merges the files of a step that is `UNMERGED` according to `why_invalid`, and seals it again.

        The old seal holds until the new one is written, so a rescue that was killed can be repeated.
        Raises `UserError` if the numbers are not those that were sealed.
        """
        seal, directory = self._read_seal(step), self.root / str(step)
        for name in _digests(directory).keys() - seal["files"].keys():
            (directory / name).unlink()  # of a rescue that was killed
        try:
            files = ArrayFiles(self.root, str(step))
            files.merge()
            failpoint("merged")
            leaves = files.read_named()
            restored = _state_digest((name, leaves[name]) for name in seal["tree"])
        except Exception as error:
            raise UserError(
                f"{directory} cannot be rescued: {said(error, 80)}: remove it"
            ) from error
        if restored != seal["state"]:
            raise UserError(f"{directory} cannot be rescued: its numbers are others: remove it")
        self._seal({**seal, "files": _digests(directory, durable=True)})

    def _write(self, step: int, leaves: "_Leaves", note: Any) -> None:
        directory, seals = self.root / str(step), self.root / _SEALS
        # A new name for each attempt: TensorStore remembers what was at a path, so a second attempt at
        # the same path fails on files that the first one left and we removed.
        writing = self.root / f"{step}.{os.getpid()}-{next(_attempts)}"
        _check_finite(leaves, step)
        try:
            seals.mkdir(parents=True, exist_ok=True)
            (seals / f"{step}.json").unlink(missing_ok=True)
            self.clean()
            self.check_space(leaves.tree)
            ArrayFiles(self.root, writing.name).write(leaves.tree)
            failpoint("write")
            writing.rename(directory)
            failpoint("committed")
            record = {
                "step": step,
                "files": _digests(directory, durable=True),
                "tree": leaves.described,
                "state": _state_digest(ArrayTree(leaves.tree).named()),
                "identity": {what: accepted[0] for what, accepted in self.identity.items()},
                "note": note,
            }
            self._check_restores(step, leaves, record["state"])
            failpoint("seal")
            self._seal(record)
        except Exception as error:
            (seals / f"{step}.json").unlink(missing_ok=True)
            # Orbax leaves its half-written folder, which keeps a full disk full.
            for left in (directory, *self.root.glob(f"{writing.name}*")):
                shutil.rmtree(left, ignore_errors=True)
            if isinstance(error, UserError):
                raise
            raise SaveError(
                f"{directory} could not be saved (it needs {ArrayTree(leaves.tree).bytes() >> 20} MB, "
                f"{_free_bytes(self.root) >> 20} MB are free): {said(error, 80)}: "
                f"{SaveError.remedy(error)}"
            ) from error
        failpoint("sealed")
        self._remove_old(step)

    def _check_restores(self, step: int, leaves: "_Leaves", state: str) -> None:
        """Raises `SaveError` if a reader would not get the numbers that were to be saved."""
        try:
            restored = ArrayFiles(self.root, str(step)).read(leaves.tree)
            cause = (
                ""
                if _state_digest(ArrayTree(restored).named()) == state
                else "they are other numbers"
            )
        except Exception as error:
            cause = said(error, 80)
        if cause:
            raise SaveError(
                f"{self.root / str(step)} was written, and does not restore: {cause}: check the disk "
                "and run the command again"
            )

    def _seal(self, record: dict[str, Any]) -> None:
        """Writes the seal of a step: `record` and its fingerprint."""
        sealed = record | {"sha256": fingerprint(record)}
        write_atomically(self.root / _SEALS / f"{record['step']}.json", json.dumps(sealed))

    def _remove_old(self, step: int) -> None:
        """Removes all but the newest `keep` steps up to `step`."""
        # Newer steps, if any, were found unsound: they must not push out sound ones.
        older = [sealed for sealed in self.steps() if sealed <= step]
        for old in older[: -self.keep]:
            # The seal goes first: a run killed in between leaves rubbish, never a broken step.
            (self.root / _SEALS / f"{old}.json").unlink()
            sync(self.root / _SEALS)
            failpoint("delete")
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
    """A copy of a state on the host, which no later step can change."""

    tree: Any
    described: dict[str, str]
    """The state's leaves as `ArrayTree.describe` gives them, random keys as such."""


def _to_host(state: Any) -> _Leaves:
    whole = ArrayTree(state)
    return _Leaves(jax.tree.map(np.array, whole.keys_as_numbers()), whole.describe())


def _state_digest(leaves: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of the names and numbers of a tree's leaves."""
    digest = hashlib.sha256()
    for name, leaf in leaves:
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        # A view of the numbers: hashing it lets other threads run, and making a copy would stop them.
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check_finite(leaves: _Leaves, step: int) -> None:
    for name, leaf in ArrayTree(leaves.tree).named():
        if jax.dtypes.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise NotFiniteError(
                f"{name} is not finite at step {step}: not saved, the checkpoints before it stay; "
                "lower optimizer.learning_rate or look at the data"
            )


def _free_bytes(path: Path) -> int:
    """Bytes that are free on the disk of `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _digests(directory: Path, *, durable: bool = False) -> dict[str, list[Any]]:
    """{name: [bytes, SHA-256]} of every file below `directory`; `durable`: forced to disk too."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    digests: dict[str, list[Any]] = {
        path.relative_to(directory).as_posix(): [path.stat().st_size, sha256(path)]
        for path in files
    }
    if durable:  # names too, not contents alone
        folders = [path for path in directory.rglob("*") if path.is_dir()]
        for path in (*files, *folders, directory, directory.parent):
            sync(path)
    return digests


def _difference(sealed: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """The first file that does not match its seal, in one line; "" if all do."""
    for name in sorted(sealed.keys() | files.keys()):
        if name not in files:
            return f"{name} is missing"
        if sealed.get(name) != files[name]:
            return f"{name} was altered or added"
    return ""
