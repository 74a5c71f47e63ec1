"""Seeds of one config as one run, in which they are trained and evaluated side by side."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.sweep.job import Job

_SEEDS = ("seed", "seeds")


class Packed(NamedTuple):
    """Jobs of which some stand for several."""

    jobs: list[Job]
    members: dict[str, tuple[str, ...]]
    """By the name of a job that stands for several: their names, in the order of their seeds."""

    @classmethod
    def of(
        cls,
        jobs: Sequence[Job],
        most: int,
        known: Mapping[str, Sequence[str]],
        config_of: Callable[[Job], Mapping[str, Any]],
    ) -> "Packed":
        """The jobs, up to `most` of which are one where they differ in successive seeds alone.

        `known`: the jobs that the sweep's folder has already, and what each stands for. A seed stays
        where it was planned, whatever `most` is, so that none is trained twice. A job that others build
        on stays alone, as its own checkpoint is what they take. Raises `UserError` for jobs that were
        packed and are not alike any more.
        """

        def seed_of(job: Job) -> int:
            return config_of(job)["seed"]

        found = _planned(jobs, known, seed_of)
        held = {name for members in known.values() for name in members} | known.keys()
        for group in _alike(jobs, held, config_of) if most > 1 else ():
            for together in _successive(group, most, seed_of):
                members = tuple(job.name for job in together)
                found.append((_joined(together[0], members, seed_of(together[0])), members))
        return _replaced(jobs, found)


def _planned(
    jobs: Sequence[Job], known: Mapping[str, Sequence[str]], seed_of: Callable[[Job], int]
) -> list[tuple[Job, tuple[str, ...]]]:
    """The packs that the sweep's folder has already, of which any member is wanted."""
    packs = [(members, [job for job in jobs if job.name in members]) for members in known.values()]
    return [_as_before(wanted, tuple(members), seed_of) for members, wanted in packs if wanted]


def _alike(
    jobs: Sequence[Job], held: Iterable[str], config_of: Callable[[Job], Mapping[str, Any]]
) -> Iterable[list[Job]]:
    """Jobs of one seed each that differ in nothing else, and that no other builds on."""
    left_alone = {*held, *(job.source for job in jobs)}
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        if job.config and job.name not in left_alone and config_of(job)["seeds"] == 1:
            groups.setdefault(_kind(job), []).append(job)
    return groups.values()


def _kind(job: Job) -> Any:
    """What jobs have in common that may be one."""
    others = tuple(pair for pair in job.overrides if pair[0] not in _SEEDS)
    return job.config, others, job.evaluations, job.after, job.needs


def _successive(
    group: Iterable[Job], most: int, seed_of: Callable[[Job], int]
) -> Iterable[list[Job]]:
    """Pieces of two to `most` jobs, each of which has the seed after that of the one before."""
    pieces: list[list[Job]] = []
    for job in sorted(group, key=seed_of):
        last = pieces[-1] if pieces else []
        if last and len(last) < most and seed_of(job) == seed_of(last[-1]) + 1:
            last.append(job)
        else:
            pieces.append([job])
    return [piece for piece in pieces if len(piece) > 1]


def _as_before(
    wanted: Sequence[Job], members: tuple[str, ...], seed_of: Callable[[Job], int]
) -> tuple[Job, tuple[str, ...]]:
    """The job that stands for `members`, some or all of which are wanted, as they are now."""
    first = {(_kind(job), seed_of(job) - members.index(job.name)) for job in wanted}
    if len(first) > 1:
        raise UserError(
            f"{_name(members)} has trained {wanted[0].name} and {wanted[-1].name} side by side, and by "
            "now they differ in more than the seed: give them other names, or choose another --out"
        )
    ((_, seed),) = first
    return _joined(wanted[0], members, seed), members


def _joined(job: Job, members: tuple[str, ...], seed: int) -> Job:
    """One job for as many seeds as there are members; an evaluation takes as many times longer."""
    return dataclasses.replace(
        job,
        name=_name(members),
        overrides={**dict(job.overrides), "seed": seed, "seeds": len(members)},
        needs=dataclasses.replace(job.needs, hours=job.needs.hours * len(members)),
    )


def _name(members: Sequence[str]) -> str:
    """ "a_seed=8..11_b" of "a_seed=8_b" and "a_seed=11_b"."""
    first, last = members[0], members[-1]
    head = first[: _in_common(first, last)].rstrip("0123456789")
    first, last = first.removeprefix(head), last.removeprefix(head)
    shared = _in_common(first[::-1], last[::-1])
    tail = first[len(first) - shared :].lstrip("0123456789")
    return f"{head}{first.removesuffix(tail)}..{last}"


def _in_common(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _replaced(jobs: Sequence[Job], packs: Sequence[tuple[Job, tuple[str, ...]]]) -> Packed:
    """The jobs with the packs in the place of their members, in `after` too."""
    stands = {member: job for job, members in packs for member in members}
    for job in jobs:
        if job.source in stands:
            raise UserError(
                f"job {job.name!r}: its source {job.source} is one of several seeds in "
                f"{stands[job.source].name}: build on that, or choose another --out"
            )
    chosen = dict.fromkeys(stands.get(job.name, job) for job in jobs)
    return Packed(
        [_waiting_for(job, stands) for job in chosen],
        {job.name: members for job, members in packs},
    )


def _waiting_for(job: Job, stands: Mapping[str, Job]) -> Job:
    after = dict.fromkeys(stands[name].name if name in stands else name for name in job.after)
    return dataclasses.replace(job, after=(*after,)) if (*after,) != job.after else job
