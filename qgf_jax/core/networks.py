"""Networks of one observation and one action; batches come from `jax.vmap` outside."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from qgf_jax.core.members import over_members
from qgf_jax.core.network_options import NetworkOptions
from qgf_jax.core.reductions import layer_norm
from qgf_jax.types import Array, Critic, Params, Spec, Velocity

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": nn.gelu,  # the tanh approximation, as in the public code
    "mish": jax.nn.mish,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}
AGGREGATES: dict[str, Callable[..., Array]] = {"min": jnp.min, "mean": jnp.mean}
_GLOROT = nn.initializers.glorot_uniform()


class Arithmetic(NamedTuple):
    """What layers compute in. Parameters, inputs and outputs of a network are float32 in any case."""

    dtype: Any
    precision: jax.lax.Precision
    """Of matrix products. It stands in the program, so no setting of JAX changes it, and gradients
    have it too."""


ARITHMETIC = {
    "float32": Arithmetic(jnp.float32, jax.lax.Precision.HIGHEST),
    # As the platform likes best: TF32 on NVIDIA's cards, one pass in bfloat16 on a TPU.
    "tf32": Arithmetic(jnp.float32, jax.lax.Precision.DEFAULT),
    "bfloat16": Arithmetic(jnp.bfloat16, jax.lax.Precision.DEFAULT),
}
_FLOAT32 = ARITHMETIC["float32"]


def sinusoidal(t: Array, width: int = 16) -> Array:
    """[cos(10000 t f_k), sin(10000 t f_k)], f_k = 10000 ** (-2k / width): [width].

    The first features turn over thousands of times between t = 0 and 1, so they see the rounding
    of t and of f_k; the order of the operations here is that of the public code.
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t * 10000.0 * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


