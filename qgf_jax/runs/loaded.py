"""A trained run, opened once, for whatever acts with it: policies, evaluation, reports and films.

Nothing here trains: no optimiser, no data and no simulator is imported or built.
"""

import contextlib
import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from qgf_guide.bounds import Bound, Count, Finite, Index
from qgf_jax import config as configs
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.parts import Part
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.follower import Follower
from qgf_jax.runs.observed import Observed
from qgf_jax.runs.run import Run
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.runs.weights import ChosenWeights
from qgf_jax.runtime import backend
from qgf_jax.types import Array, Params, Sample, Spec

Act = Callable[..., Array]
"""(params of one seed, obs [O], identity [3], weight [], numbers [] …, previous=None) -> [H, A]."""


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """The learned part of a run at one step."""

    run: Run
    spec: Spec
    step: int
    params: Params
    """What acts, as `acting_params` says; leaves have a leading axis of the run's seeds."""

    @classmethod
    @backend.standardized
    def open(cls, workdir: str | os.PathLike, step: int | None = None) -> "LoadedRun":
        """The newest sound checkpoint of a run, or the one at `step`.

        Raises `UserError` if there is none.
        """
        run = Run.open(workdir)
        if not run.trained_in.is_dir():
            raise UserError(
                f"{run.trained_in}, whose checkpoints {workdir} has episodes of, is not there: give "
                f"--workdir=ITS FOLDER NOW --out={workdir}"
            )
        # Where the run was trained says nothing of where it acts: restore to one device of this host.
        here = SingleDeviceSharding(backend.devices(local=True)[0])
        checkpoints = Checkpoints(run.trained_in, identity=run.identity)
        restored = checkpoints.restore_part(("params", "target_params"), here, step)
        if restored is None:
            raise UserError(
                f"{workdir} has no checkpoint yet: let `qgf train` come to its first save"
            )
        spec = Spec.of(run.spec)
        if unknown := configs.RunConfig(run.config).unknown_keys():
            raise UserError(
                f"{run.trained_in}: config key {unknown[0]} is not known: use the version that trained "
                "it, of the package that has the key too"
            )
        _check_networks(run, spec, restored.state["params"], restored.step)
        constants = cls.calibration(run.trained_in, restored.step)
        with contextlib.suppress(UserError):  # said when they are asked for
            state = checkpoints.digest(restored.step)
            chosen = ChosenWeights.of_checkpoint(run.trained_in, restored.step, state).of_seeds()
            constants |= {"weights": jax.tree.map(jnp.asarray, chosen)}
        params = algorithms.acting_params(
            restored.state["params"], restored.state["target_params"], constants or None
        )
        return cls(run, spec, restored.step, params)

    @staticmethod
    def calibration(workdir: Path, step: int) -> dict[str, Array]:
        """The constants of calibration.npz for the checkpoint at `step`; empty if there are none.

        `q_std` and `logit_std` [S], `values` [S, D] and `vectors` [S, D, D], as `training.calibration`
        measures them; files of earlier versions have no `logit_std`. Raises `UserError` if the file
        cannot be read.
        """
        path = workdir / "calibration.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as file:
                names = ("q_std", "values", "vectors", *({"logit_std"} & {*file.files}))
                constants = {name: jnp.asarray(file[name]) for name in names}
                return constants if int(file["step"]) == step else {}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not readable ({error}): remove it and train again") from None

    @staticmethod
    def write_calibration(workdir: Path, step: int, constants: Mapping[str, Array]) -> None:
        """Writes calibration.npz, with what was measured for the checkpoint at `step`."""
        buffer = io.BytesIO()
        np.savez(buffer, step=np.int64(step), **jax.device_get(dict(constants)))
        write_atomically(workdir / "calibration.npz", buffer.getvalue())

    @property
    def seeds(self) -> int:
        """How many training seeds the run has."""
        return self.run.config["seeds"]

    def sharding(self) -> Any:
        """That of arrays whose leading axis is the seeds, over this host's devices."""
        return _sharding(self.seeds)

    def networks(self) -> Any:
        """The `Networks` that the parameters belong to."""
        return self._builder.networks()

    @property
    def _builder(self) -> Builder:
        return Builder(self.run.config, self.spec)

    @property
    def observed(self) -> Observed:
        """How observations come that it acts on."""
        return Observed(self.spec, self.run.parts)

    def params_of(self, seed: int) -> Params:
        """The parameters of one seed, by its place in the run."""
        return jax.tree.map(lambda x: x[seed], self.params)

    def sampler(self, method: str, best_of: int = 1, options: algorithms.Options = ()) -> Sample:
        """(params of one seed, obs, key, weight []) -> action [D] of a method.

        Raises `UserError` if the method needs other learners, or constants that the run does not have.
        """
        trained, builder = self.run.config["algorithm"], self._builder
        row, own = algorithms.Method.named(method), algorithms.Method.named(trained)
        own.check_acts(self.run.workdir)
        if method not in (served := own.serves):
            raise UserError.unknown(f"method for a run of {trained!r},", method, served)
        settings = builder.settings(method, options)
        critic = dict(options).get("critic", "")
        if "calibration" in Part.named("unit", settings.get("units", "raw")).needs:
            self._check_calibration(method, settings.get("scale", "value"))
            self._check_first_critic(method, critic, "units")
        if "weights" in Part.named("sampler", row.sampler).needs:
            self._check_weights(method, settings.get("by", row.all_options["by"].default))
            self._check_first_critic(method, critic, "a weight")
        if lacking := builder.lacking(method, options, best_of):
            raise UserError(f"{method} over a run of {trained!r} {lacking}")
        return builder.sample(method, best_of, options)

    def _check_first_critic(self, method: str, critic: str, what: str) -> None:
        first = self.run.config["critic"].split(",")[0]
        if critic not in ("", first):
            raise UserError(
                f"{method}:critic={critic} has {what} that {first} alone was measured with: leave "
                "critic out, or take a method with raw units"
            )

    def _check_calibration(self, method: str, scale: str) -> None:
        constants = self.params.get("calibration", {})
        if "q_std" not in constants:
            raise UserError(
                f"{self.run.trained_in} has no calibration for step {self.step}, which {method} "
                "needs: it is measured when `qgf train` reaches its last step"
            )
        if scale == "logit" and "logit_std" not in constants:
            raise UserError(
                f"{self.run.trained_in / 'calibration.npz'} is of an earlier version and has no spread "
                "of logits: remove it and give the same `qgf train` again, which measures it"
            )

    def _check_weights(self, method: str, by: str) -> None:
        if by in self.params.get("calibration", {}).get("weights", {}):
            return
        folder, asked = self.run.trained_in, "evaluation" in Part.named("criterion", by).needs
        state, command = (
            Checkpoints(folder).digest(self.step),
            "qgf calibrate" + " --evaluate" * asked,
        )
        chosen = ChosenWeights.of_checkpoint(folder, self.step, state, command).of_seeds()
        advice = f"give `{command}`" if asked else UserError.nearest(by, chosen)
        raise UserError(
            f"{folder}: `qgf calibrate` has chosen no weight by {by}, which {method} needs: {advice}"
        )

    def actor(
        self,
        method: str,
        best_of: int = 1,
        options: algorithms.Options = (),
        arguments: Sequence[str] = (),
    ) -> Act:
        """(params of one seed, obs [O], identity [3], weight [], numbers [] …, previous=None) -> [H, A].

        For evaluation, in the environment's units: what is played from the observation on; not compiled.
        identity is (task, episode, how many chunks came before), of which the noise is made.
        `arguments` are further options, whose numbers come with each call and may be traced. `previous`
        [H, A] is what it gave before in the episode, where `Pace.overlaps`; for an episode's first chunk
        it is not read. Raises `UserError` as `sampler` and `pace` do, and, when called, for a part that
        asks for the value of a traced number.
        """
        root = jax.random.key(0)
        follow = self.keyed(method, best_of, options, arguments)

        def act(params: Params, obs: Array, identity: Array, *more: Any) -> Array:
            key = root
            for part in identity:
                key = jax.random.fold_in(key, part)
            return follow(params, obs, key, *more, begun=identity[2] > 0)

        return act

    def keyed(
        self,
        method: str,
        best_of: int = 1,
        options: algorithms.Options = (),
        arguments: Sequence[str] = (),
    ) -> Act:
        """(params of one seed, obs [O], key, weight [], numbers [] …, previous=None, begun) -> [H, A].

        As `actor`, of a key in place of an identity; `begun` [] is whether there is a chunk before.
        """
        count = len(arguments)
        make = functools.partial(self._follower, method, best_of)
        fixed = None if arguments else make(options)

        def act(
            params: Params, obs: Array, key: Array, weight: Array, *more: Any, begun: Any
        ) -> Array:
            numbers, previous = more[:count], more[count:]
            try:
                follow = fixed or make((*options, *zip(arguments, numbers, strict=True)))
                return follow(params, obs, key, weight, *previous, begun=begun)
            except jax.errors.ConcretizationTypeError as error:
                if not arguments:
                    raise
                raise UserError(_untraceable(method, arguments)) from error

        return act

    def pace(self, options: algorithms.Options) -> Pace:
        """How chunks follow one another. Raises `UserError` for what their length does not allow."""
        return Pace.of(dict(options), self.spec.chunk)

    def _follower(self, method: str, best_of: int, options: algorithms.Options) -> "Follower":
        sample = self.sampler(method, best_of, options)
        return Follower(self.spec, self.pace(options), sample, best_of)

    def policy(
        self,
        method: str = "qgf",
        weight: float = 1.0,
        *,
        best_of: int | None = None,
        seed: int | None = 0,
        **options: Any,
    ) -> Callable[..., Array]:
        """A jitted function (obs, key) -> action chunk, see `load_policy`."""
        return _Policy(self, self._checked_follower(method, best_of, seed, options), weight, seed)

    def acting(
        self, method: str, best_of: int | None, seed: int, options: Mapping[str, Any]
    ) -> Callable[[Params, Array, Array, Array], Array]:
        """(params of one seed, obs [B, O], key, weight []) -> [B, chunk, A], as `policy` acts.

        Not compiled. Raises `UserError` as `policy` does.
        """
        return self._checked_follower(method, best_of, seed, options).of_rows

    def _checked_follower(
        self, method: str, best_of: int | None, seed: int | None, options: Mapping[str, Any]
    ) -> "Follower":
        row = algorithms.Method.named(method)
        for name, value in options.items():
            row.check_option(name, value)
        n = row.best_of[0] if best_of is None else best_of
        given = tuple(sorted(options.items()))
        row.check_idle(given, n)
        if seed is not None and not 0 <= seed < self.seeds:
            raise UserError(f"{self.run.workdir} has seeds 0 to {self.seeds - 1}, not {seed}")
        return self._follower(method, n, given)


