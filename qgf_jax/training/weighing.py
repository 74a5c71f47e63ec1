"""What guided actions are like under each of many weights: the numbers that criteria choose by.

From data and checkpoint alone, in one program: states drawn from the data, a grid of weights around that
of `qgf_relative`, and the same noise for all weights and for the reference.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_guide import flow
from qgf_jax.core import density
from qgf_jax.core.networks import Networks
from qgf_jax.data.sampling import BatchSampler
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training.calibration import covariance
from qgf_jax.types import Array, Critic, Direction, Obs, Params, Spec, Velocity


class Effort(NamedTuple):
    """How much is drawn."""

    states: int = 256
    """Drawn from the data."""
    dense_states: int = 128
    """Of these, in how many densities are computed."""
    actions: int = 16
    """Of the reference in each state, for the spread of Q and the covariance."""
    noises: int = 128
    """Of the reference in each dense state, for the quantile of its density."""
    bank: int = 8192
    """Chunks of the data, among which a state's neighbours are looked for."""
    neighbours: int = 128
    """Chunks of these that a distance is from the nearest of. The weight by distance depends on it."""
    factors: tuple[float, ...] = tuple(np.geomspace(1e-2, 1e2, 25).tolist())
    """The grid, in units of the weight `relative`."""
    evaluated: slice = slice(6, 24, 3)
    """Which of these are evaluated, if any are: 0.1 to 32 times `relative`, by half decades."""
    transitions: int = 32768
    """Of the data, after which each of these weights acts, and which its critic learns from."""
    updates: int = 2000
    """Of each critic that evaluates."""

    def measure(
        self,
        config: Mapping[str, Any],
        spec: Spec,
        params: Params,
        dataset: Any,
        blocks: int = 1,
        judge: LoadedRun | None = None,
    ) -> dict[str, Array]:
        """The fields of `criteria.Measured`, each with a leading axis of the seeds.

        `params` are those of a `LoadedRun`; `dataset`, made of `blocks` of one shape, lies on the
        device. The critic of `judge`, a run with one seed or as many, takes the place of the member
        that judges.
        """
        builder = Builder(config, spec)
        nets = builder.networks()
        num_steps = builder.settings("qgf")["num_steps"]
        groups = {name: params[name] for name in ("policy", "critic")}
        if judge is not None:
            seeds = len(jax.tree.leaves(groups)[0])
            groups["judge"] = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (seeds, *x.shape[1:])), judge.params["critic"]
            )
        theirs = None if judge is None else judge.networks()

        @jax.jit
        def program(groups: Params, dataset: Any) -> dict[str, Array]:
            near = Nearby.draw(config, spec, dataset, blocks, self)
            one = functools.partial(_one_seed, nets, theirs, num_steps, self, near)
            return over_seeds(one, groups)

        return program(groups, dataset)


FULL = Effort()
"""What `qgf calibrate` takes."""


class Nearby(NamedTuple):
    """States of the data, and what the data did near them."""

    obs: Obs
    """Each part [N, …]."""
    actions: Array
    """[N, K, D]."""

    @classmethod
    def draw(
        cls, config: Mapping[str, Any], spec: Spec, dataset: Any, blocks: int, effort: Effort
    ) -> "Nearby":
        """States, and of the `bank` the chunks that begin in the nearest states.

        Nearest by all numbers of a state, each over its standard deviation; a goal does not count.
        """

        def drawn(size: int, seed: int) -> Any:
            feed = BatchSampler.of(config, spec, batch_size=size, blocks=blocks)
            return feed.gather(dataset, feed.draw(dataset, jax.random.key(seed)))

        states, bank = drawn(effort.states, 0).actor.obs, drawn(effort.bank, 1)
        here, there = (x.reshape(len(x), -1) for x in (states.state, bank.actor.obs.state))
        spread = there.std(axis=0)
        scale = jnp.where(spread > 0, spread, 1.0)

        def neighbours(state: Array) -> Array:
            gap = (((there - state[None]) / scale[None]) ** 2).sum(axis=1)
            whole = (
                bank.actor.weight > 0
            )  # a chunk that runs over the end of its trajectory is none
            return jax.lax.top_k(-jnp.where(whole, gap, jnp.inf), effort.neighbours)[1]

        nearest = jax.lax.map(neighbours, here, batch_size=min(32, effort.states))
        return cls(states, bank.action[nearest])


