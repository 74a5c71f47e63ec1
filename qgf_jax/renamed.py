"""Python names of earlier versions: they go on working, each with one line of advice.

`qgf_jax/__init__.py` calls `install`. Code of this package uses the new names only. An entry is added
below when something public is renamed. What became private where it stands needs none: `name` finds
`_name`. A function that became a method is found as the method, and takes what that takes.
tests/test_renamed.py looks up every entry, and every public name of an earlier version.
"""

import importlib
import operator
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_PACKAGE = "qgf_jax."
_MOVED_OUT = "qgf_guide."
"""What is now in the other package stands below with that name before it."""

_MODULES = {
    "adjoint": "core.adjoint",
    "algorithms": "methods.table",
    "array_files": "runs.array_files",
    "backend": "runtime.backend",
    "bounds": "qgf_guide.bounds",
    "calibrate": "training.calibration",
    "checkpoint": "runs.checkpoint",
    "children": "runtime.children",
    "core.aggregates": "qgf_guide.aggregates",
    "core.flow": "qgf_guide.flow",
    "core.inpainting": "qgf_guide.inpainting",
    "core.norms": "qgf_guide.norms",
    "costs": "training.costs",
    "critics": "methods.critics",
    "data.checksums": "data.converted",
    "data.layouts": "data.formats",
    "data.scale": "data.summary",
    "data.starts": "data.load",
    "diffusion": "core.diffusion",
    "dry_run": "training.dry_run",
    "episodes": "evaluation.episodes",
    "evaluate": "evaluation.evaluate",
    "evaluate_device": "evaluation.device",
    "evaluation.rollout": "evaluation.simulators",
    "evaluation.selection": "evaluation.summary",
    "faults": "runs.failpoints",
    "flops": "runtime.flops",
    "flow": "qgf_guide.flow",
    "global_batch": "training.global_batch",
    "guidance": "qgf_guide.guidance",
    "losses": "core.losses",
    "methods.guidance": "qgf_guide.guidance",
    "methods.rules": "qgf_guide.rules",
    "methods.rules.criteria": "methods.criteria",
    "methods.rules.endpoints": "methods.endpoints",
    "metrics": "runs.metrics",
    "networks": "core.networks",
    "official": "interop.import_official",
    "page": "report.report",
    "parallel": "training.parallel",
    "paths": "runtime.paths",
    "pickled": "interop.pickled",
    "plots": "report.plots",
    "policies": "methods.policies",
    "policies.diffusion": "methods.policies.noise_prediction",
    "policies.gaussian": "methods.policies.gaussians",
    "policies.hierarchical": "methods.policies.hiql",
    "policies.matching": "methods.policies.flow_loss",
    "policy": "runs.loaded",
    "pretrain": "training.loop",
    "report.html": "report.report",
    "run": "runs.run",
    "samplers": "methods.samplers",
    "selection": "evaluation.summary",
    "signals": "runs.signals",
    "statistics": "evaluation.statistics",
    "sums": "core.reductions",
    "tables": "report.tables",
    "tracking": "runs.tracking",
    "train": "training.step",
    "vectors": "training.forms",
    "video": "report.video",
}
"""{old module: where it is now}; the other modules below an old package have moved with it."""

