"""Configs: the two presets, overrides from the command line, and what a resumed run may change.

Keys, with defaults, bounds and what older runs have, are declared in `schema`. No JAX here.
"""

import contextlib
import copy
import functools
import importlib.util
import inspect
import json
import os
import sysconfig
import traceback
from collections.abc import Collection, Generator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from qgf_guide.bounds import Bound, Field
from qgf_jax import schema
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError, log_once, raised
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import METHODS, Method
from qgf_jax.runtime import paths

PRESETS: dict[str, dict[str, Any]] = {
    # What we would defend; the defaults of `schema` and of the parts' signatures are these.
    "default": {},
    # The mathematics of the public QGF code, its warts included.
    "paper": {
        "data.masks": "trajectory",
        "data.schedule": "slices",
        "policy.time_grid": 10,
        "policy.weighted": False,
        "optimizer.lagged_target": True,
    },
}

GENERATION = 2
"""Of the run folders that this version makes, see `bounds.MayChange`."""
_UNKNOWN = Field(None, Bound.of(str))


class _Section(ConfigDict):
    """A `ConfigDict` that takes the former names of keys and values too, with a line of advice."""

    _prefix = ""
    """Of its keys, such as "data."."""
    _declared: Mapping[str, Field] = {}
    """All fields of the config."""

    @classmethod
    def of(cls, values: Mapping[str, Any], declared: Mapping[str, Field], prefix: str = "") -> Any:
        """The section with `values`, in which mappings are sections too."""
        section = cls()
        section._declare(prefix, declared)
        for name, value in values.items():
            inner = isinstance(value, Mapping)
            section[name] = cls.of(value, declared, f"{prefix}{name}.") if inner else value
        return section

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        self._declare(state["_prefix"], state["_declared"])

    def copy_and_resolve_references(self, visit_map: dict[int, Any] | None = None) -> Any:
        """As ConfigDict's; the copy knows the keys too."""
        copied = super().copy_and_resolve_references(visit_map)
        copied._declare(self._prefix, self._declared)
        return copied

    def _declare(self, prefix: str, declared: Mapping[str, Field]) -> None:
        object.__setattr__(self, "_prefix", prefix)  # ConfigDict's own would make it a key
        object.__setattr__(self, "_declared", declared)

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(self._name(key))

    def __setitem__(self, key: str, value: Any) -> None:
        name = self._name(key)
        if self.is_locked and name not in self:
            known = [k for k in self._declared if k.startswith(self._prefix)]
            raise UserError.unknown("config key", f"{self._prefix}{key}", known)
        super().__setitem__(name, _advised_value(f"{self._prefix}{name}", value, self._declared))

    def _name(self, key: str) -> str:
        if key in self:
            return key
        return _advised_key(f"{self._prefix}{key}", self._declared).removeprefix(self._prefix)


def make(algorithm: str = "qgf", preset: str = "default", critic: str = "") -> ConfigDict:
    """The whole config of `algorithm` under a preset. A config file starts here and sets its own.

    `critic` is one that the method can be trained with, or several, "iql,td"; empty: its own.
    """
    row = Method.named(algorithm)
    if preset not in PRESETS:
        raise UserError.unknown("preset", preset, PRESETS)
    critic = critic or row.critics[0]
    names = row.check_critics(critic)
    fields = schema.fields(algorithm, critic)
    values: dict[str, Any] = {"critics": {name: {} for name in names}, "policy": {}}
    for key, field in fields.items():
        section, name = _place(values, key)
        section[name] = field.default
    config = _Section.of(values, fields)
    config.preset = preset
    for name in names:
        update(config, Part.named("critic", name).sets)
    update(config, row.settings)
    if preset == "paper":
        update(config, {**PRESETS["paper"], **row.paper})
    return config.lock()


def _place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section of a key in nested dicts, made where it is missing, and the name in it."""
    *sections, name = key.split(".")
    return functools.reduce(
        lambda node, section: node.setdefault(section, {}), sections, config
    ), name


@functools.cache
def _known_fields() -> dict[str, Field]:
    """All keys that some method's config has."""
    pairs = [(name, critic) for name, row in METHODS.items() for critic in row.critics]
    return {key: field for pair in pairs for key, field in schema.fields(*pair).items()}


def _fields(config: Mapping[str, Any] | ConfigDict) -> Mapping[str, Field]:
    """The keys of a config; none of an altered one, which whoever opens it will name.

    Raises `UserError` for a method that is not known, as where the package that adds it is missing:
    without its keys a sound run would look like one of another config.
    """
    try:
        algorithm, critic = config["algorithm"], config["critic"]
    except (LookupError, TypeError):
        return {}
    if not isinstance(algorithm, str) or not isinstance(critic, str):
        return {}
    Method.named(algorithm)
    return schema.fields(algorithm, critic)


def _todays_key(key: str, fields: Mapping[str, Field]) -> str:
    """The name of a key that may have had another."""
    return next((name for name, field in fields.items() if key == field.history.key), key)


