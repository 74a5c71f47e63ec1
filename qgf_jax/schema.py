"""Everything that a run can be told: the sections of the config, and what one key must fit in another.

A field carries its type and bounds, its default, help, whether a resumed run may change it, and what
older runs have for it. All else derives from that: overrides, `--show`, validation, the rules of
resuming, `qgf train --help=KEY` and docs/config.md. Hyperparameters of learners, networks and samplers
are declared beside their code, and `fields` joins them in. No JAX here.
"""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from qgf_guide import bounds
from qgf_guide.bounds import (
    MAY_CHANGE,
    Count,
    Devices,
    Episodes,
    Field,
    Finite,
    History,
    Index,
    Lists,
    Margin,
    MayChange,
    NonNegative,
    OptionalGoals,
    Positive,
    Seed,
    Share,
    Weights,
    Words,
)
from qgf_jax.core.network_options import NetworkOptions
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import METHODS

_PLACE = MayChange(generation=1, per_host=True)
"""Says where data are. What they are, their SHA-256 says."""
_FIRST_HOST = MayChange(per_host=True)
"""Used by the first of several processes alone."""


ALGORITHM = "qgf"
"""That is trained unless a config says otherwise."""


@dataclass(frozen=True)
class _Root:
    """The keys that belong to no section."""

    algorithm: Annotated[str, Words(tuple(METHODS)), "method that is trained"] = ALGORITHM
    critic: Annotated[
        str,
        "critic that is trained; each method has its own choices. Several, as iql,td, side by side: the "
        "first serves the policy, and acting chooses",
    ] = ""
    preset: Annotated[
        Literal["default", "paper"], "defaults: this project's, or the public code's mathematics"
    ] = "default"
    env: Annotated[str, "environment, as pointmaze-medium-navigate-singletask-task1-v0"] = ""
    seed: Annotated[Seed, "random seed of the first of `seeds`"] = 0
    seeds: Annotated[Count, "seeds trained side by side in one program: seed, seed + 1, …"] = 1
    devices: Annotated[Devices, "number of devices that share each batch, or all", MAY_CHANGE] = (
        "all"
    )
    parallel: Annotated[
        Literal["pmap", "jit"], "form of data parallelism: pmap, or jit with shardings", MAY_CHANGE
    ] = "pmap"
    precision: Annotated[
        Literal["float32", "tf32", "bfloat16"],
        "arithmetic of the networks; parameters are always float32",
        History(past="float32"),
    ] = "float32"


@dataclass(frozen=True)
class _Data:
    """The section `data`: where transitions come from, and what a batch holds."""

    dir: Annotated[
        str, "folder of the data; empty: ./data, then the family's own folder", _PLACE
    ] = ""
    name: Annotated[
        str,
        "file or folder of the data, as cube-triple-play-100m-v0; empty: named by env",
        _PLACE,
        History(past=""),
    ] = ""
    part: Annotated[
        Literal["all", "odd", "even"],
        "trajectories that are trained on: all, or those of odd or of even number, the first being 0",
        History(past="all"),
    ] = "all"
    mode: Annotated[
        Literal["auto", "resident", "streamed"],
        "resident: data lie on the device; streamed: read from disk; auto: by the device's memory. A "
        "resumed run keeps what it came to",
        MAY_CHANGE,
    ] = "auto"
    schedule: Annotated[
        Literal["uniform", "slices"],
        "files of a dataset are sampled all at once, or one after the other as in the public code",
        History(past="uniform"),
    ] = "uniform"
    block: Annotated[Count, "starts in one block of streamed data", History(past=250_000)] = 250_000
    window: Annotated[Count, "blocks of streamed data that are sampled from", History(past=8)] = 8
    replace_every: Annotated[
        Index,
        "updates between two replacements of a block; 0: each start is drawn twice a round",
        History(past=0),
    ] = 0
    chunk: Annotated[Count, "actions in a row that the policy gives at once"] = 5
    n_step: Annotated[
        Index,
        "environment steps of a return; 0: as many as chunk, else at least chunk",
        History(key="data.backup"),
    ] = 0
    discount: Annotated[Share, "discount of rewards per environment step"] = 0.99
    rewards: Annotated[
        str,
        "a function of yours, MODULE:FUNCTION, rewards(rows) -> [R]; empty: the task's or the data's",
        History(past=""),
    ] = ""
    masks: Annotated[
        Literal["task", "trajectory"], "returns end at success (task) or where a trajectory ends"
    ] = "task"
    action_clip: Annotated[Margin, "actions are clipped to ±(1 - action_clip)"] = 1e-5
    action_scale: Annotated[
        Literal["bounds", "std", "quantile"],
        "what the networks take for -1 and 1: the bounds of actions; quantile: the data's 1 % and 99 %; "
        "std: their mean becomes 0, their deviation 1",
        History(past="bounds"),
    ] = "bounds"
    clip: Annotated[
        Literal["auto", "box", "none"],
        "whether scaled actions, endpoints and samples are kept in [-1, 1]; auto: box with "
        "action_scale=bounds, else none",
        History(past="auto"),
    ] = "auto"
    reward_scale: Annotated[Positive, "factor on rewards of single tasks"] = 1.0
    reward_shift: Annotated[Finite, "added to rewards of single tasks after scaling"] = 0.0
    sparse: Annotated[bool, "replace each reward of a single task that is not 0 by -1"] = False
    standardize: Annotated[bool, "scale observations to the data's mean 0 and deviation 1"] = False


