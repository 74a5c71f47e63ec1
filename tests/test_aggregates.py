"""One Q of several members, and the pessimism that it acts with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

import qgf_guide.parts
from qgf_guide.aggregates import AGGREGATES, pessimistic, spread
from qgf_jax.envs.pool import Move, Played
from qgf_jax.errors import UserError
from qgf_jax.evaluation import worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.evaluation.evaluate import evaluate
from qgf_jax.evaluation.simulators import Usage
from qgf_jax.evaluation.sweep import Job
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.types import Obs, Spec

SPEC = Spec(state=(3,), action=2, chunk=2)
OBS = Obs(jnp.ones(3) * 0.2)


def test_pessimism_by_hand():
    q = jnp.array([1.0, 2.0, 6.0])  # mean 3, variance (4 + 1 + 9) / 3
    assert float(spread(q)) == pytest.approx((14 / 3) ** 0.5)
    assert float(pessimistic(q, 0.5)) == pytest.approx(3 - 0.5 * (14 / 3) ** 0.5)
    two = jnp.array([[1.0, 5.0], [4.0, 5.0]])
    np.testing.assert_allclose(pessimistic(two, 1.0), two.min(axis=0))
    np.testing.assert_allclose(pessimistic(two, 0.0), AGGREGATES["mean"](two, 7.0))
    np.testing.assert_array_equal(AGGREGATES["min"](two, 7.0), two.min(axis=0))


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_slope_of_pessimism_by_hand(rho):
    """d / d q_e = 1 / E - rho (q_e - mean) / (E std); only the mean's where members agree."""
    q = jnp.array([1.0, 2.0, 6.0])
    slope = (1.0 - rho * (q - 3.0) / (14 / 3) ** 0.5) / 3
    np.testing.assert_allclose(jax.grad(pessimistic)(q, rho), slope, rtol=1e-5)
    for same in (jnp.full(3, 0.1), jnp.zeros(3), jnp.ones(1)):
        np.testing.assert_allclose(jax.grad(pessimistic)(same, rho), 1 / len(same), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(pessimistic, 1)(q, rho), -((14 / 3) ** 0.5), rtol=1e-5)


def test_pessimism_guides_ranks_and_is_regressed_on():
    """Members that agree in one direction of the action and differ in another."""
    config = tiny(**{"networks.aggregate": "pessimistic", "networks.rho": 0.5})
    nets = Builder(config, SPEC).networks()
    members = nets.init_ensemble(jax.random.key(0), OBS, jnp.zeros(4))
    action = jnp.array([0.1, -0.2, 0.3, 0.4])
    each = lambda a: nets.apply_ensemble(members, OBS, a)
    by_hand = lambda a: each(a).mean() - 0.5 * jnp.abs(each(a)[0] - each(a)[1]) / 2
    params = {"critic": members, "online_critic": members}
    for q in (nets.q_of(members, OBS), nets.rank_of(params, OBS), nets.q_logit_of(members, OBS)):
        np.testing.assert_allclose(q(action), by_hand(action), rtol=1e-5)
        np.testing.assert_allclose(jax.grad(q)(action), jax.grad(by_hand)(action), rtol=1e-4)
    np.testing.assert_allclose(nets.aggregate(each(action)), by_hand(action), rtol=1e-5)
    other = nets.with_pessimism(2.0).q_of(members, OBS)(action)
    assert float(other) == pytest.approx(float(each(action).mean() - 2.0 * each(action).std()))


