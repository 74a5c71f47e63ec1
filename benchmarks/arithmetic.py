"""FLOP/s of an update beside those of plain matrix products of the same sizes, in one process.

    python benchmarks/arithmetic.py --width 512 --depth 4 --batch 256

The products are those that the compiled update consists of: a batch by the width and the width by the
width, forward, and both kinds of products of a backward pass. FLOPs of the update are counted in its
compiled program, and its samples are drawn as in training.
"""

import argparse

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=512, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=4, help="hidden layers")
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--steps", type=int, default=4, help="updates a dispatch")
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads, flags.width)

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.methods.builder import Builder
from qgf_jax.runtime import flops
from qgf_jax.training.programs import Trainer


def product() -> tuple[float, float]:
    """(FLOPs, least CPU seconds) of a row of products, each of what the one before gave."""
    turns = 60
    x = jax.random.normal(jax.random.key(0), (flags.batch, flags.width))
    w = jax.random.normal(jax.random.key(1), (flags.width, flags.width)) / flags.width**0.5

    @jax.jit
    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        def turn(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple, None]:
            x, w = carry
            y = x @ w  # forward
            slope = (y.T @ x) * jnp.float32(1e-6)  # of the weights
            return ((y @ w.T) * jnp.float32(0.5), w + slope), None  # of the input

        return jax.lax.scan(turn, (x, w), None, length=turns)[0][0]

    jax.block_until_ready(run(x, w))
    seconds = common.least_cpu_seconds(lambda: jax.block_until_ready(run(x, w)), flags.repeats)
    return turns * 3 * 2.0 * flags.batch * flags.width**2, seconds


def main() -> None:
    config, spec, dataset = common.made_up_run(
        width=flags.width, depth=flags.depth, batch=flags.batch, chunk=flags.chunk
    )
    programs = Trainer.uncompiled(Builder(config, spec).learner(), config, spec)
    state = jax.jit(programs.init)(np.arange(1))
    run = jax.jit(programs.run, static_argnums=2, donate_argnums=0)
    counted = flops.count(run.lower(state, dataset, flags.steps).compile())

    def dispatch() -> None:
        nonlocal state
        state, _ = run(state, dataset, flags.steps)
        jax.block_until_ready(state)

    dispatch()
    plain: list[float] = []
    update: list[float] = []
    for _ in range(flags.repeats):  # in turn: on a shared machine minutes are not alike
        work, seconds = product()
        plain.append(work / seconds)
        update.append(counted / common.least_cpu_seconds(dispatch, flags.repeats))
    common.show(
        {
            "update_gflops_per_cpu_second": max(update) / 1e9,
            "product_gflops_per_cpu_second": max(plain) / 1e9,
            "ratio": max(update) / max(plain),
            "ratios": [round(u / p, 3) for u, p in zip(update, plain, strict=True)],
            "gflop_per_update": counted / flags.steps / 1e9,
            **{k: getattr(flags, k) for k in ("width", "depth", "batch", "chunk", "threads")},
            **common.machine(),
        }
    )


main()
