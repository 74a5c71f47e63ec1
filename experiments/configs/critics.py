"""Five critics under one flow policy: heads and target taken apart, on three tasks.

    qgf train --config=experiments/configs/critics.py:cube_single_sarsa_10 --workdir=runs/sarsa
    qgf evaluate --workdir=runs/sarsa --methods=qgf,qgf_jacobian,best_of,qgf:rho=0,qgf:rho=1

| critic | target of Q | members | what acts |
| --- | --- | --- | --- |
| iql_2 | IQL's V of the next state | 2 | their least |
| iql_10 | the same | 10 | mean - 0.5 * standard deviation |
| td_reference_10 | the flow policy's next action | 10 | the same |
| td_qam_10 | the next action of QAM, which is trained beside it | 10 | the same |
| sarsa_10 | the data's next action | 10 | the same |

`iql_2` is what the paper trains (Zhou et al., 2026), `td_qam_10` the critic of its Fig. 10. Each run
trains its own flow policy, on the same batches, and serves every test-time method;
`experiments/sweeps/critics.py` trains some of them on one policy. Results: experiments/results.
"""

import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs

_TEN = {"networks.ensemble": 10, "networks.aggregate": "pessimistic", "networks.rho": 0.5}
_CHOICES = {"td_qam_10": {"algorithm": "qam", "critic": "td"}}
CRITICS: dict[str, dict[str, Any]] = {
    "iql_2": {},
    "iql_10": _TEN,
    "td_reference_10": {**_TEN, "critics.td.next": "reference"},
    "td_qam_10": {**_TEN, "critics.td.next": "policy"},
    "sarsa_10": {**_TEN, "critics.td.next": "data"},
}
_HALF = {"train.steps": 10_000}  # of study.py: ten critics under QAM cost fourteen times two
_OTHERS = runpy.run_path(str(Path(__file__).with_name("study.py")))["VARIANTS"]
TASKS: dict[str, dict[str, Any]] = {
    "cube_single": _OTHERS["cube_single_2"] | _HALF,
    "puzzle_3x3": _OTHERS["puzzle_3x3_4"] | _HALF,
    "pointmaze_large": _OTHERS["pointmaze_large_1"],
}
VARIANTS = {f"{task}_{critic}": (task, critic) for task in TASKS for critic in CRITICS}


def get_config(variant: str = "cube_single_iql_2", **choice: str) -> ConfigDict:
    task, critic = VARIANTS[variant]
    own = _CHOICES.get(
        critic, {"algorithm": "qgf", "critic": "td" if "iql" not in critic else "iql"}
    )
    config = configs.make(**own | choice)
    configs.update(config, TASKS[task] | CRITICS[critic])
    return config
