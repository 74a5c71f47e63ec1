"""What is exported: one seed of a checkpoint, and how it acts, as a function of arrays alone."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from qgf_jax.errors import UserError
from qgf_jax.methods.options import Options
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.table import Method
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.types import Array


class Chosen(NamedTuple):
    """One seed of a checkpoint, and the method that acts with it."""

    loaded: LoadedRun
    method: str = "qgf"
    options: Options = ()
    best_of: int | None = None
    """The method's own number unless given."""
    seed: int = 0
    """Its place in the run."""
    batch: int | None = None
    """How many observations a call has; `None`: any number."""
    platforms: tuple[str, ...] = ()

    def params(self) -> dict[str, Any]:
        """What acts, as NumPy arrays. Raises `UserError` if the run has no such seed."""
        if not 0 <= self.seed < self.loaded.seeds:
            last = self.loaded.seeds - 1
            raise UserError(f"{self.loaded.run.workdir} has seeds 0 to {last}, not {self.seed}")
        return jax.device_get(self.loaded.params_of(self.seed))

    def program(self) -> Callable[..., Array]:
        """(observation [B, O], goal [B, G] if the run has goals, key [2], weight []) -> [B, chunk, A].

        What `load_policy` computes of a batch, parameters inside. `key` is the data of a key, uint32.
        Raises `UserError` for a method that the run cannot act with, and for one that goes on from the
        chunk before.
        """
        if later := sorted(Pace.options().keys() & dict(self.options).keys()):
            raise UserError(
                f"{self.method}:{later[0]} goes on from the chunk before, which an exported policy is "
                "not given: leave it out"
            )
        params = self.params()
        act = self.loaded.acting(self.method, self.best_of, self.seed, dict(self.options))

        def program(observation: Array, *given: Array) -> Array:
            *goal, key, weight = given
            inside = jax.tree.map(jnp.asarray, params)
            obs = jnp.concatenate([observation, *goal], axis=-1) if goal else observation
            return act(inside, obs, jax.random.wrap_key_data(key), weight)

        return program

    def inputs(self) -> dict[str, Any]:
        """Shape and type of each argument of `program`, by name."""
        spec, batch = self.loaded.spec, self.batch or jax.export.symbolic_shape("batch")[0]
        widths = {"observation": spec.width - spec.goal_width, "goal": spec.goal_width}
        rows = {k: (batch, width) for k, width in widths.items() if width or k == "observation"}
        numbers = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in rows.items()}
        key = jax.ShapeDtypeStruct((2,), jnp.uint32)
        return numbers | {"key": key, "weight": jax.ShapeDtypeStruct((), jnp.float32)}

    def trace(self, make: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
        """`make(program, inputs)`, with a line for a method that wants the number of observations."""
        program = self.program()
        try:
            return make(program, inputs.values())
        except jax.errors.InconclusiveDimensionOperation:
            raise UserError(
                f"{self.method} needs to know how many observations a call has: give --batch=N"
            ) from None

    def record(self, acts: bool) -> dict[str, Any]:
        """What is said beside the file, as JSON; `acts`: of a method, else of parameters alone."""
        loaded, run = self.loaded, self.loaded.run
        spec = loaded.spec
        about: dict[str, Any] = {
            "run": {"env": run.config["env"], "algorithm": run.config["algorithm"]},
            "checkpoint": {
                "step": loaded.step,
                "seed": self.seed,
                "sha256": Checkpoints(run.trained_in).digest(loaded.step),
            },
            "obs_dim": spec.width - spec.goal_width,
            "goal_dim": spec.goal_width,
            "action_dim": spec.action,
            "chunk": spec.chunk,
            "versions": Run.versions(),
        }
        if acts:
            row = Method.named(self.method)
            best_of = row.best_of[0] if self.best_of is None else self.best_of
            options = dict(self.options)
            about["method"] = {"name": self.method, "options": options, "best_of": best_of}
            weights = list(row.weights or run.config["eval"]["weights"]) if row.weighted else []
            about["weights"] = weights
        return about


def described(inputs: Mapping[str, Any]) -> dict[str, str]:
    """{name: "float32[batch, 3]"}."""
    return {k: f"{x.dtype}[{', '.join(map(str, x.shape))}]" for k, x in inputs.items()}
