"""Devices and hosts: the same parameters however the batch is spread over them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import LONG, rows_of, tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.training import programs
from qgf_jax.training.parallel import FORMS, DeviceLayout
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

SPEC = Spec(state=(2,), action=2, chunk=3)
BATCH = 16


@pytest.fixture(scope="module")
def dataset():
    rows = rows_of([30, 20, 40])
    zeros = np.zeros(len(rows.ends))
    made = Dataset.of(rows, zeros - 1, zeros + 1, chunk=3, discount=0.9)
    return made._replace(obs=made.obs / 100)


def config_of(**changes):
    return tiny(**{"train.batch_size": BATCH, **changes})


@pytest.fixture(autouse=True)
def sgd(monkeypatch):
    """Adam hides a gradient that is N times too large."""
    monkeypatch.setattr(programs, "make_optimizer", lambda *_, **how: optax.sgd(0.05))


def numbers(state):
    return [np.asarray(x) for x in jax.tree.leaves((state.params, state.target_params))]


@pytest.fixture(scope="module")
def dataset_trained(dataset):
    """`trained` on the data, each run once."""
    return functools.cache(functools.partial(trained, dataset))


def trained(dataset, **changes):
    """(state as one host has it, metrics, state on all devices) after three steps."""
    config = config_of(**changes)
    layout = DeviceLayout.of(config)
    trainer = layout.make_trainer(Builder(config, SPEC).learner(), config, SPEC)
    pieces = layout.for_data().put(dataset.split(layout.count, SPEC.chunk))
    state = layout.replicate(trainer.init(np.arange(config["seeds"])))
    state, metrics = trainer.run(state, pieces, 3)
    return layout.local(state), jax.device_get(layout.local(metrics)), state, layout


def emulated(dataset, count, form, steps=3, **changes):
    """What `count` devices ought to compute, on one: pieces side by side in one program."""
    config = config_of(**changes)
    learner = Builder(config, SPEC).learner()
    axis = "devices" if form == "pmap" else None
    programs = Trainer.uncompiled(learner, config, SPEC, shards=count, axis_name=axis)
    pieces = jax.tree.map(lambda *x: np.stack(x), *dataset.split(count, SPEC.chunk))
    run = functools.partial(programs.run, num_steps=steps)
    if axis:
        run = jax.vmap(run, in_axes=(None, 0), axis_name=axis, axis_size=count)
    state, metrics = jax.jit(run)(jax.jit(programs.init)(np.arange(config["seeds"])), pieces)
    return jax.tree.map(lambda x: x[0], (state, metrics)) if axis else (state, metrics)


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize(
    ("form", "count", "seeds"),
    [("pmap", 8, 2), ("jit", 2, 2), *([("pmap", 2, 1), ("jit", 8, 1)] if LONG else [])],
)
def test_many_devices_compute_what_one_does_with_the_same_pieces(
    dataset, dataset_trained, form, count, seeds
):
    """All losses, their noise too; 8 devices with two seeds are pmap(vmap)."""
    changes = {"devices": str(count), "parallel": form, "seeds": seeds}
    mine, metrics, everywhere, layout = dataset_trained(**changes)
    theirs, expected = emulated(dataset, count, form, **changes)
    for a, b in zip(numbers(mine), numbers(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert metrics.keys() == expected.keys()
    assert metrics["critic/loss"].shape == (seeds,)
    np.testing.assert_allclose(metrics["critic/loss"], expected["critic/loss"], rtol=1e-4)
    assert int(mine.step[0]) == 3
    layout.check_replicas(everywhere)


@pytest.mark.whole
def test_both_forms_draw_the_same_batches_and_the_same_noise(dataset_trained):
    found = [dataset_trained(devices="2", parallel=form, seeds=2)[0] for form in FORMS]
    for a, b in zip(*map(numbers, found), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.whole
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_accelerators_gives_the_same_on_many_devices(
    dataset, dataset_trained, form, monkeypatch
):
    expected = dataset_trained(devices="2", parallel="pmap", seeds=2)[0]
    monkeypatch.setattr(programs, "_launches", lambda: True)
    found = trained(dataset, devices="2", parallel=form, seeds=2)[0]
    for a, b in zip(numbers(found), numbers(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.whole
def test_no_data_crosses_between_devices(dataset):
    """Under jit the pieces are gathered where they lie: what is exchanged is gradients."""
    config = config_of(devices="4", parallel="jit")
    layout = DeviceLayout.of(config)
    trainer = layout.make_trainer(Builder(config, SPEC).learner(), config, SPEC)
    pieces = layout.put(dataset.split(4, SPEC.chunk))
    state = layout.replicate(trainer.init(np.arange(1)))
    text = trainer.run.lower(state, pieces, 2).compile().as_text()
    assert "all-reduce" in text
    assert not re.findall(r" (all-gather|all-to-all|collective-permute)\(", text)


@pytest.mark.whole
def test_a_state_looks_the_same_everywhere_and_is_donated(dataset):
    for form in FORMS:
        config = config_of(devices="4", parallel=form)
        layout = DeviceLayout.of(config)
        trainer = layout.make_trainer(Builder(config, SPEC).learner(), config, SPEC)
        pieces = layout.put(dataset.split(4, SPEC.chunk))
        alone = trainer.init(np.arange(1))
        state = layout.replicate(alone)
        after, _ = trainer.run(state, pieces, 2)  # the program of the test above
        assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, alone)
        held_out = trainer.evaluate(layout.local(after), jax.device_put(dataset))
        assert np.isfinite(held_out["critic/loss"]).all()


def test_replicas_that_differ_are_noticed():
    devices = jax.devices()[:4]
    layout = DeviceLayout(tuple(devices), "jit")
    sound = {"a": np.arange(3.0), "key": jax.random.key(0)}
    layout.check_replicas(layout.replicate(sound))
    parts = [jax.device_put(np.arange(3.0) + 1e-7 * (i == 2), d) for i, d in enumerate(devices)]
    broken = jax.make_array_from_single_device_arrays((3,), layout._sharding(), parts)
    with pytest.raises(UserError, match="device 2 holds other parameters"):
        layout.check_replicas({"a": broken})


def test_room_is_that_of_the_devices_that_train():
    """Three of eight accelerators, each as full as the fullest; a CPU has the host's memory."""

    class Accelerator:
        process_index = 0

        def __init__(self, used):
            self.used = used

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": self.used}

    devices = tuple(Accelerator(used) for used in (100, 400, 0))
    assert DeviceLayout(devices, "pmap").free_bytes() == 3 * 600
    assert DeviceLayout((jax.devices()[0],), "pmap").free_bytes() > 10**6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"devices": "3"},
            "train.batch_size is 16; 3 devices must divide it: set another, or devices=2",
        ),
        ({"devices": "99"}, "devices is 99; there are 8: cpu"),
    ],
)
def test_devices_that_will_not_do_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        DeviceLayout.of(config_of(**changes))


@pytest.mark.whole
def test_bfloat16_computes_almost_the_same_with_float32_parameters(dataset):
    """Losses within 3 %; parameters and slow copies float32. A CPU has no TF32, so the same bits."""
    found, states = {}, {}
    for precision in ("float32", "tf32", "bfloat16"):
        mine, metrics, *_ = trained(dataset, devices="1", precision=precision)
        assert all(x.dtype == np.float32 for x in numbers(mine))
        found[precision], states[precision] = metrics, numbers(mine)
    for one, other in zip(states["float32"], states["tf32"], strict=True):
        np.testing.assert_array_equal(one, other)
    for name, exact in found["float32"].items():
        if name.endswith("loss"):
            np.testing.assert_allclose(found["bfloat16"][name], exact, rtol=0.03, atol=1e-3)
            assert found["bfloat16"][name] != exact
