"""Q-Guided Flow on your own policy: flows, guidance rules, units and samplers in JAX, and nothing else.

    field = qgf_guide.guide(velocity, q, weight=3.0)  # velocity(a, t) -> [D], q(a) -> []
    action = qgf_guide.integrate(field, noise, num_steps=10)

The names below load on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qgf_guide.diffusion import Diffusion, velocity_to
    from qgf_guide.errors import UserError
    from qgf_guide.flow import endpoint, integrate, integrate_within
    from qgf_guide.guidance import RULES, SCHEDULES, UNITS, disagreement_gate, guide
    from qgf_guide.selection import best_of

_HOMES = {
    "Diffusion": "diffusion",
    "RULES": "guidance",
    "SCHEDULES": "guidance",
    "UNITS": "guidance",
    "UserError": "errors",
    "best_of": "selection",
    "disagreement_gate": "guidance",
    "endpoint": "flow",
    "guide": "guidance",
    "integrate": "flow",
    "integrate_within": "flow",
    "velocity_to": "diffusion",
}

__all__ = [
    "RULES",
    "SCHEDULES",
    "UNITS",
    "Diffusion",
    "UserError",
    "best_of",
    "disagreement_gate",
    "endpoint",
    "guide",
    "integrate",
    "integrate_within",
    "velocity_to",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qgf_guide' has no attribute {name!r}")
    return getattr(importlib.import_module(f"qgf_guide.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
