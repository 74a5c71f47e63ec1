"""Gaussian policies: the plain references of the field."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, History, NonNegative, Positive
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Params


def log_density(x: Array, mean: Array, log_std: Array) -> Array:
    """log N(x; mean, diag exp(log_std) ** 2), all [D] -> []."""
    z = (x - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * z**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi))


def init(nets: Networks, key: Array, obs: Array, action: Array) -> Params:
    """How a policy of one Gaussian starts."""
    del action
    return {"actor": nets.gaussian.init(key, obs)}


def imitation(nets: Networks, group: Params, x: Batch) -> Array:
    """Negative log likelihood [] of an action under a Gaussian of unit variance, as OGBench's."""
    mean, log_std = nets.gaussian.apply(group, x.obs)
    return -log_density(x.action, mean, jnp.zeros_like(log_std))


def gaussian_bc(nets: Networks) -> Learner:
    """Behavioural cloning by a Gaussian of unit variance (OGBench's GCBC; Park et al., 2025)."""

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key
        return mean(jax.vmap(lambda x: imitation(nets, params["actor"], x))(batch), batch), {}

    return Learner(functools.partial(init, nets), {"actor": actor})


def ddpg_bc(nets: Networks, *, alpha: NonNegative = 0.3) -> Learner:
    """- Q of the actor's mean over Q's size, + `alpha` times cloning (Fujimoto & Gu, 2021).

    As OGBench's GCIQL and CRL extract their policies; Q is of the critic's parameters of the moment.
    """

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key

        def one(x: Batch) -> tuple[Array, Array]:
            action = jnp.clip(nets.gaussian.apply(params["actor"], x.obs)[0], -1.0, 1.0)
            q = nets.q_of(params["critic"], x.obs)(action)
            return imitation(nets, params["actor"], x), q

        cloning, q = jax.vmap(one)(batch)
        size = jax.lax.stop_gradient(global_batch.mean(jnp.abs(q))) + 1e-6
        return mean(alpha * cloning - q / size, batch), {"cloning": cloning.mean()}

    return Learner(functools.partial(init, nets), {"actor": actor})


def awr(
    nets: Networks, *, inverse_temperature: NonNegative = 3.0, max_weight: Positive = 100.0
) -> Learner:
    """IQL's own actor: log likelihood weighted by exp(inverse_temperature * (Q - V)).

    Kostrikov et al., 2022, Eq. 7; Q is the least of the slow critic. Needs a critic with a value.
    """

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key

        def one(x: Batch) -> tuple[Array, Array]:
            value = nets.value.apply(params["value"], x.obs)
            advantage = nets.q_of(target["critic"], x.obs)(x.action) - value
            weight = jnp.minimum(jnp.exp(inverse_temperature * advantage), max_weight)
            return -weight * log_density(
                x.action, *nets.gaussian.apply(params["actor"], x.obs)
            ), weight

        loss, weight = jax.vmap(one)(batch)
        return mean(loss, batch), {"weight_mean": weight.mean()}

    return Learner(functools.partial(init, nets), {"actor": actor})


def rebrac(
    nets: Networks,
    *,
    alpha: NonNegative = 0.01,
    delay: Annotated[Count, History(past=1)] = 2,
) -> Learner:
    """A deterministic actor tanh(mean): `alpha` * (actor - action) ** 2 summed, - Q over its size.

    Tarasov et al., 2023. Actor and slow copies move only in every `delay`-th update, the critic in each.
    The actor's slow copy is what the critic bootstraps on and what acts. The penalty in the critic's
    target (beta_2 there, `alpha_critic` in the code of Park et al., 2025) is left out, as a batch has no
    next action: their tuned runs have it at 0 for cubes, at 0.01 for humanoidmaze-medium, for example.
    """

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key

        def one(x: Batch) -> tuple[Array, Array]:
            action = jnp.tanh(nets.gaussian.apply(params["actor"], x.obs)[0])
            q = nets.q_of(params["critic"], x.obs)(action)
            return jnp.sum((action - x.action) ** 2), q

        distance, q = jax.vmap(one)(batch)
        size = jax.lax.stop_gradient(global_batch.mean(jnp.abs(q)))
        return mean(alpha * distance - q / size, batch), {"distance": distance.mean()}

    return Learner(
        functools.partial(init, nets),
        {"actor": actor},
        targets=("actor",),
        every={"actor": delay},
        target_every={"actor": delay, "critic": delay},
    )
