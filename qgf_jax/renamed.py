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

_MODULES = {
    "adjoint": "core.adjoint",
    "algorithms": "methods.table",
    "array_files": "runs.array_files",
    "backend": "runtime.backend",
    "calibrate": "training.calibration",
    "checkpoint": "runs.checkpoint",
    "children": "runtime.children",
    "costs": "training.costs",
    "critics": "methods.critics",
    "data.checksums": "data.converted",
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
    "flow": "core.flow",
    "global_batch": "training.global_batch",
    "guidance": "methods.guidance",
    "losses": "core.losses",
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
    "vectors": "training.vectors",
    "video": "report.video",
}
"""{old module: where it is now}; the other modules below an old package have moved with it."""

_ATTRIBUTES: dict[str, dict[str, str]] = {
    "bounds": {
        "check": "Bound.check",
        "fields": "Field.declared_in",
        "of": "Bound.of",
        "read": "Bound.read",
    },
    "cli": {
        "keep_compiled": "runtime.backend:_keep_compiled",
        "path": "runtime.paths:expand",
    },
    "config": {
        "changed": "RunConfig.changes_to",
        "fixed": "RunConfig._fixed",
    },
    "core.diffusion": {
        "alphas": "NoiseSchedule.of",
        "mix": "NoiseSchedule.mix",
        "sample": "NoiseSchedule.sample",
    },
    "core.flow": {
        "sample_time": "methods.policies.flow_loss:_sample_time",
        "rest": "flow_endpoint",
    },
    "core.losses": {
        "side": "expectile_weight",
    },
    "core.networks": {
        "build": "Networks.of",
        "ACTIVATIONS": "core.layers:ACTIVATIONS",
        "ARITHMETIC": "core.layers:ARITHMETIC",
        "LayerNorm": "core.layers:LayerNorm",
        "MLP": "core.layers:MLP",
        "sight": "network_input",
        "sinusoidal": "core.layers:sinusoidal",
    },
    "core.reductions": {
        "row_sum": "fast_sum",
    },
    "data.chunks": {
        "block": "Dataset._block",
        "nth_start": "Dataset.nth_start",
        "prepare": "Dataset.of",
        "prepare_goals": "GoalDataset.of",
        "room": "data.formats:empty_array",
        "rows_of_block": "Dataset._rows_of_block",
        "split": "Dataset.split",
        "starts_of": "Dataset.count_starts",
        "trajectory_masks": "data.load:_trajectory_masks",
    },
    "data.convert": {
        "write": "data.converted:Manifest.write",
    },
    "data.converted": {
        "measure": "_CheckedFile.measure",
        "record": "_CheckedFile.record",
    },
    "data.feeder": {
        "Feeder": "DatasetFeed",
        "Lanes": "DevicePlacement",
        "make": "DatasetFeed",
        "one_device": "DevicePlacement.one_device",
    },
    "data.formats": {
        "MANIFEST": "data.converted:MANIFEST",
        "check_whole": "data.shards:_check_whole",
        "find": "data.shards:Source.find",
        "peek": "Rows.peek",
        "read_rows": "Rows.read",
    },
    "data.goals": {
        "Hindsight": "_GoalDistribution",
        "draw": "GoalSampler.draw",
        "draw_goals": "_GoalDistribution.draw",
        "gather": "GoalSampler.gather",
    },
    "data.layouts": {
        "check_columns": "data.formats:Rows.check_labels",
    },
    "data.load": {
        "check_drawn": "_Starts.check_drawn",
        "check_longest": "_Starts.check_longest",
        "load": "Loaded.of",
    },
    "data.sampling": {
        "Feed": "BatchSampler",
        "build": "BatchSampler.of",
        "draw_starts": "_ChunkSampler.draw",
        "gather": "_ChunkSampler.gather",
        "locate": "_ChunkSampler.locate",
    },
    "data.shards": {
        "open_source": "Source.open",
        "twin": "_validation_path",
    },
    "data.stream": {
        "memory": "runtime.memory:available_bytes",
        "streams": "data.load:_is_streamed",
    },
    "data.summary": {
        "name_rounded": "Summary.log_rounded",
        "check_alike": "Summary.check_alike",
        "describe_ends": "data.shards:_describe_ends",
    },
    "envs.families": {
        "of": "Family.of",
        "parse": "EnvName.parse",
    },
    "envs.mazes": {
        "centre": "Maze.centre",
    },
    "envs.ogbench": {
        "Name": "envs.families:EnvName",
        "ON_DEVICE": "envs.families:ON_DEVICE",
        "SIMULATORS": "envs.families:SIMULATORS",
        "OGBenchEnv": "FAMILY.make",
        "World": "FAMILY.make",
        "make": "FAMILY.gym",
        "missing": "FAMILY.missing",
        "require": "FAMILY.require",
        "requirements": "FAMILY.requirements",
        "reset": "FAMILY.reset",
        "parse": "envs.families:EnvName.parse",
    },
    "envs.wire": {
        "receive": "Message.receive",
        "send": "Message.send",
    },
    "errors": {
        "remedy": "SaveError.remedy",
        "say": "log",
        "say_once": "log_once",
        "nearest": "UserError.nearest",
        "unknown": "UserError.unknown",
        "unreadable": "UserError.unreadable",
    },
    "evaluation.arms": {
        "arms": "Arm.sweep",
    },
    "evaluation.episodes": {
        "Log": "EpisodeLog",
        "only_writer": "EpisodeLog.only_writer",
        "read": "EpisodeLog.read",
    },
    "evaluation.evaluate": {
        "Arm": "evaluation.arms:Arm",
        "Job": "evaluation.sweep:Job",
        "Usage": "evaluation.simulators:Usage",
        "acts_as": "evaluation.arms:Arm.acts_as.fget",
        "arms": "evaluation.arms:Arm.sweep",
        "compile_act": "evaluation.worker_pool:_compile_act",
    },
    "evaluation.simulators": {
        "rollout": "Simulator.rollout",
    },
    "evaluation.statistics": {
        "mean_and_error": "Interval.mean_and_error",
        "kind": "Interval.kind",
        "mean_interval": "Interval.of_mean",
        "success_interval": "Interval.of_success",
    },
    "evaluation.summary": {
        "Choice": "evaluation.choice:Choice",
        "Played": "evaluation.choice:Tasks",
        "gaps": "report.tables:Table.gaps",
        "optimistic": "report.tables:Table.optimistic",
    },
    "interop.import_official": {
        "read": "Official.read",
    },
    "methods.critics": {
        "CRITICS": "methods.parts:CRITICS",
    },
    "methods.policies": {
        "POLICIES": "methods.parts:POLICIES",
    },
    "methods.table": {
        "method": "Method.named",
        "build_learner": "Builder.learner",
        "build_networks": "Builder.networks",
        "build_sample": "Builder.sample",
        "canonical": "Method.canonical",
        "check_option": "Method.check_option",
        "parse": "Method.parse",
        "sampler_settings": "Builder.settings",
        "served_by": "Method.serves",
    },
    "methods.samplers": {
        "Calibration": "methods.rules.units:Calibration",
        "SAMPLERS": "methods.parts:SAMPLERS",
        "UNITS": "methods.parts:UNITS",
    },
    "methods.policies.flow_loss": {
        "flow_matching": "core.losses:flow_matching",
    },
    "methods.policies.gaussians": {
        "imitation": "GaussianActor.imitation",
        "awr": "methods.policies.awr:_awr",
        "ddpg_bc": "methods.policies.ddpg_bc:_ddpg_bc",
        "gaussian_bc": "methods.policies.gaussian_bc:_gaussian_bc",
        "rebrac": "methods.policies.rebrac:_rebrac",
    },
    "methods.policies.hiql": {
        "value_awr": "methods.policies.value_awr:_value_awr",
    },
    "methods.policies.noise_prediction": {
        "dac": "methods.policies.dac:_dac",
        "qsm": "methods.policies.qsm:_qsm",
    },
    "report": {
        "compare": "report.report:compare",
        "write": "report.report:write",
    },
    "report.report": {
        "render": "_page",
    },
    "report.tables": {
        "ALL_TASKS": "evaluation.summary:ALL_TASKS",
        "as_csv": "Table.csv",
        "gaps": "Table.gaps",
        "markdown": "Table.markdown",
        "optimistic": "Table.optimistic",
        "summarize": "evaluation.summary:summarize",
        "unique": "evaluation.summary:unique",
    },
    "runs.array_files": {
        "named": "runs.tree:ArrayTree.named",
    },
    "runs.checkpoint": {
        "Found": "RestoredState",
        "check_tree": "runs.tree:ArrayTree.check_same",
        "describe": "runs.tree:ArrayTree.describe",
        "fingerprint": "runs.files:fingerprint",
        "tree_bytes": "runs.tree:ArrayTree.bytes",
        "write_atomically": "runs.files:write_atomically",
    },
    "runs.failpoints": {
        "point": "failpoint",
    },
    "runs.loaded": {
        "Restored": "LoadedRun",
        "actor": "LoadedRun.actor",
        "restore": "LoadedRun.open",
        "sampler": "LoadedRun.sampler",
    },
    "runs.metrics": {
        "Lines": "runs.files:Lines",
        "Writer": "MetricsLog",
        "append_line": "runs.files:Lines.append",
        "is_count": "runs.files:Lines.is_count",
        "is_number": "runs.files:Lines.is_number",
        "read_lines": "runs.files:Lines.read",
        "read_metrics": "MetricsLog.read",
        "scan": "runs.files:Lines.read",
    },
    "runs.run": {
        "EVALUATION": "runs.locks:EVALUATION",
        "TRAINING": "runs.locks:TRAINING",
        "check_free": "runs.locks:TRAINING.check_free",
        "create": "Run.create",
        "only_writer": "runs.locks:TRAINING.lock",
        "open_run": "Run.open",
        "recorded_spec": "Run.first_spec",
        "versions": "Run.versions",
    },
    "runtime.backend": {
        "launches": "training.programs:_launches",
    },
    "runtime.children": {
        "safe_path": "data.collect:_safe_path",
    },
    "training.calibration": {
        "read": "runs.loaded:LoadedRun.calibration",
        "write": "runs.loaded:LoadedRun.write_calibration",
    },
    "training.parallel": {
        "ReplicaError": "errors:UserError",
        "Spread": "DeviceLayout",
        "for_seeds": "runs.loaded:_sharding",
        "join": "training.hosts:Hosts.initialize",
        "leave": "training.hosts:Hosts.shutdown",
        "make": "DeviceLayout.of",
        "make_trainer": "DeviceLayout.make_trainer",
        "meet": "training.hosts:Hosts.barrier",
        "parse_hosts": "training.hosts:Hosts.parse",
        "together": "training.hosts:Hosts.setup_phase",
    },
    "training.step": {
        "Guard": "training.state:_NonFiniteGuard",
        "MOST_SKIPPED": "training.state:MOST_SKIPPED",
        "TrainState": "training.state:TrainState",
        "Trainer": "training.programs:Trainer",
        "init_state": "training.state:TrainState.init",
        "make_optimizer": "training.optimizers:make_optimizer",
        "make_programs": "training.programs:Trainer.uncompiled",
        "make_trainer": "training.programs:Trainer.of",
        "over_seeds": "runtime.seeds:over_seeds",
        "seeds_of": "training.programs:_seeds_of",
    },
    "training.vectors": {
        "pack": "Packed.of",
    },
    "types": {
        "Slope": "Direction",
        "as_actor": "Learner.as_actor",
        "merge": "Learner.merge",
    },
}
"""{module of today: {old attribute: what it is now, as NAME or MODULE:NAME}}."""


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
                _add_attributes(module, name, _ATTRIBUTES.get(name, {}))

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
        name = f"{_PACKAGE}{self._old}"
        today = importlib.import_module(f"{_PACKAGE}{self._new}")
        if isinstance(module, _Callable):  # in `importlib.reload`
            importlib.reload(today)
            return
        if self._old in vars(today):  # `qgf_jax.pretrain` is a function too
            today = _Callable(today, self._old, module.__spec__)
        sys.modules[name] = today
        _advise(name, f"use {_PACKAGE}{self._new}")


