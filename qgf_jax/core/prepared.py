"""Networks prepared for one observation, which does not change along a flow.

Of an input [observation, rest] the first layer makes W_o s + W_r r + b. At one observation that is the
first layer of a network of the rest alone, with W_r, and W_o s + b for its bias: the same numbers, up to
the order of a sum. So the product with the observation, and what an encoder makes of it, are there once
however often the network is called.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qgf_jax.core.encoders import network_input
from qgf_jax.core.layers import ARITHMETIC
from qgf_jax.core.reductions import in_training
from qgf_jax.types import Array, Obs, Spec


class ObservationFirst(nn.Module):
    """A network (obs, further inputs …) that may be prepared.

    It has a `spec` and a `shape`, and a `goal` where it may not see that; and it calls `network_input`,
    and its `MLP_0` with the features and then the other inputs in one row, and nothing else with `obs`.
    """


def network(module: Any, variables: Any, obs: Obs) -> Callable[..., Any]:
    """(further inputs …) -> what `module` with `variables` gives at one observation.

    In training, where most losses see an observation once, and for other modules, nothing is prepared.
    """
    if not _can(module, variables):
        return functools.partial(module.apply, variables, obs)
    return functools.partial(_apply, module, _prepare(module, variables, obs))


def members(module: Any, stacked: Any, obs: Obs) -> Callable[..., Array]:
    """(further inputs …) -> [E, …], the same of an ensemble, whose variables are `stacked` [E, …]."""
    if not _can(module, stacked):
        return lambda *inputs: jax.vmap(lambda one: module.apply(one, obs, *inputs))(stacked)
    ready = jax.vmap(lambda one: _prepare(module, one, obs))(stacked)
    return lambda *inputs: jax.vmap(lambda one: _apply(module, one, *inputs))(ready)


def _can(module: Any, variables: Any) -> bool:
    """Without hidden layers there is no `MLP_0`."""
    has_layers = isinstance(module, ObservationFirst) and "MLP_0" in variables["params"]
    return has_layers and not in_training()


class _Features(nn.Module):
    """(obs) -> what a network is fed of it [F]; the encoders have the names that they have there."""

    spec: Spec
    goal: bool

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        return jnp.concatenate(jax.tree.leaves(network_input(self.spec, obs, goal=self.goal)))


def _apply(module: Any, ready: Any, *inputs: Any) -> Any:
    """What the module gives for its further `inputs`, with variables of `_prepare`."""
    return module.apply(ready, Obs(None), *inputs)


def _prepare(module: Any, variables: Any, obs: Obs) -> Any:
    """The module's `variables` with the observation in the bias of the first layer."""
    features: Any = _Features(module.spec, getattr(module, "goal", True))
    params = variables["params"]
    encoders = {name: x for name, x in params.items() if name.endswith("_encoder")}
    seen = features.apply({"params": encoders}, obs)
    layers = params["MLP_0"]
    kernel, bias = (layers["Dense_0"][name] for name in ("kernel", "bias"))
    arithmetic = ARITHMETIC[module.shape.precision]
    product = jnp.matmul(
        seen.astype(arithmetic.dtype),
        kernel[: seen.size].astype(arithmetic.dtype),
        precision=arithmetic.precision,
        preferred_element_type=jnp.float32,
    )
    first = {"kernel": kernel[seen.size :], "bias": bias + product}
    own = {name: x for name, x in params.items() if name not in encoders}
    return {"params": {**own, "MLP_0": {**layers, "Dense_0": first}}}