def _untraceable(method: str, arguments: Sequence[str]) -> str:
    return (
        f"{method}: a part asks for the value of {' or '.join(arguments)} while the program "
        "is made: compute with it by jax.numpy, jnp.where in place of if"
    )


def _check_networks(run: Run, spec: Spec, params: Params, step: int) -> None:
    """Raises `UserError` where the parameters are not those of the networks that the config names."""
    learner = Builder(run.config, spec).learner()

    def init(key: Array) -> Params:
        return learner.init(key, spec.example(), jnp.zeros(spec.chunk_dim))

    expected = jax.eval_shape(
        lambda: jax.vmap(init)(jax.random.split(jax.random.key(0), run.config["seeds"]))
    )
    where = run.trained_in / "checkpoints" / str(step)
    ArrayTree(expected).check_same(where, ArrayTree(params).describe())


def _sharding(seeds: int) -> Any:
    """The sharding of arrays whose leading axis is `seeds` trained seeds, over this host's devices."""
    here = backend.devices(local=True)
    count = next(n for n in range(min(seeds, len(here)), 0, -1) if seeds % n == 0)
    if count == 1:
        return SingleDeviceSharding(here[0])
    return NamedSharding(Mesh(np.array(here[:count]), ("seeds",)), PartitionSpec("seeds"))


