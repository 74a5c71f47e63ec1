"""The record of a run: what a publication keeps of it, without checkpoints, data or machine paths."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError, saving
from qgf_jax.evaluation import recorded, summary
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.run import Run

_ELSEWHERE = "choose another --record"


class Machine(NamedTuple):
    """Where a run was trained and evaluated; no name of a host."""

    cores: int
    cpu: str
    """The model's name."""

    @classmethod
    def here(cls) -> "Machine":
        """This one, with the cores that this process may use."""
        try:
            about = Path("/proc/cpuinfo").read_text(errors="replace")
        except OSError:
            about = ""
        found = re.search(r"^model name\s*: *(.+)$", about, re.M)
        cpu = found[1] if found else platform.processor() or platform.machine()
        is_linux = hasattr(os, "sched_getaffinity")
        return cls(len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1, cpu)

    @classmethod
    def parse(cls, text: str) -> "Machine":
        """CORES,CPU or "here". Raises `UserError`."""
        cores, _, cpu = text.partition(",")
        if text == "here":
            return cls.here()
        if not (cores.isdecimal() and 0 < len(cores) < 7 and int(cores) and cpu.strip()):
            raise UserError(f"{text!r} is no machine: write CORES,CPU as in '2,AMD EPYC', or here")
        return cls(int(cores), cpu.strip())


def write(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    commands: Sequence[str] = (),
    machine: Machine | None = None,
) -> str:
    """Writes the record of a run into `folder`: episodes.csv.gz, config.json, record.json.

    `qgf report` reads it as it reads the run. record.json says whatever can be known of where the
    episodes come from: what the run does not say (`commands`, `machine`) and is not given is null.
    A record of the same run is replaced. Gives a line that says what was written. Raises `UserError`
    if nothing was evaluated or `folder` holds anything else, `SaveError` if it cannot be written.
    """
    run, folder = Run.open(workdir), Path(folder)
    if run.record.exists():
        raise UserError(f"{run.workdir} is a record itself: copy it, or name the run")
    config = json.loads((run.workdir / "config.json").read_bytes())
    config.pop("checkpoints_of", None)
    config = _portable(config)
    _check_free(folder, config)
    found = EpisodeLog.require(run)
    found.warn()
    lines = [_portable_line(line) for line in summary.unique(found.records)]
    packed = recorded.pack(lines)
    steps = sorted({line["step"] for line in lines})
    about = {
        "episodes": packed.about,
        "commands": _portable([*commands]) or None,
        **_provenance(config),
        "machine": machine and machine._asdict(),
        "checkpoints": [_checkpoint(run, step) for step in steps],
    }
    with saving(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
    # record.json last: until it is there, the others are not read.
    for path, content in {
        folder / run.record.name: packed.content,
        folder / "config.json": _json(config),
        folder / recorded.ABOUT: _json(about),
    }.items():
        write_atomically(path, content, _ELSEWHERE)
    arms = len({Arm.of(line).sampler for line in lines})
    return f"{folder}: {len(lines)} episodes of {arms} methods, {len(packed.content)} bytes"


def _provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a config says of its code and data."""
    return {
        "commit": config.get("git_commit") or None,
        "versions": config.get("versions"),
        "data": {name: config["dataset"].get(name) for name in ("file", "sha256")},
    }


def _check_free(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError` if `folder` holds anything but a record of the run with this config."""
    path = folder / "config.json"
    if not path.exists():
        if (folder / "episodes.jsonl").exists():
            raise UserError(f"{folder} holds episodes of its own: {_ELSEWHERE}")
        return
    other = Run.open(folder)
    if not other.record.exists():
        raise UserError(f"{folder} is a run of its own: {_ELSEWHERE}")
    old = json.loads(path.read_bytes())
    if any(old.get(part) != config[part] for part in ("config", "dataset")):
        raise UserError(f"{folder} is the record of another run: remove it, or {_ELSEWHERE}")


def _checkpoint(run: Run, step: int) -> dict[str, Any]:
    """A step, and the SHA-256 of its numbers where its seal is at hand."""
    try:
        return {"step": step, "state": Checkpoints(run.trained_in).digest(step)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"step": step, "state": None}


def _portable_line(line: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**line, "failed": _portable(line["failed"])} if "failed" in line else line


_FOLDERS = re.compile(
    r"""(?<![^\s=,:;'"(\[])  # where a path may begin
    (?:~[\w.-]*)?/  # at the root or in somebody's home
    (?:[^\s/=,:;'"()\[\]]+/)*  # folder after folder
    (?=[^\s/])  # up to the last name""",
    re.VERBOSE,
)


def _portable(value: Any) -> Any:
    """A JSON value whose paths, where they say a place on one machine, are their last names alone."""
    if isinstance(value, dict):
        return {name: _portable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_portable(one) for one in value]
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"(~[^/]*)?/[^\n]*", value):  # a path as a whole may hold blanks
        return Path(value).name
    return _FOLDERS.sub("", value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"
