"""What acting on a fixed number of rows costs beside as many rows as there are environments.

    python benchmarks/padding.py --width 256 --envs 1,10,40

`evaluate` acts on 16 rows at a time, so that no bit of an action depends on how many act. The figures
are ratios of CPU time, each the least over many rounds of one run, for QGF.
"""

import argparse
import functools
import math

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--envs", default="1,10,16,40", help="environments at once")
parser.add_argument("--repeats", type=int, default=30)
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax import config as configs
from qgf_jax.evaluation import worker_pool
from qgf_jax.evaluation.arms import Program
from qgf_jax.methods.builder import Builder
from qgf_jax.runs import blocks
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.types import Spec


def made_up() -> LoadedRun:
    """A run that was never trained."""
    config = configs.make("qgf")
    hidden = (flags.width,) * flags.depth
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    plain, spec = configs.plain(config), Spec((46,), 5, flags.chunk)
    learner = Builder(plain, spec).learner()
    init = functools.partial(learner.init, obs=spec.example(), action=jnp.zeros(spec.chunk_dim))
    params = jax.jit(lambda key: jax.tree.map(lambda x: x[None], init(key)))(jax.random.key(0))
    run = Run(Path(), plain, spec._asdict(), {})
    return LoadedRun(run, spec, 0, params)


def seconds_of(act: worker_pool.Act, envs: int) -> float:
    obs = np.random.default_rng(0).normal(size=(1, envs, 46)).astype(np.float32)
    identity, weight = np.ones((1, envs, 3), np.int32), np.ones((1, envs), np.float32)
    act(obs, identity, weight)
    return common.least_cpu_seconds(lambda: act(obs, identity, weight), flags.repeats)


def compiled(restored: LoadedRun, rows: int, envs: int) -> worker_pool.Act:
    blocks.ROWS = rows
    return worker_pool._compile_act(restored, Program("qgf", 1, ()), envs)


def main() -> None:
    restored, fixed = made_up(), blocks.ROWS
    ratios, milliseconds = {}, {}
    for envs in map(int, flags.envs.split(",")):
        acts = [(rows, compiled(restored, rows, envs)) for rows in (fixed, envs)]
        least = {fixed: float("inf"), -envs: float("inf")}
        for _ in range(3):  # in turn: on a shared machine minutes are not alike
            for place, (rows, act) in zip(least, acts, strict=True):
                blocks.ROWS = rows
                least[place] = min(least[place], seconds_of(act, envs))
        mine, other = least.values()
        ratios[envs], milliseconds[envs] = mine / other, 1e3 * mine
    common.show(
        {
            "padded_over_exact": ratios,
            "rows_by_arithmetic": {n: math.ceil(n / fixed) * fixed / n for n in ratios},
            "cpu_ms_per_batch": milliseconds,
            **{k: getattr(flags, k) for k in ("width", "depth", "chunk", "threads")},
            **common.machine(),
        }
    )


main()
