"""TEMPORARY, until policies/ and critics/ declare themselves: what their decorators will say.

Delete this file with its two uses in parts.py, and add "policies" and "critics" to `_PACKAGES` there.
"""

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qgf_jax import bounds

_RETURNS = ("target_q", "returns")
# kind, module, function, provides, needs, sets
_LEARNERS: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...], dict[str, Any]], ...] = (
    ("policy", "flow_bc", "flow_bc", ("flow",), (), {}),
    ("policy", "distill", "distill", ("endpoint",), ("flow",), {}),
    ("policy", "robust_q", "robust_q", ("noisy_q",), ("target_q",), {}),
    ("policy", "cfgrl", "cfgrl", ("labelled_flow",), ("target_q", "v"), {}),
    ("policy", "edp", "edp", ("actor_flow",), _RETURNS, {}),
    ("policy", "fql", "fql", ("one_step_actor",), ("flow", "q", "returns"), {}),
    ("policy", "qam", "qam", ("actor_flow",), ("flow", *_RETURNS), {}),
    ("policy", "diffusion", "qsm", ("diffusion_actor",), _RETURNS, {}),
    ("policy", "diffusion", "dac", ("diffusion_actor",), _RETURNS, {}),
    ("policy", "fawac", "fawac", ("actor_flow",), ("q", *_RETURNS), {}),
    ("policy", "fbrac", "fbrac", ("actor_flow",), ("q", "returns"), {}),
    ("policy", "dsrl", "dsrl", ("noise_actor",), ("flow", "q", "returns"), {}),
    ("policy", "gaussian", "awr", ("gaussian_actor",), ("target_q", "v"), {}),
    ("policy", "gaussian", "rebrac", ("gaussian_actor",), ("q", *_RETURNS), {}),
    ("policy", "gaussian", "gaussian_bc", ("gaussian_actor",), (), {}),
    ("policy", "gaussian", "ddpg_bc", ("gaussian_actor",), ("q",), {}),
    ("policy", "hierarchical", "value_awr", ("gaussian_actor",), ("goal_v",), {}),
    ("policy", "hierarchical", "hiql", ("levels",), ("goal_v", "goal_observations"), {}),
    ("critic", "iql", "iql", ("q", "target_q", "v", "returns"), (), {}),
    ("critic", "td", "td", ("q", "target_q", "returns"), (), {}),
    # Its V may be a logit, and its Q a probability: neither is a return.
    (
        "critic", "dqc", "dqc", ("q", "target_q"), (),
        {
            "networks.critic_output": "sigmoid",
            "networks.ranking": "online",
            "goals.negative": False,
            "goals.critic_geometric": False,
        },
    ),
    (
        "critic", "contrastive", "contrastive", ("q",), ("goals",),
        {"networks.critic_form": "bilinear", "goals.critic": (0.0, 1.0, 0.0)},
    ),
    ("critic", "ivl", "ivl", ("goal_v",), ("goals",), {}),
    ("critic", "none", "none", (), (), {}),
)  # fmt: skip


def learners(make_part: Callable[..., Any]) -> Iterator[Any]:
    """The parts, whose modules load when they are first made."""
    for kind, module, function, provides, needs, sets in _LEARNERS:
        package = {"policy": "policies", "critic": "critics"}[kind]
        yield make_part(
            kind,
            function,
            functools.partial(_make, f"qgf_jax.methods.{package}.{module}", function),
            _fields(Path(__file__).parent / package / f"{module}.py", function),
            frozenset(provides),
            frozenset(needs),
            sets=sets,
        )


def _make(module: str, function: str, *arguments: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments, **options)


def _fields(path: Path, function: str) -> dict[str, bounds.Field]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    node = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == function)
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        arg.arg: bounds.Field(ast.literal_eval(value), bounds.of_source(arg.annotation))
        for arg, value in pairs
        if value is not None
    }