class _Policy:
    """What `load_policy` gives."""

    def __init__(self, loaded: LoadedRun, follow: Follower, weight: float, seed: int | None):
        self._spec, self._pace = loaded.spec, follow.pace
        self._observed = loaded.observed
        self._weight = np.float32(weight)
        self._params = loaded.params if seed is None else loaded.params_of(seed)
        self._seeds = () if seed is not None else (loaded.seeds,)

        @jax.jit
        def act(params: Params, obs: Array, key: Array, weight: Array, previous: Any) -> Array:
            if obs.ndim == 1:
                return follow.alone(params, obs, key, weight, previous)
            return follow.of_rows(params, obs, key, weight, previous)

        every = jax.jit(jax.vmap(act, in_axes=(0, None, None, None, 0)))
        self._act = act if seed is not None else every

    @backend.standardized
    def __call__(self, obs: Any, key: Array, goal: Any = None, previous: Any = None) -> Array:
        obs = self._observed.rows(obs, goal, jnp)
        if previous is not None:
            previous = self._checked(jnp.asarray(previous, jnp.float32), obs.shape[:-1])
        return self._act(self._params, obs, key, self._weight, previous)

    def warmup(self, batch_sizes: Sequence[int] = ()) -> None:
        """Compiles for one observation [O], and for [B, O] of each B; calls of these shapes are quick.

        It makes such calls, with zeros, so that their programs are in the cache of `jit`.
        """
        for batch in ((), *((size,) for size in batch_sizes)):
            obs = np.zeros((*batch, self._spec.width), np.float32)
            shape = (*self._seeds, *batch, self._spec.chunk, self._spec.action)
            for previous in (None, *([np.zeros(shape, np.float32)] * self._pace.overlaps)):
                jax.block_until_ready(self(obs, jax.random.key(0), previous=previous))

    def _checked(self, previous: Array, batch: tuple[int, ...]) -> Array:
        if not self._pace.overlaps:
            raise UserError(
                "a chunk is played to its end, and a previous one means nothing: load the policy with "
                "execute, delay or both"
            )
        wanted = (*self._seeds, *batch, self._spec.chunk, self._spec.action)
        if previous.shape != wanted:
            raise UserError(f"previous chunk of shape {previous.shape}: give {wanted}")
        return previous


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

    Where the run's data name the parts of an observation, it may be a dictionary of them, each [width]
    or [B, width]; others in it are left out. Where the run has goals, give one with each call:
    `policy(obs, key, goal=…)`, [G] or [B, G], or at the end of the observations. Actions are in the
    environment's units, as those of the data were, and are meant to be played open loop. `seed` is the
    place of a seed in the run (0 for the first); `None` gives every seed's actions, with a leading
    axis. `best_of` is the method's own number unless given, and `options` are those of the method's
    sampler and rule (`schedule="ratio"`). A new batch size is a new compilation;
    `policy.warmup((1, 64))` makes it beforehand.

    With `execute=K`, `delay=D` or both, give each call what the last one gave, as long as an episode
    lasts: `chunk = policy(obs, key, previous=chunk)`, K actions later. The result is what is played from
    the observation on: D actions that were decided before, then the new ones. `rtc=5.0` lets those go on
    from the old ones (real-time chunking; a bound of its strength).

    Raises `UserError` for a folder without a sound checkpoint, an unknown method, or one that
    needs other learners than the run has.
    """
    with contextlib.suppress(TypeError, ValueError):
        weight = float(weight)  # it may be an array's
    Bound.of(Finite).check("weight", weight)
    for what, number in {"best_of": best_of, "seed": seed, "step": step}.items():
        if number is not None:
            kind = Count if what == "best_of" else Index
            Bound.of(kind).check(what, number)
    loaded = LoadedRun.open(workdir, step)
    return loaded.policy(method, weight, best_of=best_of, seed=seed, **options)
