"""Critic learners: `factory(nets, sample, *, hyperparameters) -> Learner`.

`sample` acts as the policy that is trained beside the critic. A factory's keyword-only arguments are
its section of the config, defaults included.
"""

from collections.abc import Callable

from qgf_jax.methods.critics.contrastive import contrastive
from qgf_jax.methods.critics.dqc import dqc
from qgf_jax.methods.critics.iql import iql
from qgf_jax.methods.critics.ivl import ivl
from qgf_jax.methods.critics.none import none
from qgf_jax.methods.critics.td import td
from qgf_jax.types import Learner

CRITICS: dict[str, Callable[..., Learner]] = {
    "iql": iql,
    "td": td,
    "dqc": dqc,
    "contrastive": contrastive,
    "ivl": ivl,
    "none": none,
}
