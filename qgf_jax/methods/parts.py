"""Parts of methods: learners, samplers, guidance rules and what else one can choose, each in one file.

A part is a function with a decorator, as `qgf_guide.parts` says:

    @critic(provides=("q", "target_q", "v"), source="Kostrikov et al., 2022, arXiv 2110.06169")
    def iql(nets, sample, *, expectile: Annotated[OpenFraction, "level of V's expectile"] = 0.9):
        ...

Critics provide "q", "target_q" (has a target copy), "returns" (Q is a return, in units of reward), "v"
(in the units of Q), "goal_v"; policies "flow", "actor_flow" … Needed may be, besides these, what the
environment ("goals") or the run ("calibration", "weights", "evaluation") provides.

What each kind of function takes and returns stands in the package of its kind: `policies`, `critics`,
`samplers` (samplers, selectors), `qgf_guide.rules` (rules, units, schedules), or in the modules
`endpoints` and `criteria`. Other packages name their modules in the entry-point group `qgf_jax.parts`;
these may declare methods too, by `qgf_jax.methods.table.row`. No JAX here, nor while the package's own
parts are declared.
"""

import importlib
import importlib.metadata
from typing import Any

from qgf_guide.parts import Names, Part, declare_kind, import_all, load_with, rule, schedule, unit
from qgf_jax.runtime.plugins import load_entry

KINDS = (
    "policy", "critic", "sampler", "selector", "rule", "unit", "schedule", "endpoint", "criterion",
)  # fmt: skip
_PACKAGES = ("policies", "critics", "samplers")
_MODULES = ("endpoints", "criteria", "rows")
_GROUP = "qgf_jax.parts"
_TABLES = {f"{kind.upper()}S": kind for kind in KINDS} | {
    "POLICIES": "policy",
    "CRITERIA": "criterion",
}

__all__ = ["KINDS", "Names", "Part", "rule", "schedule", "unit"]

policy, critic, sampler, selector, endpoint, criterion = map(
    declare_kind, ("policy", "critic", "sampler", "selector", "endpoint", "criterion")
)


def _load() -> None:
    """Imports this package's parts and methods, then those of other packages.

    Raises `UserError` if a module that another package names cannot be imported.
    """
    for package in _PACKAGES:
        import_all(f"qgf_jax.methods.{package}")
    for module in _MODULES:
        importlib.import_module(f"qgf_jax.methods.{module}")
    for entry in importlib.metadata.entry_points(group=_GROUP):
        load_entry(entry, "parts of methods")


load_with(_load)


def __getattr__(name: str) -> Any:
    """`RULES`, `CRITICS` and so on: name -> function of all parts of a kind, whoever adds them."""
    if name not in _TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return {key: found.make for key, found in Part.all(_TABLES[name]).items()}
