"""Eleven test-time arms on eight tasks, as experiments/registered/study.md has fixed it: `make study`.

    qgf collect --env=pointmaze-medium-navigate-v0 --episodes=300
    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf collect --env=puzzle-3x3-play-v0 --episodes=250
    qgf collect --env=scene-play-v0 --episodes=250
    qgf sweep experiments/sweeps/study.py --out=runs/study

Five seeds that no earlier table has, 50 report episodes each. Every swept arm has six weights and 80
selection episodes in all, by successive halving.
"""

from qgf_jax.sweep import Job

TASKS = (
    *(f"pointmaze_medium_{task}" for task in (1, 2, 3)),
    *(f"cube_single_{task}" for task in (2, 4)),
    *(f"puzzle_3x3_{task}" for task in (4, 2)),
    "scene_2",
)
EPISODES = "--episodes=50 --select=bandit --budget=80"
BY_SLOPE = "reference,best_of,qgf,qgf_jacobian,jacobian_schedule,bptt,qfql"
"""The slope of Q as it is; the others have units of their own."""


def jobs() -> list[Job]:
    return [_of_task(task) for task in TASKS]


def _of_task(task: str) -> Job:
    weights, steps = (
        ("0,1,3,10,30,100", "0,0.3,1,3,10,30")
        if task.startswith("pointmaze")
        else ("0,0.01,0.03,0.1,0.3,1", "0,0.003,0.01,0.03,0.1,0.3")
    )
    return Job(
        name=task,
        config=f"experiments/configs/study.py:{task}",
        overrides={"seeds": 5, "seed": 20, "train.calibrate": True},
        evaluations=[
            f"--methods={BY_SLOPE} --weights={weights} {EPISODES}",
            f"--methods=grad_step --weights={steps} {EPISODES}",
            f"--methods=qpilots_u --weights=0,0.1,0.2,0.5,1,2 {EPISODES}",
            f"--methods=qgf_relative --weights=0,0.3,1,3,10,30 {EPISODES}",
            f"--methods=qgf_auto --weights=1 {EPISODES}",
        ],
    )
