"""A trained checkpoint as a function from observations to action chunks."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax import bounds
from qgf_jax.errors import UserError, unknown_name_error
from qgf_jax.methods import table as algorithms
from qgf_jax.runs import run as runs
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.run import Run
from qgf_jax.runtime import backend
from qgf_jax.training import calibration as calibrate
from qgf_jax.training.programs import make_trainer
from qgf_jax.training.state import TrainState, seeds_of
from qgf_jax.types import Array, Params, Sample, Spec


class LoadedRun(NamedTuple):
    """The learned part of a run. Leaves have a leading axis of seeds."""

    run: Run
    spec: Spec
    step: int
    params: Params
    target_params: Params


@backend.standardized
def restore(workdir: str | os.PathLike, step: int | None = None) -> LoadedRun:
    """The newest sound checkpoint of a run, or the one at `step`."""
    run = runs.open_run(workdir)
    if not run.trained_in.is_dir():
        raise UserError(
            f"{run.trained_in}, whose checkpoints {workdir} has episodes of, is not there: give "
            f"--workdir=ITS FOLDER NOW --out={workdir}"
        )
    spec = Spec(**run.spec)
    device = backend.devices(local=True)[0]
    seeds = seeds_of(run.config)
    trainer = make_trainer(algorithms.build_learner(run.config, spec), run.config, spec)
    template = jax.eval_shape(trainer.init, seeds)
    # Where the run was trained says nothing of where it acts: restore to one device of this host.
    here = jax.sharding.SingleDeviceSharding(device)
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), template
    )
    found = Checkpoints(run.trained_in, identity=run.identity).restore(template, step)
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: let `qgf train` come to its first save")
    state: TrainState = found.state
    constants = calibrate.read(run.trained_in, found.step)
    target_params = state.target_params | ({"calibration": constants} if constants else {})
    return LoadedRun(run, spec, found.step, state.params, target_params)


def sampler(
    restored: LoadedRun, method: str, best_of: int = 1, options: algorithms.Options = ()
) -> Sample:
    """The `Sample` of a method over a restored run.

    `UserError` if it needs other learners, or constants that the run does not have.
    """
    trained = restored.run.config["algorithm"]
    algorithms.method(method)
    if method not in (served := algorithms.served_by(trained)):
        raise unknown_name_error(f"method for a run of {trained!r},", method, served)
    settings = algorithms.sampler_settings(restored.run.config, method, options)
    if settings.get("units", "raw") != "raw":
        _check_calibration(restored, method, settings.get("scale", "value"))
    if best_of > 1 and "critic" not in restored.params:
        raise UserError(f"a run of {trained!r} has no critic to choose the best of {best_of} by")
    if settings.get("endpoint") == "learned" and "endpoint" not in restored.params:
        raise UserError(
            f"a run of {trained!r} has no learned endpoint: train --config.algorithm=qgf_distill"
        )
    return algorithms.build_sample(restored.run.config, restored.spec, method, best_of, options)


def _check_calibration(restored: LoadedRun, method: str, scale: str) -> None:
    constants = restored.target_params.get("calibration")
    if constants is None:
        raise UserError(
            f"{restored.run.trained_in} has no calibration for step {restored.step}, which {method} "
            "needs: it is measured when `qgf train` reaches its last step"
        )
    if scale == "logit" and "logit_std" not in constants:
        raise UserError(
            f"{restored.run.trained_in / 'calibration.npz'} is of an earlier version and has no spread "
            "of logits: remove it and give the same `qgf train` again, which measures it"
        )


def actor(
    restored: LoadedRun, method: str, best_of: int = 1, options: algorithms.Options = ()
) -> Callable[..., Array]:
    """(groups, obs [O], identity [3], weight []) -> chunk [H, A], for evaluation; not compiled.

    `groups` are the params and target_params of one seed, identity is (task, episode, how many chunks
    came before) and is what the noise is made of.
    """
    sample, spec = sampler(restored, method, best_of, options), restored.spec
    root = jax.random.key(0)

    def act(groups: tuple[Params, Params], obs: Array, identity: Array, weight: Array) -> Array:
        key = root
        for part in identity:
            key = jax.random.fold_in(key, part)
        params = algorithms.acting_params(*groups)
        return sample(params, obs, key, weight).reshape(spec.chunk, spec.action_dim)

    return act


def load_policy(
    workdir: str | os.PathLike,
    method: str = "qgf",
    weight: float = 1.0,
    *,
    best_of: int | None = None,
    seed: int | None = 0,
    step: int | None = None,
    **options: Any,
) -> Callable[..., Array]:
    """Restores a run as a jitted function (obs, key) -> action chunk.

        policy = qgf_jax.load_policy("runs/x", method="qgf", weight=3.0)
        chunk = policy(obs, jax.random.key(0))     # obs [O] -> [chunk, A]; obs [B, O] -> [B, chunk, A]

    Where the run has goals, give one with each call: `policy(obs, key, goal=…)`, [G] or [B, G], or at
    the end of the observations. Actions lie in [-1, 1] and are meant to be played open loop. `seed` is
    the place of a seed in the run (0 for the first); `None` gives every seed's actions, with a leading
    axis. `best_of` is the method's own number unless given, and `options` are those of the method's
    sampler and rule (`schedule="ratio"`). A new batch size is a new compilation.

    Raises `UserError` for a folder without a sound checkpoint, an unknown method, or one that
    needs other learners than the run has.
    """
    weight = float(weight)  # it may be an array's
    bounds.check("weight", weight, bounds.of(bounds.Finite))
    for what, number in {"best_of": best_of, "seed": seed, "step": step}.items():
        if number is not None:
            kind = bounds.Count if what == "best_of" else bounds.Index
            bounds.check(what, number, bounds.of(kind))
    restored = restore(workdir, step)
    row = algorithms.method(method)
    for name, value in options.items():
        algorithms.check_option(method, name, value)
    n = row.best_of[0] if best_of is None else best_of
    sample = sampler(restored, method, n, tuple(sorted(options.items())))
    spec, seeds = restored.spec, restored.run.config["seeds"]
    groups = (restored.params, restored.target_params)
    if seed is not None:
        if not 0 <= seed < seeds:
            raise UserError(f"{workdir} has seeds 0 to {seeds - 1}, not {seed}")
        groups = jax.tree.map(lambda x: x[seed], groups)

    @jax.jit
    def act(groups: tuple[Params, Params], obs: Array, key: Array, weight: Array) -> Array:
        def one(obs: Array, key: Array) -> Array:
            action = sample(algorithms.acting_params(*groups), obs, key, weight)
            return action.reshape(spec.chunk, spec.action_dim)

        if obs.ndim == 1:
            return one(obs, key)
        return jax.vmap(one)(obs, jax.random.split(key, len(obs)))

    every = jax.jit(jax.vmap(act, in_axes=(0, None, None, None)))

    @backend.standardized
    def policy(obs: Any, key: Array, goal: Any = None) -> Array:
        obs = jnp.asarray(obs, jnp.float32)
        if goal is not None:
            goal = jnp.asarray(goal, jnp.float32)
            if goal.shape[-1:] != (spec.goal_dim,):
                raise UserError(f"goal of shape {goal.shape}: the run wants [{spec.goal_dim}]")
            try:
                batch = np.broadcast_shapes(obs.shape[:-1], goal.shape[:-1])
            except ValueError:
                raise UserError(f"{len(obs)} observations and {len(goal)} goals") from None
            both = (jnp.broadcast_to(x, (*batch, x.shape[-1])) for x in (obs, goal))
            obs = jnp.concatenate([*both], axis=-1)
        if obs.ndim not in (1, 2) or obs.shape[-1] != spec.obs_dim:
            raise UserError(
                f"observation of shape {obs.shape}: the run wants [{spec.obs_dim}] "
                f"or [B, {spec.obs_dim}]"
                + f", the goal's {spec.goal_dim} last"
                * bool(spec.goal_dim)
            )
        return (act if seed is not None else every)(groups, obs, key, jnp.float32(weight))

    return policy
