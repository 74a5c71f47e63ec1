"""What the keys of the config are: `qgf train --help=KEY`, and the page docs/config.md.

python -m qgf_jax.cli.keys > docs/config.md
"""

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from qgf_guide.bounds import Field
from qgf_jax import config as configs
from qgf_jax import schema
from qgf_jax.errors import UserError
from qgf_jax.methods.table import METHODS

_Trained = tuple[str, str]
"""A method and a critic."""


class _Entry(NamedTuple):
    """A key, as some methods have it."""

    key: str
    field: Field
    trained: tuple[_Trained, ...]
    """The methods and critics whose config has it."""
    defaults: dict[Any, list[_Trained]]
    """Who has which default."""

    @property
    def default(self) -> Any:
        """That of `configs.make()`, or else the one that most have."""
        plain = (schema.ALGORITHM, METHODS[schema.ALGORITHM].critics[0])
        first = next((value for value, who in self.defaults.items() if plain in who), None)
        return max(self.defaults, key=lambda v: len(self.defaults[v])) if first is None else first

    @property
    def others(self) -> str:
        """The other defaults, as "25 for hiql"."""
        rest = {value: who for value, who in self.defaults.items() if value != self.default}
        return "; ".join(f"{value} for {_names(who)}" for value, who in rest.items())

    @property
    def section(self) -> str:
        """What comes before the last dot."""
        return self.key.rpartition(".")[0]

    @property
    def names(self) -> set[str]:
        """Itself and the section that it is in."""
        return {self.key, self.section} - {""}

    def answers(self, topic: str) -> bool:
        """Whether a topic is the key, its former name, or a section that it is in."""
        return topic == self.field.history.key or f"{self.key}.".startswith(f"{topic}.")

    @property
    def of(self) -> str:
        """The methods that have it; empty: all, or what the section says already."""
        every = len(self.trained) == len(_trained()) or self.section.startswith("critics.")
        return "" if every else _methods(self.trained)

    @property
    def resume(self) -> str:
        """Whether a resumed run may change it."""
        return "may change" if self.field.may_change else "stays"


def _names(trained: Sequence[_Trained]) -> str:
    """Some methods, or the critic that all of them share and no other method has."""
    critics = {critic for _, critic in trained}
    if len(trained) > 1 and set(trained) == {pair for pair in _trained() if {pair[1]} == critics}:
        return f"critic {critics.pop()}"
    return _methods(trained)


def _methods(trained: Sequence[_Trained]) -> str:
    methods = dict.fromkeys(name for name, _ in trained)
    others = [name for name in METHODS if name not in methods]
    return f"all but {', '.join(others)}" if len(others) < len(methods) else ", ".join(methods)


def _trained() -> list[_Trained]:
    return [(name, critic) for name, row in METHODS.items() for critic in row.critics]


@functools.cache
def _entries() -> list[_Entry]:
    """All keys of all methods by section; one with several meanings has several entries."""
    same: dict[Any, dict[_Trained, Any]] = collections.defaultdict(dict)
    fields: dict[Any, Field] = {}
    for name, critic in _trained():
        config = configs.make(name, critic=critic)
        # These two choose a config, so their defaults are not its.
        flat = configs.flatten(config) | {
            "algorithm": schema.ALGORITHM,
            "critic": METHODS[name].critics[0],
        }
        for key, field in schema.fields(name, critic).items():
            which = (key, field.bound, field.help)
            fields.setdefault(which, field)
            same[which][name, critic] = flat[key]
    found = [
        _Entry(which[0], fields[which], tuple(values), _by_value(values))
        for which, values in same.items()
    ]
    order = list(dict.fromkeys(entry.section.partition(".")[0] for entry in found))
    return sorted(found, key=lambda e: (order.index(e.section.partition(".")[0]), e.section))


def _by_value(values: dict[_Trained, Any]) -> dict[Any, list[_Trained]]:
    groups: dict[Any, list[_Trained]] = {}
    for trained, value in values.items():
        groups.setdefault(value, []).append(trained)
    return groups


def describe(topic: str) -> str:
    """Help on the key `topic`, or on all keys of the section. `UserError` if there is neither."""
    name = topic.removeprefix("--").removeprefix("config.")
    found = [entry for entry in _entries() if entry.answers(name)]
    if not found:
        raise UserError.unknown("config key", name, {x for e in _entries() for x in e.names})
    return "\n\n".join("\n    ".join(_lines(entry)) for entry in found)


def _lines(entry: _Entry) -> Iterator[str]:
    yield f"--config.{entry.key}={entry.default}" + f" ({entry.others})" * bool(entry.others)
    if entry.field.help:
        yield entry.field.help
    yield entry.field.bound.says
    if entry.of:
        yield f"of {entry.of}"
    yield f"a resumed run {'may change' if entry.field.may_change else 'keeps'} it"
    if entry.field.history.key:
        yield f"formerly {entry.field.history.key}"
    for old, new in entry.field.history.values.items():
        yield f"{new} was formerly {old}"


_HEAD = """# Keys of the config

Set them in a config file, `config.data.chunk = 10`, or on the command line, `--config.data.chunk=10`.
`qgf train --help=data.chunk` and `qgf train --help=data` say the same as this page. `--show` prints all
values of a run. Where "may change" stands, a command that resumes a run may give another value.

This page is made by `python -m qgf_jax.cli.keys > docs/config.md`."""


def _page() -> str:
    """The page docs/config.md."""
    sections: dict[str, list[_Entry]] = {}
    for entry in _entries():
        sections.setdefault(entry.section, []).append(entry)
    parts = [_HEAD]
    for section, entries in sections.items():
        rows = [
            "| key | default | values | meaning | on resume |",
            "| --- | --- | --- | --- | --- |",
        ]
        parts.append(f"## {section or 'No section'}")
        parts.append("\n".join(rows + [_row(entry) for entry in entries]))
    return "\n\n".join(parts) + "\n"


def _row(entry: _Entry) -> str:
    name = f"`{entry.key}`" + f" ({entry.of})" * bool(entry.of)
    former = f" (formerly `{entry.field.history.key}`)" * bool(entry.field.history.key)
    default = "empty" if entry.default == "" else f"`{entry.default}`"
    others = f"; {entry.others}" * bool(entry.others)
    field = entry.field
    return f"| {name}{former} | {default}{others} | {field.bound.says} | {field.help} | {entry.resume} |"


if __name__ == "__main__":
    print(_page(), end="")
