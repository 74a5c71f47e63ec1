"""CPU time of one batch of actions for every method, relative to QGF.

    python benchmarks/act.py --width 256 --batch 50 --chunk 5
    python benchmarks/act.py --methods reference,qgf --beside_plain

By arithmetic alone best-of-4 costs 0.97 of QGF, the reference 0.20, QGF-Jacobian 1.20 and BPTT 3.02
(4 x 1024); `qgf methods` has what is counted in the compiled programs.
"""

import argparse
import contextlib
import functools
import statistics
from collections.abc import Callable
from typing import Any

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--batch", type=int, default=50, help="observations")
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--obs", type=int, default=46, help="width of an observation")
parser.add_argument("--action", type=int, default=5, help="width of an action")
parser.add_argument("--repeats", type=int, default=10)
parser.add_argument("--methods", default="", help="comma-separated; else all but those for goals")
parser.add_argument("--best_of_4", default="", help="methods to time with four candidates too")
parser.add_argument("--beside_plain", action="store_true", help="only: against plain networks")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

import jax
import jax.numpy as jnp

from qgf_jax import config as configs
from qgf_jax.core.reductions import for_training
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.types import Spec


def beside_plain() -> dict[str, float]:
    """By method CPU time relative to that of networks that see the observation in each step.

    Taken in turns, and the median of the ratios.
    """
    found = {}
    for name in flags.methods.split(","):
        n = algorithms.Method.named(name).best_of[0]
        pairs = [
            [common.least_cpu_seconds(program(name, n, whole), 3) for whole in (False, True)]
            for _ in range(flags.repeats)
        ]
        found[name] = statistics.median(ready / whole for ready, whole in pairs)
    return found


def main() -> None:
    sizes = {k: getattr(flags, k) for k in ("width", "depth", "batch", "chunk", "threads")}
    if flags.beside_plain:
        return common.show(
            {"prepared_relative_to_plain": beside_plain(), **sizes, **common.machine()}
        )
    seconds, unit = {}, {}
    for name, row in algorithms.METHODS.items():
        if name not in flags.methods.split(",") if flags.methods else row.goals or not row.acts:
            continue
        for n in {*row.best_of, *((4,) if name in flags.best_of_4.split(",") else ())}:
            label = name if n == 1 or row.fixed_best_of else f"{name}_{n}"
            seconds[label] = seconds_of(name, n)
            # Timed anew beside each method: on a shared machine minutes are not alike.
            unit[label] = seconds_of("qgf", 1)
    rounds = [[seconds_of(name, 1) for name in ("qgf", "velocity", "critic")] for _ in range(5)]
    whole, *parts = map(min, zip(*rounds, strict=True))
    common.show(
        {
            "qgf_relative_to_its_parts": whole / (STEPS * sum(parts)),
            "cost_relative_to_qgf": {k: v / unit[k] for k, v in seconds.items()},
            "cpu_ms_per_chunk": {k: 1e3 * v / flags.batch for k, v in seconds.items()},
            **sizes,
            **common.machine(),
        }
    )
    return None


STEPS = 10  # of the flow


@functools.cache
def program(name: str, n: int, whole: bool = False) -> Callable[[], None]:
    """A call that acts once for the whole batch and waits; or "velocity" or "critic" alone, once.

    If `whole`, as in training: each step of the flow sees the observation too.
    """
    part = name if name in ("velocity", "critic") else ""
    name = "qgf" if part else name
    config = configs.make(name)
    hidden = (flags.width,) * flags.depth
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    plain = configs.plain(config)
    spec = Spec((flags.obs,), flags.action, flags.chunk)
    learner = Builder(plain, spec).learner()
    init = jax.jit(learner.init)
    params = init(jax.random.key(0), spec.example(), jnp.zeros(spec.chunk_dim))
    slow = {group: params[group] for group in learner.targets}
    width = jnp.ones(spec.chunk_dim)
    constants = {"q_std": jnp.ones(()), "values": width, "vectors": jnp.diag(width)}
    acting = algorithms.acting_params(params, slow, constants)
    obs = spec.observation(jax.random.normal(jax.random.key(1), (flags.batch, spec.width)))
    keys = jax.random.split(jax.random.key(2), flags.batch)
    sample = Builder(plain, spec).sample(name, n)
    act = jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, None)))
    if part:
        # Ten in a row, each from what the one before gave: one alone would be mostly its dispatch.
        nets = Builder(plain, spec).networks()

        def once(params: Any, action: Any, obs: Any, t: Any) -> Any:
            if part == "velocity":
                return nets.velocity(params["policy"], obs)(action, t)
            q, slope = jax.value_and_grad(nets.q_of(params["critic"], obs))(action)
            return slope + q

        def ten(params: Any, obs: Any, keys: Any, weight: Any) -> Any:
            start = jnp.zeros((flags.batch, spec.chunk_dim))

            def turn(action: Any, t: Any) -> tuple[Any, None]:
                return jax.vmap(once, in_axes=(None, 0, 0, None))(params, action, obs, t), None

            return jax.lax.scan(turn, start, jnp.arange(STEPS) / STEPS)[0]

        act = jax.jit(ten)

    def call() -> None:
        jax.block_until_ready(act(acting, obs, keys, jnp.float32(0.1)))

    with for_training() if whole else contextlib.nullcontext():
        call()
    return call


def seconds_of(name: str, n: int) -> float:
    """CPU seconds of one batch, at best; of a part, once."""
    seconds = common.least_cpu_seconds(program(name, n), flags.repeats)
    return seconds / STEPS if name in ("velocity", "critic") else seconds


main()
