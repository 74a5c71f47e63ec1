"""One weight for all tasks, without a sweep: relative ones, fixed in advance, against raw ones.

    qgf collect --env=pointmaze-medium-navigate-v0 --episodes=300
    qgf collect --env=pointmaze-large-navigate-v0 --episodes=300
    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf sweep experiments/sweeps/relative_weights.py --out=runs/relative

About ten minutes a task on a core, twenty for the cube.
"""

from qgf_jax.sweep import Job

TASKS = {
    "medium": ("pointmaze_medium_small", "pointmaze-medium-navigate-singletask-task1-v0"),
    "large": ("pointmaze_medium_small", "pointmaze-large-navigate-singletask-task1-v0"),
    "cube4": ("cube_single_small", "cube-single-play-singletask-task4-v0"),
    "cube2": ("cube_single_small", "cube-single-play-singletask-task2-v0"),
}
PLAYED = (
    "--methods=reference,best_of",
    "--methods=qgf --weights=0.01,0.03,0.1,0.3,1,3,10,30",
    "--methods=qgf_relative --weights=0.3,1,2,3",
    *(f"--methods=qgf_relative --weights={weight}" for weight in (1, 2)),
    *(f"--methods=qgf --weights={weight}" for weight in (0.1, 10)),
)


def jobs() -> list[Job]:
    return [
        Job(
            name=name,
            config=f"experiments/configs/ogbench.py:{variant}",
            overrides={"env": env, "seeds": 2, "seed": 10},
            evaluations=[
                f"{flags} --episodes=50 --selection_episodes=20 --report_selected --envs=40"
                for flags in PLAYED
            ],
        )
        for name, (variant, env) in TASKS.items()
    ]