class LayerNorm(nn.Module):
    """(x [D]) -> [D]: Flax's own layer norm (Ba et al., 2016) to rounding, see `sums.layer_norm`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        return layer_norm(x.astype(jnp.float32), scale, bias).astype(self.dtype)


def _dense(width: int, arithmetic: Arithmetic, **options: Any) -> nn.Dense:
    return nn.Dense(width, **arithmetic._asdict(), **options)


class MLP(nn.Module):
    """Dense, layer norm, activation, for each width; never a layer norm after the last width.

    The last width is linear unless `activate_last`, and then float32 whatever `arithmetic` is.
    """

    widths: tuple[int, ...]
    activation: str
    layer_norm: bool
    activate_last: bool = False
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        last = len(self.widths) - 1
        for i, width in enumerate(self.widths):
            x = _dense(width, self.arithmetic, kernel_init=_GLOROT)(x)
            if i < last and self.layer_norm:
                x = LayerNorm(self.arithmetic.dtype)(x)
            if i < last or self.activate_last:
                x = ACTIVATIONS[self.activation](x)
        return x if self.activate_last else x.astype(jnp.float32)


def time_code(t: Array, feature: str) -> Array:
    """t [] as a network sees it: [16] for "sinusoidal", [1] for "raw", [0] for "none"."""
    if feature == "sinusoidal":
        return sinusoidal(t)
    return jnp.reshape(t, (1,))[: 0 if feature == "none" else 1]


def network_input(spec: Spec, obs: Array, goal: bool) -> Array:
    """What a network is fed of `obs` [O]: standardised, and with its goal or without."""
    seen = spec.standardize(obs)
    return seen if goal else seen[: spec.obs_dim - spec.goal_dim]


def normalize_length(x: Array) -> Array:
    """`x` [D] scaled to the length sqrt(D)."""
    return x / (jnp.linalg.norm(x) + 1e-8) * jnp.sqrt(jnp.float32(x.shape[-1]))


class VelocityField(nn.Module):
    """(obs [O], action [D], t []) -> velocity [D], or anything else of that shape.

    `goal`: whether it sees the goal, where observations have one. With `labels` > 0 it takes a label
    [] int in [0, labels) too, as a learned code of 32 numbers.
    """

    spec: Spec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    goal: bool
    time_feature: str
    labels: int = 0
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, action: Array, t: Array, label: Array | None = None) -> Array:
        x = [network_input(self.spec, obs, self.goal), action, time_code(t, self.time_feature)]
        if label is not None:
            x.append(nn.Embed(self.labels, 32)(label))
        x = jnp.concatenate(x)
        x = MLP(self.hidden, self.activation, self.layer_norm, True, self.arithmetic)(x)
        # LeCun initialisation, unlike the layers before.
        return _dense(self.spec.chunk_dim, self.arithmetic)(x).astype(jnp.float32)


class FourierField(nn.Module):
    """(obs [O], action [D], k []) -> noise [D]: the public code's network of DAC and QSM.

    Learned Fourier features of k, a network over them as wide as the main one, mish, no layer norm.
    """

    spec: Spec
    hidden: tuple[int, ...]
    goal: bool
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, action: Array, k: Array) -> Array:
        waves = self.param("waves", nn.initializers.normal(0.2), (32,))
        angle = 2.0 * jnp.pi * k * waves
        network = functools.partial(
            MLP, activation="mish", layer_norm=False, arithmetic=self.arithmetic
        )
        code = network(self.hidden)(jnp.concatenate([jnp.cos(angle), jnp.sin(angle)]))
        x = jnp.concatenate([action, network_input(self.spec, obs, self.goal), code])
        return network((*self.hidden, self.spec.chunk_dim))(x)


class Gaussian(nn.Module):
    """(obs [O]) -> mean [D] and log standard deviation [D], the latter clipped to [-5, 2].

    `width` is D if not that of a chunk. A `code` [C] is one more input.
    """

    spec: Spec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    goal: bool
    width: int = 0
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, code: Array | None = None) -> tuple[Array, Array]:
        x = network_input(self.spec, obs, self.goal)
        x = x if code is None else jnp.concatenate([x, code])
        x = MLP(self.hidden, self.activation, self.layer_norm, True, self.arithmetic)(x)
        small = nn.initializers.variance_scaling(0.01, "fan_avg", "uniform")
        width = self.width or self.spec.chunk_dim
        mean = _dense(width, self.arithmetic, kernel_init=small)(x)
        log_std = _dense(width, self.arithmetic, kernel_init=small)(x)
        return mean.astype(jnp.float32), jnp.clip(log_std.astype(jnp.float32), -5.0, 2.0)


class ScalarHead(nn.Module):
    """(obs [O], further inputs …) -> []."""

    spec: Spec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, *inputs: Array) -> Array:
        x = jnp.concatenate([self.spec.standardize(obs), *inputs])
        shape = ((*self.hidden, 1), self.activation, self.layer_norm)
        return MLP(*shape, arithmetic=self.arithmetic)(x)[0]


class Bilinear(nn.Module):
    """(obs [O], action [D]) -> phi(state, action) . psi(goal) / sqrt(width) [], or both of them."""

    spec: Spec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, action: Array, apart: bool = False) -> Any:
        x, split = self.spec.standardize(obs), self.spec.obs_dim - self.spec.goal_dim
        shape = ((*self.hidden, self.hidden[-1]), self.activation, self.layer_norm)
        state = jnp.concatenate([x[:split], action])
        phi = MLP(*shape, arithmetic=self.arithmetic, name="state")(state)
        psi = MLP(*shape, arithmetic=self.arithmetic, name="goal")(x[split:])
        if apart:
            return phi, psi
        product = jnp.matmul(phi, psi, precision=self.arithmetic.precision)
        return product / jnp.sqrt(jnp.float32(self.hidden[-1]))


class GoalValue(nn.Module):
    """(obs [O]) -> V [E]; the goal enters as a `code` that the members share, if that has a width.

    The code is a network of state and goal, scaled to the length sqrt(code), as in HIQL.
    """

    spec: Spec
    hidden: tuple[int, ...]
    activation: str
    layer_norm: bool
    ensemble: int
    code: int
    arithmetic: Arithmetic = _FLOAT32

    @nn.compact
    def __call__(self, obs: Array, coded: bool = False) -> Array:
        x = self.spec.standardize(obs)
        network = functools.partial(
            MLP, activation=self.activation, layer_norm=self.layer_norm, arithmetic=self.arithmetic
        )
        if self.code:
            code = normalize_length(network((*self.hidden, self.code), name="code")(x))
            if coded:
                return code
            x = jnp.concatenate([network_input(self.spec, obs, goal=False), code])
        heads = [network((*self.hidden, 1), name=f"member{i}") for i in range(self.ensemble)]
        return jnp.concatenate([head(x) for head in heads])


class Networks(NamedTuple):
    """The modules that learners and samplers share. Each has `init` and `apply`, for one example."""

    policy: Any  # nn.Module; its `apply` is typed for mutable collections, which nothing here has
    """(obs, action, t) -> velocity [D]"""
    critic: Any
    """(obs, action) -> Q [], one member of the ensemble"""
    value: Any
    """(obs) -> V []"""
    noisy_critic: Any
    """(obs, action on its way, code of its time) -> Q []"""
    one_step: Any
    """(obs, noise, anything) -> action [D]"""
    labelled: Any
    """(obs, action, t, label in {0, 1}) -> velocity [D]"""
    diffusion: Any
    """See `predict_noise`"""
    gaussian: Any
    """(obs) -> (mean [D], log standard deviation [D])"""
    goal_value: Any
    """(obs) -> V [E]"""
    low: Any
    """(obs, code [C]) -> (mean [D], log standard deviation [D])"""
    high: Any
    """(obs) -> (mean [C], log standard deviation [C])"""
    ensemble: int
    """E, members of the critic; their parameters are stacked on a leading axis"""
    spec: Spec
    bounded: bool
    """Q and V of the critic's networks are logits of numbers between 0 and 1"""
    aggregation: str
    """How one Q is made of the members': a key of `AGGREGATES`"""
    ranking: str
    """Which critic ranks candidates: "target" or "online", see `rank_of`"""
    precision: jax.lax.Precision
    """Of matrix products outside the modules"""

    @property
    def chunk_dim(self) -> int:
        """D, the width of a flattened action chunk."""
        return self.spec.chunk_dim

    def aggregate(self, q: Array) -> Array:
        """One Q [...] of the ensemble's [E, ...]: the least, unless the config says otherwise."""
        return AGGREGATES[self.aggregation](q, axis=0)

    def to_value(self, logit: Array) -> Array:
        """The value that a critic's network means by its output."""
        return jax.nn.sigmoid(logit) if self.bounded else logit

    def predict_noise(
        self, group: Any, obs: Array, action: Array, k: Array, num_steps: int
    ) -> Array:
        """The diffusion's noise [D] at step k of 1, …, `num_steps`."""
        # The public code's network sees the step itself, the flow's a time between 0 and 1.
        time = k if isinstance(self.diffusion, FourierField) else k / num_steps
        return self.diffusion.apply(group, obs, action, time)

    def velocity(self, group: Any, obs: Array) -> Velocity:
        """The velocity field with parameters `group` at one observation."""
        return lambda action, t: self.policy.apply(group, obs, action, t)

    def q_of(self, members: Any, obs: Array) -> Critic:
        """The members' one Q at one observation: the least, as everywhere in QGF's single tasks."""
        return lambda action: self.aggregate(self.to_value(self._logits(members, obs, action)))

    def q_logit_of(self, members: Any, obs: Array) -> Critic:
        """The same of the networks' outputs, before any sigmoid."""
        return lambda action: self.aggregate(self._logits(members, obs, action))

    def _logits(self, members: Any, obs: Array, action: Array) -> Array:
        """As `ensemble_logits`, but differentiable in the action anywhere."""
        return jax.vmap(lambda member: self.critic.apply(member, obs, action))(members)

    def rank_of(self, params: Params, obs: Array) -> Critic:
        """What best-of-N compares candidates by at one observation, with parameters to act with.

        With ranking "target" the target critic's Q, where there is a target copy. With "online" the
        output of the online critic, a logit if the critic is bounded, as Li et al., 2025, do.
        """
        if self.ranking == "online":
            return self.q_logit_of(params["online_critic"], obs)
        return self.q_of(params["critic"], obs)

    def mean_q(self, members: Any, obs: Array) -> Critic:
        """The mean Q of the members at one observation."""
        return lambda action: self.to_value(self._logits(members, obs, action)).mean()

    def init_ensemble(self, key: Array, obs: Array, action: Array) -> Any:
        """Independent parameters for every member of the critic: leaves [E, …]."""
        keys = jax.random.split(key, self.ensemble)
        return jax.vmap(lambda k: self.critic.init(k, obs, action))(keys)

    def apply_ensemble(self, members: Any, obs: Array, action: Array) -> Array:
        """Q [E] of one observation and action."""
        return self.to_value(self.ensemble_logits(members, obs, action))

    def ensemble_logits(self, members: Any, obs: Array, action: Array) -> Array:
        """The networks' outputs [E], which are Q unless the critic is bounded."""
        return over_members(self.critic.apply, members, obs, action)

    def ensemble_codes(self, members: Any, obs: Array, action: Array) -> tuple[Array, Array]:
        """phi and psi [E, width] of bilinear critics, see `Bilinear`."""
        return over_members(
            lambda member, obs, action: self.critic.apply(member, obs, action, True),
            members,
            obs,
            action,
        )