class _Callable(ModuleType):
    """A module that is called like the function of the same name in it."""

    def __init__(self, module: ModuleType, name: str, spec: ModuleSpec | None):
        super().__init__(module.__name__, module.__doc__)
        self.__spec__ = spec
        self._module, self._function = module, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._module, self._function)(*args, **kwargs)


def _add_attributes(module: ModuleType, name: str, attributes: dict[str, str]) -> None:
    """Gives `module` a `__getattr__` that knows old and private attributes (PEP 562), then its own."""
    own = vars(module).get("__getattr__")

    def __getattr__(attribute: str) -> Any:  # noqa: N807
        old = f"{_PACKAGE}{name}.{attribute}"
        if attribute in attributes:
            home, _, path = attributes[attribute].rpartition(":")
            home = f"{_PACKAGE}{home or name}"
            _advise(old, f"use {home}.{path}")
            return operator.attrgetter(path)(importlib.import_module(home))
        if own:
            return own(attribute)
        if not attribute.startswith("_") and f"_{attribute}" in vars(module):
            _advise(old, f"it is private now, as _{attribute}, and may change")
            return vars(module)[f"_{attribute}"]
        raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")

    vars(module)["__getattr__"] = __getattr__


def _advise(old: str, advice: str) -> None:
    from qgf_jax.errors import log_once

    log_once(f"qgf: advice: {old} is an old name: {advice}")
