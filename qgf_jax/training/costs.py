"""What an action of each method costs, and which parameters it reads, counted in the compiled program.

Counts are kept in the cache folder, each under a hash of all that it depends on: the row, the sources
of this package's methods and of other packages' parts, and the versions.
"""

from collections.abc import Iterable
from typing import Any

from qgf_jax.errors import log
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.training import kept

_OBS, _ACTION, _CHUNK, _HIDDEN = 46, 5, 5, (256,) * 3  # widths as of cube-triple
BATCH = 8
"""Observations that a counted program acts in at once."""
_UNIT = "qgf"
_FIELDS = ("flops", "needs")


def read(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By method: `cost` relative to QGF, and `needs`, the parameter groups that acting reads.

    What the cache does not hold is counted, which takes a second for each method. A method that cannot
    be counted has None for both, and a line on standard error says why; so has one without a policy,
    and nothing is said.
    """
    names = list(names)
    counts = _counts(dict.fromkeys([_UNIT, *names]))
    unit = counts[_UNIT].get("flops")
    return {
        name: {
            "cost": round(counts[name]["flops"] / unit, 3) if unit and counts[name] else None,
            "needs": counts[name].get("needs"),
        }
        for name in names
    }


def _counts(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of each method, from the cache or counted now; empty if it does not act or cannot be counted."""
    acting = [name for name in names if algorithms.Method.named(name).acts]
    counts = {name: _file(name).read(_FIELDS) for name in acting}
    if missing := [name for name in acting if not counts[name]]:
        log(f"qgf: counting the operations of {len(missing)} methods, about a second each, once")
    counts |= {name: _counted(name) for name in missing}
    return {name: counts.get(name, {}) for name in names}


def _counted(name: str) -> dict[str, Any]:
    """The count of a method, which the cache has from then on; empty if it cannot be counted."""
    try:
        count = _count(name)
    except Exception as error:  # of a part, perhaps from another package: the rest is listed
        log(f"qgf: the cost of {name} is not known: {type(error).__name__}: {error}")
        return {}
    _file(name).write(count)
    return count


def _count(name: str) -> dict[str, Any]:
    """`flops` of one action chunk of method `name`, by its own number of candidates, and `needs`.

    It compiles for the default device, which has to be a CPU: elsewhere matrix products are calls of
    libraries.
    """
    import jax
    import jax.numpy as jnp

    from qgf_jax import config as configs
    from qgf_jax.runtime import flops
    from qgf_jax.types import Spec

    config = configs.make(name)
    config.networks.update(policy_hidden=_HIDDEN, critic_hidden=_HIDDEN)
    plain, row = configs.plain(config), algorithms.Method.named(name)
    spec = Spec((_OBS,), _ACTION, _CHUNK, goal=(_OBS,) if row.goals else None)
    learner = Builder(plain, spec).learner()
    obs, width = spec.example(), spec.chunk_dim
    params = jax.eval_shape(learner.init, jax.random.key(0), obs, jnp.zeros(width))
    targets = {group: params[group] for group in learner.targets}
    constants = {
        "q_std": jnp.ones(()),
        "logit_std": jnp.ones(()),
        "values": jnp.ones(width),
        "vectors": jnp.eye(width),
        "weights": {criterion: jnp.ones(()) for criterion in Part.all("criterion")},
    }
    sample = Builder(plain, spec).sample(name, row.best_of[0])
    acting = algorithms.acting_params(params, targets, constants)
    traced, compiled = compiled_acting(sample, acting, spec)
    return {"flops": flops.count(compiled) / BATCH, "needs": _groups_read(traced)}


def compiled_acting(sample: Any, params: Any, spec: Any) -> tuple[Any, Any]:
    """A sampler's program for a batch of `BATCH` observations: `jax.stages.Traced`, and compiled.

    Of `params` only shapes are read. The program is for counting; its machine code is poor.
    """
    import jax
    import jax.numpy as jnp

    act = jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), BATCH)
    obs = spec.observation(jnp.zeros((BATCH, spec.width)))
    traced = act.trace(params, obs, keys, jnp.zeros(()))
    return traced, traced.lower().compile(compiler_options=kept.QUICKLY)


def _groups_read(traced: Any) -> list[str]:
    """The entries of a program's first argument that an operation reads, sorted."""
    import jax
    from jax.extend.core import Literal

    jaxpr = traced.jaxpr.jaxpr
    read_at_all = {var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal)}
    paths = [path for path, _ in jax.tree.leaves_with_path(traced.args_info[0])]
    of_params = [path for path in paths if path[0].idx == 0]
    pairs = zip(of_params, jaxpr.invars[: len(of_params)], strict=True)
    return sorted({path[1].key for path, var in pairs if var in read_at_all})


def _file(name: str) -> kept.CountFile:
    """Where the count of a method is kept."""
    return kept.CountFile.of("costs", ("core", "methods"), repr(algorithms.Method.named(name)))
