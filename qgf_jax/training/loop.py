"""Pretraining: from a config to a run folder with a sealed checkpoint.

`pretrain` has five steps: each host prepares its data (`_Host`), the learner's programs are compiled for
the devices, host 0 opens the run folder and restores (`_Outputs`), the steps run (`_Loop`), and the
guidance weight is calibrated.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from qgf_jax import config as configs
from qgf_jax.data.arrays import Dataset
from qgf_jax.data.feeder import DatasetFeed
from qgf_jax.data.load import Loaded
from qgf_jax.errors import NotFiniteError, UserError, log
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.checkpoint import Checkpoints, RestoredState
from qgf_jax.runs.failpoints import failpoint
from qgf_jax.runs.frozen import Frozen
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.metrics import Clock, MetricsLog
from qgf_jax.runs.run import Run
from qgf_jax.runs.signals import StopRequest
from qgf_jax.runs.tracking import Tracker
from qgf_jax.runtime import backend
from qgf_jax.training.calibration import measure
from qgf_jax.training.hosts import Hosts
from qgf_jax.training.parallel import DeviceLayout
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import MOST_SKIPPED, TrainState
from qgf_jax.training.weights import weights_after_training
from qgf_jax.types import Metrics, Spec


@backend.standardized
def pretrain(
    config: ConfigDict | Mapping[str, Any],
    workdir: str | os.PathLike,
    dataset: Dataset | Loaded | None = None,
) -> Path:
    """Trains to `train.steps` and returns the run folder. Resumes from the newest sound checkpoint.

    `config` is a config, or its plain dicts (`config.plain`). `dataset` is data of your own
    (`qgf_jax.Dataset`), or the config's if they were read before. All randomness is a function of seed
    and step, so a run that was stopped and resumed ends where an undisturbed run does. With several
    hosts (`Hosts`) all of them call this, and only the first one writes.

    On SIGTERM or SIGINT it saves the current step and raises `Stopped`. Raises `UserError` for unusable
    data or an unusable folder, `NotFiniteError` after ten skipped updates in a row.
    """
    config = configs.plain(config)
    configs.check(config)
    config = Frozen(config).resolved(Path(workdir))
    backend.devices()  # fails in one line, before anything asks which process this is
    workdir, clock = Path(workdir), Clock()
    with contextlib.ExitStack() as stack:
        with Hosts.setup_phase():
            host = _Host.prepare(stack, config, workdir, dataset)
        spec = host.agree(config)
        learner = Builder(config, spec).learner()
        trainer = host.layout.make_trainer(learner, config, spec, blocks=host.feed.blocks)
        with Hosts.setup_phase():
            outputs = _Outputs.open(stack, host, config, clock)
            checkpoint = outputs.restore(trainer, config) if outputs else None
        # Before training's own exchanges between devices, which do not wait long.
        Hosts.barrier({})
        start = _start(host.layout, trainer, checkpoint)
        known = np.int64(outputs is not None and outputs.calibrated)
        calibrated = bool(host.layout.broadcast_from_host0(known))
        if outputs and host.layout.count > 1:
            log(f"devices: {host.layout.describe()}")
        loop = _Loop(
            options=_options(config, host.feed, quiet=outputs is None),
            groups=tuple(learner.losses),
            host=host,
            trainer=trainer,
            outputs=outputs,
            clock=clock,
            start=start,
        )
        state = loop.run()
        if not calibrated:
            _calibrate(host, config, spec, state)
        clock.lap("calibrate")
    if config["train"]["calibrate"] and host.layout.primary:
        weights_after_training(workdir, dataset)
    return workdir


class _Host(NamedTuple):
    """What a host has before it talks to the others."""

    layout: DeviceLayout
    stop: StopRequest
    loaded: Loaded
    spec: Spec
    feed: DatasetFeed
    tracker: Tracker | None
    """Of the host that writes."""
    workdir: Path

    @classmethod
    def prepare(
        cls,
        stack: contextlib.ExitStack,
        config: Mapping[str, Any],
        workdir: Path,
        dataset: Dataset | Loaded | None,
    ) -> "_Host":
        """Loads the data and sends them to the devices; the first host locks the run folder too."""
        layout = DeviceLayout.of(config)
        stop = stack.enter_context(layout.stop_request())
        if not isinstance(dataset, Dataset | Loaded | None):
            raise UserError(
                f"the dataset is a {type(dataset).__name__}: make one with "
                "qgf_jax.Dataset.from_arrays"
            )
        if isinstance(dataset, Loaded):
            loaded = dataset
        else:
            loaded = Loaded.of(config, layout.free_bytes, dataset)
        record, tracker = loaded.spec, None
        if layout.primary:
            record = Run.first_spec(workdir, config, record, loaded.fingerprint)
            # Weights & Biases first: if it cannot begin, no folder is left.
            TRAINING.check_free(workdir)
            tracker = stack.enter_context(Tracker(config, workdir))
            stack.enter_context(TRAINING.lock(workdir))
        spec = Spec.of(record)
        feed = DatasetFeed(loaded, spec.steps, layout.for_data())
        stack.callback(feed.close)
        return cls(layout, stop, loaded, spec, feed, tracker, workdir)

    def agree(self, config: Mapping[str, Any]) -> Spec:
        """The spec with host 0's normalisation: only host 0 knows what the run began with.

        Raises `UserError` if the hosts do not train the same.
        """
        shared = {f"config key {k}": v for k, v in configs.RunConfig(config).shared().items()}
        shared |= {f"data's {k}": self.loaded.fingerprint.get(k) for k in _SAME_DATA}
        shared |= {"blocks": self.feed.blocks, "steps between blocks": self.feed.every}
        Hosts.barrier(json.loads(json.dumps(shared)))  # as the others' answers arrive
        if not self.spec.mean:
            return self.spec
        scale = np.array(self.spec.mean), np.array(self.spec.std)
        mean, std = self.layout.broadcast_from_host0(scale)
        return self.spec.scaled(mean.tolist(), std.tolist())


_SAME_DATA = ("sha256", "mode", "layout")
"""The keys of a dataset's fingerprint in which all hosts must agree."""


