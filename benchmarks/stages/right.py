"""Whether the device computes what a CPU does, repeats itself, and goes on where it was stopped."""

import concurrent.futures
import functools
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qgf_jax.data.sampling import BatchSampler
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.training.global_batch import batch_loss
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from stages import acting, programs, resume
from stages.compared import TOLERANCES, compare, movement
from stages.record import Deadline, Results, describe_device, python, said

NINE_IN_TEN = 0.9
"""Share of observations whose action must be within the tolerance where products are rounded: of two
candidates that the critic likes alike another one may win."""
_SIZE = "4x512 batch 256"
_DRY_METHODS = ("best_of", "qgf")


def run(results: Results, deadline: Deadline, *, dry: bool) -> None:
    """All checks, the most telling first; each is a line of its own in the file."""
    device = describe_device(results, dry=dry)
    with tempfile.TemporaryDirectory() as folder:
        first, *others = precisions(dry=dry)
        checks: dict[str, Callable[[], None]] = {
            "losses and gradients": lambda: losses_and_gradients(results, device, dry=dry),
            "ten updates": lambda: ten_updates(results, device, dry=dry),
            "twice the same": lambda: twice(results, dry=dry),
            f"actions, {first}": lambda: actions(results, device, first, dry=dry),
            "kill, resume, restore": lambda: resume.kill_and_restore(
                results, Path(folder), dry=dry
            ),
        }
        for name in others:
            checks[f"actions, {name}"] = functools.partial(actions, results, device, name, dry=dry)
        for name in deadline.take(checks, results, "left_out", alike=False):
            with results.attempt(name):
                checks[name]()


def on(device: Any, jitted: Callable[..., Any], *arguments: Any) -> Any:
    """Result on the host of what is compiled for `device`."""
    return jax.device_get(jitted(*jax.device_put(arguments, device)))


def cpu() -> Any:
    """The device that is the reference."""
    return jax.devices("cpu")[0]


@functools.cache
def _begin(dry: bool) -> tuple[programs.Made, Any, Any, Any]:
    """(what a size is made into, params, slow copies, ten batches), on the host."""
    made = programs.make(_SIZE, dry=dry)
    state = jax.tree.map(lambda x: x[0], programs.host_state(_SIZE, dry=dry))
    feed = BatchSampler.of(made.config, made.spec)
    keys = jax.random.split(jax.random.key(7), 10)
    draw = jax.jit(jax.vmap(lambda d, k: feed.gather(d, feed.draw(d, k)), (None, 0)))
    batches = on(cpu(), draw, made.data, keys)
    return made, state.params, state.target_params, batches


def _each_precision(
    results: Results, device: Any, what: str, make: Callable[..., Any], *arguments: Any, dry: bool
) -> Generator[tuple[str, Any, Any]]:
    """(precision, on the device, on the CPU at the highest) of what `make(config)` computes."""
    config = programs.make(_SIZE, dry=dry).config
    for precision in precisions(dry=dry):
        with results.attempt(f"{what}, {precision}"):
            jitted = jax.jit(make(config | {"precision": precision}))
            if precision == "float32":  # comes first
                expected = on(cpu(), jitted, *arguments)
            yield precision, on(device, jitted, *arguments), expected


def precisions(*, dry: bool) -> tuple[str, ...]:
    """Those that are compared, the highest first."""
    return programs.DRY_PRECISIONS if dry else programs.PRECISIONS


def losses_and_gradients(results: Results, device: Any, *, dry: bool) -> None:
    """Of one batch: each loss, and its gradient by its own group."""
    made, params, slow, batches = _begin(dry)
    batch = jax.tree.map(lambda x: x[0], batches)

    def of_groups(config: Any) -> Callable[..., Any]:
        learner = Builder(config, made.spec).learner()

        def all_losses(params: Any, slow: Any, batch: Any, key: Any) -> Any:
            found = {}
            for i, (group, loss) in enumerate(learner.losses.items()):

                def own(mine: Any, group: str = group, loss: Any = loss, i: int = i) -> Any:
                    key_of = jax.random.fold_in(key, i)
                    return batch_loss(loss, {**params, group: mine}, slow, batch, key_of)[0]

                found[group] = jax.value_and_grad(own)(params[group])
            return found

        return all_losses

    arguments = (params, slow, batch, jax.random.key(3))
    for precision, found, expected in _each_precision(
        results, device, "losses and gradients", of_groups, *arguments, dry=dry
    ):
        allowed = TOLERANCES[precision]
        for group, (loss, gradient) in expected.items():
            mine = found[group]
            results.put(f"loss of {group}, {precision}", compare(mine[0], loss, allowed["losses"]))
            results.put(
                f"gradient of {group}, {precision}",
                compare(mine[1], gradient, allowed["gradients"]),
            )


def ten_updates(results: Results, device: Any, *, dry: bool) -> None:
    """By plain gradient descent, of the same batches; and by Adam as training does them."""
    made, params, slow, batches = _begin(dry)
    tx = optax.sgd(1e-3)  # with ten times as much the critic's loss rises

    def of_descent(config: Any) -> Callable[..., Any]:
        learner = Builder(config, made.spec).learner()
        step = functools.partial(train_step, losses=learner.losses, tx=tx, tau=0.005)

        def ten(params: Any, slow: Any, batches: Any, key: Any) -> Any:
            begin = TrainState(jnp.zeros((), jnp.int32), key, params, slow, tx.init(params))
            state, _ = jax.lax.scan(step, begin, batches)
            return state.params, state.target_params

        return ten

    arguments = (params, slow, batches, jax.random.key(3))
    for precision, found, expected in _each_precision(
        results, device, "ten updates by descent", of_descent, *arguments, dry=dry
    ):
        compared = compare(found, expected, TOLERANCES[precision]["ten updates"])
        results.put(f"ten updates by descent, {precision}", compared)
    config = made.config | {"precision": "float32"}
    learner = Builder(config, made.spec).learner()
    trainer = Trainer.of(learner, config, made.spec)
    found, expected = (_ten_by_adam(trainer, made, where, dry) for where in (device, cpu()))
    results.put("ten updates by Adam, float32", movement(found, expected, params))


