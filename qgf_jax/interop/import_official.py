"""Checkpoints of the public QGF code as runs of ours, without running anything of them.

That code pickles the state dict of its agent: one Flax train state per network, below "agent".
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs import ogbench
from qgf_jax.errors import UserError
from qgf_jax.interop import pickled
from qgf_jax.methods import table as algorithms
from qgf_jax.runs import run as runs
from qgf_jax.runs.checkpoint import Checkpoints, check_tree, describe, describe_leaf
from qgf_jax.runtime import backend

GROUPS = ("policy", "critic", "target_critic", "value")
_DEEPEST = 8  # dicts in one another; such files have 5
_MOST = 200  # arrays of a group; such files have some 20


class Official(NamedTuple):
    """What one file holds that acts."""

    path: Path
    arrays: dict[str, np.ndarray]
    """By path, as in "policy/MLP_0/Dense_0/kernel", named as there."""
    step: int
    """Updates done."""
    sha256: str


def read(path: str | os.PathLike) -> Official:
    """The arrays of a `params_N.pkl`. Raises `UserError` if it is anything else; runs nothing of it."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        agent = pickled.load(raw)["agent"]
        arrays: dict[str, np.ndarray] = {}
        for group in GROUPS:
            arrays |= _leaves(agent[group]["params"], group)
        step = agent["policy"]["step"]
        step = int(step.value if isinstance(step, pickled.Made) else step)
    except OSError as error:
        raise UserError(
            f"{path} could not be read: {error.strerror}: give a params_N.pkl"
        ) from None
    except KeyError as error:
        raise _refused(path, f"{pickled.short(error.args[0])} is missing in it") from None
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise _refused(path, str(error)) from None
    if not 0 < step < 2**31:
        raise _refused(path, "it has no number of updates")
    # There the first update has the number 1.
    return Official(path, arrays, step - 1, hashlib.sha256(raw).hexdigest())


def _leaves(params: Any, group: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def walk(node: Any, name: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(node, pickled.Made) and node.value is not None:
            yield name, node.value
        elif isinstance(node, dict) and node and depth < _DEEPEST:  # an end, or an error
            for key, value in node.items():
                if "/" in key:
                    raise ValueError("it names an array in a way that no network does")
                yield from walk(value, f"{name}/{key}", depth + 1)
        else:
            raise ValueError(f"{pickled.short(name)} is no array")

    for name, array in walk(params, group, 0):
        if not (array.dtype.kind == "f" and np.isfinite(array).all()):
            raise ValueError(f"{pickled.short(name)} holds numbers that are none of a network")
        found[name] = array
        if len(found) > _MOST:
            raise ValueError(f"{group} has more than {_MOST} arrays")
    return found


def _refused(path: Path, why: str) -> UserError:
    why = " ".join(why.split())[:120]
    return UserError(
        f"{path} is no checkpoint of the public QGF code: {why}: give a params_N.pkl of its qgf agent"
    )


def flat(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Parameters below `prefix`, by path, renamed from theirs to ours."""
    return {
        path.replace(prefix, "params", 1).replace("/value_net/", "/MLP_0/"): array
        for path, array in arrays.items()
        if path.startswith(f"{prefix}/")
    }


def tree(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The same, nested."""
    root: dict[str, Any] = {}
    for path, array in flat(arrays, prefix).items():
        *parents, leaf = path.split("/")
        node = functools.reduce(lambda node, name: node.setdefault(name, {}), parents, root)
        node[leaf] = array
    return root


def check(config: Mapping[str, Any]) -> None:
    """Raises `UserError` if no checkpoint of the public qgf agent could be a run of `config`."""
    row = algorithms.method(config["algorithm"])
    if row.policies != ("flow_bc",) or config["critic"] != "iql":
        raise UserError("only the public qgf agent is imported: --config.algorithm=qgf, critic=iql")
    if ogbench.parse(config["env"]).goals:
        raise UserError(f"env {config['env']}: the public qgf agent knows single tasks, no goals")
    for key, wanted in (("data.standardize", False), ("seeds", 1)):
        section, _, name = key.rpartition(".")
        found = (config[section] if section else config)[name]
        if found != wanted:
            raise UserError(f"config key {key} is {found}; for a public checkpoint it is {wanted}")


@backend.standardized
def import_run(
    path: str | os.PathLike, config: Mapping[str, Any], workdir: str | os.PathLike
) -> Path:
    """Makes `workdir` a run whose one checkpoint is the file `path`, under a resolved config.

    Policy, critic, slow critic and value come over; the optimiser's moments do not, so it is a run to
    be evaluated, not trained further. Raises `UserError` if the file is something else, or of other
    widths than the config says.
    """
    check(config)
    official, workdir = read(path), Path(workdir)
    spec = _spec(official, config["data"])
    state = _state(official, config, spec)
    data = {"file": official.path.name, "sha256": official.sha256}
    with runs.only_writer(workdir):
        run = runs.create(workdir, config, spec, data)
        Checkpoints(workdir, identity=run.identity).save(official.step, state)
    return workdir


def _spec(official: Official, options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `types.Spec`, as far as they are not the defaults."""
    try:
        obs_dim = official.arrays["value/value_net/Dense_0/kernel"].shape[0]
        chunk_dim = official.arrays["policy/Dense_0/kernel"].shape[1]
    except (KeyError, IndexError):
        raise _refused(official.path, "its networks are others") from None
    chunk = options["chunk"]
    if not obs_dim or not chunk_dim or chunk_dim % chunk:
        raise UserError(
            f"{official.path}: its chunks are {chunk_dim} numbers, which are no {chunk} actions: "
            "set data.chunk to what it was trained with"
        )
    action_dim = chunk_dim // chunk
    backup = options["n_step"]
    return {"obs_dim": obs_dim, "action_dim": action_dim, "chunk": chunk, "backup": backup}


def _state(official: Official, config: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
    """A train state, with a leading axis of one seed, that acts as the file does."""
    import jax
    import jax.numpy as jnp

    from qgf_jax.training.programs import make_trainer
    from qgf_jax.training.state import TrainState, seeds_of
    from qgf_jax.types import Spec

    ours = Spec(**spec)
    trainer = make_trainer(algorithms.build_learner(config, ours), config, ours)
    seeds = jnp.asarray(seeds_of(config))
    template: TrainState = jax.eval_shape(trainer.init, seeds)
    arrays = {name: array[None] for name, array in official.arrays.items()}

    def group(theirs: str, wanted: Any) -> Any:
        found = {name: describe_leaf(x) for name, x in flat(arrays, theirs).items()}
        check_tree(f"{official.path}: {theirs}", found, describe(wanted))
        return jax.tree.map(jnp.asarray, tree(arrays, theirs))

    params = {name: group(name, one) for name, one in template.params.items()}
    target = {name: group(f"target_{name}", one) for name, one in template.target_params.items()}
    step, state = jnp.full((1,), official.step, jnp.int32), trainer.init(seeds)
    return TrainState(step, state.key, params, target, state.opt_state, state.guard)