class _Outputs(NamedTuple):
    """What writes to the run folder; only the first host has it."""

    checkpoints: Checkpoints
    writer: MetricsLog
    clock: Clock
    calibrated: bool
    """Whether the constants of guidance were measured before, at the last step."""

    @classmethod
    def open(
        cls, stack: contextlib.ExitStack, host: _Host, config: Mapping[str, Any], clock: Clock
    ) -> "_Outputs | None":
        """Creates or resumes the run folder; `None` on the other hosts."""
        if host.tracker is None:
            return None
        loaded = host.loaded
        run = Run.create(host.workdir, config, loaded.spec, loaded.fingerprint)
        stack.callback(lambda: log(clock.goodput()))
        host.tracker.keep()
        writer = MetricsLog(run.metrics, host.tracker)
        stack.callback(writer.close)
        options = config["train"]
        checkpoints = Checkpoints(host.workdir, keep=options["keep"], identity=run.identity)
        calibrated = bool(LoadedRun.calibration(host.workdir, options["steps"]))
        return cls(stack.enter_context(checkpoints), writer, clock, calibrated)

    def restore(self, trainer: Trainer, config: Mapping[str, Any]) -> RestoredState | None:
        """The newest sound checkpoint, if there is one, or the start beside another run's parts.

        Raises `SaveError` if the disk is too full.
        """
        template = jax.eval_shape(trainer.init, trainer.seeds)
        self.checkpoints.clean()
        self.checkpoints.check_space(template, states=2)
        self.clock.lap("start")
        checkpoint = self.checkpoints.restore(template)
        if checkpoint is None and config["frozen"]["add"]:
            parts = Frozen(config).read(template)
            state = trainer.init(jnp.asarray(trainer.seeds)).joined(parts)
            checkpoint = RestoredState(0, state, [])
        self.clock.lap("checkpoint")
        return checkpoint

    def save(self, step: int, state: TrainState, note: Any) -> None:
        """Saves a state, after the metrics that lead up to it."""
        self.writer.sync()
        self.checkpoints.save(step, state, note)


def _start(
    layout: DeviceLayout, trainer: Trainer, checkpoint: RestoredState | None
) -> RestoredState:
    """Host 0's checkpoint, or step 0, with the state on all devices."""
    start = checkpoint or RestoredState(0, trainer.init(jnp.asarray(trainer.seeds)), [])
    return start._replace(
        step=int(layout.broadcast_from_host0(np.int64(start.step))),
        state=layout.replicate(layout.broadcast_from_host0(start.state)),
    )


