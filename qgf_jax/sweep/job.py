"""A job of a sweep: one run folder, what is trained there and how it is evaluated."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_guide.bounds import Bound, Count, NonNegative
from qgf_jax.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")
_OF_THE_SWEEP = ("workdir", "out", "help")
"""Flags of `qgf evaluate` that no job gives."""


@dataclasses.dataclass(frozen=True)
class _Devices(Bound):
    """A whole number, or a part of one device."""

    @property
    def says(self) -> str:
        """Both."""
        return "a whole number of at least 0, or the part of one device, as 0.25"

    def holds(self, value: Any) -> bool:
        """Whether `value` is one; a part is at least a hundredth."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return 0.01 <= value < 1 or (value >= 0 and float(value).is_integer())

    def parse(self, text: str) -> float:
        """Any number."""
        return float(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job takes of a machine while it runs."""

    devices: float = 1
    """Accelerators to itself; 0.25: a quarter of one. On a machine without any it runs on the CPU; 0: it
    does so anywhere."""
    cores: int = 1
    """Threads of XLA on a CPU, and worker processes of an evaluation."""
    memory_gib: float = 2.0
    hours: float = 0.0
    """A limit for engines that ask for one; 0: none is given."""

    def __post_init__(self) -> None:
        for name, bound in _BOUNDS.items():
            bound.check(f"needs.{name}", getattr(self, name))
        if self.devices >= 1 or not self.devices:
            object.__setattr__(self, "devices", int(self.devices))

    @property
    def shares(self) -> bool:
        """Whether other jobs may be on its device."""
        return 0 < self.devices < 1

    @classmethod
    def parse(cls, text: str) -> "Needs":
        """ "devices=1,cores=4" of the command line. Raises `UserError`."""
        values = {}
        for word in text.split(","):
            name, _, value = word.partition("=")
            if name not in _BOUNDS:
                raise UserError.unknown("need", name, _BOUNDS)
            values[name] = _BOUNDS[name].read(f"needs.{name}", value)
        return cls(**values)


_BOUNDS: Mapping[str, Bound] = {
    "devices": _Devices(),
    "cores": Bound.of(Count),
    "memory_gib": Bound.of(NonNegative),
    "hours": Bound.of(NonNegative),
}


class Stage(NamedTuple):
    """A command of a job; a job's stages run one after the other."""

    kind: str
    """ "train" or "evaluate"."""
    flags: str
    """Those of an evaluation, as the job gives them."""
    words: tuple[str, ...]
    """What follows `qgf`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run folder, directly below the sweep's folder and called as the job.

    Three kinds: a training from a `config`; one of a further part (`add`) beside the frozen parts of
    `source`; and, without both, evaluations of `source`, whose episodes go to the job's own folder.
    Raises `UserError` for any other, for a name that is no plain name of a folder, and for flags that
    the sweep itself gives.
    """

    config: str = ""
    """`PATH.py[:variant]`"""
    overrides: Any = ()
    """{"policy.alpha": 3}; kept as pairs of key and text, sorted."""
    evaluations: Sequence[str | Sequence[str]] = ()
    """Flags of `qgf evaluate`: "--methods=qgf --episodes=50" or ("--methods=qgf", "--episodes=50")."""
    name: str = ""
    """Else the config's variant or file, and the overrides."""
    source: str = ""
    """The name of another job of the sweep, or the path of a run."""
    add: str = ""
    """What is trained beside the parts of `source`, as "td" or "distill"."""
    after: Sequence[str] = ()
    """Names of jobs that are done before this one begins; `source` need not be named again."""
    needs: Needs = Needs()

    def __post_init__(self) -> None:
        pairs = self.overrides.items() if isinstance(self.overrides, Mapping) else self.overrides
        texts = tuple(sorted((key, _text(value)) for key, value in pairs))
        flags = tuple(tuple(shlex.split(e) if isinstance(e, str) else e) for e in self.evaluations)
        self._set(overrides=texts, evaluations=flags, after=tuple(self.after))
        self._set(name=self.name or self._default_name())
        self._check()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _default_name(self) -> str:
        file, variant = _split(self.config)
        first = variant or Path(file).stem or f"{Path(self.source).name}_{self.add or 'evaluated'}"
        return _as_name("_".join([first, *_settings(self.overrides)]))

    def _check(self) -> None:
        where = f"job {self.name!r}"
        if not _NAME.fullmatch(self.name) or self.name.startswith("sweep."):
            raise UserError(
                f"{where}: a name is that of a folder: up to 200 letters, digits and ._=+-, the first "
                "a letter or digit, and not sweep.…"
            )
        if bool(self.config) == bool(self.source):
            raise UserError(
                f"{where}: give a config, or the source that it builds on, and not both"
            )
        if self.add and not self.source:
            raise UserError(f"{where}: add goes with source, the run that it is added to")
        if not self.trains and (self.overrides or not self.evaluations):
            raise UserError(
                f"{where} trains nothing: give it evaluations and no overrides, or say what to add"
            )
        self._check_evaluations(where)

    def _check_evaluations(self, where: str) -> None:
        for flag in itertools.chain(*self.evaluations):
            if flag.partition("=")[0].lstrip("-") in _OF_THE_SWEEP:
                raise UserError(f"{where}: {flag} follows from the sweep's folder: leave it out")

    @property
    def trains(self) -> bool:
        """Whether it trains anything."""
        return bool(self.config or self.add)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Names of the jobs, or the path of a run, that are there before it begins."""
        return tuple(dict.fromkeys((*self.after, *([self.source] if self.source else []))))

    @classmethod
    def grid(cls, axes: Mapping[str, Iterable[Any]], **same: Any) -> "list[Job]":
        """A job for each combination: `Job.grid({"seed": range(4)}, config="smoke.py")`.

        `axes` are values by config key; the first changes slowest. `same` is as of any job; overrides
        may be among it, and a name is what the jobs' names begin with.
        """
        prefix, fixed = same.pop("name", ""), dict(same.pop("overrides", {}))
        jobs = []
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            name = prefix and _as_name("_".join([prefix, *_settings(chosen.items())]))
            jobs.append(cls(name=name, overrides=fixed | chosen, **same))
        return jobs

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Job":
        """The job of a `record`, as JSON gives it back."""
        values: dict[str, Any] = {**record, "needs": Needs(**record["needs"])}
        return cls(**values)

    @property
    def record(self) -> dict[str, Any]:
        """What `of` makes the job of again."""
        return dataclasses.asdict(self)

    def trained_in(self, folder: Path) -> Path:
        """The run whose checkpoint its evaluations play, in a sweep in `folder`."""
        return folder / self.name if self.trains else self._source(folder)

    def _source(self, folder: Path) -> Path:
        inside = folder / self.source
        return Path(self.source) if "/" in self.source else inside

    def stages(self, folder: Path) -> list[Stage]:
        """Its commands, in order, in a sweep in `folder`."""
        found, workdir = [], folder / self.name
        threads = f"--cpu_threads={self.needs.cores}"
        if self.trains:
            of = [f"--config={self.config}"]
            if self.source:
                of = [f"--from={self._source(folder)}", f"--add={self.add}"]
            settings = [f"--config.{key}={text}" for key, text in self.overrides]
            words = ("train", *of, *settings, f"--workdir={workdir}", threads)
            found.append(Stage("train", "", words))
        of = [f"--workdir={self.trained_in(folder)}"]
        if not self.trains:
            of.append(f"--out={workdir}")
        for flags in self.evaluations:
            given = {flag.partition("=")[0] for flag in flags}
            more = [threads, f"--workers={self.needs.cores}"]
            more = [flag for flag in more if flag.partition("=")[0] not in given]
            found.append(Stage("evaluate", shlex.join(flags), ("evaluate", *of, *flags, *more)))
        return found


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_text, value))
    return str(value)


def _settings(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    """ "key=value" of each; a key by its last word, unless two keys share that."""
    pairs = list(pairs)
    last = [key.rpartition(".")[2] for key, _ in pairs]
    return [
        f"{short if last.count(short) == 1 else key}={_text(value)}"
        for short, (key, value) in zip(last, pairs, strict=True)
    ]


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=+-]", "-", text).lstrip("._=+-")


def _split(reference: str) -> tuple[str, str]:
    """File and variant of `PATH.py[:variant]`."""
    file, end, variant = reference.rpartition(".py:")
    return (file + ".py", variant) if end else (reference, "")
