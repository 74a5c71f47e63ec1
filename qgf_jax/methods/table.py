"""The table of methods. A method is policy learners, a critic learner and a sampler.

A run trains the learners of one method, and serves every method that needs no others: the test-time
methods all act with one pair of a flow policy and a critic. A new one is a loss, a rule or a sampler
in its own file, and a row here.
"""

import ast
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax import bounds
from qgf_jax.bounds import Field
from qgf_jax.errors import UserError, unknown_name_error

Options = tuple[tuple[str, Any], ...]
"""What a user sets of a sampler, sorted by name."""


class Method(NamedTuple):
    """A row. Names are keys of `POLICIES`, `CRITICS`, `SAMPLERS` and `guidance.RULES`."""

    about: str
    source: str
    sampler: str = "guided"
    options: Mapping[str, Any] = {}
    """What the row fixes of the sampler and of its rule."""
    policies: tuple[str, ...] = ("flow_bc",)
    critics: tuple[str, ...] = ("iql", "td")
    """That it can be trained with; the first unless the user says otherwise."""
    weighted: bool = False
    """Whether the guidance weight means anything."""
    at_zero: str = ""
    """The method with the same actions at weight 0, if there is one."""
    best_of: tuple[int, ...] = (1,)
    """How many candidates an action is chosen from, unless the user says otherwise."""
    fixed_best_of: bool = False
    weights: tuple[float, ...] = ()
    """What to sweep over unless the user says otherwise, where the units are not those of `qgf`."""
    settings: Mapping[str, Any] = {}
    """Config values that make the method what it is."""
    by_env: Mapping[str, Mapping[str, Any]] = {}
    """Config values that its authors chose by environment: key -> {pattern of the data's name: value}.

    The first pattern that fits counts, unless the file says another value than the default of `make`,
    or the command line sets the key."""
    goals: bool = False
    """Whether it needs an environment with goals."""
    paper: Mapping[str, Any] = {}
    """What the preset `paper` changes for it, beyond `config.PRESETS`."""


_QGF = "Zhou et al., 2026, arXiv 2606.11087"
_LI = "Li et al., 2026, arXiv 2601.14234"
_PLAIN_FLOW = {
    "networks.time_feature": "raw",
    "networks.policy_layer_norm": False,
    "policy.time_grid": 0,
    "policy.weighted": True,
}
_FIELD = {"networks.diffusion_field": "fourier", "sampler.posterior": False}
_CLIP = {"optimizer.clip_norm": 1.0}
_ACTOR = {"rule": "unguided", "group": "actor"}
_ANY = ("iql", "td", "dqc", "contrastive")
_OGBENCH = "Park et al., 2025, arXiv 2410.20092"
# The benchmark's actors have no layer norm, its critics do.
_PLAIN_ACTOR = {"networks.policy_layer_norm": False}
_MANIPULATION = ("cube-*", "scene-*", "puzzle-*")


def _guided(about: str, source: str, **parts: Any) -> Method:
    """A row whose weight is one of guidance: at 0 it is the reference."""
    parts = parts if "policies" in parts else {"critics": _ANY, **parts}
    return Method(about, source, weighted=True, at_zero="reference", **parts)