@pytest.mark.whole
def test_an_option_of_acting_replaces_the_runs_aggregate():
    """Of the least of two members, which the run has, rho = 1 is another name."""
    builder = Builder(tiny(), SPEC)
    params = builder.learner().init(jax.random.key(0), OBS, jnp.zeros(4))
    acting = algorithms.acting_params(params, {"critic": params["critic"]})

    def act(name, n, *options):
        sample = builder.sample(name, n, options)
        keys = jax.random.split(jax.random.key(1), 6)
        return jax.vmap(lambda k: sample(acting, OBS, k, jnp.float32(30.0)))(keys)

    for name, n in (("qgf", 1), ("best_of", 4), ("grad_step", 1)):
        plain, least, mean = act(name, n), act(name, n, ("rho", 1.0)), act(name, n, ("rho", 0.0))
        np.testing.assert_allclose(least, plain, atol=1e-4)
        assert np.abs(mean - plain).max() > 1e-3, name


def test_who_has_pessimism_as_an_option():
    assert Method.parse("qgf:rho=0.5") == ("qgf", (("rho", 0.5),))
    for name in ("best_of", "ifql", "grad_step", "fql", "qam", "robust_q"):
        assert "rho" in Method.named(name).critic_options, name
    for name in ("reference", "gcbc", "hiql", "gcivl"):  # nobody asks a critic
        with pytest.raises(UserError, match="rho"):
            Method.parse(f"{name}:rho=0.5")
    with pytest.raises(UserError, match="option rho of qgf is -1"):
        Method.parse("qgf:rho=-1")


def test_pessimism_stays_with_what_asks_the_critic():
    rho = (("rho", 0.5),)
    assert Arm("qgf", 1.0, 1, rho).acts_as == Arm("qgf", 1.0, 1, rho)
    assert Arm("qgf", 0.0, 1, rho).acts_as == Arm("reference", 0.0, 1)
    assert Arm("qgf", 0.0, 4, rho).acts_as == Arm("reference", 0.0, 4, rho)  # it still ranks
    assert Arm("best_of", 0.0, 4, rho).acts_as == Arm("reference", 0.0, 4, rho)
    assert Arm("fql", 0.0, 1, rho).acts_as == Arm("fql", 0.0, 1)
    assert Arm("fql", 0.0, 2, rho).acts_as == Arm("fql", 0.0, 2, rho)


def test_numbers_are_arguments_of_a_program_unless_they_are_the_default():
    def program(text):
        (arm,) = Arm.sweep([text], [1.0])
        return arm.program, arm.numbers

    assert program("qgf") == (Program("qgf", 1, ()), ())
    assert program("qgf:rho=0")[0] == program("qgf:rho=0.5")[0] == Program("qgf", 1, (), ("rho",))
    assert program("qgf:rho=0.5")[1] == (0.5,)
    steps, ratio = (("num_steps", 5),), (("schedule", "ratio"),)
    assert program("qgf:num_steps=5") == (Program("qgf", 1, steps), ())
    assert program("qgf:cap=3.0:schedule=ratio") == (Program("qgf", 1, (("cap", 3.0), *ratio)), ())
    made, numbers = program("qgf:cap=5:rho=0.25:schedule=ratio")
    assert (made, numbers) == (Program("qgf", 1, ratio, ("cap", "rho")), (5.0, 0.25))
    assert made.label == "qgf:schedule=ratio:cap:rho"
    assert program("qgf_smooth:samples=4:sigma=0.3")[0].arguments == ("sigma",)


@pytest.mark.whole(but_every=4)
@pytest.mark.parametrize(
    ("method", "n", "option", "values"),
    [("qgf", 1, "rho", (0.0, 0.5, 2.0)), ("best_of", 4, "rho", (0.0, 5.0)),
     ("qgf_regularized", 1, "epsilon", (0.0, 1.0)), ("qgf", 1, "cap", (1.0, 7.0))],
)  # fmt: skip
def test_a_program_acts_for_each_number_as_one_made_for_it(run_folder, method, n, option, values):
    restored, rng = LoadedRun.open(run_folder), np.random.default_rng(0)
    fixed = (("schedule", "ratio"),) if option == "cap" else ()
    obs = rng.normal(size=(2, 6, 2)).astype(np.float32)
    identity, weight = np.ones((2, 6, 3), np.int32), np.full((2, 6), 20.0, np.float32)
    act = worker_pool._compile_act(restored, Program(method, n, fixed, (option,)), 6)
    numbers = np.resize(np.float32(values), (2, 6))
    together = act(obs, identity, weight, numbers)
    found = []
    for value in values:
        own = Program(method, n, (*fixed, (option, value)))
        found.append(worker_pool._compile_act(restored, own, 6)(obs, identity, weight))
        mine = numbers == np.float32(value)
        np.testing.assert_allclose(together[mine], found[-1][mine], atol=1e-4)
    assert np.abs(found[0] - found[-1]).max() > 1e-3