@dataclass(frozen=True)
class _Goals:
    """The section `goals`: which rows are goals in training, where the environment has goals."""

    critic: Annotated[bounds.Goals, "probabilities of a critic's goal: current, later, any row"] = (
        0.2,
        0.5,
        0.3,
    )
    critic_geometric: Annotated[
        bool, "a critic's later row is geometrically far by data.discount; else uniformly"
    ] = True
    actor: Annotated[
        OptionalGoals,
        "the same probabilities for a policy's goal; empty: by how the data was collected",
    ] = ()
    actor_geometric: Annotated[bool, "as critic_geometric, for a policy's goal"] = False
    negative_reward: Annotated[
        bool,
        "each step before the goal has reward -1; else the goal has reward 1",
        History(key="goals.negative"),
    ] = True
    subgoal_steps: Annotated[
        Index,
        "environment steps to the subgoals of two-level policies; 0: no subgoals",
        History(key="goals.waypoint"),
    ] = 0


@dataclass(frozen=True)
class _Optimizer:
    """The section `optimizer`."""

    learning_rate: Annotated[Positive, "step size of Adam"] = 3e-4
    tau: Annotated[Share, "share of the parameters that target networks take over per update"] = (
        0.005
    )
    lagged_target: Annotated[
        bool, "target networks average the parameters from before an update, as the public code"
    ] = False
    clip_norm: Annotated[
        NonNegative, "largest norm of a parameter group's gradient; 0: any norm"
    ] = 0.0


@dataclass(frozen=True)
class _Train:
    """The section `train`."""

    steps: Annotated[Count, "updates in all", MAY_CHANGE] = 1_000_000
    batch_size: Annotated[Count, "transitions per update, over all devices"] = 256
    steps_per_dispatch: Annotated[
        Index, "updates in one call to the device; 0: by platform", MayChange(generation=2)
    ] = 0
    log_every: Annotated[Count, "updates between two lines of metrics.jsonl", MAY_CHANGE] = 1000
    save_every: Annotated[Count, "updates between two checkpoints", MAY_CHANGE] = 50_000
    keep: Annotated[Count, "newest checkpoints that are kept", MAY_CHANGE] = 2
    check_replicas: Annotated[
        Index, "updates between two checks that all devices agree; 0: no checks", MAY_CHANGE
    ] = 0
    calibrate: Annotated[
        bool, "whether `qgf calibrate` follows, for qgf_auto", MAY_CHANGE, History(past=False)
    ] = False


@dataclass(frozen=True)
class _Eval:
    """The section `eval`: what `qgf evaluate` plays unless its flags say otherwise."""

    weights: Annotated[Weights, "guidance weights", _FIRST_HOST] = (0.0, 1.0)
    episodes: Annotated[
        Episodes, "episodes of each split per method, weight and task", _FIRST_HOST
    ] = 50
    envs: Annotated[Index, "environments stepped at once; 0: by platform", _FIRST_HOST] = 0
    simulator: Annotated[
        Literal["mujoco", "jax"],
        "the benchmark's simulator, or an approximation of mazes on the device",
        _FIRST_HOST,
    ] = "mujoco"