METHODS: dict[str, Method] = {
    # Test-time methods: one flow policy and one critic serve them all.
    "reference": Method(
        "the flow policy alone",
        _QGF,
        options={"rule": "unguided"},
        critics=_ANY,
        fixed_best_of=True,
    ),
    "best_of": Method(
        "best of N reference actions by the critic",
        f"{_QGF}, Eq. 17",
        options={"rule": "unguided"},
        critics=_ANY,
        best_of=(4,),
    ),
    "ifql": Method(
        "as best_of, under its own name",
        "Park et al., 2025, arXiv 2502.02538",
        options={"rule": "unguided"},
        critics=_ANY,
        best_of=(32,),
        fixed_best_of=True,
    ),
    "qgf": _guided(
        "critic gradient at the one-step endpoint, Jacobian taken as I",
        f"{_QGF}, Eq. 9",
        options={"rule": "one_step"},
    ),
    "qgf_jacobian": _guided(
        "critic gradient at the one-step endpoint, through its Jacobian",
        f"{_QGF}, Eq. 8",
        options={"rule": "one_step_jacobian"},
    ),
    "qgf_chain": _guided(
        "critic gradient at the end of the remaining flow, Jacobian taken as I",
        f"{_QGF}, appendix C",
        options={"rule": "one_step", "endpoint": "flow"},
    ),
    "qgf_regularized": _guided(
        "as qgf, plus epsilon times the Jacobian's part",
        f"{_QGF}, Eq. 10",
        options={"rule": "regularized"},
    ),
    "qgf_smooth": _guided(
        "through the mean of Jacobians at perturbed actions",
        f"{_QGF}, appendix C",
        options={"rule": "smooth"},
    ),
    "qgf_ortho": _guided(
        "through the orthogonal factor of the Jacobian",
        f"{_QGF}, appendix C",
        options={"rule": "ortho"},
    ),
    "jacobian_schedule": _guided(
        "as qgf_jacobian, the weight times (1 - t) / t",
        "the exact first-order tilt of a flow, see docs/guidance.md",
        options={"rule": "one_step_jacobian", "schedule": "ratio"},
    ),
    "qgf_relative": _guided(
        "as qgf, along the covariance of reference actions, the weight in spreads of their Q",
        "this project, see docs/guidance.md",
        options={"rule": "one_step", "units": "covariance"},
        weights=(0.3, 1.0, 3.0, 10.0),
    ),
    "qfql": _guided(
        "critic gradient at the noisy action",
        f"{_QGF}, Eq. 19",
        options={"rule": "noisy"},
    ),
    "bptt": _guided(
        "critic gradient through the whole remaining flow",
        f"{_QGF}, Eq. 18",
        options={"rule": "one_step_jacobian", "endpoint": "flow"},
    ),
    "grad_step": _guided(
        "gradient ascent on the critic after the flow; the weight is the step size",
        f"{_QGF}, Algorithm 2",
        sampler="ascended",
        weights=(0.003, 0.01, 0.03, 0.1),
    ),
    # Test-time methods that need one more network.
    "qgf_distill": _guided(
        "as qgf, at an endpoint that a network has learned",
        f"{_QGF}, appendix C",
        options={"rule": "one_step", "endpoint": "learned"},
        policies=("flow_bc", "distill"),
        critics=_ANY,
    ),
    "qgf_jacobian_distill": _guided(
        "as qgf_jacobian, at an endpoint that a network has learned",
        f"{_QGF}, appendix C",
        options={"rule": "one_step_jacobian", "endpoint": "learned"},
        policies=("flow_bc", "distill"),
        critics=_ANY,
    ),
    "robust_q": _guided(
        "gradient of a critic that was trained on noisy actions",
        f"{_QGF}, Eq. 20",
        options={"rule": "noise_aware"},
        policies=("flow_bc", "robust_q"),
        critics=("iql", "td", "dqc"),
    ),
    # Methods with a policy of their own.
    "cfgrl": Method(
        "classifier-free guidance towards actions with a positive advantage",
        "Frans et al., 2025, arXiv 2505.23458",
        sampler="conditioned",
        policies=("cfgrl",),
        critics=("iql",),
        weighted=True,
        weights=(1.0, 2.0, 3.0, 5.0, 10.0, 15.0),
        paper={"data.action_clip": 0.0},
    ),
    "edp": Method(
        "flow trained to ascend the critic at its one-step endpoint",
        "Kang et al., 2023, arXiv 2305.20081",
        options=_ACTOR,
        policies=("edp",),
    ),
    "fql": Method(
        "one-step actor, distilled from the flow and pushed up the critic",
        "Park et al., 2025, arXiv 2502.02538",
        sampler="one_shot",
        policies=("flow_bc", "fql"),
        # The mean of two slow members, and their least for antmaze, as in the code of its authors.
        settings={"critics.td.rho": 0.0},
        by_env={"critics.td.rho": {"antmaze-*": 1.0}},
        paper={**_PLAIN_FLOW, "data.action_clip": 0.0},
    ),
    "qam": Method(
        "flow tilted by adjoint matching",
        _LI,
        options=_ACTOR,
        policies=("flow_bc", "qam"),
        settings=_CLIP,
        paper={
            **_PLAIN_FLOW,
            "policy.adjoint_ahead": True,
            "policy.adjoint_weighted": False,
            "policy.inverse_temperature": 0.1,
        },
    ),
    "qsm": Method(
        "diffusion whose score is the critic's gradient",
        "Psenka et al., 2024, arXiv 2312.11752",
        sampler="denoised",
        policies=("qsm",),
        settings={**_CLIP, "policy.bc_weight": 0.0},
        paper=_FIELD,
    ),
    "qsm_bc": Method(
        "as qsm, with a loss of behavioural cloning",
        f"{_QGF}, Eq. 21",
        sampler="denoised",
        policies=("qsm",),
        settings=_CLIP,
        paper=_FIELD,
    ),
    "dac": Method(
        "diffusion cloned from the data, its noise tilted by the critic's gradient",
        "Fang et al., 2025, arXiv 2405.20555",
        sampler="denoised",
        policies=("dac",),
        settings=_CLIP,
        paper=_FIELD,
    ),
    "fawac": Method(
        "flow cloned from the data, weighted by the exponential advantage",
        "Park et al., 2025, arXiv 2502.02538",
        options=_ACTOR,
        policies=("fawac",),
        critics=("td", "iql"),
        paper=_PLAIN_FLOW,
    ),
    "fbrac": Method(
        "flow trained through all of its steps",
        "Park et al., 2025, arXiv 2502.02538",
        options=_ACTOR,
        policies=("fbrac",),
        critics=("td", "iql"),
        paper=_PLAIN_FLOW,
    ),
    "dsrl": Method(
        "actor that chooses the noise of the flow",
        "Wagenmaker et al., 2025, arXiv 2506.15799",
        sampler="steered",
        policies=("flow_bc", "dsrl"),
        critics=("td", "iql"),
        paper={**_PLAIN_FLOW, "policy.weighted": False, "critics.td.rho": 0.0},
    ),
    "iql": Method(
        "Gaussian policy by advantage-weighted regression",
        "Kostrikov et al., 2022, arXiv 2110.06169",
        sampler="gaussian",
        policies=("awr",),
        critics=("iql",),
    ),
    "rebrac": Method(
        "deterministic policy, cloned and pushed up the critic",
        "Tarasov et al., 2023, arXiv 2305.09836",
        sampler="gaussian",
        options={"squash": True},
        policies=("rebrac",),
        critics=("td", "iql"),
        settings={"critics.td.rho": 1.0, "critics.td.noise": 0.2},
    ),
    # Methods for goals alone, as the benchmark has them.
    "gcbc": Method(
        "Gaussian policy, cloned from what led to the goal",
        f"{_OGBENCH}, GCBC",
        sampler="gaussian",
        policies=("gaussian_bc",),
        critics=("none",),
        goals=True,
        settings=_PLAIN_ACTOR,
        fixed_best_of=True,
    ),
    "gciql": Method(
        "Gaussian policy, cloned and pushed up the critic",
        f"{_OGBENCH}, GCIQL",
        sampler="gaussian",
        policies=("ddpg_bc",),
        critics=("iql",),
        goals=True,
        settings=_PLAIN_ACTOR,
        by_env={
            "policy.alpha": {
                "pointmaze-*": 0.003,
                "antmaze-*-explore-*": 0.01,
                "antmaze-*": 0.3,
                "humanoidmaze-*": 0.1,
                "antsoccer-*": 0.1,
                "*-noisy-*": 0.03,
                "*-play-*": 1.0,
            }
        },
        fixed_best_of=True,
    ),
    "gcivl": Method(
        "Gaussian policy, cloned where V rises",
        f"{_OGBENCH}, GCIVL",
        sampler="gaussian",
        policies=("value_awr",),
        critics=("ivl",),
        goals=True,
        settings=_PLAIN_ACTOR,
        fixed_best_of=True,
    ),
    "crl": Method(
        "Gaussian policy, cloned and pushed up a contrastive critic",
        "Eysenbach et al., 2022, arXiv 2206.07568",
        sampler="gaussian",
        policies=("ddpg_bc",),
        critics=("contrastive",),
        goals=True,
        settings={**_PLAIN_ACTOR, "policy.alpha": 0.1},
        by_env={
            "policy.alpha": {
                "pointmaze-*": 0.03,
                "antmaze-*-explore-*": 0.003,
                "antmaze-*": 0.1,
                "humanoidmaze-*": 0.1,
                "antsoccer-*": 0.3,
                "*-noisy-*": 0.1,
                "*-play-*": 3.0,
            }
        },
        fixed_best_of=True,
    ),
    "hiql": Method(
        "one policy for waypoints and one for actions, both cloned where V rises",
        "Park et al., 2023, arXiv 2307.11949",
        sampler="hierarchical",
        policies=("hiql",),
        critics=("ivl",),
        goals=True,
        fixed_best_of=True,
        settings={
            **_PLAIN_ACTOR,
            "critics.ivl.expectile": 0.7,
            "critics.ivl.online_code": True,
            "networks.goal_code": 10,
            "goals.subgoal_steps": 25,
        },
        by_env={
            "goals.subgoal_steps": {"humanoidmaze-*": 100, **dict.fromkeys(_MANIPULATION, 10)},
            "policy.low_inverse_temperature": {"*-explore-*": 10.0},
            "policy.high_inverse_temperature": {"*-explore-*": 10.0},
        },
    ),
}

