"""One global batch gives the same update however many devices divide it, for every learner."""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import LONG, tiny
from test_learners import make_batch
from test_methods import GOALS, METHODS, SPEC, with_goals

import qgf_jax
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.parts import part
from qgf_jax.training import global_batch, parallel
from qgf_jax.training import step as train

# A method for each learner, and the critics spread over them.
CASES = {
    "qgf_distill": "dqc", "robust_q": "iql", "cfgrl": "iql", "edp": "iql", "fql": "iql", "qam": "iql",
    "qsm": "iql", "dac": "iql", "fawac": "td", "fbrac": "iql", "dsrl": "td", "iql": "iql",
    "rebrac": "td", "gcbc": "none", "gciql": "iql", "gcivl": "ivl", "crl": "contrastive", "hiql": "ivl",
}  # fmt: skip
# What depends on the whole batch, by a sum, a draw or a gather, and is off or idle by default.
CHANGES = {"fql": {"policy.normalize_q": True}, "fawac": {"critics.td.noise": 0.2}}


def test_every_learner_has_a_case():
    rows = [METHODS[name] for name in CASES]
    assert {p for row in rows for p in row.policies} == {
        p for m in METHODS.values() for p in m.policies
    }
    assert set(CASES.values()) == {c for m in METHODS.values() for c in m.critics}


@pytest.fixture(autouse=True)
def unguarded(monkeypatch):
    """The guard against numbers that are not finite is a fifth of a program, and the same in all."""

    def always(old, update, checked, metrics):
        return train.TrainState(old.step + 1, old.key, *update(), old.guard), metrics

    monkeypatch.setattr(train, "if_finite", always)


def made_up(init):
    """A state whose slow copies are not the online ones, without compiling `init`."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(init, jnp.int32(0))
    draw = lambda tree: jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), tree)
    return train.TrainState(
        jnp.int32(0),
        jax.random.key(0),
        draw(shapes.params),
        draw(shapes.target_params),
        shapes.opt_state,
    )


@functools.cache
def case(name):
    """(the step, a state, a global batch of 24, state and metrics after the step on one device).

    The losses are those that no case before has, and plain SGD moves them: Adam hides a factor.
    """
    config = tiny(name, critic=CASES[name], **CHANGES.get(name, {}))
    goals = "singletask" not in config["env"]
    spec, width = (GOALS, 4) if goals else (SPEC, 3)
    parts = [make_batch(seed, width) for seed in range(4)]
    batch = jax.tree.map(
        lambda *x: jnp.concatenate(x), *(with_goals(b) if goals else b for b in parts)
    )
    learner = algorithms.build_learner(config, spec)
    tx = optax.sgd(0.05)
    state = made_up(functools.partial(train.init_state, learner=learner, tx=tx, spec=spec))
    losses = {group: learner.losses[group] for group in new_groups(name)}
    step = functools.partial(train.train_step, losses=losses, tx=tx, tau=0.1)
    return step, state, batch, *jax.jit(step)(state, batch)


@functools.cache
def new_groups(name):
    """Parameter groups of the learners of `name` that no case before trains with the same losses."""
    before = list(CASES)[: list(CASES).index(name)]
    policies = {p for other in before for p in METHODS[other].policies}
    critics = {CASES[other] for other in before}
    config = tiny(name, critic=CASES[name])
    nets = algorithms.build_networks(config, SPEC)
    learners = [part("policy", p).make(nets) for p in METHODS[name].policies if p not in policies]
    if CASES[name] not in critics:
        learners.append(part("critic", CASES[name]).make(nets, None))
    return [group for learner in learners for group in learner.losses]


def numbers(state):
    return [np.asarray(x) for x in jax.tree.leaves((state.params, state.target_params))]


def pmapped(step, state, batch, count):
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    step = functools.partial(step, axis_name="devices")
    devices = jax.devices()[:count]
    return jax.pmap(step, "devices", in_axes=(None, 0), out_axes=None, devices=devices)(
        state, parts
    )


def jitted(step, state, batch, count):
    spread = parallel.DeviceLayout(tuple(jax.devices()[:count]), "jit")
    return jax.jit(step)(
        spread.replicate(state), jax.device_put(batch, spread._sharding("devices"))
    )


# Compilation is what costs: a learner's part of `jit` is XLA's own, and the same program for all.
SHORT = [(name, pmapped, 2) for name in CASES] + [(name, jitted, 2) for name in ("crl", "rebrac")]
ALL = [(name, form, count) for name in CASES for form in (pmapped, jitted) for count in (2, 4, 8)]


@pytest.mark.parametrize(("name", "form", "count"), ALL if LONG else SHORT)
def test_devices_that_divide_a_batch_make_the_update_of_one(name, form, count):
    """Parameters, slow copies and metrics."""
    step, state, batch, one, metrics = case(name)
    many, seen = form(step, state, batch, count)
    for a, b in zip(numbers(one), numbers(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(a).max()))
    assert metrics.keys() == seen.keys()
    for key, value in metrics.items():
        np.testing.assert_allclose(seen[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
    for group in step.keywords["losses"]:
        pairs = zip(*(jax.tree.leaves(s.params[group]) for s in (one, state)), strict=True)
        assert max(np.abs(a - b).max() for a, b in pairs) > 1e-4, group


def test_each_device_has_its_own_rows_of_the_draws_of_one():
    key, count, size = jax.random.key(4), 4, 3
    draws = {
        "normal": lambda n: global_batch.normal(key, (n, 2)),
        "randint": lambda n: global_batch.randint(key, (n,), 2, 9),
        "split": lambda n: jax.random.key_data(global_batch.split(key, n)),
        "mean": lambda n: global_batch.mean(global_batch.normal(key, (n,))),
        "gather": lambda n: global_batch.gather(global_batch.normal(key, (n, 2))),
    }

    def device(_):
        with global_batch.divided_over("devices"):
            return {name: draw(size) for name, draw in draws.items()}

    found = jax.vmap(device, axis_name="devices")(jnp.arange(count))
    for name, draw in draws.items():
        whole, parts = np.asarray(draw(count * size)), np.asarray(found[name])
        if name in ("mean", "gather"):  # every device has all of it
            whole, parts = np.stack([whole] * count), parts
        np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-6)


# Functions of one example, which get a key of that example.
OF_ONE_EXAMPLE = {"td.py": "act", "dsrl.py": "squashed"}


def draws_of(path):
    """Calls of jax.random in a file, outside the functions of one example."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.FunctionDef):
            node.body = [
                inner for inner in node.body
                if getattr(inner, "name", "") != OF_ONE_EXAMPLE.get(path.name, 0)
            ]  # fmt: skip
    tree.body = [x for x in tree.body if getattr(x, "name", "") != OF_ONE_EXAMPLE.get(path.name, 0)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if "random." in ast.unparse(call.func)]


def test_no_loss_draws_by_itself():
    """Noise of a batch comes from `global_batch`; a loss may split its key into some by a name."""
    root = Path(qgf_jax.__file__).parent
    for path in [*root.glob("policies/*.py"), *root.glob("critics/*.py")]:
        for call in draws_of(path):
            counts = [ast.unparse(x) for x in call.args[1:]]
            named = ast.unparse(call.func) == "jax.random.split" and all(
                c.isdecimal() for c in counts
            )
            assert named, f"{path.name}: {ast.unparse(call)}"
