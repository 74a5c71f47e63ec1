"""The run folder: what it holds, and when a config may go on with it. No JAX."""

import contextlib
import datetime
import fcntl
import json
import os
import platform
import socket
import subprocess
from collections.abc import Generator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax import config as configs
from qgf_jax.errors import SaveError, UserError, log, saving
from qgf_jax.runs.checkpoint import fingerprint, write_atomically

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ogbench", "mujoco", "gymnasium",
)  # fmt: skip


class Run(NamedTuple):
    """A run folder that exists."""

    workdir: Path
    config: dict[str, Any]
    """The resolved config, nested plain dicts."""
    spec: dict[str, Any]
    """The fields of `types.Spec`."""
    dataset: dict[str, Any]
    """What it was trained on: file name, SHA-256, rows."""
    former: tuple[str, ...] = ()
    """Fingerprints of its config that older versions have sealed checkpoints with."""
    checkpoints_of: Path | None = None
    """The folder whose checkpoints its episodes are of, if it is another one."""

    @property
    def trained_in(self) -> Path:
        """The folder with checkpoints and metrics."""
        return self.checkpoints_of or self.workdir

    @property
    def identity(self) -> dict[str, tuple[str, ...]]:
        """What a checkpoint must have been trained with to be this run's, for `Checkpoints`."""
        spec = configs.flatten(self.spec)
        return {
            "config": (fingerprint(configs.identity(self.config)), *self.former),
            "normalisation": (fingerprint(spec),),
            "dataset": (self.dataset["sha256"],),
        }

    @property
    def episodes(self) -> Path:
        """One line per evaluated episode."""
        return self.workdir / "episodes.jsonl"

    @property
    def metrics(self) -> Path:
        """One line per logged step of training."""
        return self.trained_in / "metrics.jsonl"


class Work(NamedTuple):
    """What one process at a time does in a run folder."""

    doing: str
    lock: str
    """The file whose lock it holds."""
    elsewhere: str
    """How the command works in another folder."""


TRAINING = Work("trained", "LOCK", "choose another --workdir")
EVALUATION = Work("evaluated", "episodes.lock", "give --out=FOLDER")


def _former(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The fingerprints of the config in a config.json that older versions have sealed with.

    They counted keys as part of a config that a resumed run may change now.
    """
    known = record.get("former_fingerprints")
    before = fingerprint(configs.identity(record["config"], generation=0 if known is None else 1))
    return tuple(dict.fromkeys((*(known or ()), before)))


@contextlib.contextmanager
def only_writer(workdir: Path, work: Work = TRAINING) -> Generator[None]:
    """Holds the folder for one process that does `work`. Raises `UserError` if another one has it.

    The lock is the operating system's and goes with the process, however that ends. A file system
    that has no locks is used without one, and a line says so.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / work.lock).open("a+")
    except OSError as error:
        raise SaveError.at(workdir, error, work.elsewhere) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = " ".join(file.read().split()) or "another process"
            raise UserError(
                f"{workdir} is being {work.doing} by {holder}: wait for it or {work.elsewhere}"
            ) from None
        except OSError as error:
            log(
                f"qgf: warning: {workdir} has no file locks ({error.strerror}): see to it that "
                "no other process writes there"
            )
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # who it is, for others to read; the lock holds without
            os.ftruncate(file.fileno(), 0)
            line = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
            os.write(file.fileno(), line.encode())
        yield


def check_free(workdir: Path, work: Work = TRAINING) -> None:
    """Raises `UserError` if another process does `work` in `workdir` now."""
    if (workdir / work.lock).exists():
        with only_writer(workdir, work):
            pass


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """The commit of the code in use, "-dirty" if it was edited since; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def create(
    workdir: str | os.PathLike,
    config: Mapping[str, Any],
    spec: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Run:
    """Makes the folder, or goes on with it if it holds a run of the same config and data."""
    workdir = Path(workdir)
    path = workdir / "config.json"
    former = _former(configs.read(path)) if path.exists() else ()
    spec = recorded_spec(workdir, config, spec, data)
    record = {
        "config": config,
        "former_fingerprints": former,
        "spec": spec,
        "dataset": data,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    _write(workdir, record)
    return Run(workdir, dict(config), dict(spec), dict(data), _former(record))


def recorded_spec(
    workdir: Path, config: Mapping[str, Any], spec: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """`spec`, or that of the run in `workdir`, which keeps the normalisation that it began with.

    The last bits of mean and spread depend on package versions and on the layout on disk. Raises
    `UserError` if the run is another, or if they differ by more.
    """
    path = workdir / "config.json"
    if not path.exists():
        return dict(spec)
    old = configs.read(path)
    check_same(workdir, old, config, data)
    if not _is_alike(old.get("spec", {}), spec):
        raise UserError(
            f"{workdir}: widths or normalisation of the data come out otherwise than when it was "
            "trained: config.json was altered, or use the package versions that it names"
        )
    return dict(old["spec"])


def _is_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two specs are of the same data; dimensions that are not scaled now may have been."""
    scale = ("obs_mean", "obs_std")
    if any(old.get(key) != new.get(key) for key in (old.keys() | new.keys()) - {*scale}):
        return False
    means, stds = ([spec.get(key, ()) for spec in (old, new)] for key in scale)
    return len(means[0]) == len(means[1]) == len(stds[0]) == len(stds[1]) and all(
        abs(mean - other) <= _ROUNDING * std and (abs(std - was) <= _ROUNDING * std or std == 1.0)
        for mean, other, was, std in zip(*means, *stds, strict=True)
    )