def _options(config: Mapping[str, Any], feed: DatasetFeed, *, quiet: bool) -> Mapping[str, Any]:
    """The config's section `train`, with the number of steps that are dispatched at once.

    Results change by rounding with that number, as each length is a program of its own. A stream cuts
    dispatches where its window changes, which is after hundreds of steps: any length that is no hundred
    would be cut to several lengths, and each of them compiled.
    """
    options = config["train"]
    given = options["steps_per_dispatch"] or (100 if feed.every else 0)
    chosen = backend.choose("train.steps_per_dispatch", given, quiet=quiet)
    return options | {"steps_per_dispatch": chosen}


def _calibrate(host: _Host, config: Mapping[str, Any], spec: Spec, state: TrainState) -> None:
    """Measures the constants of guidance at the last step, and writes calibration.npz."""
    steps = config["train"]["steps"]
    dataset = host.feed.at(steps - 1)  # on all hosts, as it may be a program of all devices
    if not host.layout.primary or "policy" not in state.params:
        return
    constants = measure(
        config,
        spec,
        host.layout.local(state),
        host.layout.first_piece(dataset),
        host.feed.blocks,
        stacked=host.layout.count > 1,
    )
    LoadedRun.write_calibration(host.workdir, steps, constants)


@dataclasses.dataclass
class _Loop:
    """Dispatches steps, logs and saves until the last step."""

    options: Mapping[str, Any]
    """The config's section `train`, with `steps_per_dispatch` chosen."""
    groups: Sequence[str]
    """Parameter groups, in the order of their losses."""
    host: _Host
    trainer: Trainer
    outputs: _Outputs | None
    clock: Clock
    start: dataclasses.InitVar[RestoredState]

    def __post_init__(self, start: RestoredState) -> None:
        self.validation = jax.device_put(self.host.loaded.validation) if self.outputs else None
        self.step, self.state = start.step, start.state
        # (steps, their mean metrics) of each dispatch since metrics were last written.
        self.pending: list[tuple[int, Metrics]] = [
            (steps, {name: jnp.asarray(mean) for name, mean in metrics.items()})
            for steps, metrics in start.note
        ]
        # Steps up to here were done before, and lost.
        self._reached = self.outputs.writer.last if self.outputs else 0
        self._compiled: set[int] = set()

    def run(self) -> TrainState:
        """Returns the state at the last step."""
        last = self.options["steps"]
        if self.step < last:
            self.host.feed.at(self.step)
        self.clock.lap("start")
        self._began, self._begun_at = time.perf_counter(), self.step
        with self._progress_bar() as bar:
            while self.step < last:
                self._stop_if_asked()
                self._wait_for_data()
                bar.update(self._dispatch())
                saving = self.step == last or self._is_due("save_every")
                # Metrics at a save too: a resumed run starts a new mean there.
                if saving or self._is_due("log_every"):
                    self._write_metrics(quiet=not bar.disable)
                if self._is_due("check_replicas"):
                    self.host.layout.check_replicas(self.state)
                if saving:
                    self._save([])
                    self.clock.lap("checkpoint")
        if self.outputs:
            self.outputs.checkpoints.wait()
            self.clock.lap("checkpoint")
        return self.state

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.options["steps"],
            initial=self.step,
            unit="step",
            disable=None if self.outputs else True,
            file=sys.stderr,
            desc="train",
        )

    def _is_due(self, option: str) -> bool:
        """Whether the current step is a multiple of an option; never if that is 0."""
        every = self.options[option]
        return bool(every) and self.step % every == 0

    def _lap_training(self) -> None:
        self.clock.lap("train" if self.step > self._reached else "again")

    def _stop_if_asked(self) -> None:
        """Saves and raises `Stopped`, if a signal has come to any host."""
        stop = self.host.stop
        if not self.host.layout.agreed_to_stop(stop):
            return
        note = [
            (n, {name: np.asarray(x).tolist() for name, x in metrics.items()})
            for n, metrics in self.pending
        ]
        self._save(note)
        if self.outputs:
            self.outputs.checkpoints.wait()
        stop.check(f"saved at step {self.step}; the same command resumes from there")

    def _wait_for_data(self) -> None:
        """Counts the time until the dataset is there, but not the time of steps that still run."""
        if self.host.feed.ready(self.step):
            return
        jax.block_until_ready(self.state)
        self._lap_training()
        self.host.feed.at(self.step)
        self.clock.lap("data")

    def _dispatch(self) -> int:
        """Starts the next steps, without waiting for them, and returns how many."""
        feed = self.host.feed
        steps = _next_stop(self.step, self.options, feed.until(self.step)) - self.step
        self.state, metrics = self.trainer.run(self.state, feed.at(self.step), steps)
        if steps not in self._compiled:
            failpoint("compile")
            self.clock.lap("compile")
            self._compiled.add(steps)
        self.pending.append((steps, metrics))
        self.step += steps
        if (
            len(self.pending) > 1
        ):  # at most two dispatches in flight, so that a signal is heeded soon
            jax.block_until_ready(self.pending[-2])
        if self.outputs:
            self.outputs.checkpoints.poll()
        return steps

    def _write_metrics(self, *, quiet: bool) -> None:
        """Writes the means since the last call. Raises `NotFiniteError` if updates are all skipped."""
        scalars = _flush(self.pending)
        self._lap_training()
        scalars["skipped"] = self._skipped()
        if self.outputs is None:
            return
        scalars |= self._validation_losses()
        rate = (self.step - self._begun_at) / (time.perf_counter() - self._began)
        self.outputs.writer.write(self.step, scalars, steps_per_second=rate)
        if not quiet:
            losses = " ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k.endswith("/loss"))
            log(f"step {self.step}/{self.options['steps']} {rate:.0f}/s {losses}")

    def _validation_losses(self) -> dict[str, float]:
        """The losses on validation data, if there are any."""
        failpoint("validation")
        if self.validation is None:
            return {}
        state = self.host.layout.local(self.state)
        losses = jax.device_get(self.trainer.evaluate(state, self.validation))
        self.clock.lap("validation")
        return {f"validation/{k}": float(v.mean()) for k, v in losses.items()}

    def _save(self, note: Any) -> None:
        if self.outputs:
            self.outputs.save(self.step, self.host.layout.local(self.state), note)

    def _skipped(self) -> int:
        """Updates skipped so far, over all seeds. Raises `NotFiniteError` if there is no end to it."""
        guard = jax.device_get(self.host.layout.local(self.state.guard))
        for seed, row in enumerate(guard.in_a_row):
            if row < MOST_SKIPPED:
                continue
            bad = [g for i, g in enumerate(self.groups) if guard.culprits[seed] >> i & 1]
            raise NotFiniteError(
                f"loss or gradient of {', '.join(bad)} is not finite in any update since step "
                f"{self.step - row}: stopped; the checkpoints before it stay; lower "
                "optimizer.learning_rate or look at the data"
            )
        return int(guard.skipped.sum())


