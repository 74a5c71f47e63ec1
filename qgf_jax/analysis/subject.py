"""What is analysed: a trained run, states of its data, and the actions of methods there."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.data.feeder import DatasetFeed
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.statistics import Interval
from qgf_jax.evaluation.summary import Row, summarize
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import numbers
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training.weighing import Effort, Nearby, State
from qgf_jax.types import Array, Params

_BATCH = 16
"""States at once."""
_DRAWN = 32
"""Reference actions in a state, of which the best of N is taken in all ways."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run and what of it is measured."""

    loaded: LoadedRun
    data: Loaded | None
    """Those that it was trained on; taken when states are first drawn."""
    states: int = 128
    given_methods: tuple[str, ...] = ()
    given_weights: tuple[float, ...] = ()
    other: LoadedRun | None = None
    """A run whose critic judges too."""

    @functools.cached_property
    def near(self) -> Nearby:
        """States of the data, and what the data did near them."""
        loaded = self.loaded
        if self.data is None:
            raise ValueError("no data were opened")
        feed = DatasetFeed(self.data, loaded.spec.steps)
        try:
            dataset = feed.at(loaded.step - 1)
            drawn = functools.partial(
                Nearby.draw, loaded.run.config, loaded.spec, blocks=feed.blocks
            )
            return jax.jit(lambda data: drawn(data, effort=Effort(states=self.states)))(dataset)
        finally:
            feed.close()

    @functools.cached_property
    def rows(self) -> list[Row]:
        """The rows of the run's episodes at this checkpoint, of its own environment."""
        lines, env = EpisodeLog.read(self.loaded.run), self.loaded.run.env.label
        lines.warn()
        wanted = (line for line in lines.records if line["step"] == self.loaded.step)
        return summarize(line for line in wanted if line["env"] == env)

    def arms(self, default: Sequence[str]) -> dict[str, Arm]:
        """The methods that were asked for, else `default`, by how they are written; weight 0.

        Raises `UserError` for one that the run cannot act with.
        """
        found = {}
        for text in self.given_methods or default:
            arm = Arm.sweep([text], [0.0])[0]
            self.loaded.sampler(arm.method, arm.best_of, arm.options)
            found[arm.sampler.label] = arm
        return found

    def weights(self) -> tuple[float, ...]:
        """Those asked for, else the config's and those that were played, with the means between.

        0 is among them. Raises `UserError` if none is above it.
        """
        found = tuple(sorted({0.0, *self.given_weights})) if self.given_weights else self._usual
        if found[-1] <= 0:
            raise UserError("no guidance weight above 0 is measured: give --weights=WEIGHT,…")
        return found

    @property
    def _usual(self) -> tuple[float, ...]:
        played = {
            row["weight"] for row in self.rows if row["method"] == "qgf" and not row["options"]
        }
        return self.with_means({*self.loaded.run.config["eval"]["weights"], *played})

    @staticmethod
    def with_means(weights: Sequence[float] | set[float]) -> tuple[float, ...]:
        """0, the weights above it, and the geometric mean of each two that follow one another."""
        above = np.array(sorted(w for w in weights if w > 0))
        means = np.sqrt(above[1:] * above[:-1])
        # To three digits, for tables; what was asked for stays as it is.
        rounded = (float(f"{mean:.3g}") for mean in means)
        return tuple(sorted({0.0, *above.tolist(), *rounded}))

    @functools.cached_property
    def num_steps(self) -> int:
        """Steps of the flow."""
        return Builder(self.loaded.run.config, self.loaded.spec).settings("qgf")["num_steps"]

    def measure(
        self, one: Callable[[Params, State], Mapping[str, Array]], extra: Params | None = None
    ) -> dict[str, np.ndarray]:
        """`one` in each state and for each seed: its leaves as [S, N, …].

        `extra` are further parameters, led by the axis of seeds, which `one` finds among the others.
        """
        near, keys = self.near, jax.random.split(jax.random.key(0), self.states)
        nets, steps, batch = self.loaded.networks(), self.num_steps, min(_BATCH, self.states)

        def of_seed(params: Params) -> Any:
            def of_state(x: Any) -> Any:
                return one(params, State(nets, params, steps, *x))

            return jax.lax.map(of_state, (near.obs, near.actions, keys), batch_size=batch)

        found = jax.jit(lambda params: over_seeds(of_seed, params))(
            self.loaded.params | (extra or {})
        )
        return {name: np.asarray(x) for name, x in jax.device_get(found).items()}

    def actions(
        self, arms: Mapping[str, Arm], params: Params, state: State, weights: Sequence[float]
    ) -> dict[str, Array]:
        """By method the actions [W, D] under `weights` from the state's noise, clipped as in play."""
        found = {}
        for label, arm in arms.items():
            sample = self.loaded.sampler(arm.method, arm.best_of, arm.options)
            given = jnp.array(weights if Method.named(arm.method).weighted else (0.0,))
            found[label] = jax.lax.map(
                lambda w, sample=sample: sample(params, state.obs, state.key, w), given
            )
        return found

    def reference(self, params: Params, state: State) -> tuple[Array, Array]:
        """The reference's action [D] from the state's noise, and others [M, D], from other noise."""
        sample = self.loaded.sampler("reference")
        keys = jax.random.split(jax.random.fold_in(state.key, 1), _DRAWN)
        zero = jnp.zeros(())
        draw = jax.vmap(lambda key: sample(params, state.obs, key, zero))
        return sample(params, state.obs, state.key, zero), draw(keys)


def interval(table: np.ndarray) -> dict[str, float | None]:
    """The mean of a table [S, N] over seeds and states, which are crossed, with its 95 % interval.

    Rows of seeds and columns of states without a finite number are left out; null if nothing is left.
    """
    some = table[np.isfinite(table).any(axis=1)]
    whole = some[:, np.isfinite(some).all(axis=0)]
    if not whole.size:
        return {"mean": None, "low": None, "high": None}
    return {k: numbers(v) for k, v in Interval.of_mean([whole])._asdict().items()}


def mean_of_best(ranks: Array, values: Array, of: int) -> Array:
    """The mean [] of `values` [M] over the candidate that ranks first among `of` of M.

    Exact over all choices of `of` from the M, none twice: the i-th smallest of them is the best of
    C(i - 1, of - 1) among C(M, of) choices.
    """
    m = len(ranks)
    if not 1 <= of <= m:
        raise UserError(f"best of {of} candidates, of which {m} are drawn: give 1 to {m}")
    share = np.zeros(m)
    share[-1] = of / m
    for i in range(m - 1, 0, -1):  # C(i - 1, of - 1) of C(i, of - 1), the i-th from below
        share[i - 1] = share[i] * (i - of + 1) / i
    return values[jnp.argsort(ranks)] @ jnp.asarray(share, values.dtype)
