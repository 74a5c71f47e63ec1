"""All that a run can be told: sections of the config, each value with its default and its bounds.

The numbers of learners, networks and samplers are not here: they stand in the signatures of their
factories, which `fields` reads. No JAX here.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from qgf_jax import bounds
from qgf_jax.bounds import (
    Count,
    Devices,
    Episodes,
    Field,
    Goals,
    Index,
    Margin,
    NonNegative,
    OptionalGoals,
    Positive,
    Seed,
    Share,
    Weights,
    Words,
)
from qgf_jax.envs import families
from qgf_jax.errors import UserError
from qgf_jax.methods.table import (
    METHODS,
    critic_fields,
    factory_fields,
    free_options,
    policy_fields,
)


@dataclasses.dataclass(frozen=True)
class Root:
    """What belongs to no section."""

    algorithm: Annotated[str, Words(tuple(METHODS))] = "qgf"
    preset: Literal["default", "paper"] = "default"
    env: str = ""  # such as pointmaze-medium-navigate-singletask-task1-v0
    seed: Seed = 0
    seeds: Count = 1  # trained side by side in one program: seed, seed + 1, …
    devices: Devices = "all"  # that share each batch, or how many of them
    parallel: Literal["pmap", "jit"] = "pmap"  # how they do: pmap, or jit with shardings
    # Of the networks' arithmetic; parameters are always float32.
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class Data:
    """The section `data`."""

    dir: str = ""  # where the npz files are; empty: ./data, then the family's own folder
    name: str = ""  # of file or folder, such as cube-triple-play-100m-v0; empty: the env's
    # Resident on the device or streamed from disk; auto: by its memory.
    mode: Literal["auto", "resident", "streamed"] = "auto"
    # slices: one at a time, in order, as the public code.
    schedule: Literal["uniform", "slices"] = "uniform"
    # Streamed: starts of a block, how many blocks are sampled from, steps between two changes of one
    # (0: so that each start is drawn twice a round).
    block: Count = 250_000
    window: Count = 8
    replace_every: Index = 0
    chunk: Count = 5
    backup: Index = 0  # steps of a return; 0: as many as a chunk
    discount: Share = 0.99
    masks: Literal["task", "trajectory"] = (
        "task"  # task: success ends the return, not the data's end
    )
    action_clip: Margin = 1e-5  # actions are clipped to the box less this
    reward_scale: Positive = 1.0  # below 0 the worst would be the best
    reward_shift: bounds.Finite = 0.0
    sparse: bool = False  # reward -1 wherever it is not 0
    standardize: bool = False  # observations, by the mean and spread of the data


@dataclasses.dataclass(frozen=True)
class GoalDistribution:
    """The section `goals`: which rows are goals, where the environment has goals.

    Probabilities of the current row, of a later one of the trajectory, of any.
    """

    critic: Goals = (0.2, 0.5, 0.3)
    critic_geometric: bool = True
    actor: OptionalGoals = ()  # empty: by how the data was collected
    actor_geometric: bool = False
    negative: bool = True  # each step before the goal costs 1; else being there is worth 1
    waypoint: Index = 0  # steps to the waypoints of two-level policies; 0: none


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The section `optimizer`."""

    learning_rate: Positive = 3e-4  # with 0 nothing would be learned
    tau: Share = 0.005
    lagged_target: bool = False
    clip_norm: NonNegative = 0.0  # of each parameter group's gradient; 0: never


@dataclasses.dataclass(frozen=True)
class Train:
    """The section `train`."""

    steps: Count = 1_000_000
    batch_size: Count = 256
    steps_per_dispatch: Index = 0  # 0: by platform
    log_every: Count = 1000
    save_every: Count = 50_000
    keep: Count = 2
    check_replicas: Index = 0  # steps between looks whether all devices agree; 0: never


@dataclasses.dataclass(frozen=True)
class Eval:
    """The section `eval`."""

    weights: Weights = (0.0, 1.0)
    episodes: Episodes = 50
    envs: Index = 0  # at once; 0: by platform
    simulator: Literal["mujoco", "jax"] = "mujoco"  # jax: an approximation, on the device


