"""Every method on cube-single-play, task 2, small.

One checkpoint for the test-time methods, as many steps for those that train a policy of their own.

    qgf collect --env=cube-single-play-v0 --episodes=250
    qgf sweep experiments/sweeps/methods.py --out=runs/methods
    qgf sweep experiments/sweeps/methods.py --out=runs/methods --only=fql,edp

About 20 minutes a training on two cores; QAM takes four times as long. `qam_td` has a critic of its own,
which bootstraps on its own actions, as in the paper; the other one shares IQL's.
"""

from qgf_jax.sweep import Job

CONFIG = "experiments/configs/ogbench.py:cube_single_small"
WEIGHTS = "--weights=0.01,0.03,0.05,0.1,0.3"
TEST_TIME = (
    f"--methods=reference,best_of,qgf,qgf_jacobian,qgf_chain,qgf_regularized,qgf_smooth,qgf_ortho,"
    f"jacobian_schedule,qfql,bptt,qgf_distill,qgf_jacobian_distill {WEIGHTS}",
    "--methods=best_of --best_of=16",
    "--methods=qgf --best_of=4 --weights=0.003,0.01,0.03,0.1",
    "--methods=grad_step,grad_step:sign=true",
    "--methods=qgf_relative,qgf:units=variance,qgf:units=posterior,jacobian_schedule:units=spread "
    "--weights=0.1,0.3,1,3,10,30",
    "--methods=qgf:schedule=linear,qgf:schedule=ratio,qgf_jacobian:schedule=linear "
    "--weights=0.01,0.03,0.1,0.3",
)
_QAM = (f"--methods=qam,qgf --best_of=1,4 {WEIGHTS}",)
_ALONE = ("fql", "cfgrl", "edp", "dac", "qsm_bc", "qsm", "iql", "rebrac", "fawac", "fbrac", "dsrl")
PLAYED = {
    "qgf_distill": TEST_TIME,
    "robust_q": (f"--methods=robust_q {WEIGHTS}",),
    "qam": _QAM,
    "qam_td": _QAM,
    **{name: (f"--methods={name} --best_of=1,4",) for name in _ALONE},
}


def jobs() -> list[Job]:
    return [
        Job(
            name=name,
            config=CONFIG,
            overrides={"algorithm": name.removesuffix("_td"), "seeds": 2, "seed": 10}
            | ({"critic": "td"} if name == "qam_td" else {}),
            evaluations=[
                f"{flags} --episodes=50 --selection_episodes=20 --report_selected --envs=40"
                for flags in played
            ],
        )
        for name, played in PLAYED.items()
    ]