def _ten_by_adam(trainer: Trainer, made: programs.Made, where: Any, dry: bool) -> Any:
    """Parameters after the first ten updates of a run."""
    state = programs.repeated(programs.host_state(_SIZE, dry=dry), 1)
    state, _ = trainer.run(*jax.device_put((state, made.data), where), 10)
    return jax.tree.map(lambda x: x[0], jax.device_get(state.params))


def actions(results: Results, device: Any, precision: str, *, dry: bool) -> None:
    """Of every test-time method over one policy and critic, each from the same noise."""
    expected = _actions("float32", cpu(), dry)
    share = 1.0 if precision == "float32" else NINE_IN_TEN
    allowed = TOLERANCES[precision]["actions"]
    for name, action in _actions(precision, device, dry).items():
        compared = compare(action, expected[name], allowed, share=share)
        results.put(f"actions of {name}, {precision}", compared)


@functools.cache
def _actions(precision: str, where: Any, dry: bool) -> dict[str, np.ndarray]:
    """{method: actions [N, D]}. The programs are compiled several at a time."""
    made, params, slow, _ = _begin(dry)
    width, count = made.spec.chunk_dim, 8 if dry else 64
    constants = {"q_std": 1.0, "logit_std": 1.0, "values": np.ones(width), "vectors": np.eye(width)}
    params = algorithms.acting_params(params, slow, jax.tree.map(np.float32, constants))
    rows = np.random.default_rng(1).standard_normal((count, made.spec.width)).astype(np.float32)
    obs = made.spec.observation(rows)
    keys, lowered = jax.random.split(jax.random.key(5), count), {}
    placed = jax.device_put((params, obs, keys, np.float32(1.0)), where)
    config = made.config | {"precision": precision}
    for name in algorithms.Method.named("qgf").serves:
        for n in algorithms.METHODS[name].best_of:
            if not dry or name in _DRY_METHODS:
                sample = Builder(config, made.spec).sample(name, n)
                act = jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, None)))
                lowered[acting.label(name, n)] = act.lower(*placed)
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        compiled = pool.map(lambda one: one.compile(), lowered.values())
    return {name: np.asarray(act(*placed)) for name, act in zip(lowered, compiled, strict=True)}


def twice(results: Results, *, dry: bool) -> None:
    """Whether 1,000 updates from one state end in the same bits; else what could make them differ."""
    compiled, begin, steps = _updates(dry)
    found, again = (_digests(compiled, begin) for _ in range(2))
    same = [x == y for x, y in zip(found, again, strict=True)]
    verdict: dict[str, Any] = {"ok": all(same), "updates": 10 * steps, "digest": found[-1]}
    if not all(same):
        verdict["differs_within_update"] = steps * (same.index(False) + 1)
        verdict["suspects"] = suspects(compiled.as_text())
        verdict["with --xla_gpu_deterministic_ops=true"] = _deterministic(dry)
    results.put("1,000 updates twice", verdict)


def _updates(dry: bool) -> tuple[Any, Callable[[], Any], int]:
    """(program, its arguments anew, updates of a dispatch)."""
    made, steps = programs.make(_SIZE, dry=dry), 4 if dry else 100
    data = jax.device_put(made.data)

    def begin() -> Any:
        return programs.repeated(programs.host_state(_SIZE, dry=dry), 1), data

    config = made.config | {"precision": "tf32"}
    learner = Builder(config, made.spec).learner()
    trainer = Trainer.of(learner, config, made.spec)
    return trainer.run.lower(*begin(), steps).compile(), begin, steps


def _digests(compiled: Any, begin: Callable[[], Any]) -> list[str]:
    """SHA-256 of the state after each of ten dispatches."""
    (state, data), found = begin(), []
    for _ in range(10):
        state, _ = compiled(state, data)
        leaves = jax.tree.leaves(jax.device_get(state.replace(key=None)))
        found.append(hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest())
    return found


def suspects(text: str) -> list[str]:
    """Where in the model operations come from that may add in any order."""
    lines = [
        line for line in text.splitlines() if re.search(r" (scatter|select-and-scatter)\(", line)
    ]
    names = [re.search(r'op_name="([^"]*)"', line) for line in lines]
    return sorted({name[1] for name in names if name})[:8]


def _deterministic(dry: bool) -> Any:
    """Whether the flag makes it repeat: two processes of their own, as flags are read on start."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    words = ["-m", "stages.right", str(int(dry))]
    heard = [said(*python(*words, env={"XLA_FLAGS": flags})) for _ in range(2)]
    return {"same": heard[0] == heard[1]}


def main(words: Sequence[str]) -> None:
    """The part that needs a process of its own, whether DRY or not: prints its digests."""
    print(_digests(*_updates(bool(int(words[0])))[:2]))


if __name__ == "__main__":
    main(sys.argv[1:])
