"""Pretraining: from a config to a run folder with a sealed checkpoint."""

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from qgf_jax import calibrate
from qgf_jax import run as runs
from qgf_jax.algorithms import build_learner
from qgf_jax.checkpoint import Checkpoints
from qgf_jax.data.load import load
from qgf_jax.errors import UserError
from qgf_jax.metrics import Writer
from qgf_jax.train import Trainer, TrainState, make_trainer
from qgf_jax.types import Metrics, Spec


def pretrain(config: Mapping[str, Any], workdir: str | os.PathLike) -> Path:
    """Trains to `train.steps`, from the newest sound checkpoint if there is one: the run folder.

    `config` is a resolved config of plain dicts (`config.plain`). Randomness is a function of seed
    and step, so a run that was stopped and resumed ends where an undisturbed one does.
    """
    loaded = load(config)
    run = runs.create(workdir, config, loaded.spec, loaded.fingerprint)
    spec = Spec(**loaded.spec)
    trainer = make_trainer(build_learner(config, spec), config, spec)
    checkpoints = Checkpoints(workdir, keep=config["train"]["keep"])
    seeds = config["seed"] + np.arange(config["seeds"])
    restored = checkpoints.restore(jax.eval_shape(trainer.init, seeds))
    step, state = restored or (0, trainer.init(seeds))
    writer = Writer(run.metrics, config)
    try:
        dataset = jax.device_put(loaded.dataset)
        state = _loop(config, trainer, state, step, dataset, loaded.validation, checkpoints, writer)
    finally:
        writer.close()
    calibrate.write(run.workdir, config, spec, state, dataset)
    return run.workdir


def _loop(
    config: Mapping[str, Any],
    trainer: Trainer,
    state: TrainState,
    step: int,
    dataset: Any,
    validation: Any,
    checkpoints: Checkpoints,
    writer: Writer,
) -> TrainState:
    """Dispatches, logs and saves until the last step: the state there."""
    options = config["train"]
    validation = jax.device_put(validation)
    pending: list[tuple[int, Metrics]] = []
    started, started_at = time.perf_counter(), step
    bar = tqdm(
        total=options["steps"],
        initial=step,
        unit="step",
        disable=None,
        file=sys.stderr,
        desc="train",
    )
    with bar:
        while step < options["steps"]:
            stop = _next_stop(step, options)
            state, metrics = trainer.run(state, dataset, stop - step)
            pending.append((stop - step, metrics))
            bar.update(stop - step)
            step = stop
            saving = step == options["steps"] or step % options["save_every"] == 0
            # At a save too: it looks for broken losses, and a resumed run starts a fresh mean there.
            if saving or step % options["log_every"] == 0:
                scalars = _flush(pending)
                if validation is not None:
                    held_out = jax.device_get(trainer.evaluate(state, validation))
                    scalars |= {f"validation/{k}": float(v.mean()) for k, v in held_out.items()}
                _refuse_nonfinite(scalars, step)
                rate = (step - started_at) / (time.perf_counter() - started)
                writer.write(step, scalars, steps_per_second=rate)
                if bar.disable:
                    losses = " ".join(
                        f"{k} {v:.4g}" for k, v in scalars.items() if k.endswith("/loss")
                    )
                    print(f"step {step}/{options['steps']} {rate:.0f}/s {losses}", file=sys.stderr)
            if saving:
                checkpoints.save(step, state)
    return state


def _next_stop(step: int, options: Mapping[str, Any]) -> int:
    """The end of the next dispatch: a full one, or the next step at which the host has work."""
    marks = (options["steps_per_dispatch"], options["log_every"], options["save_every"])
    return min(options["steps"], *((step // every + 1) * every for every in marks))


def _flush(pending: list[tuple[int, Metrics]]) -> dict[str, float]:
    """Means over the steps and seeds since the last call; per seed too if there are several."""
    steps = np.array([n for n, _ in pending])
    values = jax.device_get([metrics for _, metrics in pending])
    pending.clear()
    scalars = {}
    for name in values[0]:
        per_seed = np.average([v[name] for v in values], axis=0, weights=steps)
        scalars[name] = float(per_seed.mean())
        if len(per_seed) > 1:
            scalars |= {f"{name}/seed{i}": float(x) for i, x in enumerate(per_seed)}
    return scalars


def _refuse_nonfinite(scalars: Mapping[str, float], step: int) -> None:
    """Stops on broken losses, before a save; the parameters themselves are not looked at."""
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}: training stopped, the checkpoints up to here stay; "
                "lower optimizer.learning_rate or look at the data"
            )