def test_a_part_that_asks_for_a_traced_number_is_told(run_folder, monkeypatch):
    found, restored = Part.named("rule", "regularized"), LoadedRun.open(run_folder)

    def branching(velocity, q, endpoint, *, epsilon=0.1):
        return found.make(velocity, q, endpoint, epsilon=epsilon if epsilon else 0.0)

    changed = dataclasses.replace(found, make=branching)
    monkeypatch.setitem(qgf_guide.parts._PARTS, ("rule", "regularized"), changed)
    with pytest.raises(UserError, match=r"qgf_regularized: .* epsilon .* jnp.where"):
        worker_pool._compile_act(restored, Program("qgf_regularized", 1, (), ("epsilon",)), 2)


class Idle:
    """A pool in which an episode is over when its first chunk was played."""

    name, goal, chunks = "idle", None, ()

    def ask_reset(self, slots, seeds):
        return Move(slots, {})

    def ask_step(self, slots, chunks):
        self.chunks = chunks
        return Move(slots, {})

    def answer(self, move):
        played = [Played(float(x), 1, True, 1.0) for x in self.chunks]
        return np.zeros((len(move.slots), 2), np.float32), played


def test_sweeps_of_numbers_share_a_program_in_the_worker_pool(run_folder):
    """Each environment acts with the number of its own job."""
    restored, calls = LoadedRun.open(run_folder), []

    def act(obs, identity, weight, rho):
        calls.append(rho)
        return 100 * weight + rho

    jobs = [
        Job((arm,), seed, 1, episode)
        for arm in Arm.sweep([f"qgf:rho={rho}" for rho in (0, 0.25, 2)], [1.0, 3.0])
        for seed in (0, 1) for episode in range(3)
    ]  # fmt: skip
    groups = list(worker_pool._groups(2, 4, 1))
    played = list(worker_pool._Batch(restored, act, Idle(), groups, Usage()).play(jobs))
    assert len(played) == len(jobs) and len(calls) < len(jobs)
    for job, result in played:
        assert result["return"] == 100 * job.acts_as.weight + job.acts_as.numbers[0]


def test_a_sweep_of_numbers_is_compiled_once(run_folder, tmp_path, monkeypatch):
    traces, real = [], LoadedRun.sampler

    def counting(self, method, best_of, options):
        traces.append((method, [name for name, _ in options]))
        return real(self, method, best_of, options)

    monkeypatch.setattr(LoadedRun, "sampler", counting)
    safe = [f"qgf:gate={x}:slope_clip={x}:trust_radius={x}" for x in (0.1, 0.3)]
    swept = [*(f"qgf:rho={rho}" for rho in (0, 0.5, 1, 2)), "qgf", *safe]
    sweep = Arm.sweep(swept, [0.5, 1.0])
    evaluate(
        run_folder, sweep, episodes=1, tasks=(1,), envs=4, simulator="jax", out=tmp_path / "out"
    )
    numbers = ["gate", "slope_clip", "trust_radius"]
    assert sorted(traces) == [("qgf", []), ("qgf", numbers), ("qgf", ["rho"])]
    lines = Lines.read(tmp_path / "out" / "episodes.jsonl").records
    options = [line["options"] for line in lines]
    assert len(lines) == 7 * 2 * 2 * 2 and options.count({"rho": 0.5}) == options.count({}) == 8
