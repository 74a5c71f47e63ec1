"""What a run would be, from its config alone: no data are read and nothing is written."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.envs import mazes, ogbench
from qgf_jax.methods import table as algorithms
from qgf_jax.runs.checkpoint import tree_bytes
from qgf_jax.runtime import backend, flops
from qgf_jax.training import parallel
from qgf_jax.training.programs import make_programs
from qgf_jax.training.state import seeds_of
from qgf_jax.types import Spec

_ROWS = 4096  # of the dataset that the program is compiled for; it changes no count


@backend.standardized
def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config, devices, parameters of each group, bytes and FLOPs, as one JSON object.

    `flops_per_update` are those of the matrix products of one update of all seeds and devices: as
    many times those counted in the compiled program of one device and its part of the batch.
    """
    spec, spread = spec_of(config), parallel.make(config)
    learner = algorithms.build_learner(config, spec)
    seeds = seeds_of(config)
    part = config["train"]["batch_size"] // spread.count
    mine = {**config, "train": {**config["train"], "batch_size": part}}
    programs = make_programs(learner, mine, spec)
    state, dataset = jax.eval_shape(programs.init, seeds), dataset_shapes(spec)
    compiled = jax.jit(programs.run, static_argnums=2).lower(state, dataset, 1).compile()
    memory = compiled.memory_analysis()
    here = jax.devices()[0]
    return {
        "config": config,
        "observation": spec.obs_dim,
        "action": spec.action_dim,
        "chunk": spec.chunk,
        "devices": {
            "mesh": {"devices": spread.count},
            "form": spread.form,
            "hosts": jax.process_count(),
            "kind": here.device_kind,
            "platform": here.platform,
        },
        "batch_per_device": part,
        "parameters": {
            name: sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(group))
            for name, group in state.params.items()
        },
        "bytes_per_device": {
            "state": tree_bytes(jax.tree.map(_without_keys, state)),
            "work": getattr(memory, "temp_size_in_bytes", None),
            "per_million_transitions": round(1e6 * tree_bytes(dataset) / _ROWS / spread.count),
        },
        "flops_per_update": spread.count * flops.count(compiled),
    }


def _without_keys(leaf: Any) -> Any:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf


def spec_of(config: Mapping[str, Any]) -> Spec:
    """The widths that the environment says; observations are not standardised."""
    name, data = ogbench.parse(config["env"]), config["data"]
    if mazes.maze(name.scene, name.version):
        obs, action = mazes.WIDTHS
        goal = obs if name.goals else 0
        return Spec(obs + goal, action, data["chunk"], goal_dim=goal, backup=data["n_step"])
    world = ogbench.OGBenchEnv(name.with_task(name.tasks[0]))
    width = int(np.prod(world.env.observation_space.shape))
    obs = len(world.reset(0))
    action = int(np.prod(world.env.action_space.shape))
    world.env.close()
    goal = obs - width if name.goals else 0
    return Spec(obs, action, data["chunk"], goal_dim=goal, backup=data["n_step"])


def dataset_shapes(spec: Spec) -> Dataset | GoalDataset:
    """A small dataset's arrays for compiling: their length changes no program."""

    def array(*shape: int, dtype: Any = np.float32) -> Any:
        return jax.ShapeDtypeStruct((_ROWS, *shape), dtype)

    obs, action = array(spec.obs_dim - spec.goal_dim), array(spec.action_dim)
    row, number = array(dtype=np.int32), array()
    if not spec.goal_dim:
        late = number if spec.backup not in (0, spec.chunk) else None
        return Dataset(obs, action, row, row, number, number, number, late)
    plain = spec.obs_dim == 2 * spec.goal_dim  # goals are observations
    return GoalDataset(obs, action, row, row, None if plain else array(spec.goal_dim))