_ATTRIBUTES = {
    "analysis.acting.by_weight": "analysis.subject:Subject.actions",
    "analysis.acting.curve": "rows",
    "analysis.acting.of_reference": "analysis.subject:Subject.reference",
    "analysis.subject.number": "runs.files:numbers",
    "analysis.subject.with_means": "Subject.with_means",
    "qgf_guide.bounds.check": "Bound.check",
    "qgf_guide.bounds.fields": "Field.declared_in",
    "qgf_guide.bounds.of": "Bound.of",
    "qgf_guide.bounds.read": "Bound.read",
    "cli.keep_compiled": "runtime.backend:_keep_compiled",
    "cli.path": "runtime.paths:expand",
    "config.changed": "RunConfig.changes_to",
    "config.fixed": "RunConfig._fixed",
    "config.parse_overrides": "cli:Parser.parse_overrides",
    "config.read": "RunConfig.read_record",
    "core.density.backward": "Path.backward",
    "core.density.forward": "Path.forward",
    "core.diffusion.alphas": "NoiseSchedule.of",
    "core.diffusion.mix": "NoiseSchedule.mix",
    "core.diffusion.sample": "NoiseSchedule.sample",
    "core.layers.evaluated_by": "Layer.evaluated_by",
    "core.losses.side": "expectile_weight",
    "core.networks.ACTIVATIONS": "core.layers:ACTIVATIONS",
    "core.networks.ARITHMETIC": "core.layers:ARITHMETIC",
    "core.networks.LayerNorm": "core.layers:LayerNorm",
    "core.networks.MLP": "core.layers:MLP",
    "core.networks.build": "Networks.of",
    "core.networks.sight": "network_input",
    "core.networks.sinusoidal": "core.layers:sinusoidal",
    "core.particles.effective_size": "Particles.effective_size",
    "core.particles.steer": "Particles.steer",
    "core.particles.systematic": "Particles.ancestors",
    "core.quasimetric.interval_quasimetric": "QuasimetricCritic.distance",
    "core.reductions.row_sum": "fast_sum",
    "data.chunks.block": "Dataset._block",
    "data.chunks.nth_start": "Dataset.nth_start",
    "data.chunks.prepare": "Dataset.of",
    "data.chunks.prepare_goals": "GoalDataset.of",
    "data.chunks.room": "data.formats:empty_array",
    "data.chunks.rows_of_block": "Dataset._rows_of_block",
    "data.chunks.split": "Dataset.split",
    "data.chunks.starts_of": "Dataset.count_starts",
    "data.chunks.trajectory_masks": "data.load:_trajectory_masks",
    "data.convert.write": "data.converted:Manifest.write",
    "data.converted.measure": "_CheckedFile.measure",
    "data.converted.record": "_CheckedFile.record",
    "data.feeder.Feeder": "DatasetFeed",
    "data.feeder.Lanes": "DevicePlacement",
    "data.feeder.make": "DatasetFeed",
    "data.feeder.one_device": "DevicePlacement.one_device",
    "data.formats.MANIFEST": "data.converted:MANIFEST",
    "data.formats.check_columns": "Rows.check_labels",
    "data.formats.check_ends": "_check_compact",
    "data.formats.check_numbers": "Rows.check_numbers",
    "data.formats.check_whole": "data.shards:_check_whole",
    "data.formats.find": "data.shards:Source.find",
    "data.formats.peek": "Rows.peek",
    "data.formats.read_rows": "Rows.read",
    "data.goals.Hindsight": "_GoalDistribution",
    "data.goals.draw": "GoalSampler.draw",
    "data.goals.draw_goals": "_GoalDistribution.draw",
    "data.goals.gather": "GoalSampler.gather",
    "data.load.check_drawn": "_Starts.check_drawn",
    "data.load.check_longest": "_Starts.check_longest",
    "data.load.load": "Loaded.of",
    "data.readers.hdf5.sha256": "data.readers.recording:Recording.digest",
    "data.readers.npz.is_of_steps": "data.readers.steps:Steps.are_in",
    "data.readers.recording.reading": "Recording.reading",
    "data.sampling.Feed": "BatchSampler",
    "data.sampling.build": "BatchSampler.of",
    "data.sampling.draw_starts": "_ChunkSampler.draw",
    "data.sampling.gather": "_ChunkSampler.gather",
    "data.sampling.locate": "_ChunkSampler.locate",
    "data.shards.open_source": "Source.open",
    "data.shards.twin": "_validation_path",
    "data.stream.memory": "runtime.memory:available_bytes",
    "data.stream.streams": "data.load:_is_streamed",
    "data.summary.check_alike": "Summary.check_alike",
    "data.summary.describe_ends": "data.shards:_describe_ends",
    "data.summary.name_rounded": "Summary.log_rounded",
    "envs.families.is_module": "Family._is_module",
    "envs.families.of": "Family.of",
    "envs.families.parse": "EnvName.parse",
    "envs.mazes.centre": "Maze.centre",
    "envs.ogbench.Name": "envs.families:EnvName",
    "envs.ogbench.OGBenchEnv": "FAMILY.make",
    "envs.ogbench.ON_DEVICE": "envs.families:ON_DEVICE",
    "envs.ogbench.SIMULATORS": "envs.families:SIMULATORS",
    "envs.ogbench.World": "FAMILY.make",
    "envs.ogbench.make": "FAMILY.gym",
    "envs.ogbench.missing": "FAMILY.missing",
    "envs.ogbench.parse": "envs.families:EnvName.parse",
    "envs.ogbench.require": "FAMILY.require",
    "envs.ogbench.requirements": "FAMILY.requirements",
    "envs.ogbench.reset": "FAMILY.reset",
    "envs.spaces.part": "Parts.find",
    "envs.wire.receive": "Message.receive",
    "envs.wire.send": "Message.send",
    "errors.nearest": "UserError.nearest",
    "errors.remedy": "SaveError.remedy",
    "errors.say": "log",
    "errors.say_once": "log_once",
    "errors.unknown": "UserError.unknown",
    "errors.unreadable": "UserError.unreadable",
    "evaluation.arms.arms": "Arm.sweep",
    "evaluation.episodes.Log": "EpisodeLog",
    "evaluation.episodes.only_writer": "EpisodeLog.only_writer",
    "evaluation.episodes.read": "EpisodeLog.read",
    "evaluation.evaluate.Arm": "evaluation.arms:Arm",
    "evaluation.evaluate.Job": "evaluation.sweep:Job",
    "evaluation.evaluate.Usage": "evaluation.simulators:Usage",
    "evaluation.evaluate.acts_as": "evaluation.arms:Arm.acts_as.fget",
    "evaluation.evaluate.arms": "evaluation.arms:Arm.sweep",
    "evaluation.evaluate.compile_act": "evaluation.worker_pool:_compile_act",
    "evaluation.halving.rounds": "Round.plan",
    "evaluation.paired.rank_as_baseline": "evaluation.arms:Sampler.rank_as_baseline",
    "evaluation.simulators.rollout": "Simulator.rollout",
    "evaluation.statistics.FEW_SEEDS": "RESAMPLED_FROM",
    "evaluation.statistics.kind": "Interval.kind",
    "evaluation.statistics.mean_and_error": "Interval.mean_and_error",
    "evaluation.statistics.mean_interval": "Interval.of_mean",
    "evaluation.statistics.success_interval": "Interval.of_success",
    "evaluation.summary.Choice": "evaluation.choice:_Choice",
    "evaluation.summary.Played": "evaluation.choice:Tasks",
    "evaluation.summary.common": "evaluation.choice:common",
    "evaluation.summary.gaps": "report.tables:Table.gaps",
    "evaluation.summary.optimistic": "report.tables:Table.optimistic",
    "qgf_guide.flow.rest": "flow_endpoint",
    "qgf_guide.flow.sample_time": "methods.policies.flow_loss:_sample_time",
    "qgf_guide.inpainting.climbed_if": "qgf_guide.guidance:_climbed_if",
    "qgf_guide.inpainting.inpainted": "Overlap.inpainted",
    "qgf_guide.inpainting.pulled": "Overlap.pulled",
    "qgf_guide.inpainting.soft_weights": "Overlap.soft_weights",
    "qgf_guide.inpainting.strength": "Overlap.strength",
    "interop.export.table.check": "Format.check",
    "interop.export.table.read_method": "methods.table:Method.parse",
    "interop.import_official.read": "Official.read",
    "methods.critics.CRITICS": "methods.parts:CRITICS",
    "methods.options.of_selectors": "Split.of_selectors",
    "methods.parts.load": "Part.load",
    "methods.parts.part": "Part.named",
    "methods.parts.parts": "Part.all",
    "methods.policies.POLICIES": "methods.parts:POLICIES",
    "methods.policies.flow_loss.flow_matching": "core.losses:flow_matching",
    "methods.policies.gaussians.awr": "methods.policies.awr:_awr",
    "methods.policies.gaussians.ddpg_bc": "methods.policies.ddpg_bc:_ddpg_bc",
    "methods.policies.gaussians.gaussian_bc": "methods.policies.gaussian_bc:_gaussian_bc",
    "methods.policies.gaussians.imitation": "GaussianActor.imitation",
    "methods.policies.gaussians.log_density": "GaussianActor.log_normal",
    "methods.policies.gaussians.rebrac": "methods.policies.rebrac:_rebrac",
    "methods.policies.hiql.value_awr": "methods.policies.value_awr:_value_awr",
    "methods.policies.noise_prediction.dac": "methods.policies.dac:_dac",
    "methods.policies.noise_prediction.qsm": "methods.policies.qsm:_qsm",
    "methods.samplers.Calibration": "qgf_guide.rules.units:Calibration",
    "methods.samplers.SAMPLERS": "methods.parts:SAMPLERS",
    "methods.samplers.UNITS": "methods.parts:UNITS",
    "methods.table.Builder": "methods.builder:Builder",
    "methods.table.build_learner": "methods.builder:Builder.learner",
    "methods.table.build_networks": "methods.builder:Builder.networks",
    "methods.table.build_sample": "methods.builder:Builder.sample",
    "methods.table.canonical": "Method.canonical",
    "methods.table.check_option": "Method.check_option",
    "methods.table.method": "Method.named",
    "methods.table.parse": "Method.parse",
    "methods.table.sampler_settings": "methods.builder:Builder.settings",
    "methods.table.served_by": "Method.serves",
    "report.compare": "report.report:compare",
    "report.merged.merge": "Sample.merge",
    "report.merged.unreported": "evaluation.paired:Evaluated.unreported",
    "report.report.render": "report.run_page:Pages.results",
    "report.tables.ALL_TASKS": "evaluation.summary:ALL_TASKS",
    "report.tables.as_csv": "Table.csv",
    "report.tables.gaps": "Table.gaps",
    "report.tables.markdown": "Table.markdown",
    "report.tables.optimistic": "Table.optimistic",
    "report.tables.summarize": "evaluation.summary:summarize",
    "report.tables.unique": "evaluation.summary:unique",
    "report.write": "report.report:write",
    "runs.alike.changes": "Comparison.changes",
    "runs.alike.config_changes": "Comparison.config_changes",
    "runs.alike.doubts": "Comparison.doubts",
    "runs.array_files.named": "runs.tree:ArrayTree.named",
    "runs.checkpoint.Found": "RestoredState",
    "runs.checkpoint.check_tree": "runs.tree:ArrayTree.check_same",
    "runs.checkpoint.describe": "runs.tree:ArrayTree.describe",
    "runs.checkpoint.fingerprint": "runs.files:fingerprint",
    "runs.checkpoint.tree_bytes": "runs.tree:ArrayTree.bytes",
    "runs.checkpoint.write_atomically": "runs.files:write_atomically",
    "runs.failpoints.point": "failpoint",
    "runs.follower.of_rows": "Follower.of_rows",
    "runs.frozen.further": "Frozen.further",
    "runs.frozen.read": "Frozen.read",
    "runs.frozen.resolved": "Frozen.resolved",
    "runs.loaded.Restored": "LoadedRun",
    "runs.loaded.actor": "LoadedRun.actor",
    "runs.loaded.restore": "LoadedRun.open",
    "runs.loaded.sampler": "LoadedRun.sampler",
    "runs.metrics.Lines": "runs.files:Lines",
    "runs.metrics.Writer": "MetricsLog",
    "runs.metrics.append_line": "runs.files:Lines.append",
    "runs.metrics.is_count": "runs.files:Lines.is_count",
    "runs.metrics.is_number": "runs.files:Lines.is_number",
    "runs.metrics.read_lines": "runs.files:Lines.read",
    "runs.metrics.read_metrics": "MetricsLog.read",
    "runs.metrics.scan": "runs.files:Lines.read",
    "runs.run.EVALUATION": "runs.locks:EVALUATION",
    "runs.run.TRAINING": "runs.locks:TRAINING",
    "runs.run.check_free": "runs.locks:TRAINING.check_free",
    "runs.run.create": "Run.create",
    "runs.run.only_writer": "runs.locks:TRAINING.lock",
    "runs.run.open_run": "Run.open",
    "runs.run.recorded_spec": "Run.first_spec",
    "runs.run.versions": "Run.versions",
    "runs.watch.wait_for_run": "Watch.wait_for_run",
    "runtime.backend.launches": "training.programs:_launches",
    "runtime.children.safe_path": "data.collect:_safe_path",
    "sweep.estimate.estimate": "Estimate.of_jobs",
    "sweep.pack.pack": "Packed.of",
    "sweep.plan.plan": "Plan.with_configs",
    "sweep.runner.begin": "Cancellation.withdraw",
    "sweep.runner.cancel": "Cancellation.ask",
    "sweep.runner.is_cancelled": "Cancellation.wanted.fget",
    "sweep.state.running": "sweep.plan:Plan.running",
    "sweep.state.scan": "State.of_jobs",
    "sweep.view.records": "sweep.state:State.record",
    "training.calibration.read": "runs.loaded:LoadedRun.calibration",
    "training.calibration.write": "runs.loaded:LoadedRun.write_calibration",
    "training.forms.Packed": "training.stacks:Stacked",
    "training.forms.pack": "training.stacks:Stacked.pack",
    "training.parallel.ReplicaError": "errors:UserError",
    "training.parallel.Spread": "DeviceLayout",
    "training.parallel.for_seeds": "runs.loaded:_sharding",
    "training.parallel.join": "training.hosts:Hosts.initialize",
    "training.parallel.leave": "training.hosts:Hosts.shutdown",
    "training.parallel.make": "DeviceLayout.of",
    "training.parallel.make_trainer": "DeviceLayout.make_trainer",
    "training.parallel.meet": "training.hosts:Hosts.barrier",
    "training.parallel.parse_hosts": "training.hosts:Hosts.parse",
    "training.parallel.together": "training.hosts:Hosts.setup_phase",
    "training.step.Guard": "training.state:_NonFiniteGuard",
    "training.step.MOST_SKIPPED": "training.state:MOST_SKIPPED",
    "training.step.TrainState": "training.state:TrainState",
    "training.step.Trainer": "training.programs:Trainer",
    "training.step.init_state": "training.state:TrainState.init",
    "training.step.make_optimizer": "training.optimizers:make_optimizer",
    "training.step.make_programs": "training.programs:Trainer.uncompiled",
    "training.step.make_trainer": "training.programs:Trainer.of",
    "training.step.over_seeds": "runtime.seeds:over_seeds",
    "training.step.seeds_of": "training.programs:_seeds_of",
    "training.weighing.act": "State.act",
    "training.weighing.draw": "Nearby.draw",
    "training.weighing.measure": "Effort.measure",
    "training.weighing.nearest": "State.distance",
    "types.Slope": "Direction",
    "types.as_actor": "Learner.as_actor",
    "types.merge": "Learner.merge",
    "types.own_groups": "Learner.own_groups",
}
"""{module of today and old attribute: what it is now, as NAME or MODULE:NAME}."""


