"""Updates a second, and what an update is made of."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from qgf_jax.methods.builder import Builder
from qgf_jax.runs.tree import ArrayTree
from qgf_jax.training.programs import Trainer
from stages import limits, programs, trace
from stages.record import Deadline, Results, describe_device


class Plan(NamedTuple):
    """One measurement."""

    size: str
    seeds: int = 1
    precision: str = "tf32"
    steps: int = 100
    """Of a dispatch"""

    def __str__(self) -> str:
        return f"{self.size}, {self.precision}, seeds {self.seeds}, {self.steps} a dispatch"


_SMALL, _LARGER, _PAPER, _GOALS = programs.SIZES
_FIRST = (  # in order of worth; every other pair comes after these
    Plan(_SMALL),
    Plan(_SMALL, seeds=8),
    Plan(_PAPER),
    Plan(_SMALL, steps=1000),
    Plan(_PAPER, precision="bfloat16"),
    Plan(_PAPER, precision="float32"),
    Plan(_SMALL, precision="float32"),
    Plan(_SMALL, precision="bfloat16"),
    Plan(_SMALL, seeds=16),
    Plan(_GOALS),
    Plan(_SMALL, seeds=4),
    Plan(_LARGER),
    Plan(_PAPER, seeds=4),
    Plan(_GOALS, precision="bfloat16"),
    Plan(_PAPER, seeds=8),
)
_TINY = (Plan(_SMALL, steps=4), Plan(_SMALL, seeds=2, steps=4), Plan(_GOALS, 1, "bfloat16", 4))
_SECONDS = 1.5
"""How long a program is timed."""


def plans(*, dry: bool) -> list[Plan]:
    """What is measured, the most telling first."""
    if dry:
        return list(_TINY)
    every = [
        Plan(size, seeds, precision, steps)
        for seeds in (1, 8, 4, 16)
        for size in programs.SIZES
        for precision in ("tf32", "bfloat16", "float32")
        for steps in (100, 1000)
    ]
    return list(dict.fromkeys((*_FIRST, *every)))


def run(results: Results, deadline: Deadline, *, dry: bool) -> None:
    """Measures as many of `plans` as there is time for."""
    device = describe_device(results, dry=dry)
    for plan in deadline.take(plans(dry=dry), results, "left_out"):
        with results.attempt(str(plan)):
            results.put(str(plan), measure(plan, device, dry=dry))
            results.put("seeds side by side", side_by_side(results))


def measure(plan: Plan, device: Any, *, dry: bool) -> dict[str, Any]:
    """Compiles the program of a plan, times it and looks into it."""
    made = programs.make(plan.size, dry=dry, seeds=plan.seeds)
    initial = programs.host_state(plan.size, dry=dry)
    data = jax.device_put(made.data)
    config = made.config | {"precision": plan.precision}
    learner = Builder(config, made.spec).learner()
    run = Trainer.of(learner, config, made.spec).run
    state = programs.repeated(initial, plan.seeds)
    size, started = ArrayTree(state.replace(key=None)).bytes(), time.perf_counter()
    trace_of = run.trace(state, data, plan.steps)
    lowered = trace_of.lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    flops = limits.flops(trace_of.jaxpr) / plan.steps
    state, timed = _time(compiled, state, data, plan, dry)
    memory = compiled.memory_analysis()
    stats = device.memory_stats() or {}
    moved = plan.seeds * limits.adam_bytes(initial.params, initial.target_params)
    peaks = limits.peaks(device.device_kind)
    least = limits.roofline(peaks, plan.precision, flops, moved)
    seconds = 1 / timed["updates_per_second"]
    return {
        **plan._asdict(),
        **timed,
        "seed_updates_per_second": plan.seeds * timed["updates_per_second"],
        "us_per_update": 1e6 * seconds,
        "gflop_per_update": 1e-9 * flops,
        "tflop_per_second": 1e-12 * flops / seconds,
        "limit_us": {k: v and 1e6 * v for k, v in least.items()},
        "share_of_limit": least["limit"] and least["limit"] / seconds,
        "trace_seconds": traced - started,
        "compile_seconds": done - traced,
        "bytes": {
            "state": size,
            "data": ArrayTree(made.data).bytes(),
            "work": getattr(memory, "temp_size_in_bytes", None),
            "in_use": stats.get("bytes_in_use"),
            "peak_so_far": stats.get("peak_bytes_in_use"),
        },
        "operations": trace.operations(compiled.as_text()),
        "profile": _profile(compiled, state, data, plan),
    }


def _time(
    compiled: Any, state: Any, data: Any, plan: Plan, dry: bool
) -> tuple[Any, dict[str, Any]]:
    """From the third dispatch on, two in flight as in training; the state after them."""
    for _ in range(2):
        state, metrics = compiled(state, data)
    jax.block_until_ready(metrics)
    count, flying = 0, [metrics]
    cpu, thread, started = time.process_time(), time.thread_time(), time.perf_counter()
    while count < 3 or (not dry and time.perf_counter() - started < _SECONDS):
        state, metrics = compiled(state, data)
        flying.append(metrics)
        jax.block_until_ready(flying.pop(0))
        count += 1
    jax.block_until_ready(state)
    updates = count * plan.steps
    seconds = time.perf_counter() - started
    return state, {
        "updates_per_second": updates / seconds,
        "host_cpu_us_per_update": 1e6 * (time.process_time() - cpu) / updates,
        "host_thread_us_per_update": 1e6 * (time.thread_time() - thread) / updates,
        "dispatches": count,
        "skipped_updates": int(np.asarray(state.guard.skipped).sum()),
    }


def _profile(compiled: Any, state: Any, data: Any, plan: Plan) -> dict[str, Any]:
    """Of one dispatch. It ends the state, which is donated."""
    if plan.steps > 100:
        return {"failed": "not tried: a profile of so many updates takes longer than they do"}

    def call() -> None:
        jax.block_until_ready(compiled(state, data))

    try:
        return trace.profile(call, plan.steps)
    except Exception as error:  # plug-ins differ in what they tell, and the rest is measured
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}


def side_by_side(results: Results) -> dict[str, float]:
    """Seed-updates a second of seeds under vmap, of those of one seed after another."""
    found = results.read()["stages"][results.stage]["results"]
    rates = {
        tuple(x[k] for k in ("size", "precision", "steps", "seeds")): x["seed_updates_per_second"]
        for x in found.values()
        if isinstance(x, dict) and "seed_updates_per_second" in x
    }
    return {
        str(Plan(size, seeds, precision, steps)): rate / rates[size, precision, steps, 1]
        for (size, precision, steps, seeds), rate in rates.items()
        if seeds > 1 and (size, precision, steps, 1) in rates
    }
