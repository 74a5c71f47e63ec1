"""What a run would be, from its config alone; where no environment says widths, from its data's."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.data.shards import Source
from qgf_jax.envs.families import Family
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import Method
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.runtime import backend, flops
from qgf_jax.training import kept
from qgf_jax.training.parallel import DeviceLayout
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

_ROWS = 4096  # of the dataset that the program is compiled for; it changes no count
_ROOMS = (
    "core",
    "data",
    "methods",
    "runtime",
    "training",
)  # of the package, that a program is made of
_IDLE = ("seed", "eval", "wandb")  # keys of the config that change no program


@backend.standardized
def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config, devices, parameters of each group, bytes and FLOPs, as one JSON object.

    `flops_per_update` counts the matrix products of one update, of all seeds and devices: the compiled
    program of one device with its part of the batch, times the number of devices. What is read off the
    compiled program is kept, as compiling takes longer than all else.
    """
    spec, layout = _spec_of(config), DeviceLayout.of(config)
    learner = Builder(config, spec).learner()
    part = config["train"]["batch_size"] // layout.count
    one_device = {**config, "train": {**config["train"], "batch_size": part}}
    programs = Trainer.uncompiled(learner, one_device, spec)
    state, dataset = jax.eval_shape(programs.init, programs.seeds), _dataset_shapes(spec)
    device = jax.devices()[0]
    place = _place_of(one_device, spec, device)
    if not (read := place.read(("flops", "work"))):
        read = _compiled(programs, state, dataset, device)
        place.write(read)
    return {
        "config": config,
        "observation": spec.width,
        "action": spec.action,
        "chunk": spec.chunk,
        "devices": {
            "mesh": {"devices": layout.count},
            "form": layout.form,
            "hosts": jax.process_count(),
            "kind": device.device_kind,
            "platform": device.platform,
        },
        "batch_per_device": part,
        "parameters": {
            name: sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(group))
            for name, group in state.params.items()
        },
        "bytes_per_device": {
            "state": ArrayTree(state).bytes(),
            "work": read["work"],
            "per_million_transitions": round(
                1e6 * ArrayTree(dataset).bytes() / _ROWS / layout.count
            ),
        },
        "flops_per_update": layout.count * read["flops"],
    }


def _place_of(config: Mapping[str, Any], spec: Spec, device: Any) -> kept.CountFile:
    """Where the counts of one device's program are kept."""
    own = {key: value for key, value in config.items() if key not in _IDLE}
    flags = os.environ.get("XLA_FLAGS", "")
    row = Method.named(config["algorithm"])
    about = json.dumps(own, sort_keys=True), repr(spec), repr(row), device.device_kind, flags
    return kept.CountFile.of("dry_run", _ROOMS, *about)


def _compiled(programs: Trainer, state: Any, dataset: Any, device: Any) -> dict[str, Any]:
    """`flops` of the program of one update, and `work`, the bytes that it takes beside its arguments."""
    lowered = jax.jit(programs.run, static_argnums=2).lower(state, dataset, 1)
    compiled = lowered.compile(kept.QUICKLY if device.platform == "cpu" else None)
    memory = compiled.memory_analysis()
    return {
        "flops": flops.count(compiled),
        "work": getattr(memory, "temp_size_in_bytes", None),
    }


def _spec_of(config: Mapping[str, Any]) -> Spec:
    """The widths that the environment, or else the data, give; observations are not standardised."""
    name, data = Source.env_of(config), config["data"]
    if Family.of(name).plays:
        state, goal, action = Family.of(name).widths(name)
    else:
        widths = Source.of_config(config).widths
        state, goal, action = widths["observations"], 0, widths["actions"]
    return Spec((state,), action, data["chunk"], (goal,) if goal else None, data["n_step"])


def _dataset_shapes(spec: Spec) -> Dataset | GoalDataset:
    """The shapes of a small dataset, for compiling: the number of rows changes no operation."""

    def array(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct((_ROWS, *shape), dtype)

    state, action = array(*spec.state), array(spec.action)
    row, number = array(dtype=np.int32), array()
    if spec.goal is None:
        late = number if spec.return_steps != spec.chunk else None
        return Dataset(state, action, row, row, number, number, number, late)
    plain = spec.goal == spec.state  # goals are states
    return GoalDataset(state, action, row, row, None if plain else array(*spec.goal))
