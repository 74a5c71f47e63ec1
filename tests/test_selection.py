"""How one of several candidates is chosen: closed forms, and the choice as an option of every method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_jax.errors import UserError
from qgf_jax.evaluation import worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.evaluation.evaluate import evaluate
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.samplers import density, jump, softmax
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import flops
from qgf_jax.types import Obs, Spec

ACTIONS = jnp.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4], [1.0, -1.0]])
Q = jnp.array([1.0, 1.5, 0.5, 2.0])


def test_a_softmax_average_by_hand():
    shares = np.exp(np.asarray(Q) / 0.5)
    expected = shares @ np.asarray(ACTIONS) / shares.sum()
    np.testing.assert_allclose(softmax._average(ACTIONS, Q, 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(softmax._average(ACTIONS, Q, 1e-3), ACTIONS[3], atol=1e-6)
    np.testing.assert_allclose(softmax._average(ACTIONS, Q, 1e6), ACTIONS.mean(axis=0), atol=1e-5)
    far = softmax._average(ACTIONS, Q + 1e4, 0.5)  # no overflow
    np.testing.assert_allclose(far, expected, rtol=1e-2)


def test_the_first_candidate_stays_unless_another_is_far_ahead():
    for margin, index in ((0.0, 3), (0.99, 3), (1.0, 0), (5.0, 0)):  # ahead by 1, and not by more
        np.testing.assert_array_equal(jump._first_unless(ACTIONS, Q, margin), ACTIONS[index])
    first_is_best = jump._first_unless(ACTIONS, Q.at[0].set(9.0), 0.0)
    np.testing.assert_array_equal(first_is_best, ACTIONS[0])


def test_a_density_of_candidates_by_hand():
    actions, n = np.asarray(ACTIONS, np.float64), len(ACTIONS)
    squares = ((actions[:, None] - actions[None]) ** 2).sum(-1)
    h = squares.sum() / (n * (n - 1))
    expected = [
        np.log(np.mean([np.exp(-squares[i, j] / h) for j in range(n) if j != i])) for i in range(n)
    ]
    found = density._log_density(ACTIONS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert int(found.argmin()) == 3  # far from all others
    np.testing.assert_allclose(density._log_density(50 * ACTIONS), expected, rtol=1e-4)
    np.testing.assert_allclose(density._log_density(jnp.tile(ACTIONS, (1, 9))), expected, rtol=1e-4)
    np.testing.assert_array_equal(density._log_density(jnp.ones((3, 2))), np.zeros(3))
    two = density._log_density(ACTIONS[:2])
    assert two[0] == two[1]  # of two, Q alone decides


SPEC, N = Spec(state=(3,), action=2, chunk=2), 5
OBS, KEY = Obs(jnp.ones(3) * 0.2), jax.random.key(9)


@pytest.fixture(scope="module")
def run():
    """(builder, parameters); the flow has 4 steps."""
    builder = Builder(tiny("qgf", **{"sampler.num_steps": 4}), SPEC)
    params = builder.learner().init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    return builder, algorithms.acting_params(params, {"critic": params["critic"]})


def chosen(run, method, n, *options):
    return run[0].sample(method, n, options)(run[1], OBS, KEY, jnp.float32(5.0))


@pytest.fixture(scope="module")
def candidates(run):
    """method -> (actions [N, D], their Q [N])."""
    builder, params = run

    def of(method):
        sample = builder.sample(method)
        actions = jax.vmap(lambda k: sample(params, OBS, k, jnp.float32(5.0)))(
            jax.random.split(KEY, N)
        )
        return actions, jax.vmap(builder.networks().rank_of(params, OBS))(actions)

    return {method: of(method) for method in ("reference", "qgf")}


@pytest.mark.parametrize("method", ["best_of", "qgf"])
def test_options_choose_among_the_candidates_of_any_method(run, candidates, method):
    actions, q = candidates["reference" if method == "best_of" else method]
    assert int(q.argmax()) != 0
    gap = float(q.max() - q[0])
    log_density = density._log_density(actions)
    both = q + 3.0 * log_density
    assert int(both.argmax()) != int((q - 3.0 * log_density).argmax())
    cases = [
        ((), actions[q.argmax()]),
        ((("select", "best_of"),), actions[q.argmax()]),
        ((("q_temperature", 0.1), ("select", "softmax")), softmax._average(actions, q, 0.1)),
        ((("density_weight", 3.0), ("select", "density")), actions[both.argmax()]),
        ((("margin", 0.9 * gap), ("select", "jump")), actions[q.argmax()]),
        ((("margin", 1.1 * gap), ("select", "jump")), actions[0]),
    ]
    for options, expected in cases:
        np.testing.assert_allclose(
            chosen(run, method, N, *options), expected, atol=1e-5, err_msg=str(options)
        )


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize("method", ["best_of", "qgf", "bptt"])
def test_halfway_goes_on_with_what_looks_best_at_half_the_time(run, method):
    """Of noise integrated for half the steps, by hand; then it is that candidate's own action."""
    builder, params = run
    nets = builder.networks()
    velocity = nets.velocity(params["policy"], OBS)
    q, rank = nets.q_of(params["critic"], OBS), nets.rank_of(params, OBS)

    def field(a, t, v):
        if method == "best_of":
            return v
        if method == "qgf":
            return v + 5.0 * jax.grad(q)(jnp.clip(a + (1 - t) * v, -1, 1))

        def ends(x):
            for k in range(round(4 * t), 4):
                x = x + velocity(x, jnp.float32(k / 4)) / 4
            return q(jnp.clip(x, -1, 1))

        return v + 5.0 * jax.grad(ends)(a)

    looks = []
    keys = jax.random.split(KEY, N)
    for key in keys:
        a = jax.random.normal(key, (4,))
        for k in range(2):
            a = a + field(a, k / 4, velocity(a, jnp.float32(k / 4))) / 4
        looks.append(float(rank(jnp.clip(a + 0.5 * velocity(a, jnp.float32(0.5)), -1, 1))))
    alone = "reference" if method == "best_of" else method
    own = builder.sample(alone)(params, OBS, keys[int(np.argmax(looks))], jnp.float32(5.0))
    found = chosen(run, method, N, ("select", "halfway"))
    np.testing.assert_allclose(found, own, atol=1e-4)