def build(spec: Spec, precision: str = "float32", **options: Any) -> Networks:
    """The networks of a run; only those that its learners ask for are ever initialised.

    `options` are those of `NetworkOptions`. `precision`: "float32" is float32 on every platform, "tf32"
    lets that round what goes into a matrix product, "bfloat16" computes the layers so; parameters,
    inputs and outputs stay float32.
    """
    given, arithmetic = NetworkOptions(**options), ARITHMETIC[precision]
    actor = (spec, given.policy_hidden, given.activation, given.policy_layer_norm)
    critic = (spec, given.critic_hidden, given.activation, given.critic_layer_norm)
    head = ScalarHead(*critic, arithmetic=arithmetic)
    field = VelocityField(*actor, given.policy_goal, given.time_feature, arithmetic=arithmetic)
    fourier = FourierField(spec, given.policy_hidden, given.policy_goal, arithmetic=arithmetic)
    return Networks(
        policy=field,
        critic=head if given.critic_form == "mlp" else Bilinear(*critic, arithmetic=arithmetic),
        value=head,
        noisy_critic=head,
        one_step=VelocityField(*actor, given.policy_goal, "none", arithmetic=arithmetic),
        labelled=VelocityField(
            *actor, given.policy_goal, given.time_feature, labels=2, arithmetic=arithmetic
        ),
        diffusion=field if given.diffusion_field == "shared" else fourier,
        gaussian=Gaussian(*actor, given.policy_goal, arithmetic=arithmetic),
        goal_value=GoalValue(*critic, given.ensemble, given.goal_code, arithmetic=arithmetic),
        low=Gaussian(*actor, goal=False, arithmetic=arithmetic),
        high=Gaussian(*actor, goal=True, width=given.goal_code, arithmetic=arithmetic),
        ensemble=given.ensemble,
        spec=spec,
        bounded=given.critic_output == "sigmoid",
        aggregation=given.aggregate,
        ranking=given.ranking,
        precision=arithmetic.precision,
    )
