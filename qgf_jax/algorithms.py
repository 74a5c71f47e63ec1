"""The table of methods. A method is critic learners, a policy learner and a sampler.

Methods with the same learners are test-time methods of one checkpoint: train once, act with any.
A new one is a loss, a rule or a sampler in its own file, and a row here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from qgf_jax.errors import unknown


class Method(NamedTuple):
    """A row. Names are keys of `CRITICS`, `POLICIES` and `SAMPLERS`."""

    about: str
    critics: tuple[str, ...]
    policy: str
    sampler: str
    options: Mapping[str, Any]
    """What the row fixes of the sampler."""
    weighted: bool
    """Whether the guidance weight means anything."""
    best_of: tuple[int, ...] = (1,)
    """How many candidates an action is chosen from, unless the user says otherwise."""


def _test_time(about: str, rule: str, *, best_of: tuple[int, ...] = (1,)) -> Method:
    weighted = rule != "unguided"
    return Method(about, ("iql",), "flow_bc", "guided", {"rule": rule}, weighted, best_of)


METHODS: dict[str, Method] = {
    "reference": _test_time("the flow policy alone", "unguided"),
    "best_of": _test_time("best of N reference actions by the critic", "unguided", best_of=(4,)),
    "qgf": _test_time("critic gradient at the one-step endpoint, Jacobian taken as I", "one_step"),
    "qgf_jacobian": _test_time(
        "critic gradient at the one-step endpoint, through its Jacobian", "one_step_jacobian"
    ),
    "qfql": _test_time("critic gradient at the noisy action", "noisy"),
}


def method(name: str) -> Method:
    """The row called `name`; `UserError` with the nearest one if there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def served_by(algorithm: str) -> list[str]:
    """The methods that a checkpoint trained as `algorithm` can act with."""
    trained = method(algorithm)
    learners = (trained.critics, trained.policy)
    return [name for name, row in METHODS.items() if (row.critics, row.policy) == learners]


# What follows needs JAX, and the table above does not: `qgf methods` and a mistyped option answer
# without waiting for it. Hence imports inside functions.


def build_networks(config: Mapping[str, Any], spec: Any) -> Any:
    """The `Networks` of a resolved config and a `Spec`."""
    from qgf_jax import networks

    return networks.build(spec, **config["networks"])


def build_learner(config: Mapping[str, Any], spec: Any) -> Any:
    """The `Learner` that trains `config["algorithm"]`."""
    from qgf_jax.critics import CRITICS
    from qgf_jax.policies import POLICIES
    from qgf_jax.types import merge

    nets, row = build_networks(config, spec), method(config["algorithm"])
    critics = (CRITICS[name](nets, **config["critics"][name]) for name in row.critics)
    return merge(*critics, POLICIES[row.policy](nets, **config["policy"]))


def build_sample(config: Mapping[str, Any], spec: Any, name: str, best_of: int = 1) -> Any:
    """The `Sample` of method `name` over a checkpoint of `config`."""
    from qgf_jax import samplers

    nets, row = build_networks(config, spec), method(name)
    options = {**config["sampler"], **row.options}
    return samplers.best_of(nets, samplers.SAMPLERS[row.sampler](nets, **options), best_of)
