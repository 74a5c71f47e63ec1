"""What keeping the state finite costs: updates with and without the check, alternately.

    python benchmarks/guard.py --width 512 --batch 256

The figure is the ratio of CPU time, each the least over many rounds of one run.
"""

import argparse
import functools
import time

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--seeds", type=int, default=1, help="side by side, under vmap")
parser.add_argument("--steps", type=int, default=20, help="updates a round")
parser.add_argument("--rounds", type=int, default=15)
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads, flags.width)

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax import config as configs
from qgf_jax.methods.builder import Builder
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training import step as train
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.state import TrainState
from qgf_jax.types import Actor, Batch, Obs, Spec

SPEC = Spec((28,), 5, 5)


def made_up_batch(seed: int) -> Batch:
    keys = jax.random.split(jax.random.key(seed), 3)
    obs, next_obs = map(Obs, jax.random.normal(keys[0], (2, flags.batch, *SPEC.state)))
    action = jax.random.uniform(keys[1], (flags.batch, SPEC.chunk_dim), minval=-1.0)
    ones = jnp.ones(flags.batch)
    return Batch(
        obs=obs,
        action=action,
        reward=-ones,
        discount=0.95 * ones,
        next_obs=next_obs,
        weight=ones,
        actor=Actor(obs, next_obs, ones),
        long_action=action,
    )


def always(old, update, checked, metrics) -> tuple:
    """What `train._if_finite` does, without looking."""
    return TrainState(old.step + 1, old.key, *update(), old.guard), metrics


def main() -> None:
    config = configs.make("qgf")
    hidden = (flags.width,) * flags.depth
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    plain = configs.plain(config)
    learner, tx = Builder(plain, SPEC).learner(), make_optimizer(plain)
    batch = made_up_batch(0)

    def compiled() -> tuple:
        step = functools.partial(train.train_step, losses=learner.losses, tx=tx, tau=0.005)

        @functools.partial(jax.jit, donate_argnums=0)
        def run(states: TrainState) -> TrainState:
            def many(state: TrainState) -> TrainState:
                def one(state: TrainState, _: None) -> tuple[TrainState, None]:
                    return step(state, batch)[0], None

                return jax.lax.scan(one, state, length=flags.steps)[0]

            return over_seeds(many, states)

        init = jax.jit(jax.vmap(lambda seed: TrainState.init(seed, learner, tx, SPEC)))
        state = init(np.arange(flags.seeds))
        return run, jax.block_until_ready(run(state))

    guarded = compiled()
    train._if_finite = always
    bare = compiled()
    seconds: dict[str, list[float]] = {"guarded": [], "bare": []}
    programs = {"guarded": guarded, "bare": bare}
    for number in range(flags.rounds):
        for name in ("guarded", "bare")[:: 1 if number % 2 else -1]:
            run, state = programs[name]
            started = time.process_time()
            state = jax.block_until_ready(run(state))
            seconds[name].append(time.process_time() - started)
            programs[name] = (run, state)
    least = {name: min(values) / flags.steps * 1e3 for name, values in seconds.items()}
    ratios = np.array(seconds["guarded"]) / np.array(seconds["bare"])
    common.show(
        {
            "guarded_over_bare": least["guarded"] / least["bare"],
            "median_of_pairs": float(np.median(ratios)),
            **{f"{name}_cpu_ms_per_update": value for name, value in least.items()},
            **{k: getattr(flags, k) for k in ("width", "batch", "seeds")},
            **common.machine(),
        }
    )


main()