@dataclasses.dataclass(frozen=True)
class Tracking:
    """The section `wandb`."""

    project: str = ""  # none: no Weights & Biases
    mode: Literal["online", "offline", "disabled"] = "online"


_SECTIONS = {
    "data": Data,
    "goals": GoalDistribution,
    "optimizer": Optimizer,
    "train": Train,
    "eval": Eval,
    "wandb": Tracking,
}


@functools.cache
def fields(algorithm: str, critic: str) -> dict[str, Field]:
    """All keys of the config of a method and its critic, such as "data.chunk"."""
    row = METHODS[algorithm]
    sampler = {"num_steps": Field(10, bounds.of(Count)), **free_options(algorithm)}
    policy = {k: v for name in row.policies for k, v in policy_fields(name).items()}
    sections = {
        **{name: _declared(section) for name, section in _SECTIONS.items()},
        "networks": factory_fields("core.networks", "build"),
        f"critics.{critic}": critic_fields(critic),
        "policy": {k: v for k, v in policy.items() if k not in sampler},
        "sampler": sampler,
    }
    root = _declared(Root) | {
        "algorithm": Field(algorithm, bounds.of(Root.__annotations__["algorithm"])),
        "critic": Field(critic, Words(row.critics)),
    }
    return root | {f"{s}.{k}": v for s, own in sections.items() for k, v in own.items()}


def _declared(section: Any) -> dict[str, Field]:
    found = dataclasses.fields(section)
    return {field.name: Field(field.default, bounds.of(field.type)) for field in found}


def check_together(flat: Mapping[str, Any]) -> None:
    """Raises `UserError` for values that are sound each by itself and not beside each other."""
    if flat["seed"] + flat["seeds"] > 2**32:
        raise UserError(
            f"config keys seed and seeds are {flat['seed']} and {flat['seeds']}; the last seed, "
            f"seed + seeds - 1, must be below {2**32}"
        )
    if 0 < flat["data.backup"] < flat["data.chunk"]:
        raise UserError(
            f"config key data.backup is {flat['data.backup']}; it must be 0 or at least data.chunk"
        )
    if not flat["env"]:
        raise UserError("config key env is empty: name an environment, --config.env=…")
    name = families.parse(flat["env"])
    _check_critic(flat, name)
    _check_hierarchy(flat, name)
    of_tasks = {"reward_scale": 1.0, "reward_shift": 0.0, "sparse": False}
    if name.goals and any(flat[f"data.{key}"] != idle for key, idle in of_tasks.items()):
        raise UserError(
            f"{', '.join(f'data.{k}' for k in of_tasks)} are of single tasks; with goals, rewards come "
            "from the rows: goals.negative"
        )


def _check_critic(flat: Mapping[str, Any], name: families.EnvName) -> None:
    """Critics that are for goals alone, or for values between 0 and 1."""
    critic, sigmoid = flat["critic"], flat["networks.critic_output"] == "sigmoid"
    needs = f"algorithm {flat['algorithm']!r}" * METHODS[flat["algorithm"]].goals
    needs = needs or "critic 'contrastive'" * (critic == "contrastive")
    needs = needs or "critic 'dqc' with sigmoid outputs" * sigmoid
    if needs and not name.goals:
        raise UserError(f"{needs} needs an environment with goals, such as {name.dataset}")
    if sigmoid and (flat["goals.negative"] or critic != "dqc"):
        raise UserError(
            "networks.critic_output=sigmoid is for values between 0 and 1: "
            "set critic=dqc and goals.negative=false"
        )
    if (flat["networks.critic_form"] == "bilinear") != (critic == "contrastive"):
        raise UserError("networks.critic_form=bilinear belongs to critic=contrastive, and it alone")


def _check_hierarchy(flat: Mapping[str, Any], name: families.EnvName) -> None:
    """What two-level policies need."""
    algorithm = flat["algorithm"]
    if "hiql" not in METHODS[algorithm].policies:
        return
    if name.goals == "oraclerep":
        raise UserError(f"algorithm {algorithm!r} needs goals that are observations")
    for key in ("goals.waypoint", "networks.goal_code"):
        if not flat[key]:
            raise UserError(f"config key {key} is 0; algorithm {algorithm!r} needs it")