def _relative_weight(covariance: Array, q_std: Array, slopes: Array) -> Array:
    """The w [] for which w g is nearest to S g / q_std, summed over the slopes g, `slopes` [K, D].

    So the direction of `qgf` under w is, by least squares, that of `qgf_relative` under 1.
    """
    turned = jnp.matmul(slopes, covariance, precision="highest")
    return (slopes * turned).sum() / (q_std * (slopes * slopes).sum())


def _one_seed(
    nets: Networks,
    judge: Networks | None,
    num_steps: int,
    effort: Effort,
    near: Nearby,
    params: Params,
) -> dict[str, Array]:
    """`measure` of one seed; `params` have the judge's critic too, if there is one."""
    keys = jax.random.split(jax.random.key(2), effort.states)

    def over_states(f: Callable[..., Any], states: int, batch: int) -> Any:
        every = jax.tree.map(lambda x: x[:states], (near.obs, near.actions, keys))
        batch = min(batch, states)  # a rest of another size would be compiled once more

        def one(x: Any) -> Any:
            return f(State(nets, params, num_steps, *x, judge))

        return jax.lax.map(one, every, batch_size=batch)

    stds, covariances, slopes = over_states(lambda s: s.spread(effort.actions), effort.states, 32)
    q_std, slopes = jnp.median(stds), slopes.reshape(-1, nets.chunk_dim)
    relative = _relative_weight(covariances.mean(axis=0), q_std, slopes)
    weights = relative * jnp.array(effort.factors)
    of_weights = over_states(lambda s: s.guided(weights), effort.states, 32)
    of_weights |= over_states(lambda s: s.densities(weights, effort.noises), effort.dense_states, 4)
    by_weight = {k: v.T if v.ndim == 2 else v for k, v in of_weights.items()}  # [W, N]
    return {"weights": weights, "relative": relative, **by_weight}


