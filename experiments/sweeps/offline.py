"""The paper's Fig. 5: four domains, five tasks, ten seeds; all methods, those of test time from one run.

    qgf sweep experiments/sweeps/offline.py --out=runs/offline --dry_run
    qgf sweep experiments/sweeps/offline.py --out=runs/offline --on=slurm --partition=gpu --time=12:00:00
    qgf sweep experiments/sweeps/offline.py --out=runs/offline --only=scene_*_qgf_*

Not run by us: experiments/README.md says what each column would take. One checkpoint of `qgf` serves all
test-time methods; RobustQ's critic is trained beside it; the others train a policy of their own.
"""

from qgf_jax.sweep import Job, Needs

CONFIG = "experiments/configs/paper.py"
DOMAINS = ("cube_triple", "cube_quadruple", "puzzle_4x4", "scene")
TASKS, SEEDS = range(1, 6), range(10)
ALONE = ("edp", "fql", "qam", "dac", "qsm_bc", "cfgrl")
PLAYED = "--episodes=30 --selection_episodes=30 --report_selected"
TRAINS = Needs(devices=1, cores=4, memory_gib=48)
PLAYS = Needs(devices=0, cores=16, memory_gib=16)
"""MuJoCo on the cores, while accelerators train."""


def jobs() -> list[Job]:
    return [
        job
        for domain in DOMAINS
        for task in TASKS
        for seed in SEEDS
        for job in _of_seed(domain, task, seed)
    ]


def _of_seed(domain: str, task: int, seed: int) -> list[Job]:
    place = f"{domain}_{task}_%s_{seed}"
    ours = {"env": f"{domain.replace('_', '-')}-play-singletask-task{task}-v0", "seed": seed}

    def trained(algorithm: str) -> Job:
        return Job(
            name=place % algorithm,
            config=f"{CONFIG}:{domain}",
            overrides={**ours, "algorithm": algorithm},
            needs=TRAINS,
        )

    def played(run: Job, flags: str) -> Job:
        return Job(
            name=f"{run.name}_played",
            source=run.name,
            evaluations=[f"{one} {PLAYED}" for one in flags.split(";")],
            needs=PLAYS,
        )

    qgf = trained("qgf")
    robust_q = Job(name=place % "robust_q", source=qgf.name, add="robust_q", needs=TRAINS)
    steps = 5 if domain == "scene" else 3
    alone = [trained(algorithm) for algorithm in ALONE]
    return [
        qgf,
        played(
            qgf,
            "--methods=reference,best_of,qgf,qgf_jacobian,qfql,bptt;"
            f"--methods=grad_step:steps={steps} --weights=0.01",
        ),
        robust_q,
        played(robust_q, "--methods=robust_q"),
        *alone,
        *(played(run, f"--methods={name}") for run, name in zip(alone, ALONE, strict=True)),
    ]
