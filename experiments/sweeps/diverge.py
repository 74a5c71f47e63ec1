"""Does IQL's critic diverge on a large maze, as reported of the public code (its issue 2)?

    qgf collect --env=pointmaze-large-navigate-v0 --episodes=300
    qgf sweep experiments/sweeps/diverge.py --out=runs/diverge

Reported was antmaze-large-navigate; these are point-maze data of the same maze, with horizon, expectile
and raw observations as there. The metrics have Q of the batch: every return lies between
-1 / (1 - discount) and 0.
"""

from qgf_jax.sweep import Job

SAME = {
    "seeds": 2,
    "seed": 10,
    "data.chunk": 5,
    "data.standardize": False,
    "train.steps": 50_000,
    "train.save_every": 25_000,
}
FAR = {"data.discount": 0.999}
RUNS = {
    "discount_0.99": {},
    "discount_0.995": {"data.discount": 0.995},
    "discount_0.999": FAR,
    "no_layer_norm": {**FAR, "networks.critic_layer_norm": False},
    "one_step": {**FAR, "data.chunk": 1},
    "expectile_0.7": {**FAR, "critics.iql.expectile": 0.7},
    "ten_members": {**FAR, "networks.ensemble": 10, "networks.aggregate": "pessimistic"},
    "sarsa": {**FAR, "critic": "td", "critics.td.next": "data"},
}


def jobs() -> list[Job]:
    return [
        Job(
            name=name, config="experiments/configs/study.py:pointmaze_large_1", overrides=SAME | own
        )
        for name, own in RUNS.items()
    ]