class State(NamedTuple):
    """What is measured in one state, with the networks bound."""

    nets: Networks
    params: Params
    num_steps: int
    obs: Obs
    data: Array
    """[K, D], what the data did nearby."""
    key: Array
    judge: Networks | None = None
    """Of the critic `params["judge"]`, if another run's judges."""

    @property
    def noise(self) -> Array:
        """[D], the one of all weights."""
        return jax.random.normal(self.key, (self.nets.chunk_dim,))

    @property
    def velocity(self) -> Velocity:
        """Of the reference."""
        return self.nets.velocity(self.params["policy"], self.obs)

    def act(self, direct: Direction, noise: Array, weight: Array) -> tuple[Array, Array]:
        """The guided action [D] from `noise` [D], unclipped, and w Σ dt |g|² [], how much Q should rise.

        dQ = ∇Q · da, and guidance adds da = w g dt, with g = ∇Q in each step; so the sum is the rise of
        Q to first order in w where the flow carries what is added on unchanged.
        """

        def step(action: Array, t: Array) -> tuple[Array, Array]:
            velocity, slope = direct(action, t)
            return action + (velocity + weight * slope) / steps, slope @ slope / steps

        steps = self.num_steps
        times = jnp.arange(steps, dtype=noise.dtype) / steps
        action, squares = jax.lax.scan(step, noise, times)
        return action, weight * squares.sum()

    def distance(self, action: Array) -> Array:
        """The Euclidean distance [] from `action` [D] to the nearest of the data's."""
        return jnp.sqrt(((self.data - action[None]) ** 2).sum(axis=1).min())

    def q(self, members: slice = slice(None)) -> Critic:
        """Of some of the critic's members, which is all unless said otherwise."""
        chosen = jax.tree.map(lambda x: x[members], self.params["critic"])
        return self.nets.q_of(chosen, self.obs)

    def _judged(self, networks: Networks) -> Critic:
        """Q of the judge, of actions that are these networks'.

        It has units of actions, a box and a normalisation of observations of its own.
        """
        q, ours, theirs = (
            networks.q_of(self.params["judge"], self.obs),
            self.nets.spec,
            networks.spec,
        )

        def judged(action: Array) -> Array:
            chunk = ours.to_environment(action.reshape(ours.chunk, ours.action))
            return q(networks.clip(theirs.to_networks(chunk).reshape(-1)))

        return judged

    def direct(self, q: Critic, rule: str = "one_step") -> Direction:
        """The rule's, at the endpoint of one straight step."""
        end = functools.partial(flow.endpoint, clip=self.nets.spec.clip)
        return Part.named("rule", rule).make(self.velocity, q, end)

    def spread(self, actions: int) -> tuple[Array, Array, Array]:
        """Of reference actions: the standard deviation of Q [], their covariance, the slopes there."""
        noises = jax.random.normal(jax.random.fold_in(self.key, 1), (actions, self.nets.chunk_dim))
        run = functools.partial(flow.integrate, self.velocity, num_steps=self.num_steps)
        drawn = self.nets.clip(jax.vmap(run)(noises))
        q, slopes = jax.vmap(jax.value_and_grad(self.q()))(drawn)
        return q.std(ddof=1), covariance(drawn), slopes

    def guided(self, weights: Array) -> dict[str, Array]:
        """By weight [W]: gains and distances; the reference's own distance []."""
        clip, everyone = self.nets.clip, self.q()
        own = clip(flow.integrate(self.velocity, self.noise, num_steps=self.num_steps))

        def under(q: Critic) -> tuple[Array, Array]:
            one = functools.partial(self.act, self.direct(q), self.noise)
            actions, promised = jax.vmap(lambda w: one(weight=w))(weights)
            return clip(actions), promised

        actions, promised = under(everyone)
        found = {
            "gain": jax.vmap(everyone)(actions) - everyone(own),
            "promised": promised,
            "distance": jax.vmap(self.distance)(actions),
            "own_distance": self.distance(own),
        }
        if self.judge is not None:
            other = self._judged(self.judge)
            gain = jax.vmap(other)(actions) - other(own)
            found |= {"other_gain": gain, "other_promised": promised}
        elif self.nets.ensemble > 1:
            other = self.q(slice(-1, None))
            actions, found["other_promised"] = under(self.q(slice(-1)))
            found["other_gain"] = jax.vmap(other)(actions) - other(own)
        return found

    def densities(self, weights: Array, noises: int, rule: str = "one_step") -> dict[str, Array]:
        """By weight [W]: log p_0 and log p_w - log p_0 of the guided action; the 1 % quantile []."""
        direct = self.direct(self.q(), rule)
        forward = functools.partial(density.Path.forward, num_steps=self.num_steps)
        drawn = jax.random.normal(jax.random.fold_in(self.key, 2), (noises, self.nets.chunk_dim))
        every = jnp.concatenate([self.noise[None], drawn])
        reference = jax.vmap(functools.partial(forward, self.velocity))(every)

        def guided(weight: Array) -> density.Path:
            def field(action: Array, t: Array) -> Array:
                velocity, slope = direct(action, t)
                return velocity + weight * slope

            return forward(field, self.noise)

        def search(near: Array, path: density.Path) -> tuple[Array, Array]:
            # Weight by weight, each search beginning where the last one ended.
            found = density.Path.backward(
                self.velocity, path.action, near, num_steps=self.num_steps
            )
            return found.points, found.log_density

        paths = jax.vmap(guided)(weights)
        _, log_density = jax.lax.scan(search, reference.points[0], paths)
        return {
            "log_density": log_density,
            "log_ratio": paths.log_density - log_density,
            "rare": jnp.quantile(reference.log_density[1:], 0.01),
        }
