"""Chooses the guidance weight of a trained run from its data, by every criterion there is."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qgf_jax.data.arrays import Dataset
from qgf_jax.data.feeder import DatasetFeed
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError, log
from qgf_jax.methods.criteria import Choice, Measured
from qgf_jax.methods.parts import Part
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import numbers
from qgf_jax.runs.judge import check_judge
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runs.weights import ChosenWeights, check_can_be_evaluated
from qgf_jax.runtime import backend
from qgf_jax.training.fitted import fitted_values
from qgf_jax.training.weighing import FULL, Effort


@backend.standardized
def choose_weights(
    workdir: str | os.PathLike,
    data: Loaded | None = None,
    effort: Effort = FULL,
    judge: str | os.PathLike | None = None,
    *,
    evaluate: bool = False,
) -> dict[str, Any]:
    """Writes weights.json and weights.npz beside the newest checkpoint, for `qgf_auto`.

    `data` are those that the run was trained on, unless it can find them itself; they are taken. The
    newest critic of the run `judge`, if one is named, judges in the place of a member of the ensemble.
    `evaluate` adds the criterion that needs an evaluation, at minutes in place of seconds.
    Plays nothing. Returns what was chosen, `{"step", "weights": {criterion: one a seed}, "seconds"}`.
    Raises `UserError` for a run without a flow and a critic, for other data, for a critic that is flat,
    and as `check_judge` and `check_can_be_evaluated` do.
    """
    start, loaded = time.perf_counter(), LoadedRun.open(workdir)
    if evaluate:
        check_can_be_evaluated(loaded.run)
    if judge is not None:
        check_judge(loaded.run, Run.open(judge))
    other = None if judge is None else LoadedRun.open(judge)
    loaded.sampler("qgf")  # the run has what it takes, else a line says what it lacks
    folder, config = loaded.run.trained_in, loaded.run.config
    with TRAINING.lock(folder):
        feed = DatasetFeed(data or Loaded.of_run(loaded.run), loaded.spec.steps)
        try:
            dataset = feed.at(loaded.step - 1)
            given = config, loaded.spec, loaded.params, dataset
            found = effort.measure(*given, feed.blocks, other)
            found = {name: np.asarray(array) for name, array in jax.device_get(found).items()}
            _check_scale(found["weights"], loaded)
            if evaluate:
                log(
                    "qgf: evaluates weights by critics that learn from the data: this takes minutes"
                )
                found["evaluated"] = fitted_values(*given, found["weights"], effort, feed.blocks)
        finally:
            feed.close()
        disjoint = other is not None
        criteria = _choices([_of_seed(found, seed, disjoint) for seed in range(loaded.seeds)])
        state = Checkpoints(folder).digest(loaded.step)
        grid = found["weights"].astype(float).tolist()
        named = None if other is None else _named(other)
        chosen = ChosenWeights(loaded.step, state, criteria, grid, named)
        chosen.write(folder, found)
    weights = {name: found["weights"] for name, found in criteria.items()}
    seconds = round(time.perf_counter() - start, 1)
    return {"step": loaded.step, "weights": weights, "seconds": seconds}


def weights_after_training(workdir: Path, dataset: Dataset | Loaded | None) -> None:
    """`choose_weights` for a run that was just trained on `dataset`, unless that was done before.

    A run that cannot have a weight says so in a line, and is as good as it was.
    """
    run = Run.open(workdir)
    try:
        step = run.config["train"]["steps"]
        with contextlib.suppress(UserError):
            ChosenWeights.of_checkpoint(workdir, step, Checkpoints(workdir).digest(step))
            return
        # What was loaded for training has been taken by now.
        given = dataset if isinstance(dataset, Dataset) else None
        choose_weights(workdir, Loaded.of_run(run, given))
    except UserError as error:
        log(f"qgf: warning: train.calibrate: no weight was chosen: {error}")


def _check_scale(weights: np.ndarray, loaded: LoadedRun) -> None:
    """Raises `UserError` unless `weights` [S, W] are numbers above 0."""
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise UserError(
            f"{loaded.run.trained_in}: Q of the critic at step {loaded.step} is as high for all "
            "actions of the reference, so no weight has a scale: train longer"
        )


def _named(judge: LoadedRun) -> dict[str, Any]:
    """As weights.json says who judged."""
    folder = judge.run.trained_in
    return {
        "run": str(folder),
        "part": judge.run.config["data"]["part"],
        "step": judge.step,
        "state": Checkpoints(folder).digest(judge.step),
    }


def _of_seed(found: Mapping[str, np.ndarray], seed: int, disjoint: bool) -> Measured:
    return Measured(**{name: array[seed] for name, array in found.items()}, disjoint=disjoint)


def _choices(measured: list[Measured]) -> dict[str, dict[str, Any]]:
    """By criterion what it chooses for each seed, as JSON."""
    chosen = {}
    for name, criterion in Part.all("criterion").items():
        choices: list[Choice] = [criterion.make(m) for m in measured]
        chosen[name] = {
            "about": criterion.about,
            "weights": numbers([choice.weight for choice in choices]),
            "limit": numbers(choices[0].limit),
            "curves": [None if c.curve is None else numbers(c.curve) for c in choices],
        }
    return chosen
