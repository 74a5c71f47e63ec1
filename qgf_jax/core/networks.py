"""Networks of one observation and one action; batches come from `jax.vmap` outside.

A network sees what `encoders.network_input` makes of an observation. A learner that needs another
network than those of `Networks` makes one by its methods (`nets.velocity_field(labels=3)`), or brings
a module of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from qgf_guide.aggregates import AGGREGATES
from qgf_jax.core import prepared
from qgf_jax.core.draws import drawn_noise
from qgf_jax.core.encoders import network_input
from qgf_jax.core.layers import ARITHMETIC, MLP, sinusoidal
from qgf_jax.core.network_options import NetworkOptions
from qgf_jax.core.quasimetric import QuasimetricCritic
from qgf_jax.core.reductions import in_training
from qgf_jax.types import Array, Critic, Obs, Params, Spec, Velocity


class _Shape(NamedTuple):
    """What the layers of a network are like."""

    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    precision: str = "float32"
    """A key of `layers.ARITHMETIC`."""

    def mlp(self, *last: int, activate_last: bool = False, name: str | None = None) -> MLP:
        """The layers `hidden`, and those of the widths `last`."""
        widths = (*self.hidden, *last)
        return MLP(
            widths, self.activation, self.layer_norm, activate_last, self.precision, name=name
        )


class _VelocityField(prepared.ObservationFirst):
    """(obs, action [D], t []) -> velocity [D], or anything else of that shape.

    `goal`: whether it sees the goal, where observations have one. With `labels` > 0 it takes a label
    [] int in [0, labels) too, as a learned code of 32 numbers.
    """

    spec: Spec
    shape: _Shape
    goal: bool
    time_feature: str
    labels: int = 0

    @nn.compact
    def __call__(self, obs: Obs, action: Array, t: Array, label: Array | None = None) -> Array:
        seen = network_input(self.spec, obs, goal=self.goal)
        x = [*jax.tree.leaves(seen), action, _time_code(t, self.time_feature)]
        if label is not None:
            x.append(nn.Embed(self.labels, 32)(label))
        x = self.shape.mlp(activate_last=True)(jnp.concatenate(x))
        # LeCun initialisation, unlike the layers before.
        head = ARITHMETIC[self.shape.precision].dense(self.spec.chunk_dim)
        return head(x).astype(jnp.float32)


def _time_code(t: Array, feature: str) -> Array:
    """t [] as a network sees it: [16] for "sinusoidal", [1] for "raw", [0] for "none"."""
    if feature == "sinusoidal":
        return sinusoidal(t)
    return jnp.reshape(t, (1,))[: 0 if feature == "none" else 1]


class _FourierField(nn.Module):
    """(obs, action [D], k []) -> noise [D]: the public code's network of DAC and QSM.

    Learned Fourier features of k, a network over them as wide as the main one, mish, no layer norm.
    """

    spec: Spec
    shape: _Shape
    goal: bool

    @nn.compact
    def __call__(self, obs: Obs, action: Array, k: Array) -> Array:
        waves = self.param("waves", nn.initializers.normal(0.2), (32,))
        angle = 2.0 * jnp.pi * k * waves
        shape = self.shape._replace(activation="mish", layer_norm=False)
        code = shape.mlp()(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)]))
        seen = network_input(self.spec, obs, goal=self.goal)
        x = jnp.concatenate([action, *jax.tree.leaves(seen), code])
        return shape.mlp(self.spec.chunk_dim)(x)


class _Gaussian(nn.Module):
    """(obs) -> mean [D] and log standard deviation [D], the latter clipped to [-5, 2].

    `width` is D if not that of a chunk. A `code` [C] is one more input.
    """

    spec: Spec
    shape: _Shape
    goal: bool
    width: int = 0

    @nn.compact
    def __call__(self, obs: Obs, code: Array | None = None) -> tuple[Array, Array]:
        x = jax.tree.leaves((network_input(self.spec, obs, goal=self.goal), code))
        x = self.shape.mlp(activate_last=True)(jnp.concatenate(x))
        small = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")
        dense = ARITHMETIC[self.shape.precision].dense
        head = functools.partial(dense, self.width or self.spec.chunk_dim, kernel_init=small)
        mean, log_std = head()(x), head()(x)
        return mean.astype(jnp.float32), jnp.clip(log_std.astype(jnp.float32), -5.0, 2.0)


class _ScalarHead(prepared.ObservationFirst):
    """(obs, further inputs …) -> []."""

    spec: Spec
    shape: _Shape

    @nn.compact
    def __call__(self, obs: Obs, *inputs: Array) -> Array:
        x = jnp.concatenate([*jax.tree.leaves(network_input(self.spec, obs)), *inputs])
        return self.shape.mlp(1)(x)[0]


class _Bilinear(nn.Module):
    """(obs, action [D]) -> phi(state, action) . psi(goal) / sqrt(width) [], or both of them."""

    spec: Spec
    shape: _Shape

    @nn.compact
    def __call__(self, obs: Obs, action: Array, apart: bool = False) -> Any:
        seen, width = network_input(self.spec, obs), self.shape.hidden[-1]
        phi = self.shape.mlp(width, name="state")(jnp.concatenate([seen.state, action]))
        psi = self.shape.mlp(width, name="goal")(seen.goal)
        if apart:
            return phi, psi
        product = jnp.matmul(phi, psi, precision=ARITHMETIC[self.shape.precision].precision)
        return product / jnp.sqrt(jnp.float32(width))


class _GoalValue(nn.Module):
    """(obs) -> V [E]; the goal enters as a `code` that the members share, if that has a width.

    The code is a network of state and goal, scaled to the length sqrt(code), as in HIQL.
    """

    spec: Spec
    shape: _Shape
    ensemble: int
    code: int

    @nn.compact
    def __call__(self, obs: Obs, coded: bool = False) -> Array:
        seen = network_input(self.spec, obs)
        if self.code:
            both = jnp.concatenate(jax.tree.leaves(seen))
            code = _normalize_length(self.shape.mlp(self.code, name="code")(both))
            if coded:
                return code
            seen = seen._replace(goal=code)
        x = jnp.concatenate(jax.tree.leaves(seen))
        heads = [self.shape.mlp(1, name=f"member{i}") for i in range(self.ensemble)]
        return jnp.concatenate([head(x) for head in heads])


def _normalize_length(x: Array) -> Array:
    """`x` [D] scaled to the length sqrt(D)."""
    return x / (jnp.linalg.norm(x) + 1e-8) * jnp.sqrt(jnp.float32(x.shape[-1]))


def _over_members(apply: Callable[..., Any], members: Any, *inputs: Any) -> Any:
    """`apply(member, *inputs)` of each member: leaves [E, …].

    In training a vmap over a batch of the inputs goes inside the one over members. The other way round,
    which is what plain vmaps do, XLA transposes the activations at each layer, which doubles the cost of
    a small critic on a CPU. In exchange, training cannot differentiate it *inside* the loss of an
    example; `Networks.q_of` and `mean_q` are made for that.
    """

    def plain(members: Any, *inputs: Any) -> Any:
        return jax.vmap(lambda member: apply(member, *inputs))(members)

    if not in_training():
        return plain(members, *inputs)
    ensemble = custom_vmap(plain)

    @ensemble.def_vmap
    def batched(size: int, mapped: Any, members: Any, *inputs: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, mapped)
        if any(jax.tree.leaves(mapped[0])):
            outputs = jax.vmap(plain, in_axes=tuple(axes))(members, *inputs)
        else:
            batch = jax.vmap(apply, in_axes=(None, *axes[1:]))
            stacked = jax.vmap(lambda member: batch(member, *inputs))(members)  # [E, B, …]
            outputs = jax.tree.map(lambda x: x.swapaxes(0, 1), stacked)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return ensemble(members, *inputs)


@dataclasses.dataclass(frozen=True)
class Networks:
    """The modules that learners and samplers share. Each has `init` and `apply`, for one example.

    Those of a name are the ones of the methods in the table; only those that a run's learners ask for
    are ever initialised.
    """

    spec: Spec
    policy_shape: _Shape
    critic_shape: _Shape
    ensemble: int
    """E, members of the critic; their parameters are stacked on a leading axis"""
    bounded: bool
    """Q and V of the critic's networks are logits of numbers between 0 and 1"""
    aggregation: str
    """How one Q is made of the members': a key of `AGGREGATES`"""
    rho: Array | float
    """The pessimism of aggregation "pessimistic"; may be traced"""
    ranking: str
    """Which critic ranks candidates: "target" or "online", see `rank_of`"""
    policy_goal: bool
    """Policies see the goal, where there is one"""
    time_feature: str
    goal_code: int
    """C, the width of a goal's code; 0: none"""
    critic_form: str
    """How the critic is made: "mlp", "bilinear", phi(state, action) . psi(goal), "quasimetric", -d"""
    fourier: bool
    """The noise of diffusion policies is predicted by the public code's network"""

    @classmethod
    def of(cls, spec: Spec, precision: str = "float32", **options: Any) -> "Networks":
        """The networks of a run; only those that its learners ask for are ever initialised.

        `options` are those of `NetworkOptions`. `precision`: "float32" is float32 on every platform,
        "tf32" lets that round what goes into a matrix product, "bfloat16" computes the layers so;
        parameters, inputs and outputs stay float32.
        """
        given = NetworkOptions(**options)
        policy = (tuple(given.policy_hidden), given.activation, given.policy_layer_norm, precision)
        critic = (tuple(given.critic_hidden), given.activation, given.critic_layer_norm, precision)
        return cls(
            spec,
            policy_shape=_Shape(*policy),
            critic_shape=_Shape(*critic),
            ensemble=given.ensemble,
            bounded=given.critic_output == "sigmoid",
            aggregation=given.aggregate,
            rho=given.rho,
            ranking=given.ranking,
            policy_goal=given.policy_goal,
            time_feature=given.time_feature,
            goal_code=given.goal_code,
            critic_form=given.critic_form,
            fourier=given.diffusion_field == "fourier",
        )

    # Flax types `init` and `apply` for mutable collections, which nothing here has: hence Any.

    def velocity_field(self, *, labels: int = 0, time_feature: str = "") -> Any:
        """(obs, action, t) -> velocity [D]; with `labels`, (obs, action, t, label in [0, labels)).

        `time_feature`: "sinusoidal", "raw" or "none"; the config's unless given.
        """
        feature = time_feature or self.time_feature
        return _VelocityField(self.spec, self.policy_shape, self.policy_goal, feature, labels)

    def gaussian_head(self, *, goal: bool, width: int = 0) -> Any:
        """(obs, code if given) -> (mean [width], log standard deviation [width]); 0: D."""
        return _Gaussian(self.spec, self.policy_shape, goal, width)

    def scalar_head(self) -> Any:
        """(obs, further inputs …) -> []."""
        return _ScalarHead(self.spec, self.critic_shape)

    @property
    def policy(self) -> Any:
        """(obs, action, t) -> velocity [D]"""
        return self.velocity_field()

    @property
    def critic(self) -> Any:
        """(obs, action) -> Q [], one member of the ensemble"""
        forms = {"bilinear": _Bilinear, "quasimetric": QuasimetricCritic, "mlp": _ScalarHead}
        return forms[self.critic_form](self.spec, self.critic_shape)

    @property
    def value(self) -> Any:
        """(obs) -> V []"""
        return self.scalar_head()

    @property
    def noisy_critic(self) -> Any:
        """(obs, action on its way, code of its time) -> Q []"""
        return self.scalar_head()

    @property
    def seed_critic(self) -> Any:
        """(obs, noise [D]) -> Q [] of what the flow policy makes of it"""
        return self.scalar_head()

    @property
    def one_step(self) -> Any:
        """(obs, noise, anything) -> action [D]"""
        return self.velocity_field(time_feature="none")

    @property
    def labelled(self) -> Any:
        """(obs, action, t, label in {0, 1}) -> velocity [D]"""
        return self.velocity_field(labels=2)

    @property
    def diffusion(self) -> Any:
        """See `predict_noise`"""
        if self.fourier:
            return _FourierField(self.spec, self.policy_shape, self.policy_goal)
        return self.velocity_field()

    @property
    def gaussian(self) -> Any:
        """(obs) -> (mean [D], log standard deviation [D])"""
        return self.gaussian_head(goal=self.policy_goal)

    @property
    def goal_value(self) -> Any:
        """(obs) -> V [E]"""
        return _GoalValue(self.spec, self.critic_shape, self.ensemble, self.goal_code)

    @property
    def low(self) -> Any:
        """(obs, code [C]) -> (mean [D], log standard deviation [D])"""
        return self.gaussian_head(goal=False)

    @property
    def high(self) -> Any:
        """(obs) -> (mean [C], log standard deviation [C])"""
        return self.gaussian_head(goal=True, width=self.goal_code)

    def subgoal(self, group: Any, obs: Obs) -> Array:
        """The code [C] of the subgoal that `high` with parameters `group` means at one observation."""
        return _normalize_length(self.high.apply(group, obs)[0])

    @property
    def precision(self) -> jax.lax.Precision:
        """Of matrix products outside the modules."""
        return ARITHMETIC[self.critic_shape.precision].precision

    @property
    def chunk_dim(self) -> int:
        """D, the width of a flattened action chunk."""
        return self.spec.chunk_dim

    def noise(self, key: Array) -> Array:
        """Where a flow starts, [D]: standard normal."""
        return drawn_noise(key, self.chunk_dim)

    def clip(self, action: Array) -> Array:
        """Actions [...] kept in the box [-1, 1], unless the run's have none."""
        return jnp.clip(action, -1.0, 1.0) if self.spec.clip else action

    def aggregate(self, q: Array) -> Array:
        """One Q [...] of the ensemble's [E, ...]: the least, unless the config says otherwise."""
        return AGGREGATES[self.aggregation](q, self.rho)

    def with_pessimism(self, rho: Array | float) -> "Networks":
        """These, where one Q is the members' mean less `rho` standard deviations; 0: their mean."""
        return dataclasses.replace(self, aggregation="pessimistic", rho=rho)

    def to_value(self, logit: Array) -> Array:
        """The value that a critic's network means by its output."""
        return jax.nn.sigmoid(logit) if self.bounded else logit

    def predict_noise(self, group: Any, obs: Obs, action: Array, k: Array, num_steps: int) -> Array:
        """The diffusion's noise [D] at step k of 1, …, `num_steps`."""
        # The public code's network sees the step itself, the flow's a time between 0 and 1.
        time = k if self.fourier else k / num_steps
        return self.diffusion.apply(group, obs, action, time)

    def velocity(self, group: Any, obs: Obs) -> Velocity:
        """The velocity field with parameters `group` at one observation."""
        return prepared.network(self.policy, group, obs)

    def q_of(self, members: Any, obs: Obs) -> Critic:
        """The members' one Q at one observation: the least, as everywhere in QGF's single tasks."""
        logits = self.logits_of(members, obs)
        return lambda action: self.aggregate(self.to_value(logits(action)))

    def q_logit_of(self, members: Any, obs: Obs) -> Critic:
        """The same of the networks' outputs, before any sigmoid."""
        logits = self.logits_of(members, obs)
        return lambda action: self.aggregate(logits(action))

    def logits_of(self, members: Any, obs: Obs) -> Callable[[Array], Array]:
        """(action) -> `ensemble_logits` [E], but differentiable in the action anywhere."""
        return prepared.members(self.critic, members, obs)

    def rank_of(self, params: Params, obs: Obs) -> Critic:
        """What best-of-N compares candidates by at one observation, with parameters to act with.

        With ranking "target" the target critic's Q, where there is a target copy. With "online" the
        output of the online critic, a logit if the critic is bounded, as Li et al., 2025, do.
        """
        if self.ranking == "online":
            return self.q_logit_of(params["online_critic"], obs)
        return self.q_of(params["critic"], obs)

    def mean_q(self, members: Any, obs: Obs) -> Critic:
        """The mean Q of the members at one observation."""
        logits = self.logits_of(members, obs)
        return lambda action: self.to_value(logits(action)).mean()

    def init_ensemble(self, key: Array, obs: Obs, action: Array) -> Any:
        """Independent parameters for every member of the critic: leaves [E, …]."""
        keys = jax.random.split(key, self.ensemble)
        return jax.vmap(lambda k: self.critic.init(k, obs, action))(keys)

    def apply_ensemble(self, members: Any, obs: Obs, action: Array) -> Array:
        """Q [E] of one observation and action."""
        return self.to_value(self.ensemble_logits(members, obs, action))

    def ensemble_logits(self, members: Any, obs: Obs, action: Array) -> Array:
        """The networks' outputs [E], which are Q unless the critic is bounded."""
        return _over_members(self.critic.apply, members, obs, action)

    def ensemble_codes(self, members: Any, obs: Obs, action: Array) -> tuple[Array, Array]:
        """phi and psi [E, width] of bilinear critics, see `_Bilinear`."""
        return _over_members(
            lambda member, obs, action: self.critic.apply(member, obs, action, True),
            members,
            obs,
            action,
        )

    def ensemble_distances(
        self, members: Any, obs: Obs, action: Array, next_state: Array
    ) -> tuple[Array, Array, Array]:
        """The three numbers of quasimetric critics' loss, [E] each, see `QuasimetricCritic`."""
        return _over_members(self.critic.apply, members, obs, action, next_state)