def install() -> None:
    """Makes Python find old names. Imports no other module of this package."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds old modules, and gives modules of today their old attributes as they are imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(_PACKAGE):
            return None
        name = fullname.removeprefix(_PACKAGE)
        if today := _today(name):
            # Not an `importlib.abc.Loader`: that module imports many more, and here they could still be
            # files of the working folder (see __main__).
            loader: Any = _Alias(name, today)
            return ModuleSpec(fullname, loader)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                _add_attributes(module, name)

            vars(spec.loader)["exec_module"] = execute_and_add
        return spec


def _today(name: str) -> str:
    """Where an old module is now; "" if `name` is none."""
    if name in _MODULES:
        return _MODULES[name]
    first, dot, below = name.partition(".")
    return f"{_MODULES[first]}.{below}" if dot and first in _MODULES else ""


class _Alias:
    """A loader that puts the module of today in the place of an old one."""

    def __init__(self, old: str, new: str):
        self._old, self._new = old, new

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves it to Python; `exec_module` replaces the module."""

    def exec_module(self, module: ModuleType) -> None:
        name, new = f"{_PACKAGE}{self._old}", _whole(self._new)
        today = importlib.import_module(new)
        if isinstance(module, _Proxy):  # in `importlib.reload`
            importlib.reload(today)
            return
        # `qgf_jax.pretrain` is a function too; a module of another package keeps its own attributes.
        if self._old in vars(today) or self._new.startswith(_MOVED_OUT):
            today = _Proxy(today, self._old, module.__spec__)
            _add_attributes(today, self._new)
        sys.modules[name] = today
        _advise(name, f"use {new}")


