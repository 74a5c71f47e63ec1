"""Configs: what a run can be told, the two presets, overrides from the command line. No JAX here."""

import ast
import functools
import importlib.util
import json
import os
import sysconfig
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qgf_jax import paths
from qgf_jax.algorithms import (
    CHOICES,
    CRITIC_SETTINGS,
    METHODS,
    critic_defaults,
    factory_defaults,
    free_options,
    method,
    policy_defaults,
)
from qgf_jax.envs import ogbench
from qgf_jax.errors import UserError, unknown

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

_PLACES = ("data.dir", "data.name")
"""Where the data lie; what they are, their SHA-256 says."""

_MAY_CHANGE = (
    *_PLACES, "data.mode", "train.steps", "train.log_every", "train.save_every", "train.keep",
    "train.check_replicas", "wandb", "eval", "devices", "parallel",
)  # fmt: skip
"""Keys that may differ when a run is resumed; a section's name stands for all of it."""

_MAY_BE_ZERO = (
    "seed", "policy.time_grid", "data.backup", "data.replace_every", "goals.waypoint",
    "networks.goal_code", "train.check_replicas",
)  # fmt: skip

_CHOICES = ("algorithm", "preset", "critic")


def make(algorithm: str = "qgf", preset: str = "default", critic: str = "") -> ConfigDict:
    """The whole config of `algorithm` under a preset. A config file starts here and sets its own.

    `critic` is one that the method can be trained with; empty: its own.
    """
    row = method(algorithm)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    critic = critic or row.critics[0]
    if critic not in row.critics:
        raise unknown(f"critic of {algorithm}", critic, row.critics)
    config = _sections(algorithm, critic)
    config.preset = preset
    update(config, CRITIC_SETTINGS.get(critic, {}))
    update(config, row.settings)
    if preset == "paper":
        update(config, {**PRESETS["paper"], **row.paper})
    return config.lock()


def _sections(algorithm: str, critic: str) -> ConfigDict:
    row = method(algorithm)
    sampler = {"num_steps": 10, **free_options(algorithm)}
    policy = {k: v for name in row.policies for k, v in policy_defaults(name).items()}
    return ConfigDict(
        {
            "algorithm": algorithm,
            "preset": "default",
            "env": "",  # such as pointmaze-medium-navigate-singletask-task1-v0
            "seed": 0,
            "seeds": 1,  # trained side by side in one program: seed, seed + 1, …
            "devices": "all",  # that share each batch, or how many of them
            "parallel": "pmap",  # how they do: pmap, or jit with shardings
            "precision": "float32",  # of the networks' arithmetic; parameters are always float32
            "data": {
                "dir": "",  # where the npz files are; empty: ./data, then ~/.ogbench/data
                "name": "",  # of file or folder, such as cube-triple-play-100m-v0; empty: the env's
                "mode": "auto",  # resident on the device or streamed from disk; auto: by its memory
                "schedule": "uniform",  # slices: one at a time, in order, as the public code
                # Streamed: starts of a block, how many blocks are sampled from, steps between two
                # changes of one (0: so that each start is drawn twice a round).
                "block": 250_000,
                "window": 8,
                "replace_every": 0,
                "chunk": 5,
                "backup": 0,  # steps of a return; 0: as many as a chunk
                "discount": 0.99,
                "masks": "task",  # task: success ends the return. trajectory: the data's end does
                "action_clip": 1e-5,
                "reward_scale": 1.0,
                "reward_shift": 0.0,
                "sparse": False,  # reward -1 wherever it is not 0
                "standardize": False,  # observations, by the mean and spread of the data
            },
            # Which rows are goals, where the environment has goals: probabilities of the current one,
            # of a later one of the trajectory, of any. No actor: by how the data was collected.
            "goals": {
                "critic": (0.2, 0.5, 0.3),
                "critic_geometric": True,
                "actor": (),
                "actor_geometric": False,
                "negative": True,  # each step before the goal costs 1; else being there is worth 1
                "waypoint": 0,  # steps to the waypoints of two-level policies
            },
            "networks": factory_defaults("networks", "build"),
            "critic": critic,
            "critics": {critic: critic_defaults(critic)},
            "policy": {k: v for k, v in policy.items() if k not in sampler},
            "sampler": sampler,
            "optimizer": {
                "learning_rate": 3e-4,
                "tau": 0.005,
                "lagged_target": False,
                "clip_norm": 0.0,  # of each parameter group's gradient; 0: never
            },
            "train": {
                "steps": 1_000_000,
                "batch_size": 256,
                "steps_per_dispatch": 100,
                "log_every": 1000,
                "save_every": 50_000,
                "keep": 2,
                "check_replicas": 0,  # steps between looks whether all devices agree; 0: never
            },
            "eval": {
                "weights": (0.0, 1.0),
                "episodes": 50,
                "envs": 10,
                "simulator": "mujoco",  # jax: an approximation, on the device
            },
            "wandb": {"project": "", "mode": "online"},  # no project: no Weights & Biases
        }
    )


@functools.cache
def _known_keys() -> frozenset[str]:
    """All keys that some method's config has."""
    pairs = [(name, critic) for name, row in METHODS.items() for critic in row.critics]
    return frozenset(key for pair in pairs for key in flatten(_sections(*pair)))


