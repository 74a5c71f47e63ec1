"""Whether the device computes what a CPU does, repeats itself, and goes on where it was stopped."""

import concurrent.futures
import functools
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qgf_jax import algorithms, train
from qgf_jax import config as configs
from qgf_jax.checkpoint import Checkpoints
from qgf_jax.data import sampling
from qgf_jax.data.collect import collect
from qgf_jax.policy import load_policy
from qgf_jax.pretrain import pretrain
from qgf_jax.run import open_run
from qgf_jax.train import TrainState, train_step
from stages import acting, programs
from stages.record import ROOT, Deadline, Results, describe_device, python

TOLERANCES = {
    # Of the largest number: losses, gradients of a group, its parameters after ten updates. Of
    # actions, which are at most 1.
    "float32": {"losses": 1e-5, "gradients": 1e-5, "ten updates": 1e-5, "actions": 2e-5},
    "tf32": {"losses": 5e-3, "gradients": 2e-2, "ten updates": 2e-3, "actions": 1e-2},
    "bfloat16": {"losses": 3e-2, "gradients": 1e-1, "ten updates": 1e-2, "actions": 1e-1},
}
MOVEMENT = 2e-2
"""Of ten updates by Adam, in L2 of how far they went: where a gradient is next to nothing, rounding
decides its sign, and Adam makes a whole step of that."""
NINE_IN_TEN = 0.9
"""Share of observations whose action must be within the tolerance where products are rounded: of two
candidates that the critic likes alike another one may win."""
_SIZE = "4x512 batch 256"
_DRY_METHODS = ("best_of", "qgf")
_MAZE = "pointmaze-medium-stitch"


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
            "kill, resume, restore": lambda: kill_and_restore(results, Path(folder), dry=dry),
        }
        for name in others:
            checks[f"actions, {name}"] = functools.partial(actions, results, device, name, dry=dry)
        for name in deadline.take(checks, results, "left_out", alike=False):
            with results.attempt(name):
                checks[name]()


def compare(found: Any, expected: Any, tolerance: float, *, share: float = 1.0) -> dict[str, Any]:
    """The largest difference of two trees, as a share of the largest number that was expected.

    With `share` below 1 rows of arrays count one by one, and so many of them must be within.
    """
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    wide = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    if any(a.shape != b.shape for a, b in wide):
        return {"ok": False, "difference": None, "tolerance": tolerance, "cause": "other shapes"}
    scale = max(float(np.abs(b).max(initial=0.0)) for _, b in wide) or 1.0
    away = [np.abs(a - b).reshape(len(a) if share < 1 else 1, -1).max(axis=1) for a, b in wide]
    difference = float(np.quantile(np.concatenate(away), share)) / scale
    sound = bool(np.isfinite(difference))
    return {
        "ok": sound and difference <= tolerance,
        "difference": difference if sound else None,
        "tolerance": tolerance,
        "scale": scale,
    }


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
    feed = sampling.build(made.config, made.spec)
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
        with (
            results.attempt(f"{what}, {precision}"),
            programs.with_precision(config, precision) as mine,
        ):
            jitted = jax.jit(make(mine))
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
        learner = algorithms.build_learner(config, made.spec)

        def all_losses(params: Any, slow: Any, batch: Any, key: Any) -> Any:
            found = {}
            for i, (group, loss) in enumerate(learner.losses.items()):

                def own(mine: Any, group: str = group, loss: Any = loss, i: int = i) -> Any:
                    key_of = jax.random.fold_in(key, i)
                    return loss({**params, group: mine}, slow, batch, key_of)[0]

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
    tx = optax.sgd(0.05)

    def of_descent(config: Any) -> Callable[..., Any]:
        learner = algorithms.build_learner(config, made.spec)
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
    with programs.with_precision(made.config, "float32") as config:
        learner = algorithms.build_learner(config, made.spec)
        trainer = train.make_trainer(learner, config, made.spec)
        found, expected = (_ten_by_adam(trainer, made, where, dry) for where in (device, cpu()))
    results.put("ten updates by Adam, float32", movement(found, expected, params))


def _ten_by_adam(trainer: train.Trainer, made: programs.Made, where: Any, dry: bool) -> Any:
    """Parameters after the first ten updates of a run."""
    state = programs.repeated(programs.host_state(_SIZE, dry=dry), 1)
    state, _ = trainer.run(*jax.device_put((state, made.data), where), 10)
    return jax.tree.map(lambda x: x[0], jax.device_get(state.params))


