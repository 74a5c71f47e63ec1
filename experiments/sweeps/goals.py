"""Goals: one checkpoint for all five tasks, in the variants that the paper leaves open.

The benchmark's own methods beside them.

    qgf collect --env=pointmaze-medium-navigate-v0 --episodes=300
    qgf collect --env=pointmaze-large-stitch-v0 --episodes=300
    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf sweep experiments/sweeps/goals.py --out=runs/goals
    qgf sweep experiments/sweeps/goals.py --out=runs/goals --only=cube_single_*

Ten to twenty minutes a run on a core.
"""

from typing import Any

from qgf_jax.sweep import Job

_SIGMOID = {"networks.critic_output": "sigmoid"}
RUNS: dict[str, dict[str, Any]] = {
    "dqc": _SIGMOID,
    "sees_goal": {**_SIGMOID, "networks.policy_goal": True},
    "squared": {"networks.critic_output": "linear", "networks.ranking": "target"},
    "iql": {"critic": "iql"},
    **{name: {"algorithm": name} for name in ("gcbc", "gciql", "crl", "hiql")},
}
ENVIRONMENTS = {
    "cube_single_small": ("dqc", "squared"),
    "pointmaze_medium_small": tuple(RUNS),
    "pointmaze_large_stitch_small": ("dqc", "squared"),
}
_MORE = ("--methods=reference,best_of --best_of=4,32",)
_WEIGHTS = "--weights=1,3,10,30,100"
PLAYED = {
    "dqc": (*_MORE, f"--methods=qgf,qgf_jacobian,qfql,bptt,qgf:scale=logit {_WEIGHTS}"),
    "squared": (*_MORE, f"--methods=qgf,qgf_jacobian,qfql,bptt {_WEIGHTS}"),
    "sees_goal": (*_MORE, f"--methods=qgf {_WEIGHTS}"),
    # IQL's Q counts steps, so its weights are smaller.
    "iql": (*_MORE, "--methods=qgf --weights=0.01,0.03,0.1,0.3,1"),
}


def jobs() -> list[Job]:
    return [
        Job(
            name=f"{environment}_{run}",
            config=f"experiments/configs/goal_conditioned.py:{environment}",
            overrides=RUNS[run] | {"seeds": 2, "seed": 10},
            evaluations=[
                f"{flags} --episodes=10 --selection_episodes=5 --report_selected --envs=40"
                for flags in PLAYED.get(run, (f"--methods={run}",))
            ],
        )
        for environment, runs in ENVIRONMENTS.items()
        for run in runs
    ]
