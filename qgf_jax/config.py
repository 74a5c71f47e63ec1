"""Configs: what a run can be told, the two presets, overrides from the command line. No JAX here."""

import functools
import importlib.util
import inspect
import json
import os
import sysconfig
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qgf_jax import bounds, schema
from qgf_jax.envs import families
from qgf_jax.errors import UserError, unknown_name_error
from qgf_jax.methods.table import CRITIC_SETTINGS, METHODS, method
from qgf_jax.runtime import paths

PRESETS: dict[str, dict[str, Any]] = {
    # What we would defend; the defaults below and in the factories are these.
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

_SINCE = {
    "precision": "float32",
    "data.name": "",
    "data.schedule": "uniform",
    "data.block": 250_000,
    "data.window": 8,
    "data.replace_every": 0,
    "networks.ranking": "slow",
    "policy.delay": 1,
    "critics.ivl.online_code": False,
}
"""Keys that came later, and the values that stand for what was before: runs from then go on."""

PLACES = ("data.dir", "data.name")
"""Where the data lie; what they are, their SHA-256 says."""

DISPATCH = "train.steps_per_dispatch"

_MAY_CHANGE = (
    *PLACES, DISPATCH, "data.mode", "train.steps", "train.log_every", "train.save_every", "train.keep",
    "train.check_replicas", "wandb", "eval", "devices", "parallel",
)  # fmt: skip
"""Keys that may differ when a run is resumed; a section's name stands for all of it."""

_CHOICES = ("algorithm", "preset", "critic")


def make(algorithm: str = "qgf", preset: str = "default", critic: str = "") -> ConfigDict:
    """The whole config of `algorithm` under a preset. A config file starts here and sets its own.

    `critic` is one that the method can be trained with; empty: its own.
    """
    row = method(algorithm)
    if preset not in PRESETS:
        raise unknown_name_error("preset", preset, PRESETS)
    critic = critic or row.critics[0]
    if critic not in row.critics:
        raise unknown_name_error(f"critic of {algorithm}", critic, row.critics)
    config = _sections(algorithm, critic)
    config.preset = preset
    update(config, CRITIC_SETTINGS.get(critic, {}))
    update(config, row.settings)
    if preset == "paper":
        update(config, {**PRESETS["paper"], **row.paper})
    return config.lock()


def _sections(algorithm: str, critic: str) -> ConfigDict:
    """The defaults of all keys, nested."""
    config: dict[str, Any] = {"critics": {critic: {}}, "policy": {}}
    for key, field in schema.fields(algorithm, critic).items():
        *sections, name = key.split(".")
        place = functools.reduce(
            lambda node, section: node.setdefault(section, {}), sections, config
        )
        place[name] = field.default
    return ConfigDict(config)


@functools.cache
def _known_keys() -> frozenset[str]:
    """All keys that some method's config has."""
    pairs = [(name, critic) for name, row in METHODS.items() for critic in row.critics]
    return frozenset(key for pair in pairs for key in schema.fields(*pair))


def update(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets {"a.b": value}; leaves out what only other methods have, refuses what none has."""
    mine = flatten(config)
    for key, value in values.items():
        if key in mine:
            config.update_from_flattened_dict({key: value})
        elif key not in _known_keys():
            raise unknown_name_error("config key", key, _known_keys())


def load(reference: str, overrides: Mapping[str, str] | None = None) -> ConfigDict:
    """The config of `PATH.py[:variant]` with `{"a.b": "text"}` applied over it.

    The file has a function `get_config([variant], **choice)`; `choice` holds those of algorithm,
    preset and critic that the user has set, and goes to `make`.

    A path that does not exist is looked for by its name among the configs installed with the package.
    """
    path, variant = _locate(reference)
    module_spec = importlib.util.spec_from_file_location(f"_qgf_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is not a Python file: give --config=PATH.py[:variant]")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    variants = getattr(module, "VARIANTS", None)
    if variant and variants is not None and variant not in variants:
        raise unknown_name_error(f"variant of {path.name}", variant, variants)
    if variant and not any(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(module.get_config).parameters.values()
    ):
        raise UserError(f"{path} has no variants: leave :{variant} out")
    rest = dict(overrides or {})
    # These decide which sections there are, so the file has to know them first.
    choice = {key: rest.pop(key) for key in _CHOICES if key in rest}
    config = module.get_config(*([variant] if variant else []), **choice)
    for key, text in rest.items():
        _override(config, key, text)
    if config.env:
        _follow_env(config, rest)
    check(config)
    return config


def _follow_env(config: ConfigDict, overridden: Collection[str]) -> None:
    """Sets what a method's authors chose by environment, where file and user have left the default."""
    row, name = method(config.algorithm), families.parse(config.env).dataset
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


def _override(config: ConfigDict, key: str, text: str) -> None:
    """Sets one value from the command line."""
    fields = schema.fields(config.algorithm, config.critic)
    if key not in fields:
        raise unknown_name_error("config key", key, fields)
    value = bounds.read(f"config key {key}", text, fields[key].bound)
    config.update_from_flattened_dict({key: value})


def check(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises `UserError` unless all values of a resolved config are in their bounds, and fit.

    A config of an older version may lack what came later.
    """
    flat = flatten(config)
    row = method(flat["algorithm"])
    if flat["critic"] not in row.critics:
        raise unknown_name_error(f"critic of {flat['algorithm']}", flat["critic"], row.critics)
    fields = schema.fields(flat["algorithm"], flat["critic"])
    for key, value in flat.items():
        if key not in fields:
            raise unknown_name_error("config key", key, fields)
        bounds.check(f"config key {key}", value, fields[key].bound)
    if lacking := fields.keys() - flat.keys() - _SINCE.keys():
        raise UserError(f"config key {min(lacking)} is missing: start from config.make")
    schema.check_together({**_SINCE, **flat})


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """`{"a.b": value}` of nested sections. Lists become tuples, as JSON knows only lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return flat


def plain(config: ConfigDict) -> dict[str, Any]:
    """Nested plain dicts, as they come back from JSON."""
    return _tuples(json.loads(json.dumps(config.to_dict())))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def read(path: Path) -> dict[str, Any]:
    """A run's config.json, its lists as tuples, and keys of the config that are younger than the run."""
    try:
        record = _tuples(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable run here ({error}): run `qgf train` first") from None
    if isinstance(record, dict) and isinstance(record.get("config"), dict):
        record["config"] = _with_later_keys(record["config"])
    return record


def _with_later_keys(config: dict[str, Any]) -> dict[str, Any]:
    """An older run's config with the keys that came since, at the values that stand for the past."""
    complete = dict(config)
    try:
        known = flatten(_sections(config["algorithm"], config["critic"]))
        for key in _SINCE.keys() & known.keys() - flatten(config).keys():
            *sections, name = key.split(".")
            inner = complete
            for section in sections:
                inner[section] = dict(inner.get(section, {}))
                inner = inner[section]
            inner[name] = _SINCE[key]
    except (LookupError, TypeError, ValueError):
        return config  # an altered file, which who opens it will name
    return complete


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two configs and may not, as "key: old -> new"."""
    before, after = fixed(old), fixed(new)
    gone = object()
    return [
        f"{key}: {before.get(key, _SINCE.get(key))!r} -> {after.get(key, _SINCE.get(key))!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, gone) != after.get(key, gone)
    ]


def fixed(config: Mapping[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """The part of a config that a run keeps for ever, flat.

    `also`: with these keys, which older versions took for a part of it.
    """
    free = [key for key in _MAY_CHANGE if key not in also]
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == one or key.startswith(f"{one}.") for one in free)
        and (key not in _SINCE or value != _SINCE[key])
    }


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """`--config.a.b=c` or `--config.a.b c`, as `{"a.b": "c"}`."""
    overrides: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            raise UserError(f"unknown argument {word!r}: see `qgf train --help`")
        key, equals, text = word.removeprefix("--config.").partition("=")
        if not equals:
            if not rest:
                raise UserError(f"--config.{key} needs a value: --config.{key}=VALUE")
            text = rest.pop(0)
        overrides[key] = text
    return overrides
