"""Policy learners: `factory(nets, *, hyperparameters) -> Learner`, one file an idea.

A factory's keyword-only arguments are its section of the config, defaults included.
"""

from collections.abc import Callable

from qgf_jax.policies.flow_bc import flow_bc
from qgf_jax.types import Learner

POLICIES: dict[str, Callable[..., Learner]] = {"flow_bc": flow_bc}
