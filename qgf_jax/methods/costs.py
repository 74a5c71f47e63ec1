"""What an action of each method costs and needs, counted; costs.json holds the answers.

python -m qgf_jax.methods.costs        # counts all methods again and writes the file
"""

import json
from pathlib import Path
from typing import Any

from qgf_jax.methods import table as algorithms

FILE = Path(__file__).with_name("costs.json")
_OBS, _ACTION, _CHUNK, _HIDDEN, _BATCH = 46, 5, 5, (256,) * 3, 8  # widths as of cube-triple


def read() -> dict[str, dict[str, Any]]:
    """By method: `cost` relative to QGF, and `needs`, the parameter groups that acting reads."""
    return json.loads(FILE.read_text())


def count(name: str) -> dict[str, Any]:
    """`flops` of one action chunk of method `name`, by its own number of candidates, and `needs`."""
    import jax
    import jax.numpy as jnp
    from jax.extend.core import Literal

    from qgf_jax import config as configs
    from qgf_jax.runtime import flops
    from qgf_jax.types import Spec

    config = configs.make(name)
    config.networks.update(policy_hidden=_HIDDEN, critic_hidden=_HIDDEN)
    plain, row = configs.plain(config), algorithms.method(name)
    spec = Spec((_OBS,), _ACTION, _CHUNK, goal=(_OBS,) if row.goals else None)
    learner = algorithms.build_learner(plain, spec)
    obs, width = spec.example(), spec.chunk_dim
    params = jax.eval_shape(learner.init, jax.random.key(0), obs, jnp.zeros(width))
    slow = {group: params[group] for group in learner.targets}
    slow["calibration"] = {
        "q_std": jnp.ones(()),
        "logit_std": jnp.ones(()),
        "values": jnp.ones(width),
        "vectors": jnp.eye(width),
    }
    sample = algorithms.build_sample(plain, spec, name, row.best_of[0])
    act = jax.jit(jax.vmap(sample, in_axes=(None, None, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), _BATCH)
    batch = spec.observation(jnp.zeros((_BATCH, spec.width)))
    traced = act.trace(params, slow, batch, keys, jnp.zeros(()))
    leaves = jax.tree.leaves_with_path((params, slow))
    jaxpr = traced.jaxpr.jaxpr
    read_at_all = {var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal)}
    needs = {
        path[1].key
        for (path, _), var in zip(leaves, jaxpr.invars[: len(leaves)], strict=True)
        if var in read_at_all
    }
    return {
        "flops": flops.count(traced.lower().compile()) / _BATCH,
        "needs": sorted(needs),
    }


def main() -> None:
    """Counts everything and writes the file."""
    counted = {name: count(name) for name in algorithms.METHODS}
    unit = counted["qgf"]["flops"]
    table = {
        name: {"cost": round(found["flops"] / unit, 3), "needs": found["needs"]}
        for name, found in counted.items()
    }
    FILE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
