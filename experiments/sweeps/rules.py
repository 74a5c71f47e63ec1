"""Rules of guidance, their options and real-time chunking over one checkpoint of each task.

    qgf sweep experiments/sweeps/rules.py --out=runs/rules
    qgf sweep experiments/sweeps/rules.py --out=runs/rules --only=cube_single_2*

The data are those of critics.py. Five seeds, 50 report and 20 selection episodes each (the puzzle,
where nobody succeeds at this size and every episode has its 500 steps: 10 and 2). `agf` is trained
beside the frozen policy and critic. Chunks of 10 actions serve the delays; their weight is fixed in
advance.
"""

from typing import NamedTuple

from qgf_jax.sweep import Job

CONFIG = "experiments/configs/study.py"


class Task(NamedTuple):
    gate: float
    """About 1 / the spread of Q among the reference's actions."""
    fixed: float
    """The weight under delays."""
    report: int = 50
    selection: int = 20


TASKS = {
    "pointmaze_large_1": Task(gate=0.5, fixed=10),
    "cube_single_2": Task(gate=1, fixed=0.03),
    "puzzle_3x3_4": Task(gate=0.1, fixed=0.03, report=10, selection=2),
}


def jobs() -> list[Job]:
    return [job for name, task in TASKS.items() for job in _of_task(name, task)]


def _of_task(name: str, task: Task) -> list[Job]:
    def play(flags: str) -> str:
        episodes = f"--episodes={task.report} --selection_episodes={task.selection}"
        return f"{flags} {episodes} --report_selected"

    seeds = {"seeds": 5, "seed": 10}
    rules = f"reference,best_of,qgf,qgf_jacobian,bptt,qgf:gate={task.gate},qgf:slope_clip=1"
    evaluations = [
        play(f"--methods={rules}"),
        play("--methods=qpilots_u,qgf:units=velocity --weights=0.1,0.2,0.5,1,2"),
        play("--methods=qgf:units=spread --weights=0.03,0.1,0.3,1,3"),
        play("--methods=qgf:units=posterior,qgf_relative --weights=0.3,1,3,10"),
    ]
    delayed = [
        play(f"--methods=qgf,qgf:rtc=5 --weights={task.fixed} --execute=5 --delay={delay}")
        for delay in range(5)
    ]
    return [
        Job(name=name, config=f"{CONFIG}:{name}", overrides=seeds, evaluations=evaluations),
        Job(
            name=f"{name}_agf",
            source=name,
            add="agf",
            overrides={"train.steps": 10_000},
            evaluations=[play("--methods=agf")],
        ),
        Job(
            name=f"{name}_chunks",
            config=f"{CONFIG}:{name}",
            overrides={**seeds, "data.chunk": 10},
            evaluations=delayed,
        ),
    ]
