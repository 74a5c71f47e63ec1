"""What is wrong at a seam between parts is one clear line, and nothing is traced again in vain."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of, tiny
from test_learners import SPEC, N, loss_of, make_batch

import qgf_guide.parts
from qgf_guide.guidance import guide
from qgf_jax.data.chunks import Dataset
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.training.global_batch import _batch_size
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Learner, Loss, Obs, Spec


def value_of(loss, batch=None):
    learner = Learner(lambda *_: {}, {"actor": loss})
    return loss_of(learner, "actor", {}, {}, make_batch() if batch is None else batch)


@pytest.mark.parametrize(
    ("field", "rows", "says"),
    [
        ("reward", 1, r"field reward of a batch has 1 rows; obs.state has 6"),
        ("action", 5, "field action"),
    ],
)
def test_a_field_of_another_length_is_named_and_not_broadcast(field, rows, says):
    batch = make_batch()
    batch = batch._replace(**{field: getattr(batch, field)[:rows]})
    with pytest.raises(UserError, match=says):
        value_of(Loss(lambda params, target_params, x, noise: (x.reward, {})), batch)


def test_fields_of_the_policys_view_are_looked_at_too():
    batch = make_batch()
    batch = batch._replace(actor=batch.actor._replace(weight=jnp.ones(1)))
    with pytest.raises(UserError, match=r"field actor\.weight of a batch has 1 rows"):
        _batch_size(batch)
    assert _batch_size(make_batch()) == N


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (
            Loss(lambda p, t, x, z: (x.action, {})),
            "loss of .* for one example has shape .4.; it must",
        ),
        (Loss(lambda p, t, x, z: (jnp.int32(1), {})), "is of type int32; it must be a float"),
        (
            Loss(lambda p, t, x, z: (x.reward, {}), draw=lambda key, size, x: jnp.zeros((1, 4))),
            r"draws has shape \[1, 4\]; it must have shape \[6, …\]",
        ),
        (
            Loss(lambda p, t, x, z: x.reward, combine=lambda mine, whole, rows: (mine.mean(), {})),
            r"combined losses of a group has shape \[\]; it must have shape \[6\]",
        ),
    ],
)
def test_a_loss_of_another_shape_is_refused(loss, says):
    with pytest.raises(UserError, match=says):
        value_of(loss)


def test_a_sampler_s_action_has_the_shape_of_a_chunk():
    nets = Builder(tiny(), SPEC).networks()
    learner = Part.named("critic", "td").make(nets, lambda params, obs, key, weight: jnp.zeros(1))
    params = learner.init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    with pytest.raises(UserError, match=r"action has shape \[1\]; it must have shape \[4\]"):
        loss_of(learner, "critic", params, params, make_batch())


def test_an_endpoint_has_the_shape_of_the_action():
    field = guide(
        lambda a, t: a, lambda a: a.sum(), weight=1.0, endpoint=lambda a, t, v, **box: a[:1]
    )
    with pytest.raises(UserError, match=r"endpoint returned shape \(1,\) for an action of shape"):
        field(jnp.zeros(4), jnp.float32(0.5))


def test_an_action_that_is_no_chunk_is_refused(monkeypatch):
    made = Part.named("sampler", "guided")
    short = dataclasses.replace(made, make=lambda nets, **_: lambda *_: jnp.zeros(1))
    monkeypatch.setitem(qgf_guide.parts._PARTS, ("sampler", "guided"), short)
    sample = Builder(tiny(), SPEC).sample("qgf")
    with pytest.raises(
        UserError, match=r"an action of qgf has shape \[1\]; it must have shape \[4\]"
    ):
        sample({}, SPEC.example(), jax.random.key(0), jnp.float32(1.0))


def test_a_sweep_over_weights_is_traced_once():
    """Weights are traced, alone and a vector of them."""
    config = tiny()
    learner = Builder(config, SPEC).learner()
    params = learner.init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    sample = Builder(config, SPEC).sample("qgf")
    act = jax.jit(chex.assert_max_traces(sample, n=1))
    obs, key = Obs(jnp.ones(3)), jax.random.key(1)
    actions = [act(params, obs, key, jnp.float32(w)) for w in (0.0, 3.0, 30.0)]

    def sweep(params, obs, key, weights):
        return jax.vmap(lambda weight: sample(params, obs, key, weight))(weights)

    many = jax.jit(chex.assert_max_traces(sweep, n=1))
    np.testing.assert_allclose(
        many(params, obs, key, jnp.array([0.0, 3.0, 30.0])), np.stack(actions), atol=1e-5
    )
    many(params, obs, key, jnp.array([1.0, 2.0, 5.0]))
    assert not np.allclose(actions[0], actions[2])


def test_a_dispatch_is_traced_once():
    """Whatever the state is and however far the run has come."""
    config, spec = tiny(), Spec(state=(2,), action=2, chunk=3)
    rows = rows_of([30, 20])
    zeros = np.zeros(len(rows.ends))
    dataset = jax.device_put(Dataset.of(rows, zeros - 1, zeros + 1, chunk=3, discount=0.9))
    programs = Trainer.uncompiled(Builder(config, spec).learner(), config, spec)
    run = jax.jit(chex.assert_max_traces(programs.run, n=1), static_argnums=2)
    state = jax.jit(programs.init)(np.arange(1))
    for _ in range(3):
        state, _ = run(state, dataset, 2)
    assert int(state.step[0]) == 6