def _next_stop(step: int, options: Mapping[str, Any], until: int | None = None) -> int:
    """The end of the next dispatch: a full one, or the next step at which the host has work.

    `until`: the first step that draws from another dataset.
    """
    every = ("steps_per_dispatch", "log_every", "save_every", "check_replicas")
    marks = (options[key] for key in every if options.get(key))
    stops = [(step // mark + 1) * mark for mark in marks]
    return min(options["steps"], *stops, *([until] if until else []))


def _flush(pending: list[tuple[int, Metrics]]) -> dict[str, float]:
    """Means over the steps and seeds of `pending`, which it empties; per seed too if there are several.

    A dispatch in which all updates were skipped is NaN, and counts for nothing.
    """
    steps = np.array([[n] for n, _ in pending])
    values = jax.device_get([metrics for _, metrics in pending])
    pending.clear()
    scalars = {}
    for name in values[0]:
        means = np.array([v[name] for v in values])  # [dispatches, seeds]
        weights = steps * ~np.isnan(means)
        with np.errstate(invalid="ignore"):
            total = (weights * np.where(np.isnan(means), 0.0, means)).sum(axis=0)
            per_seed = total / weights.sum(axis=0)
        scalars[name] = float(per_seed.mean())
        if len(per_seed) > 1:
            scalars |= {f"{name}/seed{i}": float(x) for i, x in enumerate(per_seed)}
    return scalars
