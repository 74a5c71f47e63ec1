"""Pretraining: from a config to a run folder with a sealed checkpoint."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from qgf_jax import config as configs
from qgf_jax.data import feeder
from qgf_jax.data.load import Loaded, load
from qgf_jax.errors import NotFiniteError, log
from qgf_jax.methods.table import build_learner
from qgf_jax.runs import failpoints
from qgf_jax.runs import run as runs
from qgf_jax.runs.checkpoint import Checkpoints, RestoredState, check_space, tree_bytes
from qgf_jax.runs.metrics import Clock, Writer
from qgf_jax.runs.signals import StopRequest
from qgf_jax.runs.tracking import Tracker
from qgf_jax.runtime import backend
from qgf_jax.training import calibration as calibrate
from qgf_jax.training import parallel
from qgf_jax.training.parallel import DeviceLayout
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import MOST_SKIPPED, TrainState, seeds_of
from qgf_jax.types import Metrics, Spec


@backend.standardized
def pretrain(
    config: Mapping[str, Any], workdir: str | os.PathLike, loaded: Loaded | None = None
) -> Path:
    """Trains to `train.steps`, from the newest sound checkpoint if there is one: the run folder.

    `config` is a resolved config of plain dicts (`config.plain`), and `loaded` its data if they were
    read before. Randomness is a function of seed and step, so a run that was stopped and resumed ends
    where an undisturbed one does. Of several hosts (`parallel.initialize`) all call this, and the first
    one alone writes.

    On SIGTERM or SIGINT the current step is saved and `Stopped` raised. Raises `UserError` for data or
    a folder that will not do, `NotFiniteError` after ten updates in a row that were left out.
    """
    configs.check(config)
    backend.devices()  # or one line, before anything asks which process this is
    clock = Clock()
    with contextlib.ExitStack() as stack:
        with parallel.setup_phase():
            spread = parallel.make(config)
            stop = stack.enter_context(spread.stop_request())
            loaded = loaded or load(config, spread.room)
            fields, tracker = loaded.spec, None
            if spread.primary:
                fields = runs.recorded_spec(Path(workdir), config, fields, loaded.fingerprint)
                tracker = _begin_to_write(stack, config, Path(workdir))
            spec = Spec(**fields)
            feed = feeder.make(loaded, max(spec.backup, spec.chunk), spread.for_data())
            stack.callback(feed.close)
        common = runs.common(config, loaded.fingerprint)
        parallel.barrier(common | {"blocks": feed.blocks, "steps between blocks": feed.every})
        spec = _of_primary(spread, spec)
        learner = build_learner(config, spec)
        trainer = parallel.make_trainer(spread, learner, config, spec, blocks=feed.blocks)
        seeds, steps = seeds_of(config), config["train"]["steps"]
        keeper, found, calibrated = None, None, False
        with parallel.setup_phase():
            if tracker:
                run = runs.create(workdir, config, loaded.spec, loaded.fingerprint)
                stack.callback(lambda: _report(clock))
                tracker.keep()
                writer = Writer(run.metrics, tracker)
                stack.callback(writer.close)
                keep = config["train"]["keep"]
                checkpoints = Checkpoints(workdir, keep=keep, identity=run.identity)
                keeper = _Outputs(stack.enter_context(checkpoints), writer)
                found = _restore(trainer, seeds, keeper, clock)
                calibrated = bool(calibrate.read(Path(workdir), steps))
        # Before the exchanges between devices of the training itself, whose patience is short.
        parallel.barrier({})
        start = _start(spread, trainer, seeds, found)
        calibrated = bool(spread.broadcast_from_host0(np.int64(calibrated)))
        if keeper and spread.count > 1:
            log(f"devices: {spread.describe()}")
        validation = jax.device_put(loaded.validation) if spread.primary else None
        options = config["train"] | {"steps_per_dispatch": _dispatch(config, feed, keeper)}
        loop = _Loop(options, spread, tuple(learner.losses), trainer, keeper, clock, stop)
        state = loop.run(start, feed, validation)
        if keeper:
            keeper.checkpoints.wait()
            clock.lap("checkpoint")
        if not calibrated:
            dataset = feed.at(steps - 1)  # by all, as it may be a program of all devices
            if keeper:
                mine = spread.local(state), spread.first_piece(dataset)
                stacked = spread.count > 1
                calibrate.write(Path(workdir), config, spec, *mine, feed.blocks, stacked=stacked)
        clock.lap("calibrate")
    return Path(workdir)


def _dispatch(
    config: Mapping[str, Any], feed: feeder.DatasetFeed, keeper: "_Outputs | None"
) -> int:
    """How many steps are dispatched at once; results change by rounding, as each length is a program.

    A stream cuts dispatches where its window changes, after hundreds of steps: others than hundreds
    would be of several lengths, and each is compiled.
    """
    given = config["train"]["steps_per_dispatch"] or (100 if feed.every else 0)
    return backend.choose("train.steps_per_dispatch", given, quiet=keeper is None)


def _of_primary(spread: DeviceLayout, spec: Spec) -> Spec:
    """With the normalisation of the first host, which alone knows what the run began with."""
    if not spec.obs_mean:
        return spec
    scale = np.array(spec.obs_mean), np.array(spec.obs_std)
    mean, std = (tuple(x.tolist()) for x in spread.broadcast_from_host0(scale))
    return spec._replace(obs_mean=mean, obs_std=std)


def _begin_to_write(
    stack: contextlib.ExitStack, config: Mapping[str, Any], workdir: Path
) -> Tracker:
    """Weights & Biases, and then the folder with its lock: what cannot begin leaves no folder."""
    runs.check_free(workdir)
    tracker = Tracker(config, workdir)
    stack.callback(tracker.close)
    stack.enter_context(runs.only_writer(workdir))
    return tracker


class _Outputs(NamedTuple):
    """What writes: of the first host alone."""

    checkpoints: Checkpoints
    writer: Writer


def _restore(trainer: Trainer, seeds: Any, keeper: _Outputs, clock: Clock) -> RestoredState | None:
    """The newest sound step, if there is one."""
    template = jax.eval_shape(trainer.init, seeds)
    keeper.checkpoints.clean()
    check_space(keeper.checkpoints.root, 2 * tree_bytes(template))
    clock.lap("start")
    found = keeper.checkpoints.restore(template)
    clock.lap("checkpoint")
    return found


def _start(
    spread: DeviceLayout, trainer: Trainer, seeds: Any, found: RestoredState | None
) -> RestoredState:
    """Step 0, or what the first host has found, with its state on all devices."""
    start = found or RestoredState(0, trainer.init(seeds), [])
    return start._replace(
        step=int(spread.broadcast_from_host0(np.int64(start.step))),
        state=spread.replicate(spread.broadcast_from_host0(start.state)),
    )


def _report(clock: Clock) -> None:
    """Where the time went; "data" is what the device has waited for data while training."""
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in clock.seconds.items())
    log(f"goodput {clock.share('train'):.2f}: {parts}")


@dataclasses.dataclass
class _Loop:
    """Dispatches, logs and saves until the last step."""

    options: Mapping[str, Any]
    """The config's section `train`, nothing in it left to choose."""
    spread: DeviceLayout
    groups: Sequence[str]
    """Parameter groups, in the order of their losses."""
    trainer: Trainer
    keeper: _Outputs | None
    clock: Clock
    stop: StopRequest

    def run(self, start: RestoredState, feed: feeder.DatasetFeed, validation: Any) -> TrainState:
        """The state at the last step."""
        options, step, state = self.options, start.step, start.state
        pending: list[tuple[int, Metrics]] = [
            (n, {k: jnp.asarray(v) for k, v in metrics.items()}) for n, metrics in start.note
        ]
        # What lies before was done once already, and was lost.
        reached = self.keeper.writer.last if self.keeper else 0
        compiled: set[int] = set()
        bar = tqdm(
            total=options["steps"],
            initial=step,
            unit="step",
            disable=None if self.keeper else True,
            file=sys.stderr,
            desc="train",
        )
        if step < options["steps"]:
            feed.at(step)
        self.clock.lap("start")
        began, begun_at = time.perf_counter(), step
        with bar:
            while step < options["steps"]:
                self._heed(step, state, pending)
                if not feed.ready(step):  # what runs is not waiting; what comes after it is
                    jax.block_until_ready(state)
                    self.clock.lap("train" if step > reached else "again")
                    feed.at(step)
                    self.clock.lap("data")
                steps = _next_stop(step, options, feed.until(step)) - step
                state, metrics = self.trainer.run(state, feed.at(step), steps)
                if steps not in compiled:
                    failpoints.failpoint("compile")
                    self.clock.lap("compile")
                    compiled.add(steps)
                pending.append((steps, metrics))
                step += steps
                bar.update(steps)
                if len(pending) > 1:  # two dispatches in flight, so that a signal is heeded soon
                    jax.block_until_ready(pending[-2])
                if self.keeper:
                    self.keeper.checkpoints.poll()
                saving = step == options["steps"] or step % options["save_every"] == 0
                # At a save too: a resumed run starts a fresh mean there.
                if saving or step % options["log_every"] == 0:
                    scalars = _flush(pending)
                    self.clock.lap("train" if step > reached else "again")
                    scalars["skipped"] = self._skipped(state, step)
                    if self.keeper:
                        scalars |= self._held_out(state, validation)
                        rate = (step - begun_at) / (time.perf_counter() - began)
                        self._log(step, scalars, rate, quiet=not bar.disable)
                if (every := options["check_replicas"]) and step % every == 0:
                    self.spread.check_replicas(state)
                if saving:
                    self._save(step, state, [])
                    self.clock.lap("checkpoint")
        return state

    def _held_out(self, state: TrainState, validation: Any) -> dict[str, float]:
        """The losses on validation data, if there are any."""
        failpoints.failpoint("validation")
        if validation is None:
            return {}
        losses = jax.device_get(self.trainer.evaluate(self.spread.local(state), validation))
        self.clock.lap("validation")
        return {f"validation/{k}": float(v.mean()) for k, v in losses.items()}

    def _save(self, step: int, state: TrainState, note: Any) -> None:
        if self.keeper:
            self.keeper.writer.sync()
            self.keeper.checkpoints.save(step, self.spread.local(state), note)

    def _heed(self, step: int, state: TrainState, pending: list[tuple[int, Metrics]]) -> None:
        """Saves what there is and raises `Stopped`, if a signal has come, to any host."""
        if not self.spread.agreed_to_stop(self.stop):
            return
        note = [
            (n, {name: np.asarray(x).tolist() for name, x in metrics.items()})
            for n, metrics in pending
        ]
        self._save(step, state, note)
        if self.keeper:
            self.keeper.checkpoints.wait()
        self.stop.check(f"saved at step {step}; the same command goes on from there")

    def _skipped(self, state: TrainState, step: int) -> int:
        """Updates left out so far, of all seeds. Raises `NotFiniteError` if there is no end to it."""
        guard = jax.device_get(self.spread.local(state.guard))
        for seed, row in enumerate(guard.in_a_row):
            if row < MOST_SKIPPED:
                continue
            bad = [g for i, g in enumerate(self.groups) if guard.culprits[seed] >> i & 1]
            raise NotFiniteError(
                f"loss or gradient of {', '.join(bad)} is not finite in any update since step "
                f"{step - row}: stopped; the checkpoints before it stay; lower "
                "optimizer.learning_rate or look at the data"
            )
        return int(guard.skipped.sum())

    def _log(self, step: int, scalars: Mapping[str, float], rate: float, *, quiet: bool) -> None:
        if self.keeper:
            self.keeper.writer.write(step, scalars, steps_per_second=rate)
        if quiet:
            return
        losses = " ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k.endswith("/loss"))
        steps = self.options["steps"]
        log(f"step {step}/{steps} {rate:.0f}/s {losses}")