class _Proxy(ModuleType):
    """A module under its old name, which is called like the function of that name in it, if any."""

    def __init__(self, module: ModuleType, name: str, spec: ModuleSpec | None):
        super().__init__(module.__name__, module.__doc__)
        self.__spec__ = spec
        self._module, self._function = module, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._module, self._function)(*args, **kwargs)


def _add_attributes(module: ModuleType, name: str) -> None:
    """Gives `module` a `__getattr__` that knows old and private attributes (PEP 562), then its own."""
    own = vars(module).get("__getattr__")
    contents = vars(vars(module).get("_module", module))

    def __getattr__(attribute: str) -> Any:  # noqa: N807
        old = f"{_whole(name)}.{attribute}"
        if today := _ATTRIBUTES.get(f"{name}.{attribute}"):
            home, _, path = today.rpartition(":")
            home = _whole(home or name)
            _advise(old, f"use {home}.{path}")
            return operator.attrgetter(path)(importlib.import_module(home))
        if own:
            return own(attribute)
        if attribute in contents:
            return contents[attribute]
        if not attribute.startswith("_") and f"_{attribute}" in contents:
            _advise(old, f"it is private now, as _{attribute}, and may change")
            return contents[f"_{attribute}"]
        raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")

    vars(module)["__getattr__"] = __getattr__


def _whole(name: str) -> str:
    """The module that an entry of the tables names."""
    return name if name.startswith(_MOVED_OUT) else f"{_PACKAGE}{name}"


def _advise(old: str, advice: str) -> None:
    from qgf_jax.errors import log_once

    log_once(f"qgf: advice: {old} is an old name: {advice}")
