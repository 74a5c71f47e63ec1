"""Which run folders are trainings of one kind that differ in their seeds alone. No JAX."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qgf_jax.config import RunConfig
from qgf_jax.envs.families import Family
from qgf_jax.runs.run import Run

_SEEDS = ("seed", "seeds")
_STEPS = ("train", "steps")  # a resumed run may change it, and a schedule follows it


class Comparison(NamedTuple):
    """Two runs, and what tells the one from the other."""

    run: Run
    other: Run

    def config_changes(self, but: Sequence[str] = ()) -> list[str]:
        """What the configs differ in, as "key: one -> other": no seeds, nothing that may change.

        What a resumed run may change are places, the layout of training on devices, evaluation and the
        like. The number of updates counts. `but`: more keys that do not.
        """
        run, other = self
        found = RunConfig(run.config).changes_to(other.config)
        section, name = _STEPS
        before, after = (one.config.get(section, {}).get(name) for one in (run, other))
        found += [f"{section}.{name}: {before} -> {after}"] * (before != after)
        return [text for text in found if text.partition(":")[0] not in (*_SEEDS, *but)]

    def changes(self, but: Sequence[str] = ()) -> list[str]:
        """All that keeps the seeds of two runs from being one sample; empty if nothing does.

        As `config_changes`, with its `but`, then the data, the commit of the code, and the packages that
        simulate.
        """
        run, other = self
        data = [
            _change(f"data {name}", run.dataset.get(name), other.dataset.get(name))
            for name in ("sha256", "mode", "layout")
        ]
        simulators = [
            _change(name, run.packages.get(name), other.packages.get(name))
            for name in sorted(_simulators(run))
        ]
        commit = _change("commit", run.commit, other.commit)
        return [*self.config_changes(but), *filter(None, [*data, commit, *simulators])]

    def doubts(self) -> list[str]:
        """What nobody can tell without `changes`: edited or unknown code, other packages."""
        return [*self._doubts()]

    def _doubts(self) -> Iterator[str]:
        run, other = self
        if not run.commit:
            yield "the commit of the code is not known"
        elif run.commit.endswith("-dirty"):
            yield f"the code was edited after commit {_short(run.commit.removesuffix('-dirty'))}"
        for name in sorted({*run.packages, *other.packages} - _simulators(run)):
            if text := _change(name, run.packages.get(name), other.packages.get(name)):
                yield text


def _simulators(run: Run) -> set[str]:
    name = run.config["env"]
    return {*Family.of(name).packages_of(name)}


def _change(name: str, before: object, after: object) -> str:
    return f"{name}: {_short(before)} -> {_short(after)}" if before != after else ""


def _short(value: object) -> str:
    """The first characters of a checksum, which tell it from any other."""
    text = str(value or "unknown")
    head, dash, edited = text.partition("-dirty")
    return f"{head[:12]}{dash}{edited}"
