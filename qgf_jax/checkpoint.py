"""Checkpoints: Orbax steps, each sealed by the SHA-256 of its files.

Orbax restores an altered array file without a word, so a step counts only with its seal, written
after Orbax has committed. A step whose files do not match is passed over, with one line that says
so, and the one before it is used.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError

_SEALS = "seals"


class Checkpoints:
    """The sealed steps of a run folder. `state` is any pytree of arrays, not replicated."""

    def __init__(self, workdir: str | os.PathLike, *, keep: int = 2):
        self.root = Path(workdir).resolve() / "checkpoints"
        self.keep = keep

    def steps(self) -> list[int]:
        """The steps that have a seal, oldest first; not yet looked into."""
        return sorted(int(p.stem) for p in (self.root / _SEALS).glob("[0-9]*.json"))

    def save(self, step: int, state: Any) -> None:
        """Writes and seals one step, then removes all but the newest `keep`."""
        import orbax.checkpoint as ocp

        if step in self.steps():
            return
        directory = self.root / str(step)
        directory.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(directory, ignore_errors=True)  # an unsealed leftover of a killed run
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(directory, state)
        self._seal(step)
        for old in self.steps()[: -self.keep]:
            # Un-seal first: a run killed in between leaves rubbish, never a broken step.
            (self.root / _SEALS / f"{old}.json").unlink()
            shutil.rmtree(self.root / str(old), ignore_errors=True)

    def restore(self, template: Any, step: int | None = None) -> tuple[int, Any] | None:
        """(step, state) of the newest sound step, or of `step`. `None` if none was ever sealed.

        `template` gives the tree with shapes, types and shardings (arrays or ShapeDtypeStructs).
        Raises `UserError` if no sealed step is sound, or if the shapes are another network's.
        """
        import jax
        import orbax.checkpoint as ocp

        step = self.newest_sound(step)
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        with ocp.StandardCheckpointer() as checkpointer:
            try:
                return step, checkpointer.restore(self.root / str(step), abstract)
            except (ValueError, KeyError) as error:
                cause = " ".join(str(error).split())[:120]
                raise UserError(f"{self.root / str(step)} is of another network: {cause}") from None

    def newest_sound(self, step: int | None = None) -> int | None:
        """The newest step whose files are what was sealed; `step` itself if it is named."""
        candidates = self.steps()[::-1] if step is None else [step]
        for candidate in candidates:
            if not (fault := self.fault(candidate)):
                return candidate
            print(f"qgf: warning: checkpoint {candidate} is not used: {fault}", file=sys.stderr)
        if candidates:
            raise UserError(f"{self.root}: no sound checkpoint is left: train again")
        return None

    def fault(self, step: int) -> str:
        """What is wrong with a step, in one line; empty if it is sound. Needs no JAX."""
        try:
            seal = json.loads((self.root / _SEALS / f"{step}.json").read_text())
            wanted, found = seal["files"], _digests(self.root / str(step))
        except (OSError, ValueError, KeyError, TypeError):
            return "it has no readable seal or no files"
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found:
                return f"{name} is missing"
            if wanted.get(name) != found[name]:
                return f"{name} was altered or added"
        return ""

    def _seal(self, step: int) -> None:
        seals = self.root / _SEALS
        seals.mkdir(exist_ok=True)
        files = _digests(self.root / str(step), sync=True)
        write_atomically(seals / f"{step}.json", json.dumps({"step": step, "files": files}))


def _digests(directory: Path, *, sync: bool = False) -> dict[str, list[Any]]:
    """{name: [bytes, SHA-256]} of every file below `directory`, forced to disk if `sync`."""
    found: dict[str, list[Any]] = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
        found[path.relative_to(directory).as_posix()] = [path.stat().st_size, digest]
    return found


def write_atomically(path: Path, content: str | bytes) -> None:
    """`path` holds all of `content` or what it held before, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
