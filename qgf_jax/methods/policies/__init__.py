"""Policy learners: `factory(nets, *, hyperparameters) -> Learner`, one file an idea.

A factory's keyword-only arguments are its part of the config's section `policy`, defaults included;
two learners of one run that name an argument alike mean the same by it. `num_steps` is the
sampler's. The group "policy" is the reference flow, "actor" whatever a learner improves on it.
"""

from collections.abc import Callable

from qgf_jax.methods.policies.cfgrl import cfgrl
from qgf_jax.methods.policies.diffusion import dac, qsm
from qgf_jax.methods.policies.distill import distill
from qgf_jax.methods.policies.dsrl import dsrl
from qgf_jax.methods.policies.edp import edp
from qgf_jax.methods.policies.fawac import fawac
from qgf_jax.methods.policies.fbrac import fbrac
from qgf_jax.methods.policies.flow_bc import flow_bc
from qgf_jax.methods.policies.fql import fql
from qgf_jax.methods.policies.gaussian import awr, ddpg_bc, gaussian_bc, rebrac
from qgf_jax.methods.policies.hierarchical import hiql, value_awr
from qgf_jax.methods.policies.qam import qam
from qgf_jax.methods.policies.robust_q import robust_q
from qgf_jax.types import Learner

POLICIES: dict[str, Callable[..., Learner]] = {
    "flow_bc": flow_bc,
    "distill": distill,
    "robust_q": robust_q,
    "cfgrl": cfgrl,
    "edp": edp,
    "fql": fql,
    "qam": qam,
    "qsm": qsm,
    "dac": dac,
    "fawac": fawac,
    "fbrac": fbrac,
    "dsrl": dsrl,
    "awr": awr,
    "rebrac": rebrac,
    "gaussian_bc": gaussian_bc,
    "ddpg_bc": ddpg_bc,
    "value_awr": value_awr,
    "hiql": hiql,
}
