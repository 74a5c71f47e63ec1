"""The run folder: what it holds, who may write to it, and which config may resume it. No JAX."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qgf_jax import config as configs
from qgf_jax.config import RunConfig
from qgf_jax.envs import spaces
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.envs.spaces import Widths
from qgf_jax.errors import UserError, saving
from qgf_jax.runs.files import fingerprint, write_atomically
from qgf_jax.types import Spec

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
)  # fmt: skip

_RECORD = "episodes.csv.gz"

_NEEDED = {
    "config": ("env", "seed", "seeds", "algorithm", "critic", "eval"),
    "spec": (),
    "dataset": ("sha256",),
}
"""The keys that config.json has in each part, whatever version wrote it; `Spec.of` knows a spec's."""


class Run(NamedTuple):
    """A run folder that exists."""

    workdir: Path
    config: dict[str, Any]
    """The resolved config, nested plain dicts."""
    spec: dict[str, Any]
    """The record of its `Spec`, which reads it by `Spec.of`."""
    dataset: dict[str, Any]
    """The data that it was trained on: file name, SHA-256, rows, and as `observations` the parts of one
    where the data name them."""
    former: tuple[str, ...] = ()
    """Fingerprints of its config with which older versions sealed checkpoints."""
    checkpoints_of: Path | None = None
    """The folder that holds the checkpoints, if it is not `workdir`."""
    commit: str = ""
    """Of the code that it was last trained with, "-dirty" where that was edited; empty: not known."""
    packages: Mapping[str, str] = MappingProxyType({})
    """Versions of the packages that it was last trained with, as `versions` has them."""

    @classmethod
    def open(cls, workdir: str | os.PathLike) -> "Run":
        """The run in `workdir`. Raises `UserError` if there is none or its config.json was altered."""
        workdir = Path(workdir)
        path = workdir / "config.json"
        record = RunConfig.read_record(path)
        if why := _why_invalid(record):
            raise UserError(f"{path}: {why}: the file was altered")
        source = record.get("checkpoints_of")
        return cls(
            workdir,
            *(record[part] for part in _NEEDED),
            former=_former(record),
            checkpoints_of=source and Path(source),
            **_made_with(record),
        )

    @classmethod
    def create(
        cls,
        workdir: str | os.PathLike,
        config: Mapping[str, Any],
        spec: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> "Run":
        """Makes the run folder, or resumes the run in it if that has the same config and data.

        `data` is the fingerprint of the dataset. Raises `UserError` as `first_spec` does.
        """
        workdir = Path(workdir)
        path = workdir / "config.json"
        former = _former(RunConfig.read_record(path)) if path.exists() else ()
        spec = cls.first_spec(workdir, config, spec, data)
        record = {
            "config": config,
            "former_fingerprints": former,
            "spec": spec,
            "dataset": data,
            "versions": cls.versions(config["env"]),
            "git_commit": _git_commit(),
        }
        _write(workdir, record)
        parts = (dict(config), dict(spec), dict(data), _former(record))
        return cls(workdir, *parts, **_made_with(record))

    @classmethod
    def first_spec(
        cls,
        workdir: Path,
        config: Mapping[str, Any],
        spec: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The spec of the run in `workdir`, which keeps its first normalisation; `spec` without a run.

        A record of an earlier version stays as that wrote it: checkpoints are sealed with it. The last
        bits of means and standard deviations depend on package versions and on the layout on disk.
        Raises `UserError` if the run has another config or other data, or if the specs differ by more.
        """
        cls.check_same(workdir, config, data)
        path = workdir / "config.json"
        if not path.exists():
            frozen = config.get("frozen", {}).get("run")
            return cls.open(frozen)._spec_on(spec, data) if frozen else dict(spec)
        old = RunConfig.read_record(path).get("spec", {})
        if not _is_alike(old, spec):
            raise UserError(
                f"{workdir}: the data have other widths or another normalisation than when it was "
                "trained: config.json was altered, or use the package versions that it names"
            )
        return dict(old)

    def _spec_on(self, spec: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """This run's spec, for another run that has its parts and learns from `data`."""
        if self.dataset["sha256"] != data["sha256"]:
            raise UserError(
                f"{self.workdir} was trained on other data than {data['file']} is now, and what is "
                "added to it needs the same: give it those by --config.data.dir"
            )
        if not _is_alike(self.spec, spec):
            raise UserError(
                f"{self.workdir}: the data have other widths or another normalisation than when it was "
                "trained: use the package versions that its config.json names"
            )
        return dict(self.spec)

    @staticmethod
    def check_same(
        workdir: Path, config: Mapping[str, Any], data: Mapping[str, Any] | None = None
    ) -> None:
        """Raises `UserError` if there is a run in `workdir` with another config or other data.

        `data` is the fingerprint of the dataset, if that is known by now.
        """
        path = workdir / "config.json"
        if not path.exists():
            return
        if (workdir / _RECORD).exists():
            raise UserError(
                f"{workdir} is the record of a run and not for training: choose another --workdir"
            )
        old = RunConfig.read_record(path)
        if old.get("checkpoints_of"):
            raise UserError(
                f"{workdir} holds episodes of the checkpoints in {old['checkpoints_of']} and is not "
                "for training: choose another --workdir"
            )
        differences = RunConfig(old["config"]).changes_to(config)
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise UserError(
                f"{workdir} holds a run of another config: {differences[0]}{more}: "
                "choose another --workdir"
            )
        if data:
            _check_same_data(workdir, old["dataset"], data)

    @staticmethod
    def versions(env: str = "") -> dict[str, str]:
        """{name: version} of Python and the packages that results in the environment `env` depend on."""
        installed = {"python": platform.python_version()}
        for package in (*_PACKAGES, *Family.of(env).packages_of(env)):
            with contextlib.suppress(metadata.PackageNotFoundError):
                installed[package] = metadata.version(package)
        return installed

    def settings(
        self, kept: Collection[str] = ("config", "dataset", "versions", "git_commit")
    ) -> dict[str, Any]:
        """Config, data, package versions and commit as config.json has them, by dotted names."""
        record = RunConfig.read_record(self.workdir / "config.json")
        flat = configs.flatten({name: record[name] for name in kept if name in record})
        return {name.removeprefix("config."): value for name, value in flat.items()}

    @property
    def trained_in(self) -> Path:
        """The folder with checkpoints and metrics."""
        return self.checkpoints_of or self.workdir

    @property
    def identity(self) -> dict[str, tuple[str, ...]]:
        """What a checkpoint of this run was trained with, for `Checkpoints`."""
        spec = configs.flatten(self.spec)
        return {
            "config": (fingerprint(RunConfig(self.config).identity()), *self.former),
            "normalisation": (fingerprint(spec),),
            "dataset": (self.dataset["sha256"],),
        }

    @property
    def parts(self) -> Widths:
        """Key and width of each part of an observation, in order; empty where the data name none."""
        return spaces.named(self.dataset.get("observations"))

    @property
    def env(self) -> EnvName:
        """The environment that it acts in, seen as its data have it."""
        return EnvName.parse(self.config["env"]).seen_as(self.parts)

    @property
    def episodes(self) -> Path:
        """One line per evaluated episode."""
        return self.workdir / "episodes.jsonl"

    @property
    def record(self) -> Path:
        """The same as a publication holds it, in place of `episodes`; see `evaluation.recorded`."""
        return self.workdir / _RECORD

    @property
    def metrics(self) -> Path:
        """One line per logged step of training."""
        return self.trained_in / "metrics.jsonl"

    def beside(self, folder: str | os.PathLike) -> "Run":
        """This run with its episodes in `folder`. Writes nothing, see `link`.

        A folder that was linked before may be used again, even if the run has been moved since. Raises
        `UserError` if `folder` holds anything else.
        """
        folder, source = Path(folder), self.trained_in.resolve()
        if folder.resolve() == self.workdir.resolve():
            return self
        if (folder / "config.json").exists():
            self._check_linked(Run.open(folder))
        return self._replace(workdir=folder, checkpoints_of=source)

    def _check_linked(self, other: "Run") -> None:
        """Raises `UserError` unless `other` is for episodes of this run's checkpoints."""
        source = self.trained_in.resolve()
        if not other.checkpoints_of:
            raise UserError(f"{other.workdir} is a run of its own: choose another --out")
        ours, theirs = self.identity, other.identity
        same = all({*ours[what]} & {*theirs[what]} for what in ours)
        moved = not other.checkpoints_of.exists()
        if not same or (other.checkpoints_of != source and not moved):
            raise UserError(
                f"{other.workdir} holds episodes of the checkpoints in {other.checkpoints_of}, not of "
                f"{source}: choose another --out"
            )

    def link(self) -> None:
        """Makes the folder that `beside` gave a run folder: a copy of the config that names the run.

        Call it once the checkpoint has been found. Does nothing for a run with its own checkpoints.
        """
        if self.checkpoints_of is not None:
            record = RunConfig.read_record(self.checkpoints_of / "config.json")
            _write(self.workdir, {**record, "checkpoints_of": str(self.checkpoints_of)})


def _made_with(record: Mapping[str, Any]) -> dict[str, Any]:
    """The commit and packages of a config.json; what is not there, or no such thing, is not known."""
    commit, packages = record.get("git_commit"), record.get("versions")
    known = packages.items() if isinstance(packages, dict) else ()
    return {
        "commit": commit if isinstance(commit, str) else "",
        "packages": {name: str(version) for name, version in known},
    }


def _former(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The fingerprints of the config in a config.json that older versions have sealed with.

    They counted keys as part of a config that a resumed run may change now.
    """
    known = record.get("former_fingerprints")
    generation = 0 if known is None else 1
    before = fingerprint(RunConfig(record["config"]).identity(generation))
    return tuple(dict.fromkeys((*(known or ()), before)))


def _git_commit() -> str:
    """The commit of the code in use, with "-dirty" if it was edited since; "" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _is_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two specs are of the same data. A dimension that is not scaled now may have been."""
    try:
        before, now = Spec.of(old), Spec.of(new)
    except (KeyError, TypeError, ValueError):
        return False
    if before.unscaled() != now.unscaled() or len(before.mean) != len(now.mean):
        return False
    if len(before.action_shift) != len(now.action_shift):
        return False
    means = zip(before.mean + before.action_shift, now.mean + now.action_shift, strict=True)
    stds = zip(before.std + before.action_scale, now.std + now.action_scale, strict=True)
    return all(
        abs(mean - other) <= _ROUNDING * std and (abs(std - was) <= _ROUNDING * std or std == 1.0)
        for (mean, other), (was, std) in zip(means, stds, strict=True)
    )


_ROUNDING = 1e-6
"""Of a standard deviation: far more than sums in another order differ by, too little to matter."""


def _write(workdir: Path, record: Mapping[str, Any]) -> None:
    with saving(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", json.dumps(record, indent=1) + "\n")


def _check_same_data(workdir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = (data.get("mode", "resident") for data in (old, new))
    if before != now:
        raise UserError(
            f"{workdir} was trained on {before} data, which now would be {now}: give "
            f"--config.data.mode={before}"
        )
    before, now = (data.get("layout") for data in (old, new))
    if before and now and before != now:
        raise UserError(
            f"{workdir} was trained on a stream of {before} data, and these are {now}, which come in "
            "another order: give it those, or choose another --workdir"
        )
    if old["sha256"] != new["sha256"]:
        raise UserError(
            f"{workdir} was trained on other data than {new['file']} is now: choose another --workdir"
        )


def _why_invalid(record: Any) -> str:
    """What keeps the content of a config.json from being a run's; "" if nothing does."""
    if not isinstance(record, dict):
        return "it holds no run"
    why = _why_incomplete(record)
    if why := why or _why_no_spec(record["spec"]) or _why_no_dataset(record["dataset"]):
        return why
    if not isinstance(record.get("checkpoints_of"), str | None):
        return "'checkpoints_of' is no folder"
    try:
        _former(record)
    except (KeyError, TypeError):
        return "'data.dir' or 'former_fingerprints' is none"
    return ""


def _why_incomplete(record: Mapping[str, Any]) -> str:
    for part, names in _NEEDED.items():
        if not isinstance(record.get(part), dict):
            return f"{part!r} is missing"
        if missing := [name for name in names if name not in record[part]]:
            return f"{missing[0]!r} is missing in {part!r}"
    return ""


def _why_no_dataset(record: Mapping[str, Any]) -> str:
    if "observations" in record and not spaces.named(record["observations"]):
        return "'observations' in 'dataset' names no parts"
    return ""


def _why_no_spec(record: Mapping[str, Any]) -> str:
    try:
        Spec.of(record)
    except KeyError as error:
        return f"{error} is missing in 'spec'"
    except (TypeError, ValueError) as error:
        return f"'spec' is none ({error})"
    return ""
