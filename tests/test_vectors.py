"""Updates on a packed state, as accelerators make them, are the updates on trees."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of, tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.methods.builder import Builder
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

SPEC = Spec(state=(2,), action=2, chunk=3)


@pytest.fixture(scope="module")
def dataset():
    rows = rows_of([9, 12, 30])
    n = len(rows.ends)
    rewards = np.linspace(-1.0, 0.0, n)
    return jax.device_put(Dataset.of(rows, rewards, np.ones(n), chunk=3, discount=0.9))


def programs_of(packed, **changes):
    config = tiny(**changes)
    learner = Builder(config, SPEC).learner()
    return Trainer.uncompiled(learner, config, SPEC, packed=packed)


CASES = {
    "plain": {},
    "clipped": {"seeds": 2, "optimizer.clip_norm": 0.1, "optimizer.lagged_target": True},
    # Groups and slow copies that wait; at each update some of what a clip sees is masked.
    "delayed": {"algorithm": "rebrac", "critic": "td", "optimizer.clip_norm": 0.1},
}
STEPS = 5


@functools.cache
def run_of(packed, case):
    return jax.jit(programs_of(packed, **CASES[case]).run, static_argnums=2)


@pytest.fixture(scope="module")
def on_trees(dataset):
    """case -> (a first state, state and metrics after five updates on trees), each made once."""

    @functools.cache
    def made(case):
        seeds = np.arange(CASES[case].get("seeds", 1))
        start = jax.jit(programs_of(False, **CASES[case]).init)(seeds)
        return start, *run_of(False, case)(start, dataset, STEPS)

    return made


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize("case", CASES)
def test_updates_on_vectors_are_those_on_trees(dataset, case, on_trees):
    start, *one = on_trees(case)
    states, metrics = zip(one, run_of(True, case)(start, dataset, STEPS), strict=True)
    raw = [jax.device_get(s.replace(key=jax.random.key_data(s.key))) for s in states]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *raw)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *metrics)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), start.params, states[1].params)
    assert all(any(jax.tree.leaves(group)) for group in moved.values())


def test_a_packed_run_that_stops_while_a_group_waits_goes_on_from_trees(dataset, on_trees):
    """After five updates of an actor that moves in every second."""
    _, stopped, _ = on_trees("delayed")
    one, other = (run_of(packed, "delayed")(stopped, dataset, STEPS)[0] for packed in (False, True))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for part in ("params", "target_params", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            getattr(one, part), getattr(other, part),
        )  # fmt: skip


@pytest.fixture
def as_an_accelerator(monkeypatch):
    """What is for a CPU alone is not taken."""
    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *xs, default, **_: default(*xs))
    yield
    jax.clear_caches()


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
def test_an_accelerator_s_updates_are_those_of_a_cpu(dataset, case, on_trees, request):
    start, wanted, _ = on_trees(case)
    request.getfixturevalue("as_an_accelerator")
    found, _ = run_of(True, case)(start, dataset, STEPS)
    assert int(found.guard.skipped[0]) == 0
    for part in ("params", "target_params"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
            getattr(found, part), getattr(wanted, part),
        )  # fmt: skip


def test_an_accelerator_leaves_out_what_is_not_finite(dataset, on_trees, request):
    start, *_ = on_trees("plain")
    request.getfixturevalue("as_an_accelerator")
    bad = dataset._replace(reward=jnp.full_like(dataset.reward, jnp.nan))
    state, metrics = run_of(True, "plain")(start, bad, STEPS)
    assert int(state.guard.skipped[0]) == STEPS
    jax.tree.map(np.testing.assert_array_equal, state.params, start.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, start.opt_state)
    assert np.isnan(metrics["critic/loss"]).all()


def operations(jaxpr):
    """The primitives that a device other than a CPU runs, and the types of their results."""
    chosen = set()  # variables that say which platform a program is lowered for
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [p for p in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr) if _is_jaxpr(p)]
        if name == "platform_index":
            chosen.update(equation.outvars)
            assert equation.params["platforms"][-1] is None
            continue
        if name == "cond" and equation.invars[0] in chosen:
            inner = inner[-1:]  # the default
        elif name == "clamp" and chosen & {v for v in equation.invars if hasattr(v, "count")}:
            chosen.update(equation.outvars)
            continue
        elif name not in ("pjit", "jit", "scan", "while", "custom_jvp_call", "closed_call"):
            yield name, {v.aval.dtype for v in equation.outvars}
        for one in inner:
            yield from operations(getattr(one, "jaxpr", one))


def _is_jaxpr(x):
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


WAITS = re.compile("cond|callback|infeed|outfeed|device_put|copy_to_host|sort|scatter")


@pytest.mark.parametrize(
    "changes", [{}, {"seeds": 2}, CASES["delayed"]], ids=["one", "seeds", "delayed"]
)
def test_nothing_in_an_update_of_an_accelerator_makes_the_host_wait(dataset, changes):
    """A conditional, a callback or a transfer in the scan would; float64 is a thirtieth of the speed."""
    programs = programs_of(True, **changes)
    state = jax.eval_shape(programs.init, np.arange(changes.get("seeds", 1)))
    traced = jax.jit(programs.run, static_argnums=2).trace(state, dataset, 10)
    found = list(operations(traced.jaxpr.jaxpr))
    assert {"dot_general", "gather", "concatenate"} <= {name for name, _ in found}
    assert not [name for name, _ in found if WAITS.search(name)]
    assert not [name for name, types in found if np.dtype("float64") in types]


@pytest.mark.whole
def test_an_update_has_no_more_operations_than_it_had(dataset):
    """Of the program that XLA makes for a CPU; `make kernels` counts those of a GPU.

    138 on JAX 0.10.2, conditional and all.
    """
    programs = programs_of(True)
    state = jax.eval_shape(programs.init, np.arange(1))
    text = jax.jit(programs.run, static_argnums=2).lower(state, dataset, 10).compile().as_text()
    body = max(re.findall(r"^%?[\w.\-]+ \(.*?^\}", text, re.MULTILINE | re.DOTALL), key=len)
    free = "parameter|constant|bitcast|get-tuple-element|tuple|copy"
    operations = re.findall(rf"= (?:\(.*?\)|\S+) (?!(?:{free})\()[\w\-]+\(", body)
    assert len(operations) <= 145