def movement(found: Any, expected: Any, begin: Any) -> dict[str, Any]:
    """How far two ends of one way lie apart, as a share of its length, in L2; the worst group."""

    def far(a: Any, b: Any) -> float:
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return float(np.sqrt(sum(((x.astype(np.float64) - y) ** 2).sum() for x, y in leaves)))

    apart = max(far(found[g], expected[g]) / far(expected[g], begin[g]) for g in expected)
    sound = bool(np.isfinite(apart))
    return {
        "ok": sound and apart <= MOVEMENT,
        "difference": apart if sound else None,
        "tolerance": MOVEMENT,
    }


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
    slow = slow | {"calibration": jax.tree.map(np.float32, constants)}
    obs = np.random.default_rng(1).standard_normal((count, made.spec.obs_dim)).astype(np.float32)
    keys, lowered = jax.random.split(jax.random.key(5), count), {}
    placed = jax.device_put((params, slow, obs, keys, np.float32(1.0)), where)
    with programs.with_precision(made.config, precision) as config:
        for name in algorithms.served_by("qgf"):
            for n in algorithms.METHODS[name].best_of:
                if not dry or name in _DRY_METHODS:
                    sample = algorithms.build_sample(config, made.spec, name, n)
                    act = jax.jit(jax.vmap(sample, in_axes=(None, None, 0, 0, None)))
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

    with programs.with_precision(made.config, "tf32") as config:
        learner = algorithms.build_learner(config, made.spec)
        trainer = train.make_trainer(learner, config, made.spec)
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
    words = ["-m", "stages.right", "digest", str(int(dry))]
    said = [_run(*python(*words, env={"XLA_FLAGS": flags})) for _ in range(2)]
    return {"same": said[0] == said[1]}


def kill_and_restore(results: Results, folder: Path, *, dry: bool) -> None:
    """A run that was killed ends where an undisturbed one does; a CPU acts as the device does."""
    collect(f"{_MAZE}-v0", 4 if dry else 50, folder, simulator="jax")
    words = [
        f"--config={ROOT}/experiments/configs/quickstart.py",
        f"--config.env={_MAZE}-singletask-task1-v0",
        f"--config.data.dir={folder}",
        "--config.devices=1",
    ]
    every = 4 if dry else 200
    values = {"steps": 3 * every, "log_every": every, "save_every": every}
    values |= {"steps_per_dispatch": 2, "batch_size": 16} if dry else {}
    words += [f"--config.train.{k}={v}" for k, v in values.items()]
    widths = "16" if dry else "256,256,256"
    words += [f"--config.networks.{k}_hidden={widths}" for k in ("policy", "critic")]
    words += ["--config.sampler.num_steps=3"] * dry
    command = [
        *python("-m", "qgf_jax", "train", *words[:1], f"--workdir={folder}/killed", *words[1:])
    ]
    overrides = configs.parse_overrides(words[1:])
    config = configs.plain(configs.load(words[0].removeprefix("--config="), overrides))
    whole = pretrain(config, folder / "whole")
    # Dies in the middle of its second save, as by a kill: nothing is flushed or closed.
    died = subprocess.run(
        command[0],
        env={**command[1], "QGF_CRASH_AT": "write:2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if died.returncode != 137:
        raise RuntimeError(f"no death: {died.stderr.strip().splitlines()[-1:]}")
    left = _states(folder / "killed")
    pretrain(config, folder / "killed")
    ends = [_states(folder / name)[3 * every] for name in ("whole", "killed")]
    results.put(
        "killed and resumed",
        {"ok": ends[0] == ends[1], "resumed_from": max(left), "digests": ends},
    )
    out = folder / "cpu.npz"
    _run(*python("-m", "stages.right", "act", str(whole), str(out), env={"JAX_PLATFORMS": "cpu"}))
    with np.load(out, allow_pickle=False) as file, jax.default_matmul_precision("highest"):
        expected = {key: file[key] for key in file.files}
        compared = compare(_act(whole), expected, TOLERANCES["float32"]["actions"])
    results.put("restored on a CPU", compared)


def _states(workdir: Path) -> dict[int, str]:
    """The digests of a run's checkpoints, as `qgf verify` says them."""
    run_of = open_run(workdir)
    checkpoints = Checkpoints(run_of.trained_in, identity=run_of.identity)
    return {step: checkpoints.digest(step) for step in checkpoints.steps()}


def _act(workdir: Path) -> dict[str, np.ndarray]:
    """Actions of a run in a few places."""
    obs = np.random.default_rng(2).uniform(0, 20, (16, 2)).astype(np.float32)
    policy = load_policy(workdir, "qgf", 1.0)
    return {"qgf": np.asarray(policy(obs, jax.random.key(0)))}


def _run(command: list[str], env: dict[str, str]) -> str:
    """What a process of its own says; its last line is the cause if it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"left with {done.returncode}: {' '.join(last)}")
    return done.stdout.strip()


def main(words: Sequence[str]) -> None:
    """Parts that need a process of their own: `act RUN FILE.npz` and `digest DRY`."""
    if words[0] == "act":
        np.savez(words[2], allow_pickle=False, **_act(Path(words[1])))
    else:
        print(_digests(*_updates(bool(int(words[1])))[:2]))


if __name__ == "__main__":
    main(sys.argv[1:])
