"""A weight from data alone against the swept one, as experiments/registered/auto.md has fixed it.

    qgf collect --env=pointmaze-medium-navigate-v0 --episodes=300
    qgf collect --env=pointmaze-large-navigate-v0 --episodes=300
    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf collect --env=puzzle-3x3-play-v0 --episodes=250
    qgf collect --env=scene-play-v0 --episodes=250
    qgf sweep experiments/sweeps/auto.py --out=runs/auto

Five seeds, 50 report and 20 selection episodes each (puzzle and scene, whose episodes are long: 10). The
last job of each task spends 25 selection episodes in all.
"""

from qgf_jax.sweep import Job

TASKS = (
    *(f"pointmaze_medium_{task}" for task in (1, 2, 3)),
    "pointmaze_large_1",
    *(f"cube_single_{task}" for task in (1, 2, 3, 4, 5)),
    *(f"puzzle_3x3_{task}" for task in (2, 4)),
    "scene_2",
)
CRITERIA = ("near", "relative", "distance", "typical", "trust", "trust_own", "divergence")


def jobs() -> list[Job]:
    return [job for task in TASKS for job in _of_task(task)]


def _of_task(task: str) -> list[Job]:
    selection = 10 if task.startswith(("puzzle", "scene")) else 20
    by_data = ",".join(f"qgf_auto:by={name}" for name in CRITERIA)
    return [
        Job(
            name=task,
            config=f"experiments/configs/study.py:{task}",
            overrides={"seeds": 5, "seed": 10, "train.calibrate": True},
            evaluations=[
                f"--methods=reference,best_of,qgf --selection_episodes={selection} --episodes=50 "
                "--report_selected",
                f"--methods={by_data} --episodes=50 --report_selected",
                "--methods=qgf_relative --weights=1 --episodes=50 --report_selected",
            ],
        ),
        Job(
            name=f"{task}_bandit",
            source=task,
            evaluations=["--methods=qgf --select=bandit --budget=25 --episodes=50"],
        ),
    ]