@dataclass(frozen=True)
class _Tracking:
    """The section `wandb`: metrics in Weights & Biases, beside metrics.jsonl."""

    project: Annotated[str, "project that metrics go to; empty: none", _FIRST_HOST] = ""
    mode: Annotated[
        Literal["online", "offline", "disabled"], "mode of the wandb client", _FIRST_HOST
    ] = "online"


@dataclass(frozen=True)
class _Frozen:
    """The section `frozen`: another run's checkpoint, whose parts this run has and does not learn."""

    run: Annotated[
        str, "folder of the run whose parts stand still; empty: none", _PLACE, History(past="")
    ] = ""
    add: Annotated[str, "the part that is learned beside them", History(past="")] = ""
    step: Annotated[
        Index, "updates that the parts had learned from; 0: the newest", History(past=0)
    ] = 0
    state: Annotated[
        str, "SHA-256 of that checkpoint's numbers, as `qgf verify` says it", History(past="")
    ] = ""


@dataclass(frozen=True)
class _Sampler:
    """The section `sampler`: how actions are drawn, beside the options of the method's sampler."""

    num_steps: Annotated[Count, "integration steps from noise to an action"] = 10


_SECTIONS = {
    "data": _Data,
    "goals": _Goals,
    "optimizer": _Optimizer,
    "train": _Train,
    "eval": _Eval,
    "wandb": _Tracking,
    "frozen": _Frozen,
}


@functools.cache
def fields(algorithm: str, critic: str) -> dict[str, Field]:
    """All keys of the config of a method and its critic, such as "data.chunk".

    `KeyError` if there is no such method.
    """
    row, sampler = METHODS[algorithm], _sampler(algorithm)
    sections = {
        **{name: Field.declared_in(section) for name, section in _SECTIONS.items()},
        "networks": Field.declared_in(NetworkOptions),
        **{f"critics.{name}": Part.named("critic", name).fields for name in critic.split(",")},
        "policy": _policy(row.policies, but=sampler),
        "sampler": sampler,
    }
    root = Field.declared_in(_Root)
    root["algorithm"] = root["algorithm"]._replace(default=algorithm)
    root["critic"] = root["critic"]._replace(default=critic, bound=Lists(row.critics))
    return root | {f"{s}.{k}": v for s, own in sections.items() for k, v in own.items()}


def _policy(names: Sequence[str], but: Collection[str]) -> dict[str, Field]:
    """The section `policy` of some policy learners, without the keys `but` of other sections."""
    learners = [Part.named("policy", name).fields for name in names]
    return {k: v for own in learners for k, v in own.items() if k not in but}


def _sampler(algorithm: str) -> dict[str, Field]:
    """The section `sampler`. A sampler may have a default of its own for what all samplers have."""
    own = METHODS[algorithm].free_options
    common = Field.declared_in(_Sampler)
    return own | {k: v._replace(default=own.get(k, v).default) for k, v in common.items()}


def check_together(flat: Mapping[str, Any]) -> None:
    """Raises `UserError` for values that are sound each by itself and not beside each other.

    `flat` is a whole config, {"data.chunk": 5, …}, whose values are in their bounds.
    """
    _check_seeds(flat)
    _check_returns(flat)
    if not flat["env"]:
        raise UserError(
            "config key env is empty: name an environment, --config.env=…, or data:NAME for none"
        )
    name = EnvName.parse(flat["env"])
    _check_needs(flat, name)
    _check_critic_output(flat)
    _check_critic_form(flat)
    for critic in flat["critic"].split(","):
        _check_next_action(flat, critic)
    _check_two_levels(flat)
    _check_rewards(flat, name)
    _check_frozen(flat)


def _check_frozen(flat: Mapping[str, Any]) -> None:
    """A part is added to a run, and the method has it."""
    run, added = flat["frozen.run"], flat["frozen.add"]
    if bool(run) != bool(added):
        lacking, given = ("frozen.add", "frozen.run") if run else ("frozen.run", "frozen.add")
        raise UserError(f"config key {lacking} is empty; {given} needs it: give both or none")
    learned = (*METHODS[flat["algorithm"]].policies, *flat["critic"].split(","))
    if added and added not in learned:
        raise UserError(
            f"config key frozen.add is {added!r}; algorithm {flat['algorithm']!r} learns "
            f"{', '.join(learned)}: name one of these"
        )


