"""A run's episodes.jsonl: what a line says, who may write one, and which lines count. No JAX."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

from qgf_jax.envs.families import ON_DEVICE, EnvName, Family
from qgf_jax.errors import UserError
from qgf_jax.evaluation import recorded
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import Lines
from qgf_jax.runs.locks import EVALUATION
from qgf_jax.runs.run import Run

SPLITS = ("selection", "report")
"""Of an episode, by its index modulo 2."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_positive(value: Any) -> bool:
    return Lines.is_count(value) and value > 0


def _is_success(value: Any) -> bool:
    return Lines.is_number(value) and 0 <= value <= 1


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str | bool) or Lines.is_number(one) for one in value.values()
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(Lines.is_number, value))


def _is_path(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_point, value))


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (_is_text, "a name"),
    "weight": (Lines.is_number, "a number"),
    "best_of": (_is_positive, "a whole number from 1"),
    "options": (_are_options, "an object of numbers, names and truth values"),
    "env": (_is_text, "a name"),
    "task": (_is_positive, "a whole number from 1"),
    "episode": (Lines.is_count, "a whole number from 0"),
    "split": (SPLITS.__contains__, " or ".join(SPLITS)),
    "seed": (Lines.is_count, "a whole number from 0"),
    "step": (Lines.is_count, "a whole number from 0"),
    "return": (Lines.is_number, "a number"),
    "length": (Lines.is_count, "a whole number from 0"),
}
_MORE_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "success": (_is_success, "a number from 0 to 1"),
    "goal": (_is_point, "a point"),
    "path": (_is_path, "a list of points"),
    "seconds": (Lines.is_number, "a number"),
    "failed": (_is_text, "a reason"),
}
"""Fields that some lines lack."""


def _why_invalid(line: Mapping[str, Any], *, has_success: bool) -> str:
    """What keeps an object from being an episode, with the name of the field; empty if nothing does.

    `has_success`: whether every episode must be a success or not.
    """
    for name, (is_sound, what) in {**_FIELDS, **_MORE_FIELDS}.items():
        if name not in line:
            if name in _FIELDS or (name == "success" and has_success):
                return f"{name} is missing"
        elif not is_sound(line[name]):
            return f"{name} is {_short(line[name])}, not {what}"
    if line["split"] != SPLITS[line["episode"] % 2]:
        return f"split is {line['split']} for episode {line['episode']}"
    if ("path" in line) != ("goal" in line):
        return "path and goal go together"
    return ""


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 30 else f"{text[:27]}..."


class EpisodeLog:
    """A run's episodes, for one process alone that adds to them: see `only_writer`."""

    def __init__(self, run: Run):
        self._run = run
        found = self.read(run)
        found.warn()
        self.lines = found.records
        """What the file held when it was opened, and what was added since."""

    @staticmethod
    def read(run: Run) -> Lines:
        """The episodes of a run or its record, and the lines that are none. Raises `UserError`.

        In a record every line must be one. An episode is of the run's own environment, or of that in
        the simulator on the device, and of one of its seeds.
        """
        name = EnvName.parse(run.config["env"])
        labels = (name.label, name.played_in(ON_DEVICE).label)
        has_success = Family.of(name).says_success

        def why(line: Mapping[str, Any]) -> str:
            if found := _why_invalid(line, has_success=has_success):
                return found
            if line["env"] not in labels:
                return f"of {_short(line['env'])}, not of {name.label}"
            if line["seed"] >= run.config["seeds"]:
                return f"seed {line['seed']} of a run with {run.config['seeds']}"
            return ""

        if run.record.exists():
            return recorded.read(run.record, why)
        return Lines.read(run.episodes, why)

    @classmethod
    def require(cls, run: Run) -> Lines:
        """As `read`; raises `UserError` too if nothing was played."""
        lines = cls.read(run)
        if not lines.records:
            Method.named(run.config["algorithm"]).check_acts(run.workdir)
            why = f" ({note})" if (note := lines.note()) else ""
            raise UserError(f"{run.episodes} has no episodes{why}: run `qgf evaluate` first")
        return lines

    @classmethod
    @contextlib.contextmanager
    def only_writer(cls, run: Run) -> Generator["EpisodeLog"]:
        """Opens the log for this process alone. Raises `UserError` if another one writes it."""
        if run.record.exists():
            raise UserError(
                f"{run.workdir} is the record of a run, without its checkpoints: evaluate the run itself"
            )
        with EVALUATION.lock(run.workdir):
            yield cls(run)

    def append(self, line: dict[str, Any]) -> None:
        """Writes an episode at once. Raises `SaveError` if that cannot be done."""
        Lines.append(self._run.episodes, line, EVALUATION.elsewhere)
        self.lines.append(line)
