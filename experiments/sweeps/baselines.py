"""Trained baselines, as many configurations of each as a guided arm has weights: `make baselines`.

As experiments/registered/baselines.md has fixed it: tasks, data, seeds, steps and report episodes are
those of experiments/sweeps/study.py, which also says what to collect.

    qgf sweep experiments/sweeps/baselines.py --out=runs/baselines --dry_run
    qgf sweep experiments/sweeps/baselines.py --out=runs/baselines
    qgf sweep experiments/sweeps/baselines.py --out=runs/baselines --only=cube_single_2_fql_*
    qgf report runs/study runs/baselines --out=baselines --baseline=qgf \\
        --tuned=policy.inverse_temperature,-policy.alpha,-policy.bc_weight

44 jobs a task, 352 in all, each of five seeds. A method that is trained anew for each configuration has
six; one whose strength is a weight of acting has one, and six weights.

`--dry_run --flops` counts 1.6e15 FLOPs of training for pointmaze_medium_1 and 2.8e15 for cube_single_2,
so about 1.9e16 for all. The study's cube trained at 2.6e10 a second on one core of an AMD EPYC (17.7
updates a second, 1.46e9 FLOPs each): at that rate four to five days on two. FQL on one of the arm's
tasks (`--only=cube_single_2_fql_*`) takes hours; all methods on all tasks want an accelerator.
Evaluations are not counted: 265 episodes a configuration, at most 94,320 in all.
"""

from collections.abc import Iterator, Mapping, Sequence

from qgf_jax.sweep import Job

TASKS = (
    *(f"pointmaze_medium_{task}" for task in (1, 2, 3)),
    *(f"cube_single_{task}" for task in (2, 4)),
    *(f"puzzle_3x3_{task}" for task in (4, 2)),
    "scene_2",
)
_TEMPERATURE = "policy.inverse_temperature"
_ALPHA, _CLONING = "policy.alpha", "policy.bc_weight"
ARMS: dict[str, Mapping[str, Sequence[float]]] = {
    "fql": {_ALPHA: (3, 10, 30, 100, 300, 1000)},
    "edp": {_CLONING: (1, 10, 30, 100, 300, 1000)},
    "qam": {_TEMPERATURE: (0.1, 0.3, 1, 3, 10, 30)},
    "dac": {_CLONING: (1, 3, 10, 30, 100, 300)},
    "qsm_bc": {_TEMPERATURE: (0.1, 1, 3), _CLONING: (10, 30)},
    "rebrac": {_ALPHA: (0.01, 0.03, 0.1, 0.3, 1, 3)},
    "fawac": {_TEMPERATURE: (0.3, 1, 3, 10, 30, 100)},
}
"""The six configurations of each method on the arm's tasks."""
MAZES: dict[str, Mapping[str, Sequence[float]]] = {
    "fql": {_ALPHA: (0.1, 0.3, 1, 3, 10, 30)},
    "edp": {_CLONING: (0.03, 0.3, 1, 3, 10, 30)},
    "qam": {_TEMPERATURE: (1, 3, 10, 30, 100, 300)},
    "dac": {_CLONING: (0.03, 0.1, 0.3, 1, 3, 10)},
    "qsm_bc": {_TEMPERATURE: (3, 30, 100), _CLONING: (10, 30)},
    "rebrac": {_ALPHA: (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)},
    "fawac": {_TEMPERATURE: (1, 3, 10, 30, 100, 300)},
}
"""The same in mazes, where slopes of Q are smaller and guided weights a hundred times as large."""
CFGRL = "1,2,3,5,10,15"
ROBUST_Q = {"arm": "0,0.01,0.03,0.1,0.3,1", "maze": "0,1,3,10,30,100"}
"""The weights that the study's arms by slope have."""
REPORT = "--episodes=50"
EACH = f"{REPORT} --selection_episodes=3"
"""Of each configuration and seed: 90 of six, as a guided arm has 80."""
SHARED = f"{REPORT} --select=bandit --budget=80"


def jobs() -> list[Job]:
    return [job for task in TASKS for job in _of_task(task)]


def _of_task(task: str) -> Iterator[Job]:
    is_maze = task.startswith("pointmaze")
    for method, axes in (MAZES if is_maze else ARMS).items():
        yield from _trained(task, method, f"--methods={method} {EACH}", axes)
    weights = {"cfgrl": CFGRL, "robust_q": ROBUST_Q["maze" if is_maze else "arm"]}
    for method, own in weights.items():
        yield from _trained(task, method, f"--methods={method} --weights={own} {SHARED}")


def _trained(
    task: str, method: str, evaluation: str, axes: Mapping[str, Sequence[float]] = {}
) -> list[Job]:
    return Job.grid(
        axes,
        name=f"{task}_{method}",
        config=f"experiments/configs/study.py:{task}",
        overrides={"algorithm": method, "seeds": 5, "seed": 20},
        evaluations=[evaluation],
    )