CRITIC_SETTINGS: dict[str, dict[str, Any]] = {
    "dqc": {
        "networks.critic_output": "sigmoid",
        "networks.ranking": "online",
        "goals.negative_reward": False,
        "goals.critic_geometric": False,
    },
    "contrastive": {"networks.critic_form": "bilinear", "goals.critic": (0.0, 1.0, 0.0)},
}
"""Config values that make a critic what it is."""


def method(name: str) -> Method:
    """The row called `name`; `UserError` with the nearest one if there is none."""
    if name not in METHODS:
        raise unknown_name_error("method", name, METHODS)
    return METHODS[name]


def served_by(algorithm: str) -> list[str]:
    """The methods that a checkpoint trained as `algorithm` can act with."""
    trained = method(algorithm)
    return [
        name
        for name, row in METHODS.items()
        if name == algorithm
        or (set(row.policies) <= set(trained.policies) and not _same_actions_twice(row, trained))
    ]


def _same_actions_twice(row: Method, trained: Method) -> bool:
    """Learners alike and the settings not, as of qsm and qsm_bc: two trainings, one sampler."""
    return row.policies == trained.policies and row.settings != trained.settings


def canonical(name: str) -> str:
    """The first method with the same sampler, so that reference actions are sampled once."""

    def acting(row: Method) -> tuple[Any, ...]:
        return row.policies, row.settings, row.sampler, row.options

    return next(n for n, row in METHODS.items() if acting(row) == acting(method(name)))


