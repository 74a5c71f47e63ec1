"""One global batch gives the same update however many devices divide it, for every learner."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import LONG, tiny
from test_learners import make_batch
from test_methods import GOALS, METHODS, SPEC, with_goals

from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.training import global_batch, parallel
from qgf_jax.training import step as train
from qgf_jax.training.state import TrainState

# A method for each learner, and the critics spread over them.
CASES = {
    "qgf_distill": "dqc", "robust_q": "iql", "cgql_linex": "iql", "cfgrl": "iql", "edp": "iql",
    "fql": "iql", "qam": "iql", "qsm": "iql", "dac": "iql", "fawac": "td", "fbrac": "iql",
    "dsrl": "td", "iql": "iql", "rebrac": "td", "agf": "iql", "gcbc": "none", "gciql": "iql",
    "gcivl": "ivl", "crl": "contrastive", "hiql": "ivl", "qrl": "qrl", "seed_critic": "iql",
    "qpilots_m": "iql",
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
        return TrainState(old.step + 1, old.key, *update(), old.guard), metrics

    monkeypatch.setattr(train, "_if_finite", always)


def made_up(init):
    """A state whose slow copies are not the online ones, without compiling `init`."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(init, jnp.int32(0))
    draw = lambda tree: jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), tree)
    return TrainState(
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
    spec = GOALS if goals else SPEC
    parts = [make_batch(seed, spec) for seed in range(4)]
    batch = jax.tree.map(
        lambda *x: jnp.concatenate(x), *(with_goals(b) if goals else b for b in parts)
    )
    learner = Builder(config, spec).learner()
    tx = optax.sgd(0.05)
    state = made_up(functools.partial(TrainState.init, learner=learner, tx=tx, spec=spec))
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
    nets = Builder(config, SPEC).networks()
    learners = [
        Part.named("policy", p).make(nets) for p in METHODS[name].policies if p not in policies
    ]
    if CASES[name] not in critics:
        learners.append(Part.named("critic", CASES[name]).make(nets, None))
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
    layout = parallel.DeviceLayout(tuple(jax.devices()[:count]), "jit")
    return jax.jit(step)(
        layout.replicate(state), jax.device_put(batch, layout._sharding("devices"))
    )


# Compilation is what costs: a learner's part of `jit` is XLA's own, and the same program for all.
SHORT = [(name, pmapped, 2) for name in CASES] + [(name, jitted, 2) for name in ("crl", "rebrac")]
ALL = [(name, form, count) for name in CASES for form in (pmapped, jitted) for count in (2, 4, 8)]


@pytest.mark.whole(but_every=8)
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


def test_each_device_has_its_own_rows_of_what_is_drawn_for_all():
    """And of what is gathered from all, all rows in their order."""
    count, size = 4, 3
    whole = jax.random.normal(jax.random.key(4), (count * size, 2))

    def device(_):
        mine = global_batch._own_rows(whole, size, "devices")
        return mine, global_batch._gather(mine, "devices")

    mine, gathered = jax.vmap(device, axis_name="devices")(jnp.arange(count))
    np.testing.assert_array_equal(mine.reshape(whole.shape), whole)
    for rows in gathered:
        np.testing.assert_array_equal(rows, whole)
