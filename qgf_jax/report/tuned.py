"""Runs that differ in tuned hyperparameters alone: configurations, of which one is reported.

A method that is trained anew for each value of a hyperparameter has a run for each, where a guided one
has a weight. So its value is chosen as a weight is, by the same rule on selection episodes, and the
chosen run alone is a row. Where such runs have weights too, both are one choice.
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.errors import UserError
from qgf_jax.evaluation import rivals
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Group
from qgf_jax.evaluation.summary import Row, measure_of
from qgf_jax.report.merged import Sample, apart
from qgf_jax.report.tables import Panel, add_optimism

_KINDS = ("env", "algorithm", "critic")
"""Runs that agree in these are configurations of one row."""
_NEVER = (*_KINDS, "seed", "seeds")


class TunedKey(NamedTuple):
    """A key of the config in which configurations may differ."""

    name: str
    falls: bool
    """Whether larger values come first: of what noise does not tell apart, the first is chosen."""

    @classmethod
    def parse(cls, text: str) -> "tuple[TunedKey, ...]":
        """ "policy.inverse_temperature,-policy.alpha"; a minus: larger values first."""
        words = [word.strip() for word in text.split(",")]
        found = tuple(cls(word.removeprefix("-"), word.startswith("-")) for word in words)
        names = [key.name for key in found]
        if not all(names) or len({*names}) < len(names):
            raise UserError(f"--tuned={text}: give each key of the config once, as policy.alpha")
        if wrong := [name for name in names if name in _NEVER]:
            raise UserError(f"--tuned: {wrong[0]} is no hyperparameter of a row: leave it out")
        return found

    def order(self, values: Iterable[str]) -> list[str]:
        """Values as JSON, those first that are preferred. Raises `UserError` if they have no order."""
        given = {*values}
        try:
            return sorted(given, key=json.loads, reverse=self.falls)
        except TypeError:
            raise UserError(
                f"--tuned={self.name}: {', '.join(sorted(given))} have no order, and equals are told "
                "apart by it"
            ) from None


class Configuration(NamedTuple):
    """What was trained with some values of the tuned keys."""

    place: int
    """Which of the samples of a report it is."""
    sample: Sample
    values: Mapping[str, Any]
    """Of the keys in which the configurations of its family differ."""

    @property
    def words(self) -> str:
        """ "alpha=300"; a key by its last word, unless two share that."""
        last = [name.rpartition(".")[2] for name in self.values]
        return ", ".join(
            f"{short if last.count(short) == 1 else name}={_text(value)}"
            for short, (name, value) in zip(last, self.values.items(), strict=True)
        )


class Chosen(NamedTuple):
    """What was chosen of a family, for each method and task."""

    run: Evaluated
    """The rows of chosen configurations and weights, and nothing else."""
    records: Sequence[Mapping[str, Any]]
    """What was tried, and how it did."""
    notes: Sequence[str]
    """The same in words."""


class Family(NamedTuple):
    """Configurations of one method in one environment, those first that are preferred among equals."""

    configurations: Sequence[Configuration]

    def choose(self, played: Sequence[Evaluated]) -> Chosen:
        """One configuration and weight for each method and task, see `rivals.rank`.

        `played` are all samples of the report. Raises `UserError` if a configuration has no selection
        episodes of a method and task that another one has played.
        """
        runs = [played[one.place] for one in self.configurations]
        if lacking := rivals.unselecting(runs):
            raise self._no_selection(*lacking)
        ranked = rivals.rank(runs)
        for place, row in ranked:
            row["trained_as"] = runs[place].name
            row["configuration"] = self.configurations[place].words
        add_optimism([row for _, row in ranked])
        groups = dict.fromkeys(Group.of(row) for _, row in ranked)
        records = [
            self._record(group, [one for one in ranked if Group.of(one.row) == group])
            for group in groups
        ]
        run = rivals.together(ranked, runs)
        names = {row["trained_as"] for row in run.rows}
        name = names.pop() if len(names) == 1 else run.training
        return Chosen(run._replace(name=name), records, [*map(_note, records)])

    def _no_selection(self, place: int, group: Group) -> UserError:
        folder = self.configurations[place].sample.folders
        task = " of all tasks" if group.task == ALL_TASKS else f", task {group.task}"
        return UserError(
            f"{folder}: no selection episodes of {group.sampler.label} in {group.env}{task}, on which "
            "--tuned chooses: play them by `qgf evaluate --selection_episodes=N` without "
            "--report_selected, as of the other configurations"
        )

    def _record(self, group: Group, ranked: Sequence[rivals.Rival]) -> dict[str, Any]:
        """What was tried of a method in a task, and how it did."""
        chosen = next((one for one in ranked if one.row["selected"]), None)
        tried = [self._tried(*one, ranked) for one in ranked if one.row["split"] == "selection"]
        return {
            "env": group.env,
            "task": group.task,
            "method": group.sampler.label,
            "configurations": len(self.configurations),
            "measure": measure_of(row for _, row in ranked if row["split"] == "selection"),
            "pairs": max(row["ranked_on"] for _, row in ranked),
            "configuration": chosen and dict(self.configurations[chosen.place].values),
            "weight": chosen and chosen.row["weight"],
            "tried": tried,
        }

    def _tried(self, place: int, row: Row, ranked: Sequence[rivals.Rival]) -> dict[str, Any]:
        """A configuration with a weight, and its means on selection and on report episodes."""
        one = self.configurations[place]
        report = [
            other for at, other in ranked
            if (at, other["weight"], other["split"]) == (place, row["weight"], "report")
        ]  # fmt: skip
        return {
            "configuration": dict(one.values),
            "words": one.words,
            "folders": [run.workdir.name for run in one.sample.runs],
            "weight": row["weight"],
            "selected": row["selected"],
            "ranked": bool(row["ranked_on"]),
            "selection": _means(row),
            "report": _means(report[0]) if report else None,
        }


def families(samples: Sequence[Sample], keys: Sequence[TunedKey]) -> list[Family]:
    """The runs of one environment, algorithm and critic where there are several; they differ in `keys`.

    Raises `UserError` if they differ in anything else, or in nothing, if no run has any of the keys, and
    if there are no two such runs.
    """
    known = {name for sample in samples for name in _config(sample)}
    if known.isdisjoint(key.name for key in keys):  # some may be of a method that is not there
        raise UserError.unknown("config key", keys[0].name, known)
    alike: dict[tuple[str, ...], dict[int, Sample]] = {}
    for place, sample in enumerate(samples):
        kind = tuple(sample.run.config[name] for name in _KINDS)
        alike.setdefault(kind, {})[place] = sample
    found = [_family(some, keys) for some in alike.values() if len(some) > 1]
    if not found:
        raise UserError(
            "--tuned chooses among runs of one environment, algorithm and critic, and there are no two"
        )
    return found


def _config(sample: Sample) -> dict[str, Any]:
    """Of its first run, by dotted names."""
    return sample.run.settings(["config"])


def _family(samples: Mapping[int, Sample], keys: Sequence[TunedKey]) -> Family:
    first, *others = samples.values()
    for other in others:
        if reasons := apart(first, other, [key.name for key in keys]):
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            raise UserError(
                f"{other.run.workdir} is no configuration beside {first.run.workdir}: {reasons[0]}{more}"
                ": --tuned takes runs that differ in its keys alone"
            )
    values: dict[int, dict[str, str]] = {
        place: {key.name: json.dumps(config.get(key.name)) for key in keys}
        for place, config in ((p, _config(s)) for p, s in samples.items())
    }
    orders = {key.name: key.order(one[key.name] for one in values.values()) for key in keys}
    orders = {name: order for name, order in orders.items() if len(order) > 1}
    ranks = {
        p: tuple(orders[name].index(one[name]) for name in orders) for p, one in values.items()
    }
    places = sorted(ranks, key=lambda place: ranks[place])
    for place, other in itertools.pairwise(places):
        if ranks[place] == ranks[other]:
            raise UserError(
                f"{samples[place].run.workdir} and {samples[other].run.workdir} have the same "
                f"{', '.join(key.name for key in keys)}: give one of them"
            )
    return Family(
        [
            Configuration(p, samples[p], {name: json.loads(values[p][name]) for name in orders})
            for p in places
        ]
    )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _means(row: Row) -> dict[str, Any]:
    success = row["success"] and row["success"]["mean"]
    return {"success": success, "return": row["return"]["mean"], "episodes": row["episodes"]}


def _note(record: Mapping[str, Any]) -> str:
    """What was tried of a method in a task, the chosen one marked."""
    measure = record["measure"]
    weighted = any(one["weight"] for one in record["tried"])
    scores = ", ".join(_score(one, measure, weighted) for one in record["tried"])
    place = Panel(record["env"], record["task"]).title
    return (
        f"{place}, {record['method']}: one of {record['configurations']} configurations, chosen as a "
        f"weight is on the {record['pairs']} selection episodes in common; {measure}: {scores}"
    )


def _score(tried: Mapping[str, Any], measure: str, weighted: bool) -> str:
    weight = f", weight {tried['weight']:g}" if weighted else ""
    value = f"{tried['selection'][measure]:.{2 if measure == 'success' else 1}f}"
    aside = "" if tried["ranked"] else " (not ranked: too few episodes in common)"
    return f"{tried['words']}{weight}: {value}{' ←' * tried['selected']}{aside}"