def _todays_value(key: str, value: Any, fields: Mapping[str, Field]) -> Any:
    """The value that stands for one of an older version, or the value itself."""
    words = fields[key].history.values if key in fields else {}
    return words.get(value, value) if isinstance(value, str) else value


def _advised_key(key: str, fields: Mapping[str, Field]) -> str:
    """As `_todays_key`, with a line of advice if the key is written in the old way."""
    today = _todays_key(key, fields)
    if today != key:
        log_once(f"qgf: advice: config key {key} is now called {today}")
    return today


def _advised_value(key: str, value: Any, fields: Mapping[str, Field]) -> Any:
    """As `_todays_value`, with a line of advice if the value is written in the old way."""
    today = _todays_value(key, value, fields)
    if today is not value:
        log_once(f"qgf: advice: {value!r} of config key {key} is now called {today!r}")
    return today


def update(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets {"a.b": value}; leaves out what only other methods have, refuses what none has."""
    own = _fields(config)
    for key, value in values.items():
        name = key if key in own else _advised_key(key, _known_fields())
        if name in own:
            config.update_from_flattened_dict({name: value})
        elif name not in _known_fields():
            raise UserError.unknown("config key", name, _known_fields())


def load(reference: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """The config of `PATH.py[:variant]` with `{"a.b": "text"}` applied over it.

    The file has a function `get_config([variant], **choice)`; `choice` holds those of algorithm,
    preset and critic that the user has set, and goes to `make`.

    A path that does not exist is looked for by its name among the configs installed with the package.
    """
    texts = dict(overrides or {})
    # These decide which sections there are, so the file has to know them first.
    choice = {key: texts.pop(key) for key in inspect.signature(make).parameters if key in texts}
    path, variant = _locate(reference)
    module = import_file(path)
    _check_variant(path, module, variant)
    with mistakes_of(path):
        config = module.get_config(*([variant] if variant else []), **choice)
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returned no config: start from qgf_jax.config.make")
    return override(config, texts)


def override(
    config: ConfigDict, texts: Mapping[str, str], chosen: Collection[str] = ()
) -> ConfigDict:
    """`config` with `{"a.b": "text"}` applied, and what a method's authors chose by environment.

    Those choices leave the keys of `texts` and `chosen` as they are.
    """
    overridden = {_override(config, key, text) for key, text in texts.items()}
    if config.env:
        _follow_env(config, overridden.union(chosen))
    check(config)
    return config


def import_file(path: Path) -> ModuleType:
    """The module of a Python file of the user's. Raises `UserError` if it cannot be imported."""
    module_spec = importlib.util.spec_from_file_location(f"_qgf_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is not a Python file: give --config=PATH.py[:variant]")
    module = importlib.util.module_from_spec(module_spec)
    with mistakes_of(path):
        module_spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def mistakes_of(path: Path) -> Generator[None]:
    """Makes one line of a mistake in a user's file, with the number of the file's own line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (own[-1] if own else None)
        raise UserError(f"{path}{f', line {line}' * bool(line)}: {raised(error, 160)}") from error


def _check_variant(path: Path, module: ModuleType, variant: str) -> None:
    """Raises `UserError` unless the config file has the variant, or none was asked for."""
    variants = getattr(module, "VARIANTS", None)
    if variant and variants is not None and variant not in variants:
        raise UserError.unknown(f"variant of {path.name}", variant, variants)
    if variant and not any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(module.get_config).parameters.values()
    ):
        raise UserError(f"{path} has no variants: leave :{variant} out")


def _follow_env(config: ConfigDict, overridden: Collection[str]) -> None:
    """Sets what a method's authors chose by environment, where file and user have left the default."""
    row, name = Method.named(config.algorithm), EnvName.parse(config.env).dataset
    default = flatten(make(config.algorithm, config.preset, config.critic))
    for key, values in row.by_env.items():
        current = flatten(config).get(key)
        chosen = next((v for pattern, v in values.items() if fnmatch(name, pattern)), current)
        if key not in overridden and current == default.get(key):
            update(config, {key: chosen})


def _locate(reference: str) -> tuple[Path, str]:
    """File and variant that `PATH.py[:variant]` names."""
    name, *variants = paths.split(reference, ":", os.path.isfile)
    path = paths.expand(name)
    if not path.is_file():
        path = Path(sysconfig.get_path("data")) / "share" / "qgf_jax" / "configs" / path.name
    if not path.is_file():
        raise UserError(f"no config file {name}: give --config=PATH.py[:variant]")
    return path, ":".join(variants)


def _override(config: ConfigDict, key: str, text: str) -> str:
    """Sets one value from the command line and returns the key's name of today."""
    fields = schema.fields(config.algorithm, config.critic)
    key = _advised_key(key, fields)
    if key not in fields:
        raise UserError.unknown("config key", key, fields)
    value = fields[key].bound.read(f"config key {key}", _advised_value(key, text, fields))
    config.update_from_flattened_dict({key: value})
    return key


def check(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises `UserError` unless all values of a resolved config are in their bounds, and fit.

    A config of an older version may lack what came later.
    """
    flat = flatten(config)
    Method.named(flat["algorithm"]).check_critics(flat["critic"])
    fields = schema.fields(flat["algorithm"], flat["critic"])
    for key, value in flat.items():
        if (today := _todays_key(key, fields)) != key:
            raise UserError(f"config key {key} is now called {today}")
        if key not in fields:
            raise UserError.unknown("config key", key, fields)
        fields[key].bound.check(f"config key {key}", value)
    past = _past(fields)
    if lacking := fields.keys() - flat.keys() - past.keys():
        raise UserError(f"config key {min(lacking)} is missing: start from config.make")
    schema.check_together({**past, **flat})


def _past(fields: Mapping[str, Field]) -> dict[str, Any]:
    """The values that stand for keys in runs that are older than these."""
    return {k: field.history.past for k, field in fields.items() if field.history.past is not None}


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"a.b": value}` of nested sections. Lists become tuples, as JSON knows only lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def plain(config: ConfigDict | Mapping[str, Any]) -> Mapping[str, Any]:
    """Nested plain dicts, as they come back from JSON; plain ones are left as they are."""
    if not isinstance(config, ConfigDict):
        return config
    return _tuples(json.loads(json.dumps(config.to_dict())))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _upgraded(old: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The config of an older run with the names and keys of today, and what is now called what."""
    config, fields = copy.deepcopy(old), _fields(old)
    try:
        renamed = _rename_keys(config, fields)
        for key, value in _past(fields).items():
            section, name = _place(config, key)
            section.setdefault(name, value)
        renamed += _rename_values(config, fields)
    except (AttributeError, TypeError):
        return old, []  # an altered file, which whoever opens it will name
    return config, sorted(renamed)


def _rename_keys(config: dict[str, Any], fields: Mapping[str, Field]) -> list[str]:
    renamed = []
    for key in flatten(config).keys() - fields.keys():
        if (today := _todays_key(key, fields)) != key:
            (section, name), (to, new_name) = _place(config, key), _place(config, today)
            to[new_name] = section.pop(name)
            renamed.append(f"{key} is now {today}")
    return renamed


def _rename_values(config: dict[str, Any], fields: Mapping[str, Field]) -> list[str]:
    renamed = []
    for key, value in flatten(config).items():
        if (today := _todays_value(key, value, fields)) is not value:
            section, name = _place(config, key)
            section[name] = today
            renamed.append(f"{key}={value} is now {today}")
    return renamed


class RunConfig(NamedTuple):
    """The config of a run, as its config.json holds it, and what of it counts for what."""

    config: Mapping[str, Any]

    @staticmethod
    def read_record(path: Path) -> dict[str, Any]:
        """A run's config.json as this version would have written it.

        Lists are tuples, keys and values have their names of today, and keys that are younger than the
        run have the values that stand for the past.
        """
        try:
            record = _tuples(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: no readable run here ({error}): run `qgf train` first"
            ) from None
        if isinstance(record, dict) and isinstance(record.get("config"), dict):
            record["config"], renamed = _upgraded(record["config"])
            if renamed:
                where = path.resolve()  # it may be read again by another way to it
                log_once(
                    f"qgf: advice: {where} has names of an older version: {', '.join(renamed)}"
                )
        return record

    def unknown_keys(self) -> list[str]:
        """The keys that nothing has today, as after a hyperparameter was renamed."""
        return sorted(flatten(self.config).keys() - _fields(self.config).keys())

    def changes_to(self, new: Mapping[str, Any]) -> list[str]:
        """What differs in a config of today and may not, as "key: old -> new"."""
        before, after = self._fixed(GENERATION), RunConfig(new)._fixed(GENERATION)
        past, gone = _past(_fields(new)), object()
        return [
            f"{key}: {before.get(key, past.get(key))!r} -> {after.get(key, past.get(key))!r}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key, gone) != after.get(key, gone)
        ]

    def _fixed(self, generation: int) -> dict[str, Any]:
        """The part that a run keeps for ever, flat, without keys at their values of the past.

        Keys are left out that a resumed run may change since run folders of `generation`.
        """
        fields, kept = _fields(self.config), {}
        for key, value in flatten(self.config).items():
            field = fields.get(key, _UNKNOWN)
            free = field.may_change and field.may_change.generation <= generation
            if not free and (field.history.past is None or value != field.history.past):
                kept[key] = value
        return kept

    def identity(self, generation: int = GENERATION) -> dict[str, str]:
        """What tells it from others, for a fingerprint: values as Python writes them.

        Keys and values have their oldest names, so that a fingerprint is the same whatever version
        made it. `generation`: of run folders, to recognise what older ones counted.
        """
        fields = _fields(self.config)
        named: dict[str, str] = {}
        for key, value in self._fixed(generation).items():
            history = fields.get(key, _UNKNOWN).history
            first = {today: old for old, today in history.values.items()}
            named[history.key or key] = repr(first.get(value, value) if first else value)
        return named

    def shared(self) -> dict[str, Any]:
        """What several processes that train one run must have in common, flat."""
        own = {k for k, f in _fields(self.config).items() if f.may_change and f.may_change.per_host}
        return {key: value for key, value in flatten(self.config).items() if key not in own}