@functools.cache
def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


@functools.cache
def factory_fields(module: str, function: str) -> dict[str, Field]:
    """The keyword-only arguments of `qgf_jax.<module>.<function>`, with defaults and bounds.

    They are a factory's hyperparameters, and this is what makes its signature their only home. Read
    from the source rather than by importing it, because the import of JAX costs seconds and a
    mistyped option should not.
    """
    path = Path(__file__).parent.parent.joinpath(*module.split(".")).with_suffix(".py")
    node = _functions(path).get(function)
    if node is None:
        raise LookupError(f"{path} has no function {function}")
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        arg.arg: bounds.of_source(arg.annotation, ast.literal_eval(value))
        for arg, value in pairs
        if value is not None
    }


@functools.cache
def learner_fields(package: str, name: str) -> dict[str, Field]:
    """The hyperparameters of a learner of "critics" or "policies", whichever file it is in."""
    for path in sorted(Path(__file__).parent.glob(f"{package}/*.py")):
        if name in _functions(path):
            return factory_fields(f"methods.{package}.{path.stem}", name)
    raise LookupError(f"no learner {name} in {package}")


policy_fields = functools.partial(learner_fields, "policies")
critic_fields = functools.partial(learner_fields, "critics")


def sampler_fields(name: str) -> dict[str, Field]:
    """The options of a method's sampler and of its rule, with the row's own values.

    Those that cannot change anything, such as the schedule of a policy without guidance, are left out.
    """
    row = method(name)
    rule = row.options.get("rule", "")
    found = factory_fields("methods.samplers", row.sampler)
    idle = {"unguided": _OF_GUIDANCE, "noisy": {"endpoint"}, "noise_aware": {"endpoint", "scale"}}
    kept = {k: v for k, v in found.items() if k not in idle.get(rule, ())}
    kept |= factory_fields("core.guidance", rule) if rule else {}
    return kept | {k: kept[k]._replace(default=v) for k, v in row.options.items()}


