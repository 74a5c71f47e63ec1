"""Makes runs from checkpoints of the public QGF code, without running anything in the files.

That code pickles the state dict of its agent: one Flax train state per network, below "agent".
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.interop import pickled
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.runtime import backend
from qgf_jax.types import Spec

GROUPS = ("policy", "critic", "target_critic", "value")
_DEEPEST = 8  # dicts in one another; such files have 5
_MOST = 200  # arrays of a group; such files have some 20


class Official(NamedTuple):
    """The part of a public checkpoint that acts."""

    path: Path
    arrays: dict[str, np.ndarray]
    """By path, as in "policy/MLP_0/Dense_0/kernel", with the names of the public code."""
    step: int
    """Updates done."""
    sha256: str
    """Of the file."""

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Official":
        """Reads a `params_N.pkl`, and runs nothing of it. Raises `UserError` if it is anything else."""
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
            raise _refused(path, f"{error.args[0]} is missing in it") from None
        except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise _refused(path, str(error)) from None
        if not 0 < step < 2**31:
            raise _refused(path, "it has no number of updates")
        # There the first update has the number 1.
        return cls(path, arrays, step - 1, hashlib.sha256(raw).hexdigest())

    def group(self, name: str) -> dict[str, Any]:
        """The parameters of one group as a nested dict, with our names. Leaves have no seed axis."""
        root: dict[str, Any] = {}
        for path, array in self.arrays.items():
            if path.startswith(f"{name}/"):
                path = path.replace(name, "params", 1).replace("/value_net/", "/MLP_0/")
                *parents, leaf = path.split("/")
                node = root
                for key in parents:
                    node = node.setdefault(key, {})
                    if not isinstance(node, dict):  # by the renaming, in a file made to mislead
                        raise _refused(self.path, "it names an array twice")
                node[leaf] = array
        return root

    def spec(self, options: Mapping[str, Any]) -> Spec:
        """The shapes of the file's networks; `options` is the config's section `data`.

        Raises `UserError` if the file's chunks cannot have `options["chunk"]` actions.
        """
        try:
            state = self.arrays["value/value_net/Dense_0/kernel"].shape[0]
            chunk_dim = self.arrays["policy/Dense_0/kernel"].shape[1]
        except (KeyError, IndexError):
            raise _refused(self.path, "its networks are others") from None
        chunk = options["chunk"]
        if not state or not chunk_dim or chunk_dim % chunk:
            raise UserError(
                f"{self.path}: its chunks are {chunk_dim} numbers, which are no {chunk} actions: "
                "set data.chunk to what it was trained with"
            )
        return Spec((state,), chunk_dim // chunk, chunk, n_step=options["n_step"])


def _leaves(params: Any, group: str) -> dict[str, np.ndarray]:
    leaves: dict[str, np.ndarray] = {}

    for name, array in _walk(params, group, 0):
        if not (array.dtype.kind == "f" and np.isfinite(array).all()):
            raise ValueError(f"{name[:60]} holds numbers that are none of a network")
        leaves[name] = array
        if len(leaves) > _MOST:
            raise ValueError(f"{group} has more than {_MOST} arrays")
    return leaves


def _walk(node: Any, name: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of all arrays below `node`."""
    if isinstance(node, pickled.Made) and node.value is not None:
        yield name, node.value
    elif isinstance(node, dict) and node and depth < _DEEPEST:
        for key, value in node.items():
            if "/" in key:
                raise ValueError("it names an array in a way that no network does")
            yield from _walk(value, f"{name}/{key}", depth + 1)
    else:
        raise ValueError(f"{name[:60]} is no array")


def _refused(path: Path, why: str) -> UserError:
    why = re.sub(r"[^ -~]", "?", " ".join(why.split()))[:120]  # the file's own words may be in it
    return UserError(
        f"{path} is no checkpoint of the public QGF code: {why}: give a params_N.pkl of its qgf agent"
    )


def _check_config(config: Mapping[str, Any]) -> None:
    """Raises `UserError` if no checkpoint of the public qgf agent could be a run of `config`."""
    row = algorithms.Method.named(config["algorithm"])
    if row.policies != ("flow_bc",) or config["critic"] != "iql":
        raise UserError("only the public qgf agent is imported: --config.algorithm=qgf, critic=iql")
    if EnvName.parse(config["env"]).goals:
        raise UserError(f"env {config['env']}: the public qgf agent knows single tasks, no goals")
    given = {"data.standardize": config["data"]["standardize"], "seeds": config["seeds"]}
    for key, needed in {"data.standardize": False, "seeds": 1}.items():
        if given[key] != needed:
            raise UserError(
                f"config key {key} is {given[key]}; for a public checkpoint it is {needed}"
            )


@backend.standardized
def import_run(
    path: str | os.PathLike, config: Mapping[str, Any], workdir: str | os.PathLike
) -> Path:
    """Makes `workdir` a run whose one checkpoint is the file `path`, under a resolved config.

    Policy, critic, target critic and value are imported. The optimiser's moments are not, so the run is
    for evaluation and not for further training. Raises `UserError` if the file is something else, or has
    other widths than the config.
    """
    _check_config(config)
    official, workdir = Official.read(path), Path(workdir)
    spec = official.spec(config["data"])
    state = _state(official, config, spec)
    data = {"file": official.path.name, "sha256": official.sha256}
    with TRAINING.lock(workdir):
        run = Run.create(workdir, config, spec.record(), data)
        Checkpoints(workdir, identity=run.identity).save(official.step, state)
    return workdir


def _state(official: Official, config: Mapping[str, Any], spec: Spec) -> Any:
    """A train state, with a leading axis of one seed, that acts as the file does."""
    import jax
    import jax.numpy as jnp

    from qgf_jax.training.programs import Trainer
    from qgf_jax.training.state import TrainState

    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    seeds = jnp.asarray(trainer.seeds)
    template: TrainState = jax.eval_shape(trainer.init, seeds)

    def group(theirs: str, expected: Any) -> Any:
        params = jax.tree.map(lambda x: jnp.asarray(x[None]), official.group(theirs))
        ArrayTree(expected).check_same(f"{official.path}: {theirs}", ArrayTree(params).describe())
        return params

    params = {name: group(name, tree) for name, tree in template.params.items()}
    target = {name: group(f"target_{name}", x) for name, x in template.target_params.items()}
    step, state = jnp.full((1,), official.step, jnp.int32), trainer.init(seeds)
    return TrainState(step, state.key, params, target, state.opt_state, state.guard)
