"""Q-Guided Flow in JAX: pretrain a flow policy and a critic, improve the policy at test time.

The public names load on first use, so that importing the package costs nothing: the environment
workers and the command line need most of it without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from qgf_jax import renamed

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qgf_guide.errors import UserError
    from qgf_guide.flow import endpoint, integrate
    from qgf_guide.guidance import RULES, guide
    from qgf_jax.data.arrays import Dataset
    from qgf_jax.methods.pace import overlap
    from qgf_jax.methods.table import METHODS
    from qgf_jax.runs.critic import load_critic
    from qgf_jax.runs.loaded import load_policy
    from qgf_jax.training.loop import pretrain

_HOMES = {
    "Dataset": "qgf_jax.data.arrays",
    "METHODS": "qgf_jax.methods.table",
    "RULES": "qgf_guide.guidance",
    "UserError": "qgf_guide.errors",
    "endpoint": "qgf_guide.flow",
    "guide": "qgf_guide.guidance",
    "integrate": "qgf_guide.flow",
    "load_critic": "qgf_jax.runs.critic",
    "load_policy": "qgf_jax.runs.loaded",
    "overlap": "qgf_jax.methods.pace",
    "pretrain": "qgf_jax.training.loop",
}

__all__ = [
    "METHODS",
    "RULES",
    "Dataset",
    "UserError",
    "endpoint",
    "guide",
    "integrate",
    "load_critic",
    "load_policy",
    "overlap",
    "pretrain",
]


renamed.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qgf_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
