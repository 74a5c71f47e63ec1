"""What a server is made of: a run's programs, compiled, and what is said of them."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from qgf_guide.bounds import Bound, Finite
from qgf_jax.errors import UserError, log
from qgf_jax.methods.table import Method
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import backend
from qgf_jax.serving.access import LOOPBACK, Access
from qgf_jax.serving.batcher import Batcher
from qgf_jax.serving.metrics import Metrics
from qgf_jax.serving.programs import Program, Sizes, Way
from qgf_jax.serving.requests import Called, Reader
from qgf_jax.serving.server import USUAL, Limits, Server
from qgf_jax.types import Params


@backend.standardized
def make_server(
    workdir: str | os.PathLike,
    *,
    methods: Sequence[str] = (),
    best_of: Sequence[int] = (),
    weight: float = 1.0,
    seed: int = 0,
    step: int | None = None,
    batch_sizes: Sequence[int] = (),
    wait: float = 0.001,
    queue: int = 256,
    observations: int = 256,
    access: Access = LOOPBACK,
    limits: Limits = USUAL,
) -> Server:
    """A server of a run's policy, all of whose programs are compiled.

    Served are `methods`, NAME or NAME:option=value, the default first; each with its own number of
    candidates and with those of `best_of`. `weight` is that of requests without one, `seed` the place of
    a trained seed in the run. Calls have one of `batch_sizes`; none: as `Sizes.of` has them. A
    request of up to `observations` waits up to `wait` seconds for others; up to `queue` requests wait.
    Raises `UserError` as `load_policy` does.
    """
    Bound.of(Finite).check("weight", weight)
    loaded = LoadedRun.open(workdir, step)
    if not 0 <= seed < loaded.seeds:
        raise UserError(f"{workdir} has seeds 0 to {loaded.seeds - 1}, not {seed}")
    methods = tuple(methods) or _default(loaded)
    asked = _asked(methods, best_of)
    sizes = Sizes.of(batch_sizes)
    programs = _compiled(loaded, loaded.params_of(seed), asked, sizes)
    metrics = Metrics()
    layouts = {called.way: program.layout for called, program in programs.items()}
    apart = any(called.as_played for called in programs)
    reader = Reader(loaded.observed, layouts, methods, weight, observations, apart)
    said = {
        **_of_run(loaded, seed),
        "method": methods[0],
        "methods": [_of_way(method, n, programs) for method, n in asked],
        "weight": weight,
        "batch_sizes": list(sizes.usual),
        "most_observations": observations,
        "most_bytes": limits.message,
    }
    batcher = Batcher(programs, wait, queue, metrics)
    return Server(said, reader, batcher, metrics, access, limits)


def _default(loaded: LoadedRun) -> tuple[str, ...]:
    trained = loaded.run.config["algorithm"]
    serves = Method.named(trained).serves
    found = dict.fromkeys(("qgf", trained, "reference", "best_of"))
    return tuple(name for name in found if name in serves)


def _asked(methods: Sequence[str], best_of: Sequence[int]) -> list[tuple[str, int]]:
    """Each method with its own number of candidates, and with the others that it can have."""
    found: dict[tuple[str, int], None] = {}
    for method in methods:
        row = Method.named(Method.parse(method)[0])
        others = () if row.fixed_best_of else best_of
        found |= dict.fromkeys((method, n) for n in (row.best_of[0], *others))
    return list(found)


def _compiled(
    loaded: LoadedRun, params: Params, asked: Sequence[tuple[str, int]], sizes: Sizes
) -> dict[Called, Program]:
    """The programs of all that is asked for."""
    programs: dict[Called, Program] = {}
    wanted = {False: sizes.usual}
    if sizes.as_played != sizes.usual:
        wanted[True] = sizes.as_played
    for method, n in asked:
        way, _ = Way.of(method, n)
        for as_played, some in wanted.items():
            if (called := Called(way, as_played)) not in programs:
                log(
                    f"qgf: compiling {method}, best of {n}, in batches of {', '.join(map(str, some))}"
                )
                programs[called] = Program(loaded, params, way, some)
    return programs


def _of_way(method: str, n: int, programs: Mapping[Called, Program]) -> dict[str, Any]:
    program = programs[Called(Way.of(method, n)[0])]
    return {
        "method": method,
        "best_of": n,
        "execute": program.pace.execute,
        "delay": program.pace.delay,
        "takes_previous": program.pace.overlaps,
    }


def _of_run(loaded: LoadedRun, seed: int) -> dict[str, Any]:
    """What metadata say of the run, whatever it is asked for."""
    run, spec = loaded.run, loaded.spec
    low = high = None
    if spec.clip:
        box = np.ones(spec.action, np.float32)
        low, high = (np.asarray(spec.to_environment(x)).tolist() for x in (-box, box))
    checkpoint: dict[str, Any] = {"step": loaded.step, "seal": None}
    with contextlib.suppress(OSError, ValueError, KeyError):
        seals = Checkpoints(run.trained_in, identity=run.identity)
        checkpoint["seal"] = seals.digest(loaded.step)
    return {
        "obs_dim": spec.width,
        "goal_dim": spec.goal_width,
        "action_dim": spec.action,
        "chunk": spec.chunk,
        "observation_parts": [list(part) for part in run.parts],
        "action_low": low,
        "action_high": high,
        "units": "environment",
        "env": run.env.label,
        "algorithm": run.config["algorithm"],
        "trained_seed": seed,
        "chosen_weights": _chosen(loaded, seed),
        "checkpoint": checkpoint,
    }


def _chosen(loaded: LoadedRun, seed: int) -> dict[str, float]:
    """The weights that `qgf calibrate` has chosen for the seed, by criterion."""
    chosen = loaded.params.get("calibration", {}).get("weights", {})
    return {name: float(values[seed]) for name, values in jax.device_get(chosen).items()}
