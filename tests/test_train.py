"""The training step: what moves, when, and alike under jit, vmap, pmap and restarts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import AS_USERS, rows_of, tiny

from qgf_jax.data.chunks import Dataset
from qgf_jax.methods.builder import Builder
from qgf_jax.training import forms, optimizers
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.programs import Trainer
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Learner, Loss, Spec

SPEC = Spec(state=(2,), action=2, chunk=3)


def quadratic(group):
    """A loss that pulls a group to 1 by (group - 1) and looks at another without moving it."""

    def loss(params, target_params, x, noise):
        others = sum(jnp.sum(value) for name, value in params.items() if name != group)
        return 0.5 * jnp.sum((params[group] - 1.0) ** 2) + 100.0 * others, {}

    return Loss(loss, weighted=False)


ONE = jnp.zeros(1)  # a batch of one example, of which nothing is asked


def state_of(tx, **groups):
    params = {name: jnp.float32(value) for name, value in groups.items()}
    return TrainState(jnp.int32(0), jax.random.key(0), params, {"a": params["a"]}, tx.init(params))


def test_each_loss_moves_its_own_group_alone():
    tx = optax.sgd(0.1)
    losses = {"a": quadratic("a"), "b": quadratic("b")}
    state, _ = train_step(state_of(tx, a=0.0, b=3.0), ONE, losses=losses, tx=tx, tau=0.5)
    np.testing.assert_allclose([state.params["a"], state.params["b"]], [0.1, 2.8], rtol=1e-6)


@pytest.mark.parametrize(("lagged", "expected"), [(True, (0.0, 0.025)), (False, (0.025, 0.06625))])
def test_slow_copy_moves_towards_the_old_or_the_new_parameters(lagged, expected):
    """a: 0, 0.1, 0.19 by SGD; tau = 1/4. Lagged, the first update leaves the slow copy at 0."""
    tx = optax.sgd(0.1)
    state, slow = state_of(tx, a=0.0), []
    for _ in range(2):
        state, _ = train_step(
            state, ONE, losses={"a": quadratic("a")}, tx=tx, tau=0.25, lagged_target=lagged
        )
        slow.append(float(state.target_params["a"]))
    np.testing.assert_allclose(slow, expected, atol=1e-6)


def waiting_run(tx, steps, many=lambda f, state: f(state), **how):
    """(last state, groups, slow copies after each update); a and its slow copy wait for every third."""
    every = {"a": 3}
    tx = optimizers._delayed(tx, every)
    params = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    state = TrainState(jnp.int32(0), jax.random.key(0), params, params, tx.init(params))
    losses = {"a": quadratic("a"), "b": quadratic("b")}
    step = functools.partial(
        train_step, losses=losses, tx=tx, tau=0.5, target_every=every | {"b": 2}, **how
    )

    def run(state):
        def update(state, _):
            state, _ = step(state, ONE)
            return state, (state.params, state.target_params)

        return jax.lax.scan(update, state, length=steps)

    state, (params, slow) = many(run, state)
    return state, {k: np.asarray(v) for k, v in params.items()}, slow


def test_a_group_that_waits_moves_in_every_third_update_alone():
    """SGD, step 0.1: x -> 1 - 0.9 (1 - x). b and the slow copy of b wait for nothing and for two."""
    _, params, slow = waiting_run(optax.sgd(0.1), 6)
    np.testing.assert_allclose(params["a"], [0, 0, 0.1, 0.1, 0.1, 0.19], atol=1e-6)
    np.testing.assert_allclose(params["b"], 1 - 0.9 ** np.arange(1, 7), atol=1e-6)
    np.testing.assert_allclose(slow["a"], [0, 0, 0.05, 0.05, 0.05, 0.12], atol=1e-6)
    b = params["b"]
    halves = [b[1] / 2, b[1] / 4 + b[3] / 2]
    halves.append((halves[1] + b[5]) / 2)
    np.testing.assert_allclose(slow["b"][1::2], halves, atol=1e-6)
    np.testing.assert_allclose(slow["b"][::2], [0, *halves[:2]], atol=1e-6)


def test_a_group_that_waits_has_adam_count_its_own_updates():
    """Six updates with a wait of three end where two without end, moments too."""
    waited, *_ = waiting_run(optax.adam(0.1), 6)
    plain = state_of(optax.adam(0.1), a=0.0)
    for _ in range(2):
        plain, _ = train_step(plain, ONE, losses={"a": quadratic("a")}, tx=optax.adam(0.1), tau=0.5)
    (mine,) = [s for s in _adams(waited.opt_state) if jax.tree.leaves(s.mu["a"])]
    (theirs,) = _adams(plain.opt_state)
    assert float(waited.params["a"]) == pytest.approx(float(plain.params["a"]), rel=1e-6)
    assert int(mine.count) == int(theirs.count) == 2
    np.testing.assert_allclose(mine.mu["a"], theirs.mu["a"], rtol=1e-6)
    np.testing.assert_allclose(mine.nu["a"], theirs.nu["a"], rtol=1e-6)


def _adams(opt_state):
    found = jax.tree.leaves(opt_state, is_leaf=lambda x: hasattr(x, "mu"))
    return [s for s in found if hasattr(s, "mu")]


def test_waiting_is_the_same_for_seeds_side_by_side_and_devices():
    tx = make_optimizer({"optimizer": {"learning_rate": 0.1, "clip_norm": 0.5}})
    _, alone, slow = waiting_run(tx, 4)

    def seeds(run, state):
        return jax.vmap(lambda _: run(state))(jnp.arange(2))

    def devices(run, state):
        return jax.pmap(lambda _: run(state), "devices", devices=jax.devices()[:2])(jnp.arange(2))

    for many, how in ((seeds, {}), (devices, {"axis_name": "devices"})):
        _, together, slow_together = waiting_run(tx, 4, many, **how)
        for i in range(2):
            np.testing.assert_allclose(together["a"][i], alone["a"], rtol=1e-6)
            np.testing.assert_allclose(slow_together["a"][i], slow["a"], rtol=1e-6)


def test_every_loss_and_every_step_draw_anew():
    noisy = Loss(lambda params, _, x, key: (jax.random.uniform(key), {}), weighted=False)
    tx, seen = optax.sgd(0.1), []
    state = state_of(tx, a=0.0, b=3.0)
    for _ in range(3):
        state, metrics = train_step(state, ONE, losses={"a": noisy, "b": noisy}, tx=tx, tau=0.5)
        seen += [float(metrics["a/loss"]), float(metrics["b/loss"])]
    assert len(set(seen)) == 6


@pytest.fixture(scope="module")
def dataset():
    rows = rows_of([30, 20, 40])
    zeros = np.zeros(len(rows.ends))
    made = Dataset.of(rows, zeros - 1, zeros + 1, chunk=3, discount=0.9)
    return jax.device_put(made._replace(obs=made.obs / 100))


def trainer_of(**changes):
    config = tiny(**changes)
    return Trainer.of(Builder(config, SPEC).learner(), config, SPEC)


def test_seeds_side_by_side_equal_seeds_alone_and_differ_from_each_other(dataset):
    trainer = trainer_of()
    together, metrics = trainer.run(trainer.init(np.array([3, 4])), dataset, 4)
    assert metrics["critic/loss"].shape == (2,)
    for place, seed in enumerate((3, 4)):
        alone, _ = trainer.run(trainer.init(np.array([seed])), dataset, 4)
        for a, b in zip(
            jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True
        ):
            np.testing.assert_allclose(a[0], b[place], atol=2e-5)
    kernel = together.params["value"]["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert np.abs(np.asarray(kernel[0] - kernel[1])).max() > 0.1


def test_any_cut_into_dispatches_gives_the_same_bits(dataset):
    """Randomness is a function of seed and step, so where a run was stopped does not show.

    Compiled as for users: the kernels that are quick to compile round a single step differently.
    """
    config = tiny()
    programs = Trainer.uncompiled(Builder(config, SPEC).learner(), config, SPEC)
    run = jax.jit(programs.run, static_argnums=2, compiler_options=AS_USERS)
    start = jax.jit(programs.init)(np.array([0]))
    whole, parts = run(start, dataset, 6)[0], start
    for n in (1, 3, 2):
        parts, _ = run(parts, dataset, n)
    jax.tree.map(np.testing.assert_array_equal, _raw(whole), _raw(parts))


def _raw(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def test_rebracs_actor_and_slow_copies_move_in_every_second_update(dataset):
    """As in the code of Tarasov et al. and of Park et al.; the critic moves in each."""
    trainer = trainer_of(algorithm="rebrac", critic="td")
    state, moved = trainer.init(np.array([0])), []
    groups = lambda s: [s.params["actor"], s.params["critic"], *s.target_params.values()]
    for _ in range(4):
        before = jax.device_get(groups(state))
        state, _ = trainer.run(state, dataset, 1)
        pairs = zip(before, groups(state), strict=True)
        moved.append([_differ(a, b) for a, b in pairs])
    assert moved == [[False, True, False, False], [True] * 4] * 2


def _differ(a, b):
    return any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_state_is_donated(dataset):
    trainer = trainer_of()
    state = trainer.init(np.array([0]))
    trainer.run(state, dataset, 1)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_validation_moves_nothing(dataset):
    trainer = trainer_of()
    state = trainer.init(np.array([0]))
    metrics = trainer.evaluate(state, dataset)
    assert set(metrics) == {"policy/loss", "critic/loss", "value/loss"}
    assert not any(x.is_deleted() for x in jax.tree.leaves(state.params))


def poisoned(bad_steps, kind, value=np.nan):
    """A trainer of two scalars whose group b has a loss or a gradient that is `value` at some steps."""
    bad = jnp.zeros(40, bool).at[np.asarray(bad_steps, int)].set(True)

    def loss_b(params, target_params, x, noise):
        sound, _ = quadratic("b").example(params, target_params, x, noise)
        zero = params["b"] - jax.lax.stop_gradient(params["b"])
        slope = 0.0 if np.isnan(value) else 1.0  # of a root at 0: times 0 NaN, times 1 infinite

        def broken():
            return jnp.float32(value) if kind == "loss" else jnp.float32(slope) * jnp.sqrt(zero)

        return sound + jax.lax.cond(bad[x], broken, lambda: jnp.zeros(())), {}

    tx = optax.adam(0.1)
    step = jax.jit(
        functools.partial(
            train_step,
            losses={"b": Loss(loss_b, weighted=False), "a": quadratic("a")},
            tx=tx,
            tau=0.5,
        )
    )
    return state_of(tx, a=0.0, b=3.0), step


def _learned(state):
    return jax.tree.leaves((state.params, state.target_params, state.opt_state))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_but_is_counted(kind, value):
    state, step = poisoned([1, 2, 4], kind, value)
    for i in range(6):
        before = state
        state, metrics = step(state, jnp.array([i]))
        assert int(state.step) == i + 1
        same = [bool(x == y) for x, y in zip(_learned(before), _learned(state), strict=True)]
        assert all(same) if i in (1, 2, 4) else not all(same)
        assert np.isnan(metrics["a/loss"]) == (i in (1, 2, 4))
    assert (int(state.guard.skipped), int(state.guard.in_a_row)) == (3, 0)
    assert int(state.guard.culprits) == 0b01  # the first loss


def test_after_ten_bad_steps_in_a_row_nothing_is_learned_any_more():
    state, step = poisoned(range(3, 13), "loss")
    for i in range(3):
        state, _ = step(state, jnp.array([i]))
    before = _learned(state)
    for i in range(3, 20):
        state, _ = step(state, jnp.array([i]))
    assert all(bool(x == y) for x, y in zip(before, _learned(state), strict=True))
    assert int(state.guard.in_a_row) == 17 == int(state.step) - 3


def test_nine_bad_steps_in_a_row_are_survived():
    state, step = poisoned(range(3, 12), "loss")
    for i in range(13):
        before, (state, _) = state, step(state, jnp.array([i]))
    assert not any(bool(x == y) for x, y in zip(_learned(before)[:2], _learned(state)[:2]))
    assert (int(state.guard.skipped), int(state.guard.in_a_row)) == (9, 0)


def test_gradients_are_clipped_group_by_group():
    grads = {"critic": {"a": jnp.array([3.0]), "b": jnp.array([4.0])}, "policy": jnp.array([0.1])}
    found = optimizers.clip_groups(grads, 1.0)
    np.testing.assert_allclose([found["critic"]["a"][0], found["critic"]["b"][0]], [0.6, 0.8])
    np.testing.assert_allclose(found["policy"], [0.1])
    config = {"optimizer": {"learning_rate": 0.1, "clip_norm": 1.0}}
    tx = make_optimizer(config)
    _, state = tx.update(grads, tx.init(grads), grads)
    (moments,) = [
        s for s in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")
    ]
    np.testing.assert_allclose(moments.mu["critic"]["a"], [0.06], rtol=1e-5)  # Adam saw 0.6


def test_metrics_are_means_over_the_steps_that_count(dataset):
    """About half of the updates are left out, and the others have loss 1."""

    def loss(params, target_params, x, number):
        return jnp.where(number < 0.5, jnp.nan, 1.0) + 0.0 * params["a"], {}

    # One number for all examples: a batch is left out whole.
    draw = lambda key, size, x: jnp.full(size, jax.random.uniform(key))
    learner = Learner(lambda *_: {"a": jnp.zeros(())}, {"a": Loss(loss, draw, weighted=False)})
    trainer = Trainer.of(learner, tiny(), SPEC)
    state, metrics = trainer.run(trainer.init(np.array([0])), dataset, 12)
    assert 0 < int(state.guard.skipped[0]) < 12
    assert float(metrics["a/loss"][0]) == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0, 0), (1, 2, 3), (1, 0, 3)])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(value, where):
    sound = {"weights": jnp.ones((2, 3, 4)), "bias": jnp.ones(4), "loss": jnp.ones(())}
    _is_finite = lambda tree: jnp.isfinite(forms._checksum(tree))
    assert _is_finite(sound)
    assert not _is_finite(sound | {"weights": sound["weights"].at[where].set(value)})
    assert not _is_finite(sound | {"bias": sound["bias"].at[where[2]].set(value)})
    assert not _is_finite(sound | {"loss": jnp.float32(value)})
    opposite = sound["weights"].at[where].set(value).at[where[:2]].add(-value)
    assert not _is_finite({"weights": opposite})


def test_a_vector_whose_squares_are_not_finite_counts_as_not_finite():
    """Adam's second moment would be infinite for ever."""
    assert np.isfinite(forms._checksum({"a": jnp.full(3, 1e18)}))
    assert not np.isfinite(forms._checksum({"a": jnp.full(3, 1e20)}))