def test_halfway_costs_what_it_says():
    """n (T // 2 + 1) + T - T // 2 velocities against n T."""
    # The critic is too small to count.
    wide = {"sampler.num_steps": 10, "networks.policy_hidden": (64, 64)}
    builder = Builder(tiny("qgf", **wide, **{"networks.critic_hidden": (1,)}), SPEC)
    params = jax.eval_shape(builder.learner().init, KEY, SPEC.example(), jnp.zeros(4))
    acting = algorithms.acting_params(params, {"critic": params["critic"]})

    def cost(n, *options):
        act = jax.jit(builder.sample("reference", n, options))
        return flops.count(act.lower(acting, OBS, KEY, jnp.float32(0)).compile())

    whole = cost(4)
    assert cost(4, ("select", "halfway")) / whole == pytest.approx((4 * 6 + 5) / 40, rel=0.02)
    assert cost(4, ("select", "best_of")) == whole


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("best_of:select=sofmax", "did you mean 'softmax'"),
        ("best_of:q_temperature=0.3", "option q_temperature needs select=softmax"),
        ("best_of:margin=1:select=softmax", "option margin needs select=jump"),
        ("best_of:q_temperature=0:select=softmax", "must be a finite number above 0"),
        ("fql:select=halfway", "select=halfway stops a guided flow half-way"),
        ("grad_step:select=halfway", "stops a guided flow half-way"),
        ("fql:select=seed", "select=seed chooses the noise that a flow policy starts at"),
        ("qam:select=seed", "chooses the noise that a flow policy starts at"),
        ("seed_critic:rho=1", "option of seed_critic"),  # no critic is asked
        ("reference:select=softmax", "option of reference"),  # it has no candidates
        ("hiql:select=softmax", "option of hiql"),
    ],
)
def test_choices_that_cannot_be_are_explained(text, hint):
    with pytest.raises(UserError, match=hint):
        Method.parse(text)


def test_a_choice_among_one_is_refused_and_among_several_is_an_arm_of_its_own():
    with pytest.raises(UserError, match="1 candidate has no use for select=softmax"):
        Arm.sweep(["qgf:select=softmax"], [1.0])
    sweep = Arm.sweep(["qgf:select=softmax:q_temperature=0.3"], [0.0, 1.0], [1, 4])
    options = (("q_temperature", 0.3), ("select", "softmax"))
    assert [a.acts_as for a in sweep] == [
        Arm("reference", 0.0, 1), Arm("qgf", 1.0, 1),
        Arm("reference", 0.0, 4, options), Arm("qgf", 1.0, 4, options),
    ]  # fmt: skip
    assert sweep[-1].sampler.label == "qgf:q_temperature=0.3:select=softmax + best of 4"
    given = ("q_temperature",)
    assert sweep[-1].program == Program("qgf", 4, (("select", "softmax"),), given)
    assert sweep[-1].numbers == (0.3,)
    (best,) = Arm.sweep(["best_of:select=softmax"], [0.0])
    assert best.acts_as == Arm("reference", 0.0, 4, (("select", "softmax"),))
    assert "q_temperature" in Method.named("iql").selector_options  # beside temperature, its own


@pytest.mark.whole
def test_choices_are_evaluated_and_resumed(run_folder, tmp_path, monkeypatch):
    texts = [
        *(f"best_of:select=softmax:q_temperature={x}" for x in (0.1, 0.3)),
        "best_of:select=halfway",
        "best_of",
    ]
    sweep, out, traces = Arm.sweep(texts, [0.0]), tmp_path / "out", []
    real = worker_pool._compile_act

    def counting(restored, program, per_seed):
        traces.append(program)
        return real(restored, program, per_seed)

    monkeypatch.setattr(worker_pool, "_compile_act", counting)
    how = {"episodes": 1, "selection_episodes": 0, "tasks": (1,), "envs": 4, "workers": 1}
    evaluate(run_folder, sweep[1:], **how, out=out)
    evaluate(run_folder, sweep, **how, out=out)
    lines = Lines.read(out / "episodes.jsonl").records
    assert len(lines) == 4 * LoadedRun.open(run_folder).seeds
    assert {str(line["options"].get("q_temperature")) for line in lines} == {"0.1", "0.3", "None"}
    assert len(traces) == len(set(traces)) + 1  # the temperature that came later


def test_a_traced_number_acts_as_one_of_the_program(run_folder):
    restored = LoadedRun.open(run_folder)
    obs, identity = np.zeros((2, 2, 2), np.float32), np.ones((2, 2, 3), np.int32)
    identity[:, 1] = 2
    zero = np.zeros((2, 2), np.float32)
    fixed = (("select", "softmax"),)
    act = worker_pool._compile_act(restored, Program("best_of", 4, fixed, ("q_temperature",)), 2)
    own = Program("best_of", 4, (("q_temperature", 0.02), *fixed))
    alone = worker_pool._compile_act(restored, own, 2)(obs, identity, zero)
    np.testing.assert_allclose(act(obs, identity, zero, zero + 0.02), alone, atol=1e-5)
    assert np.abs(act(obs, identity, zero, zero + 5.0) - alone).max() > 1e-4
