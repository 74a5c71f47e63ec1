"""Five critics under one rule each: heads and target taken apart (experiments/configs/critics.py).

    qgf collect --env=pointmaze-large-navigate-v0 --episodes=300
    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf collect --env=puzzle-3x3-play-v0 --episodes=250
    qgf sweep experiments/sweeps/critics.py --out=runs/critics
    qgf sweep experiments/sweeps/critics.py --out=runs/critics --only=pointmaze_large_*

iql_10, td_reference_10 and sarsa_10 share one flow policy, bit for bit: the last two are trained beside
the frozen first one. Five seeds, 50 report and 20 selection episodes each (the puzzle, where nobody
succeeds at this size and every episode has its 500 steps: 10 and 2).
"""

from qgf_jax.sweep import Job

CONFIG = "experiments/configs/critics.py"
EPISODES = {"pointmaze_large": (50, 20), "cube_single": (50, 20), "puzzle_3x3": (10, 2)}
"""Of report and of selection."""
BESIDE = {"td_reference_10": "reference", "sarsa_10": "data"}
"""Critic -> the next action of its target."""


def jobs() -> list[Job]:
    return [job for task in EPISODES for job in _of_task(task)]


def _of_task(task: str) -> list[Job]:
    trained = [
        Job(
            name=f"{task}_{critic}",
            config=f"{CONFIG}:{task}_{critic}",
            overrides={"seeds": 5, "seed": 10},
            evaluations=[_evaluation(task)],
        )
        for critic in ("iql_2", "iql_10", "td_qam_10")
    ]
    beside = [
        Job(
            name=f"{task}_{critic}",
            source=f"{task}_iql_10",
            add="td",
            overrides={"critics.td.next": following},
            evaluations=[_evaluation(task, ":critic=td")],
        )
        for critic, following in BESIDE.items()
    ]
    return trained + beside


def _evaluation(task: str, by: str = "") -> str:
    methods = ",".join(["reference", *(f"{m}{by}" for m in ("best_of", "qgf", "qgf_jacobian"))])
    report, selection = EPISODES[task]
    episodes = f"--episodes={report} --selection_episodes={selection}"
    return f"--methods={methods} {episodes} --report_selected"
