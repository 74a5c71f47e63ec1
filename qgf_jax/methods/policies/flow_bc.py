"""The reference policy: behavioural cloning by flow matching."""

from qgf_jax.bounds import Index
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import flow_matching, mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def flow_bc(nets: Networks, *, time_grid: Index = 0, weighted: bool = True) -> Learner:
    """Conditional flow matching on the data's action chunks (Zhou et al., 2026, Eq. 2).

    `time_grid`: 0 draws t uniformly from [0, 1); N from {0, 1/N, …, 1}, as the public code does.
    `weighted`: leave out chunks that are spliced from two trajectories; the public code keeps them.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"policy": nets.policy.init(key, obs, action, action[0])}

    def policy(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        return mean(
            flow_matching(nets, params["policy"], batch, key, time_grid), batch, weighted
        ), {}

    return Learner(init, {"policy": policy})