def _next_stop(step: int, options: Mapping[str, Any], until: int | None = None) -> int:
    """The end of the next dispatch: a full one, or the next step at which the host has work.

    `until`: the first step that draws from other data.
    """
    every = ("steps_per_dispatch", "log_every", "save_every", "check_replicas")
    marks = (options[key] for key in every if options.get(key))
    stops = [(step // mark + 1) * mark for mark in marks]
    return min(options["steps"], *stops, *([until] if until else []))


def _flush(pending: list[tuple[int, Metrics]]) -> dict[str, float]:
    """Means over the steps and seeds since the last call; per seed too if there are several."""
    steps = np.array([[n] for n, _ in pending])
    values = jax.device_get([metrics for _, metrics in pending])
    pending.clear()
    scalars = {}
    for name in values[0]:
        means = np.array([v[name] for v in values])  # [dispatches, seeds], NaN if all was left out
        weights = steps * ~np.isnan(means)
        with np.errstate(invalid="ignore"):
            per_seed = (weights * np.where(np.isnan(means), 0.0, means)).sum(axis=0) / weights.sum(
                axis=0
            )
        scalars[name] = float(per_seed.mean())
        if len(per_seed) > 1:
            scalars |= {f"{name}/seed{i}": float(x) for i, x in enumerate(per_seed)}
    return scalars