_ROUNDING = 1e-6
"""Of a spread: far more than sums in another order differ by, and far less than anybody notices."""


def _write(workdir: Path, record: Mapping[str, Any]) -> None:
    with saving(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", json.dumps(record, indent=1) + "\n")


def create_beside(run: Run, folder: str | os.PathLike) -> Run:
    """Makes `folder` a run folder for episodes of the checkpoints of `run`, which stays untouched.

    It holds a copy of the config, and where the checkpoints are. A folder that is one of these already
    goes on, wherever the run was moved to in between. Raises `UserError` if it holds anything else.
    """
    folder, source = Path(folder), run.trained_in.resolve()
    if folder.resolve() == run.workdir.resolve():
        return run
    if (folder / "config.json").exists():
        old = open_run(folder)
        if not old.checkpoints_of:
            raise UserError(f"{folder} is a run of its own: choose another --out")
        here, there = run.identity, old.identity
        same = all({*here[what]} & {*there[what]} for what in here)
        moved = not old.checkpoints_of.exists()
        if not same or (old.checkpoints_of != source and not moved):
            raise UserError(
                f"{folder} holds episodes of the checkpoints in {old.checkpoints_of}, not of "
                f"{source}: choose another --out"
            )
    record = configs.read(run.workdir / "config.json")
    _write(folder, {**record, "checkpoints_of": str(source)})
    return run._replace(workdir=folder, checkpoints_of=source)


def common(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What several processes that train one run must have in common, flat.

    The path of the data may differ, and what only the first process uses.
    """
    found = {f"config key {k}": v for k, v in configs.shared(config).items()}
    keys = ("sha256", "mode", "layout")
    # As JSON has it, which knows lists alone.
    return json.loads(json.dumps(found | {f"data's {k}": data.get(k) for k in keys}))


def check_same(
    workdir: Path,
    old: Mapping[str, Any],
    config: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Raises `UserError` if the run in `workdir` was made by another config or other data."""
    if old.get("checkpoints_of"):
        raise UserError(
            f"{workdir} holds episodes of the checkpoints in {old['checkpoints_of']} and is not for "
            "training: choose another --workdir"
        )
    differences = configs.changed(old["config"], config)
    if differences:
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise UserError(
            f"{workdir} holds a run of another config: {differences[0]}{more}: "
            "choose another --workdir"
        )
    before, now = (d.get("mode", "resident") for d in (old["dataset"], data or old["dataset"]))
    if before != now:
        raise UserError(
            f"{workdir} was trained with data.mode={before}, and there is now other room for data: "
            f"give --config.data.mode={before}"
        )
    before, now = (d.get("layout") for d in (old["dataset"], data or old["dataset"]))
    if before and now and before != now:
        raise UserError(
            f"{workdir} was trained on a stream of {before} data, and these are {now}, which come in "
            "another order: give it those, or choose another --workdir"
        )
    if data and old["dataset"]["sha256"] != data["sha256"]:
        raise UserError(
            f"{workdir} was trained on other data than {data['file']} is now: "
            "choose another --workdir"
        )


_NEEDED = {
    "config": ("env", "seed", "seeds", "algorithm", "critic", "eval"),
    "spec": ("obs_dim", "action_dim", "chunk"),
    "dataset": ("sha256",),
}
"""What config.json has by its part, whatever version wrote it."""


def open_run(workdir: str | os.PathLike) -> Run:
    """The run in `workdir`. Raises `UserError` if there is none."""
    workdir = Path(workdir)
    path = workdir / "config.json"
    record = configs.read(path)
    altered = f"{path}: {{}}: the file was altered"
    if not isinstance(record, dict):
        raise UserError(altered.format("it holds no run"))
    for part, names in _NEEDED.items():
        if not isinstance(record.get(part), dict):
            raise UserError(altered.format(f"{part!r} is missing"))
        if missing := [name for name in names if name not in record[part]]:
            raise UserError(altered.format(f"{missing[0]!r} is missing in {part!r}"))
    source = record.get("checkpoints_of")
    if source is not None and not isinstance(source, str):
        raise UserError(altered.format("'checkpoints_of' is no folder"))
    try:
        former = _former(record)
    except (KeyError, TypeError):
        raise UserError(altered.format("'data.dir' or 'former_fingerprints' is none")) from None
    return Run(
        workdir,
        *(record[part] for part in _NEEDED),
        former=former,
        checkpoints_of=source and Path(source),
    )
