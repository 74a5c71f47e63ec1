"""Networks of one shape, evaluated together, give the losses and gradients that they give apart."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, tiny
from test_learners import make_batch
from test_methods import GOALS, SPEC, TRAININGS, with_goals

from qgf_jax.core.layers import Layer
from qgf_jax.data.following import NextChunk
from qgf_jax.methods.builder import Builder
from qgf_jax.training import layer_calls
from qgf_jax.training.forms import Trees
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.stacks import Stacked
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import total_loss
from qgf_jax.types import Learner, Loss

NONE = {}, {}
WIDE = {"networks.policy_hidden": (32, 32), "networks.critic_hidden": (32, 32)}


class Update:
    """What an update of a config begins with."""

    def __init__(self, *row, learner=None, **changes):
        config = tiny(*row, **{**WIDE, **changes})
        self.builder = Builder(config, SPEC)
        spec, batch = SPEC, make_batch()
        if "singletask" not in config["env"]:
            spec, batch = GOALS, with_goals(make_batch(spec=GOALS))
        if NextChunk.wanted(config):
            batch = batch._replace(next_action=batch.action[::-1], next_weight=batch.weight)
        made = Builder(config, spec).learner() if learner is None else learner(self.builder)
        self.every = made.every
        state = TrainState.init(jnp.uint32(0), made, make_optimizer(config, made.every), spec)
        target = jax.tree.map(lambda x: x + 0.1, state.target_params)
        state = dataclasses.replace(state, target_params=target)
        self.state, self.still = state.split(made.still)
        self.total = total_loss(made.losses)
        self.rest = batch, state.loss_keys(jnp.int32(0), len(made.losses))

    def stacked(self):
        return Stacked.of(self.total, self.state, self.still, *self.rest, every=self.every)

    def gradients(self):
        """((of each group as trees, metrics) of networks apart, the same of them together)."""

        def found(state, still, rest):
            for form in (
                Trees(self.total),
                Stacked.of(self.total, state, still, *rest, every=self.every),
            ):
                packed = form.pack(state, still)
                grads, metrics = form.gradient(packed.params, packed.target_params, still, *rest)
                yield form.unpack(packed.replace(params=grads)).params, metrics

        return jax.jit(lambda *args: tuple(found(*args)))(self.state, self.still, self.rest)


def sizes(form, kind):
    """How many networks each product has."""
    return [sum(c.size for c in g.calls) for g in form.program.groups if g.calls[0].kind == kind]


# Critics that read one another; a network twice in one update; a critic that waits for the policy's
# action. `make reliability` has every row.
ROWS = (
    [(name, "default", critic) for name, critic in TRAININGS]
    if LONG
    else [
        ("critic_only", "default", "dqc"),
        ("cfgrl", "default", "iql"),
        ("edp", "default", "td"),
    ]
)
# What these learn from is an exponential of Q over its scale, which makes rounding larger.
STEEP = {"cgql_linex", "fawac"}


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[2]}")
def test_losses_and_gradients_are_those_of_networks_apart(row):
    update = Update(*row)
    (apart, expected), (together, metrics) = update.gradients()
    close = 5e-6 if row[0] in STEEP else 1e-6
    assert metrics.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(metrics[name], x, rtol=close, atol=close, err_msg=name)
    for group, tree in apart.items():
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=close * scale),  # noqa: B023
            together[group],
            tree,
        )


@pytest.fixture(scope="module")
def iql():
    return Update()


def test_layers_of_one_shape_are_one_product_and_lie_as_one_array(iql):
    """Two critics, V and the policy; and two slow critics and V at the next state."""
    form = iql.stacked()
    assert sizes(form, "learned") == [4] * 3
    assert sizes(form, "slow") == [3] * 3
    packed = form.pack(iql.state, iql.still)
    assert not packed.params["loose"]
    assert not packed.target_params["loose"]
    first, hidden, last = packed.params["kernels"]
    assert first.shape == (4, 3 + 4 + 16, 32)  # observation, action, code of time
    assert hidden.shape == (4, 32, 32)
    assert last.shape == (4, 32, 4)
    traced = jax.make_jaxpr(form.gradient)(
        packed.params, packed.target_params, iql.still, *iql.rest
    )
    products = collections.Counter(e.primitive.name for e in traced.jaxpr.eqns)["dot_general"]
    assert products == 3 * 2 + 3 + 2  # forward, by weights, by inputs but the first layer's


def test_networks_of_other_widths_are_evaluated_apart():
    form = Update(**{"networks.policy_hidden": (16, 16)}).stacked()
    assert sizes(form, "learned") == [3, 1, 3, 1, 3, 1]


def outside(builder):
    """A critic as another package states one: see test_extending.py. Beside the flow policy."""
    nets = builder.networks()

    def init(key, obs, action):
        return {"critic": nets.init_ensemble(key, obs, action)}

    def loss(params, target_params, x, key):
        q = nets.apply_ensemble(params["critic"], x.obs, x.action)
        return jnp.mean((q - x.reward) ** 2), {}

    mine = Learner(init, {"critic": Loss(loss)}, targets=("critic",))
    flow = builder.learner()
    flow = flow._replace(losses={"policy": flow.losses["policy"]}, targets=())
    return Learner.merge(
        mine, flow._replace(init=lambda *x: {"policy": builder.learner().init(*x)["policy"]})
    )


def test_a_critic_from_outside_is_evaluated_with_the_policy():
    update = Update(learner=outside)
    form = update.stacked()
    assert sizes(form, "learned") == [3] * 3
    assert sizes(form, "slow") == []  # nothing asks for its slow copy
    (apart, _), (together, _) = update.gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), together, apart)


def test_what_one_loss_learns_and_another_reads_is_computed_once():
    """DQC's long critic; what is read is V at the next state, and the slow critic."""
    assert sizes(Update("critic_only", "default", "dqc").stacked(), "slow") == [3] * 3