def update(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets {"a.b": value}; leaves out what only other methods have, refuses what none has."""
    mine = flatten(config)
    for key, value in values.items():
        if key in mine:
            config.update_from_flattened_dict({key: value})
        elif key not in _known_keys():
            raise unknown("config key", key, _known_keys())


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
        raise unknown(f"variant of {path.name}", variant, variants)
    rest = dict(overrides or {})
    # These decide which sections there are, so the file has to know them first.
    choice = {key: rest.pop(key) for key in _CHOICES if key in rest}
    config = module.get_config(*([variant] if variant else []), **choice)
    for key, text in rest.items():
        _override(config, key, text)
    _check(config)
    _follow_env(config, rest)
    return config


def _follow_env(config: ConfigDict, overridden: Collection[str]) -> None:
    """Sets what a method's authors chose by environment, where file and user have left the default."""
    row, name = method(config.algorithm), ogbench.parse(config.env).dataset
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
    """Sets one value from the command line, keeping its type."""
    flat = flatten(config)
    if key not in flat:
        raise unknown("config key", key, flat)
    old = flat[key]
    try:
        if isinstance(old, str):
            value: Any = text
        elif isinstance(old, bool):
            value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        elif isinstance(old, tuple):
            value = ast.literal_eval(text)
            value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
            if old:
                value = tuple(_number(v, type(old[0])) for v in value)
        else:
            value = _number(ast.literal_eval(text), type(old))
    except (ValueError, SyntaxError, KeyError, TypeError):
        kind = type(old).__name__
        raise UserError(
            f"config key {key}: {text!r} is not a {kind} (it is {old!r} by default)"
        ) from None
    config.update_from_flattened_dict({key: value})


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or kind(value) != value:
        raise ValueError
    return kind(value)


_WORDS = {
    "data.masks": ("task", "trajectory"),
    "data.mode": ("auto", "resident", "streamed"),
    "data.schedule": ("uniform", "slices"),
    "parallel": ("pmap", "jit"),
    "precision": ("float32", "bfloat16"),
}


def _check(config: ConfigDict) -> None:
    """What no type can say."""
    for key, choices in _WORDS.items():
        if (value := flatten(config)[key]) not in choices:
            raise unknown(key, value, choices)
    if config.devices != "all" and not (config.devices.isdecimal() and int(config.devices)):
        raise UserError(f"config key devices is {config.devices!r}; it must be all or a number")
    for key, value in flatten(config).items():
        least = 0 if key in _MAY_BE_ZERO else 1
        if type(value) is int and value < least:
            raise UserError(f"config key {key} is {value}; it must be at least {least}")
    if config.eval.simulator not in ("mujoco", "jax"):
        raise unknown("eval.simulator", config.eval.simulator, ("mujoco", "jax"))
    for option, value in config.sampler.items():
        if option in CHOICES and value not in CHOICES[option]:
            raise unknown(f"sampler.{option}", value, CHOICES[option])
    if 0 < config.data.backup < config.data.chunk:
        raise UserError(
            f"config key data.backup is {config.data.backup}; it must be 0 or at least data.chunk"
        )
    if not 0 < config.data.discount <= 1:
        raise UserError(f"config key data.discount is {config.data.discount}; it must be in (0, 1]")
    if not config.env:
        raise UserError("config key env is empty: name an environment, --config.env=…")
    _check_goals(config)


def _check_goals(config: ConfigDict) -> None:
    name, row = ogbench.parse(config.env), method(config.algorithm)
    for key in ("critic", "actor"):
        chances = config.goals[key]
        numbers = len(chances) == 3 and all(isinstance(x, (int, float)) for x in chances)
        sound = numbers and min(chances) >= 0 and abs(sum(chances) - 1) < 1e-6
        if not sound and (chances or key == "critic"):
            raise UserError(
                f"config key goals.{key} is {chances}; it must be three probabilities that sum to 1: "
                "of the current row, of a later one of its trajectory, of any"
            )
    needs = f"algorithm {config.algorithm!r}" * row.goals
    needs = needs or "critic 'contrastive'" * (config.critic == "contrastive")
    needs = needs or "critic 'dqc' with sigmoid outputs" * (
        config.networks.critic_output == "sigmoid"
    )
    if needs and not name.goals:
        raise UserError(
            f"{needs} needs an environment with goals, such as {name.scene}-{name.kind}-v0"
        )
    if config.networks.critic_output == "sigmoid" and (
        config.goals.negative or config.critic != "dqc"
    ):
        raise UserError(
            "networks.critic_output=sigmoid is for values between 0 and 1: "
            "set critic=dqc and goals.negative=false"
        )
    if (config.networks.critic_form == "bilinear") != (config.critic == "contrastive"):
        raise UserError("networks.critic_form=bilinear belongs to critic=contrastive, and it alone")
    if "hiql" in row.policies:
        if name.goals == "oraclerep":
            raise UserError(f"algorithm {config.algorithm!r} needs goals that are observations")
        for key in ("goals.waypoint", "networks.goal_code"):
            if not flatten(config)[key]:
                raise UserError(f"config key {key} is 0; algorithm {config.algorithm!r} needs it")
    of_tasks = {"reward_scale": 1.0, "reward_shift": 0.0, "sparse": False}
    if name.goals and any(config.data[key] != idle for key, idle in of_tasks.items()):
        raise UserError(
            f"{', '.join(f'data.{k}' for k in of_tasks)} are of single tasks; with goals, rewards come "
            "from the rows: goals.negative"
        )


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
    try:
        known = flatten(_sections(config["algorithm"], config["critic"]))
    except (KeyError, UserError):
        return config  # an altered file, which who opens it will name
    complete = dict(config)
    for key in _SINCE.keys() & known.keys() - flatten(config).keys():
        *sections, name = key.split(".")
        inner = complete
        for section in sections:
            inner[section] = dict(inner.get(section, {}))
            inner = inner[section]
        inner[name] = _SINCE[key]
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


def fixed(config: Mapping[str, Any], *, places: bool = False) -> dict[str, Any]:
    """The part of a config that a run keeps for ever, flat.

    `places`: with the places of data, which older versions took for a part of it.
    """
    free = [key for key in _MAY_CHANGE if not (places and key in _PLACES)]
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