_OF_GUIDANCE = {"endpoint", "schedule", "cap", "units", "scale"}


def free_options(name: str) -> dict[str, Field]:
    """The options of a method that a user may set."""
    fixed = {*method(name).options, "group"}
    return {k: v for k, v in sampler_fields(name).items() if k not in fixed}


def check_option(name: str, option: str, value: Any) -> None:
    """Raises `UserError` if `value` is none that `option` of method `name` can have."""
    bounds.check(f"option {option} of {name}", value, _option(name, option).bound)


def _option(name: str, option: str) -> Field:
    free = free_options(name)
    if option not in free:
        raise unknown_name_error(f"option of {name}", option, free)
    return free[option]


def parse(text: str) -> tuple[str, Options]:
    """A method as the command line writes it: NAME or NAME:option=value:option=value.

    `UserError` for what does not exist, for a value out of bounds, and for what makes the row what
    it is.
    """
    name, *settings = text.split(":")
    method(name)
    found: dict[str, Any] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"method {text!r}: {setting!r} is no option=value")
        bound = _option(name, option).bound
        found[option] = bounds.read(f"option {option} of {name}", value, bound)
    return name, tuple(sorted(found.items()))


# What follows needs JAX, and the table above does not: `qgf methods` and a mistyped option answer
# without waiting for it. Hence imports inside functions.


def build_networks(config: Mapping[str, Any], spec: Any) -> Any:
    """The `Networks` of a resolved config and a `Spec`."""
    from qgf_jax.core import networks

    return networks.build(spec, config.get("precision", "float32"), **config["networks"])


def build_learner(config: Mapping[str, Any], spec: Any) -> Any:
    """The `Learner` that trains `config["algorithm"]`."""
    from qgf_jax.methods.critics import CRITICS
    from qgf_jax.methods.policies import POLICIES
    from qgf_jax.types import as_actor, merge

    nets, row = build_networks(config, spec), method(config["algorithm"])
    # What a critic bootstraps on is the policy that is trained, before any guidance.
    sample = build_sample(config, spec, row.at_zero or config["algorithm"])
    critic = config["critic"]
    learners = [CRITICS[critic](nets, sample, **config["critics"][critic])]
    given = config["policy"] | config["sampler"]
    for name in row.policies:
        learner = POLICIES[name](nets, **{k: given[k] for k in policy_fields(name)})
        learners.append(as_actor(learner))
    return merge(*learners)


def sampler_settings(config: Mapping[str, Any], name: str, options: Options = ()) -> dict[str, Any]:
    """What the sampler of method `name` is called with, over a checkpoint of `config`.

    The run's own options are those of the method that it was trained as. Any other shares the number
    of steps alone, so that a row of a table is what its label says.
    """
    known = sampler_fields(name)
    mine = name == config["algorithm"]
    of_run = {
        k: v for k, v in config["sampler"].items() if k in known and (mine or k == "num_steps")
    }
    return {**of_run, **method(name).options, **dict(options)}


def build_sample(
    config: Mapping[str, Any], spec: Any, name: str, best_of: int = 1, options: Options = ()
) -> Any:
    """The `Sample` of method `name` over a checkpoint of `config`; `UserError` if `best_of` < 1."""
    from qgf_jax.methods import samplers

    if best_of < 1:
        raise UserError(f"best of {best_of} candidates: give at least 1")
    nets, row = build_networks(config, spec), method(name)
    settings = sampler_settings(config, name, options)
    return samplers.best_of(nets, samplers.SAMPLERS[row.sampler](nets, **settings), best_of)
