"""The jobs of a sweep: read from a file, checked together, and kept in the sweep's folder."""

import contextlib
import fnmatch
import graphlib
import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.runs.files import fingerprint, write_atomically
from qgf_jax.runs.locks import JOB, SWEEP
from qgf_jax.sweep.job import Job, Stage
from qgf_jax.sweep.pack import Packed

FILE = "sweep.json"
"""What a sweep's folder keeps its jobs in."""


class Planned(NamedTuple):
    """A job of which all is known that can be known before it begins."""

    job: Job
    identity: str = ""
    """The fingerprint of what it trains, without what a resumed run may change."""
    steps: int = 0
    """The last step of its training; 0 where its source's config will say."""
    members: tuple[str, ...] = ()
    """Names of the jobs for whose seeds it stands, see `Packed`; none for most."""

    @property
    def name(self) -> str:
        """The job's."""
        return self.job.name

    def stages(self, folder: Path) -> list[Stage]:
        """Its commands, in order, in a sweep in `folder`."""
        return self.job.stages(folder)

    @classmethod
    def of(
        cls, job: Job, config: Mapping[str, Any] | None, members: tuple[str, ...] = ()
    ) -> "Planned":
        """A job and its resolved config; `None` for a job whose config follows from its source."""
        from qgf_jax.config import RunConfig

        if config is None:
            about = {"source": job.source, "add": job.add, "overrides": job.overrides}
            return cls(job, fingerprint(about))
        identity = fingerprint(RunConfig(config).identity())
        return cls(job, identity, config["train"]["steps"], members)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Planned":
        """That of a `record`, as JSON gives it back."""
        job, members = Job.of(record["job"]), tuple(record.get("members", ()))
        return cls(job, record["identity"], record["steps"], members)

    @property
    def record(self) -> dict[str, Any]:
        """What `read` makes it of again."""
        more = {"members": self.members} if self.members else {}
        return {"job": self.job.record, "identity": self.identity, "steps": self.steps, **more}


class Plan(NamedTuple):
    """A sweep's jobs, by name."""

    folder: Path
    jobs: dict[str, Planned]

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The jobs of all sweeps that were started in a folder. Raises `UserError` if none was."""
        path = folder / FILE
        try:
            found = [Planned.read(one) for one in json.loads(path.read_text())["jobs"]]
        except FileNotFoundError:
            raise UserError(f"{folder} holds no sweep: give the --out of a `qgf sweep`") from None
        except OSError as error:
            raise UserError.unreadable(path, error) from None
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} was altered ({error}): remove it and start the sweep again"
            ) from None
        return cls(folder, {one.name: one for one in found})

    @classmethod
    def with_configs(
        cls, jobs: Sequence[Job], folder: Path, *, most: int = 1
    ) -> tuple["Plan", dict[str, Mapping[str, Any]]]:
        """The `checked` jobs as planned in a folder, and their configs by name, where they are known.

        Up to `most` seeds of a config are one job, see `Packed`. Raises `UserError` with the job's name
        for a config that is wrong. Writes nothing.
        """
        configs, planned, known = _Configs(), {}, {}
        there = cls.read(folder).jobs if (folder / FILE).exists() else {}
        before = {name: one.members for name, one in there.items()}
        packed = Packed.of(checked(jobs), most, before, configs.of)
        for job in checked(packed.jobs):
            if job.config:
                known[job.name] = configs.of(job)
            members = packed.members.get(job.name, ())
            planned[job.name] = Planned.of(job, known.get(job.name), members)
        return cls(folder, planned), known

    def write(self) -> None:
        """Adds the jobs to those that the folder has; one of the same name is replaced.

        Raises `UserError` if another process does so just now, `SaveError` if it cannot be written.
        """
        with SWEEP.lock(self.folder):
            known: dict[str, Planned] = {}
            if (self.folder / FILE).exists():
                known = self.read(self.folder).jobs
            if all(known.get(name) == one for name, one in self.jobs.items()):
                return
            jobs = [one.record for one in (known | self.jobs).values()]
            write_atomically(self.folder / FILE, json.dumps({"jobs": jobs}) + "\n")

    def running(self) -> list[str]:
        """The names of the jobs at which somebody is."""
        return [name for name in self.jobs if JOB.holder(self.folder / name)]


def read_file(path: Path) -> list[Job]:
    """What the function `jobs()` of a Python file gives. Raises `UserError`, in one line."""
    from qgf_jax import config as configs

    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"no sweep {path}: give a Python file with a function jobs() -> list[Job]")
    module = configs.import_file(path)
    if not callable(make := getattr(module, "jobs", None)):
        raise UserError(f"{path} has no function jobs(): it returns a list of qgf_jax.sweep.Job")
    with configs.mistakes_of(path):
        jobs = list(make())
    if wrong := [job for job in jobs if not isinstance(job, Job)]:
        raise UserError(f"{path}: jobs() gave a {type(wrong[0]).__name__}, which is no Job")
    if not jobs:
        raise UserError(f"{path}: jobs() gave no job")
    return jobs


def chosen(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """The jobs whose name matches a pattern of the shell's kind, and all that they wait for.

    Raises `UserError` for a pattern that no job's name matches.
    """
    wanted: set[str] = set().union(*(_matching(jobs, pattern) for pattern in patterns))
    before = {job.name: job.waits_for for job in jobs}
    new = wanted
    while new:
        new = {name for one in new for name in before.get(one, ())} - wanted
        wanted = wanted | new
    return [job for job in jobs if job.name in wanted]


def _matching(jobs: Sequence[Job], pattern: str) -> set[str]:
    names = [job.name for job in jobs]
    matched = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    if not matched:
        raise UserError.unknown("job", pattern, names)
    return matched


def checked(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, equal ones once. Raises `UserError` for a name of two, an unknown one, or a cycle."""
    jobs = list(dict.fromkeys(jobs))
    by_name: dict[str, Job] = {}
    for job in jobs:
        if by_name.setdefault(job.name, job) is not job:
            raise UserError(
                f"two jobs are called {job.name!r} and are not the same: give one another name"
            )
    waits = {job.name: [n for n in job.waits_for if "/" not in n] for job in jobs}
    for name, before in waits.items():
        for other in before:
            if other not in by_name:
                raise UserError.unknown(f"job, for which {name!r} waits,", other, by_name)
    with _cycle_said():
        graphlib.TopologicalSorter(waits).prepare()
    return jobs


@contextlib.contextmanager
def _cycle_said() -> Generator[None]:
    try:
        yield
    except graphlib.CycleError as error:
        names = " -> ".join(reversed(error.args[1]))
        raise UserError(f"jobs wait for each other: {names}: take one of `after` out") from None


class _Configs:
    """Resolved configs of jobs. Of those that differ by seed alone one is read."""

    def __init__(self) -> None:
        self._read: dict[Any, Mapping[str, Any]] = {}

    def of(self, job: Job) -> Mapping[str, Any]:
        """That of a job. Raises `UserError` with the job's name."""
        try:
            return self._of(job)
        except UserError as error:
            raise UserError(f"job {job.name!r}: {error}") from error

    def _of(self, job: Job) -> Mapping[str, Any]:
        from qgf_jax import config as configs
        from qgf_jax import schema

        texts = dict(job.overrides)
        seed = texts.pop("seed", None)
        key = (job.config, *texts.items())
        if key not in self._read:
            self._read[key] = configs.plain(configs.load(job.config, texts))
        config = self._read[key]
        if seed is None:
            return config
        field = schema.fields(config["algorithm"], config["critic"])["seed"]
        return {**config, "seed": field.bound.read("config key seed", seed)}