def _check_seeds(flat: Mapping[str, Any]) -> None:
    if flat["seed"] + flat["seeds"] > 2**32:
        raise UserError(
            f"config keys seed and seeds are {flat['seed']} and {flat['seeds']}; the last seed, "
            f"seed + seeds - 1, must be below {2**32}"
        )


def _check_returns(flat: Mapping[str, Any]) -> None:
    if 0 < flat["data.n_step"] < flat["data.chunk"]:
        raise UserError(
            f"config key data.n_step is {flat['data.n_step']}; it must be 0 or at least data.chunk"
        )


def _check_needs(flat: Mapping[str, Any], name: EnvName) -> None:
    """What the parts of a method ask of the environment."""
    means = {
        "goals": f"an environment with goals, such as {name.dataset}",
        "goal_observations": "goals that are observations",
    }
    provided = {"goals": bool(name.goals), "goal_observations": name.goals == "observation"}
    for who, need in _needs(flat):
        if not provided.get(need, True):  # other needs are of other parts
            raise UserError(f"{who} needs {means[need]}")


def _needs(flat: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Who needs what, of other parts too."""
    row, algorithm = METHODS[flat["algorithm"]], f"algorithm {flat['algorithm']!r}"
    critic = f"critic {flat['critic']!r}"
    if row.goals:
        yield algorithm, "goals"
    for one in flat["critic"].split(","):
        yield from ((f"critic {one!r}", need) for need in Part.named("critic", one).needs)
    if flat["networks.critic_output"] == "sigmoid":
        yield f"{critic} with sigmoid outputs", "goals"
    for name in row.policies:
        yield from ((algorithm, need) for need in Part.named("policy", name).needs)


def _setters(key: str, value: Any) -> list[str]:
    """The critics that a config value makes what they are."""
    return [name for name, found in Part.all("critic").items() if found.sets.get(key) == value]


def _check_critic_output(flat: Mapping[str, Any]) -> None:
    critics = _setters("networks.critic_output", "sigmoid")
    between = flat["critic"] in critics and not flat["goals.negative_reward"]
    if flat["networks.critic_output"] == "sigmoid" and not between:
        raise UserError(
            "networks.critic_output=sigmoid is for values between 0 and 1: "
            f"set critic={' or '.join(critics)} and goals.negative_reward=false"
        )


def _check_critic_form(flat: Mapping[str, Any]) -> None:
    for form in ("bilinear", "quasimetric"):
        critics = _setters("networks.critic_form", form)
        if (flat["networks.critic_form"] == form) != (flat["critic"] in critics):
            raise UserError(
                f"networks.critic_form={form} belongs to critic={' or '.join(critics)}, and it alone"
            )


def _check_next_action(flat: Mapping[str, Any], critic: str) -> None:
    """What a critic bootstraps on must be there, and be drawn where the best of several is asked."""
    key = f"critics.{critic}"
    whose, algorithm = flat.get(f"{key}.next"), flat["algorithm"]
    if whose == "data" and flat[f"{key}.best_of"] > 1:
        raise UserError(
            f"config key {key}.best_of is {flat[f'{key}.best_of']}, and the data have one next action: "
            f"set it to 1, or {key}.next to policy or reference"
        )
    row = METHODS[algorithm]
    flows = any("flow" in Part.named("policy", name).provides for name in row.policies)
    if (whose == "policy" and not row.acts) or (whose == "reference" and not flows):
        lacking = "flow policy: set it to policy or" if row.acts else "policy: set it to"
        raise UserError(
            f"config key {key}.next is {whose}, and algorithm {algorithm!r} trains no {lacking} data"
        )


def _check_two_levels(flat: Mapping[str, Any]) -> None:
    algorithm = flat["algorithm"]
    if any("levels" in Part.named("policy", name).provides for name in METHODS[algorithm].policies):
        for key in ("goals.subgoal_steps", "networks.goal_code"):
            if not flat[key]:
                raise UserError(f"config key {key} is 0; algorithm {algorithm!r} needs it")


def _check_rewards(flat: Mapping[str, Any], name: EnvName) -> None:
    idle = {
        "data.rewards": "",
        "data.reward_scale": 1.0,
        "data.reward_shift": 0.0,
        "data.sparse": False,
    }
    if name.goals and any(flat[key] != value for key, value in idle.items()):
        raise UserError(
            f"{', '.join(idle)} are for single tasks; with goals, rewards come from the rows: "
            "goals.negative_reward"
        )