def stilled(builder):
    learner = builder.learner()
    rest = learner._replace(losses={"value": learner.losses["value"]}, targets=())
    still = learner._replace(still=("critic", "policy"))
    return still._replace(losses=rest.losses)


def test_what_stands_still_is_read_from_the_same_arrays():
    """V alone is learned; the critic that it reads lies beside it and stays as it is."""
    update = Update(learner=stilled)
    form = update.stacked()
    assert sizes(form, "learned") == [1] * 3
    assert sizes(form, "slow") == [2] * 3
    packed = form.pack(update.state, update.still)
    after = form.follow(packed.target_params, packed.params, packed.params, 0.5, {})
    jax.tree.map(np.testing.assert_array_equal, after, packed.target_params)
    (apart, _), (together, _) = update.gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), together, apart)


@pytest.fixture(scope="module")
def rebrac():
    return Update("rebrac", "default", "td")


def test_what_waits_lies_in_arrays_of_its_own(rebrac):
    """Two critics, and the actor, which moves in every second update."""
    form = rebrac.stacked()
    assert rebrac.every == {"actor": 2}
    assert sizes(form, "learned") == [2, 1] * 3
    assert form.labels(None, str.upper)["kernels"] == ["CRITIC", "ACTOR"] * 3
    # The slow actor; then the slow critics of its action, and today's of the actor's.
    assert sizes(form, "slow") == [1] * 3 + [4] * 3


@pytest.mark.parametrize("row", ["iql", "rebrac"])
def test_a_state_comes_back_bit_for_bit(row, request):
    update = request.getfixturevalue(row)
    form, state = update.stacked(), update.state
    state = state.replace(opt_state=jax.tree.map(lambda x: x + 1, state.opt_state))
    back = form.unpack(form.pack(state, update.still))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    state, back = (s.replace(key=jax.random.key_data(s.key)) for s in (state, back))
    jax.tree.map(np.testing.assert_array_equal, back, state)


@pytest.mark.parametrize(("due", "share"), [(None, 0.25), (True, 0.25), (False, 0.0)])
def test_slow_copies_follow_and_a_copy_of_v_is_the_new_v(iql, due, share):
    form = iql.stacked()
    packed = form.pack(iql.state, iql.still)
    ahead = jax.tree.map(lambda x: x + 1.0, packed.params)
    waiting = {} if due is None else {"critic": jnp.bool_(due)}
    slow = form.follow(packed.target_params, packed.params, ahead, 0.25, waiting)
    state = form.unpack(packed.replace(target_params=slow))
    jax.tree.map(
        lambda old, goal, new: np.testing.assert_allclose(
            new, old + share * (goal - old), rtol=1e-5, atol=1e-6
        ),
        iql.state.target_params["critic"],
        iql.state.params["critic"],
        state.target_params["critic"],
    )
    (kernel,) = (form.slow.leaf(slow, leaf) for leaf in form.slow.groups[1].calls[-1].numbers[:1])
    wanted = iql.state.params["value"]["params"]["MLP_0"]["Dense_1"]["kernel"] + 1.0
    np.testing.assert_array_equal(kernel, wanted)


def test_a_gradient_that_is_not_finite_is_seen_in_its_group(iql):
    form = iql.stacked()
    grads = form.pack(iql.state, iql.still).params
    assert all(np.isfinite(x) for x in form.checksums(grads).values())
    bad = dict(grads, vectors=[grads["vectors"][0].at[2, 5].set(jnp.nan)])  # the third is V
    finite = {name: bool(jnp.isfinite(x)) for name, x in form.checksums(bad).items()}
    assert finite == {"critic": True, "value": False, "policy": True}


def test_a_layer_under_any_vmaps_is_the_layer():
    """Members outside and inside of the batch, inputs of their own, and vmaps over both twice."""
    keys = jax.random.split(jax.random.key(0), 5)
    x, kernel = jax.random.normal(keys[0], (3, 4, 5)), jax.random.normal(keys[1], (2, 3, 5, 6))
    rest = [jax.random.normal(key, (2, 3, 6)) for key in keys[2:]]
    layer = Layer("tanh", True)

    def one(evaluation):
        def of(x, *numbers):
            return evaluation(layer, x, *numbers)

        inside = jax.vmap(of, in_axes=(None, 0, 0, 0, 0))  # members within an example
        examples = jax.vmap(inside, in_axes=(0, None, None, None, None))
        first = [a[0] for a in (kernel, *rest)]
        own = jax.vmap(jax.vmap(of, in_axes=(0, None, None, None, None)))
        twice = jax.vmap(examples, in_axes=(None, 0, 0, 0, 0))
        return examples(x[0], *first), own(x, *first), twice(x[0], kernel, *rest)

    def plain(layer, x, kernel, bias, scale, shift):
        y = x @ kernel + bias
        y = (y - y.mean()) / jnp.sqrt(y.var() + 1e-6) * scale + shift
        return jnp.tanh(y)

    made = jax.jit(lambda: (one(layer_calls._bind), one(plain)))()
    for found, wanted in zip(*made, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
