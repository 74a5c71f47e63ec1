"""Weights from data alone: densities, gains and distances in closed form, criteria by hand, the file."""

import dataclasses
import functools
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import command, tiny

from qgf_guide import flow
from qgf_jax.core import density
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError
from qgf_jax.methods.criteria import Measured
from qgf_jax.methods.parts import Part
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.judge import check_judge
from qgf_jax.runs.loaded import LoadedRun, load_policy
from qgf_jax.runs.run import Run
from qgf_jax.runs.weights import ChosenWeights, check_can_be_evaluated
from qgf_jax.training import weighing
from qgf_jax.training.loop import pretrain
from qgf_jax.training.weighing import Effort, State
from qgf_jax.training.weights import choose_weights

STEPS = 5
TURN = np.array([[0.3, -0.8], [0.5, 0.1]], np.float32)
NOISE = np.array([0.4, -1.1], np.float32)


def linear(a, t):
    """Its Euler map is x -> (I + (1 + t) TURN / n) x + t / n."""
    return (1 + t) * TURN @ a + t


def test_density_of_a_linear_flow_is_gaussian():
    whole, shift = np.eye(2), np.zeros(2)
    for k in range(STEPS):
        step = np.eye(2) + (1 + k / STEPS) * TURN / STEPS
        whole, shift = step @ whole, step @ shift + k / STEPS / STEPS
    action = whole @ NOISE + shift
    expected = -0.5 * NOISE @ NOISE - np.log(2 * np.pi) - np.log(abs(np.linalg.det(whole)))
    there = density.Path.forward(linear, NOISE, num_steps=STEPS)
    np.testing.assert_allclose(there.action, action, rtol=1e-5)
    np.testing.assert_allclose(there.log_density, expected, rtol=1e-5)
    plain = flow.integrate(linear, jnp.asarray(NOISE), num_steps=STEPS)
    np.testing.assert_allclose(there.action, plain, rtol=1e-6)
    back = density.Path.backward(linear, there.action, jnp.zeros((STEPS, 2)), num_steps=STEPS)
    np.testing.assert_allclose(back.points, there.points, atol=1e-5)
    np.testing.assert_allclose(back.log_density, expected, rtol=1e-5)


def test_density_of_a_curved_flow_is_found_again_and_integrates_to_one():
    curved = lambda a, t: 2 * jnp.tanh(3 * a) * (1 - t) - a
    grid = jnp.linspace(-8, 8, 4001)[:, None]
    forward = jax.vmap(functools.partial(density.Path.forward, curved, num_steps=STEPS))
    there = forward(grid)
    near = forward(grid + 0.3).points
    back = jax.vmap(functools.partial(density.Path.backward, curved, num_steps=STEPS))(
        there.action, near
    )
    np.testing.assert_allclose(back.log_density, there.log_density, atol=2e-3)
    mass = np.trapezoid(np.exp(there.log_density), there.action[:, 0])
    np.testing.assert_allclose(mass, 1.0, atol=1e-3)


def test_an_action_that_the_flow_cannot_reach_has_no_density():
    square = lambda a, t: a**2 - a  # x -> x ** 2 in one step
    near = jnp.full((1, 1), 0.9)  # from here the search ends beside 0, where the Jacobian is not 0
    at = lambda a: density.Path.backward(square, jnp.array([a]), near, num_steps=1)
    assert at(-1.0).log_density == -np.inf
    np.testing.assert_array_equal(at(-1.0).points, near)
    expected = -0.5 * 4.0 - 0.5 * np.log(2 * np.pi) - np.log(4.0)
    np.testing.assert_allclose(at(4.0).log_density, expected, rtol=1e-5)


def unbound(num_steps=1, data=None) -> Any:
    """A `State` without networks."""
    return State(*[None] * 6)._replace(num_steps=num_steps, data=data)


CURVATURE = 4.0


@functools.partial(jax.jit, static_argnames="num_steps")
def on_a_parabola(weight, num_steps):
    """(gain, promise) of Q = -c |a|^2 / 2 where the reference stays at its noise."""
    q = lambda a: -0.5 * CURVATURE * a @ a
    still = lambda a, t: jnp.zeros_like(a)
    free = functools.partial(flow.endpoint, clip=False)
    direct = Part.named("rule", "one_step").make(still, q, free)
    action, promised = unbound(num_steps).act(direct, NOISE, weight)
    return q(action) - q(NOISE), promised


@pytest.mark.parametrize("weight", [0.1, 0.25, 0.3])
def test_gain_and_promise_on_a_parabola(weight):
    """In one step the ratio is 1 - w c / 2; in n steps |a| shrinks by 1 - w c / n in each."""
    gain, promised = on_a_parabola(weight, 1)
    np.testing.assert_allclose(promised, weight * CURVATURE**2 * NOISE @ NOISE, rtol=1e-5)
    np.testing.assert_allclose(gain / promised, 1 - weight * CURVATURE / 2, rtol=1e-5)
    gain, promised = on_a_parabola(weight, STEPS)
    shrunk = (1 - weight * CURVATURE / STEPS) ** (2 * np.arange(STEPS + 1))
    size = CURVATURE * NOISE @ NOISE
    np.testing.assert_allclose(gain, 0.5 * size * (1 - shrunk[-1]), rtol=1e-5)
    expected = weight * CURVATURE * size * shrunk[:-1].sum() / STEPS
    np.testing.assert_allclose(promised, expected, rtol=1e-5)


def measured(weights, states=1, **known) -> Measured:
    """Where nothing is known, zeros."""
    fields: dict[str, Any] = dict.fromkeys(Measured._fields, np.zeros((len(weights), states)))
    fields |= dict.fromkeys(("own_distance", "rare"), np.zeros(states)) | {"disjoint": True}
    return Measured(**{**fields, "weights": np.array(weights), "relative": 0.5, **known})


def chosen(name, *given, **known):
    return Part.named("criterion", name).make(measured(*given, **known)).weight


def test_trust_ends_where_half_of_what_was_promised_is_not_gained():
    """On a parabola with one step, at 1 / c."""
    weights = np.geomspace(0.2, 0.3, 101) * 4 / CURVATURE
    gain, promised = jax.vmap(lambda w: on_a_parabola(w, 1))(weights)
    arrays = [np.asarray(x)[:, None] for x in (gain, promised)]
    for name, fields in (
        ("trust", ("other_gain", "other_promised")),
        ("trust_own", ("gain", "promised")),
    ):
        found = chosen(name, weights, **dict(zip(fields, arrays, strict=True)))
        np.testing.assert_allclose(found, 1 / CURVATURE, rtol=0.005)
    assert np.isnan(chosen("trust", weights, other_gain=None, other_promised=None))


def test_distance_and_relative_weight_by_hand():
    there = unbound(data=jnp.array([[3.0, 4.0], [-6.0, 8.0]]))
    assert there.distance(jnp.array([0.0, 0.0])) == 5.0
    covariance = jnp.array([[4.0, 1.0], [1.0, 1.0]])
    one = weighing._relative_weight(covariance, jnp.float32(2.0), jnp.array([[1.0, 0.0]]))
    assert one == 2.0  # S g / 2 = (2, .5), nearest to 2 g
    both = weighing._relative_weight(
        covariance, jnp.float32(2.0), jnp.array([[2.0, 0.0], [0.0, 2.0]])
    )
    assert both == 1.25
    assert chosen("relative", [1.0]) == 0.5


WEIGHTS = [1.0, 10.0, 100.0, 1000.0]


def test_distance_may_be_as_far_as_the_references_own():
    own = np.array([2.0, 4.0])
    rising = np.array([[2.0, 3.0], [2.5, 3.3], [2.5, 3.7], [9.0, 9.0]])  # -.5, -.1, .1 and more
    found = chosen("distance", WEIGHTS, 2, distance=rising, own_distance=own)
    np.testing.assert_allclose(found, 10**1.5, rtol=1e-6)  # half-way between 10 and 100, in log w
    assert chosen("distance", WEIGHTS, 2, distance=rising + 9, own_distance=own) == 0
    assert chosen("distance", WEIGHTS, 2, distance=rising - 9, own_distance=own) == 1000
    back = rising[[2, 1, 1, 3]]  # too far, then near: the largest weight counts
    assert 100 < chosen("distance", WEIGHTS, 2, distance=back, own_distance=own) < 110


def test_nearness_allows_two_percent_of_the_references_own_distance():
    own = np.array([2.0, 4.0])
    rising = own * np.array([[0.9], [1.01], [1.03], [2.0]])
    found = chosen("near", WEIGHTS, 2, distance=rising, own_distance=own)
    np.testing.assert_allclose(found, 10**1.5, rtol=1e-6)  # half-way between 10 and 100, in log w
    assert chosen("near", WEIGHTS, 2, distance=9 * rising, own_distance=9 * own) == found
    # Of the mean distance, not the mean of what each is of its own.
    shifted = np.array([[0.0, 0.0], [0.5, -0.5], [1.0, -0.7], [9.0, 9.0]])  # 0, 0, 5 % and more
    assert 10 < chosen("near", WEIGHTS, 2, distance=own + shifted, own_distance=own) < 30


def test_half_of_the_actions_may_be_rarer_than_all_but_one_in_a_hundred():
    rare = np.array([-5.0, -6.0, -7.0, -8.0])
    log_density = rare + np.array([[1, 1, 1, 1], [-1, 1, 1, 1], [-1, -1, -1, 1], [-np.inf] * 4])
    found = chosen("typical", WEIGHTS, 4, log_density=log_density, rare=rare)
    np.testing.assert_allclose(found, 10**1.5, rtol=1e-6)  # the share is 1/4 at 10, 3/4 at 100


def test_divergence_is_bounded_by_that_of_best_of_sixteen():
    limit = np.log(16) - 15 / 16
    assert limit == pytest.approx(1.835, abs=1e-3)
    ratio = np.array([[0.0, 0.0], [limit, limit], [np.inf, 0.0], [np.inf, np.inf]])
    assert chosen("divergence", WEIGHTS, 2, log_ratio=ratio) == 10
    ratio = limit + np.array([[-2.0, -2.0], [-2.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    np.testing.assert_allclose(chosen("divergence", WEIGHTS, 2, log_ratio=ratio), 10**1.5)


def test_agreement_is_within_one_standard_error_of_the_best_by_the_difference_in_each_state():
    """Of two states that are 10 apart; what is paired differs by 2 ± 1 and more."""
    two = np.array([0.0, 10.0])
    gain = two + np.array([[3.0, 3.0], [5.0, 7.0], [8.0, 8.0], [4.0, 9.0]])
    # Short of the best by 5 ± 0, 2 ± 1, 0 and 1.5 ± 2.5.
    assert chosen("agree", WEIGHTS, 2, other_gain=gain) == 100
    closer = np.where(gain == 17, 18.5, gain)  # at 10 by 1.25 ± 1.75
    found = Part.named("criterion", "agree").make(measured(WEIGHTS, 2, other_gain=closer))
    assert found.weight == 10
    np.testing.assert_allclose(found.curve, [5.0, -0.5, 0.0, -1.0])
    assert found.limit == 0


def test_agreement_may_be_on_no_weight_and_needs_a_judge():
    harm = np.array([[-1.0, -2.0], [-3.0, -3.0], [-4.0, -4.0], [np.inf, 1.0]])
    assert chosen("agree", WEIGHTS, 2, other_gain=harm) == 0
    little = np.abs(harm[:1]) * np.array([[1.0, -0.9]])  # a gain of -.4 ± 1.4
    assert chosen("agree", [1.0], 2, other_gain=little) == 0
    assert chosen("agree", [1.0], 2, other_gain=np.array([[1.0, 2.0]])) == 1
    assert np.isnan(chosen("agree", WEIGHTS, 2, other_gain=harm, disjoint=False))
    assert np.isnan(chosen("agree", WEIGHTS, 2, other_gain=None))


LITTLE = Effort(
    states=12, dense_states=4, actions=4, noises=8, bank=64, neighbours=4, factors=(0.1, 1.0, 10.0),
    evaluated=slice(1, None), transitions=16, updates=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def calibrated(run_folder, tmp_path_factory):
    """(folder of a run with two seeds and weights by every criterion, what `choose_weights` said)."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("weights") / "run")
    return folder, choose_weights(folder, effort=LITTLE, evaluate=True)


@pytest.mark.whole
def test_weights_and_curves_are_stored_beside_the_checkpoint(calibrated):
    folder, said = calibrated
    read = ChosenWeights.read(folder)
    assert read is not None and read.step == said["step"] == 4
    assert read.criteria.keys() == said["weights"].keys() == Part.all("criterion").keys()
    assert np.shape(read.grid) == (2, 3) and np.shape(read.criteria["distance"]["curves"]) == (2, 3)
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        assert {*arrays.files} == {*Measured._fields} - {"disjoint"}
        np.testing.assert_allclose(arrays["weights"][:, 1], arrays["relative"], rtol=1e-5)
        assert arrays["log_density"].shape == (2, 3, 4) and arrays["gain"].shape == (2, 3, 12)
        # A hundred times the weight moves no action the other way.
        assert (arrays["gain"].mean(axis=-1)[:, 2] > 0).all()
        known = np.isfinite(arrays["evaluated"])
    assert known.shape == (2, 4, 12) and known[:, [0, 2, 3]].all() and not known[:, 1].any()
    assert None not in said["weights"]["evaluated"]
    assert [curve[0] for curve in read.criteria["evaluated"]["curves"]] == [None, None]
    assert all(weight > 0 for weight in said["weights"]["relative"])
    assert said["weights"]["agree"] == [None, None] and read.judge is None
    assert "judge" not in json.loads((folder / "weights.json").read_text())


def test_what_is_measured_is_of_the_actions_that_qgf_takes(calibrated):
    """In one state: Q of the sampler's own action less that of the reference's, the same noise."""
    folder, _ = calibrated
    loaded = LoadedRun.open(folder)
    nets, params = loaded.networks(), loaded.params_of(1)
    obs, key, weight = loaded.spec.example(), jax.random.key(3), jnp.float32(0.7)
    q = nets.q_of(params["critic"], obs)
    end = functools.partial(flow.endpoint, clip=True)
    direct = Part.named("rule", "one_step").make(nets.velocity(params["policy"], obs), q, end)
    noise = jax.random.normal(key, (nets.chunk_dim,))
    steps = loaded.run.config["sampler"]["num_steps"]
    action, _ = unbound(steps).act(direct, noise, weight)
    expected = loaded.sampler("qgf")(params, obs, key, weight)
    np.testing.assert_allclose(nets.clip(action), expected, atol=1e-5)


def test_a_member_that_judges_does_not_guide(run_folder):
    """A member that is flat gains nothing where the others guide, and where it guides nothing moves."""
    loaded = LoadedRun.open(run_folder)
    params, weights = loaded.params_of(0), jnp.array([0.5, 2.0])

    @jax.jit
    def found(flat):
        critic = jax.tree.map(lambda x: x.at[flat].set(0.0), params["critic"])
        groups = {"policy": params["policy"], "critic": critic}
        data = jnp.zeros((1, loaded.spec.chunk_dim))
        obs = loaded.spec.example()
        return State(loaded.networks(), groups, 3, obs, data, jax.random.key(0)).guided(weights)

    last, first = found(1), found(0)
    np.testing.assert_allclose(last["other_gain"], 0, atol=1e-6)
    assert (last["other_promised"] > 1e-4).all()
    np.testing.assert_allclose(first["other_gain"], 0, atol=1e-6)
    np.testing.assert_array_equal(first["other_promised"], 0)


def test_a_judge_sees_its_own_units_of_the_actions_that_the_whole_critic_guides(run_folder):
    """Its observations are 0.3 higher, its actions in another unit, and it keeps them in its box."""
    loaded = LoadedRun.open(run_folder)
    params, weights, steps = loaded.params_of(0), jnp.array([0.5, 2.0]), 3
    ours = loaded.spec._replace(action_shift=(0.1, 0.2), action_scale=(2.0, 2.0))
    shifted = [mean + 0.3 for mean in loaded.spec.mean]
    theirs = loaded.spec.scaled(shifted, loaded.spec.std)
    theirs = theirs._replace(action_shift=(0.3, 0.0), action_scale=(1.5, 3.0))
    nets, judge = (dataclasses.replace(loaded.networks(), spec=spec) for spec in (ours, theirs))
    obs, data = loaded.spec.example(), jnp.zeros((1, loaded.spec.chunk_dim))
    groups = {**params, "judge": jax.tree.map(lambda x: 3 * x, params["critic"])}
    state = State(nets, groups, steps, obs, data, jax.random.key(0), judge)
    found = jax.jit(lambda: state.guided(weights))()

    @jax.jit
    def expected():
        q, velocity = nets.q_of(params["critic"], obs), nets.velocity(params["policy"], obs)
        direct = Part.named("rule", "one_step").make(
            velocity, q, functools.partial(flow.endpoint, clip=True)
        )
        act_by = lambda w: nets.clip(state.act(direct, state.noise, w)[0])
        lower = obs._replace(state=obs.state - jnp.float32(0.3))
        by_judge = nets.q_of(groups["judge"], lower)

        def judged(action):
            turned = 2.0 * action.reshape(-1, 2) + jnp.array([[0.1 - 0.3, 0.2 - 0.0]])
            return by_judge(jnp.clip(turned / jnp.array([[1.5, 3.0]]), -1, 1).reshape(-1))

        return jax.vmap(lambda w: judged(act_by(w)) - judged(act_by(jnp.float32(0))))(weights)

    np.testing.assert_allclose(found["other_gain"], expected(), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found["other_promised"], found["promised"])
    assert np.abs(found["other_gain"] - found["gain"]).min() > 1e-4


@pytest.fixture(scope="module")
def halves(maze_data, tmp_path_factory):
    """Folders of a run on even trajectories with two seeds, and of one on odd ones with one seed."""
    folder, base = tmp_path_factory.mktemp("halves"), {"data.dir": str(maze_data)}
    for part_of, seeds in (("even", 2), ("odd", 1)):
        config = tiny(**base, **{"data.part": part_of, "seeds": seeds})
        pretrain(config, folder / part_of)
    return folder / "even", folder / "odd"


@pytest.mark.whole
def test_a_run_on_the_other_half_judges_and_says_so(halves, capsys, monkeypatch):
    even, odd = halves
    assert LoadedRun.open(even).spec.mean != LoadedRun.open(odd).spec.mean
    little = functools.partial(choose_weights, effort=LITTLE)
    monkeypatch.setattr("qgf_jax.training.weights.choose_weights", little)
    assert command("calibrate", str(even), f"--judge={odd}") == 0
    said, read = json.loads(capsys.readouterr().out), ChosenWeights.read(even)
    assert read is not None and read.judge == {
        "run": str(odd),
        "part": "odd",
        "step": 4,
        "state": Checkpoints(odd).digest(4),
    }
    assert None not in said["weights"]["agree"] + said["weights"]["trust"]
    with np.load(even / "weights.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["other_promised"], arrays["promised"])
        assert (arrays["other_gain"] != arrays["gain"]).any()
    load_policy(even, "qgf_auto", by="agree")
    with pytest.raises(UserError, match="no weight by evaluated.*give `qgf calibrate --evaluate`"):
        load_policy(even, "qgf_auto", by="evaluated")
    assert command("verify", str(even)) == 0
    content = json.loads((even / "weights.json").read_text())
    content["judge"]["state"] = "another"
    (even / "weights.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was altered"):
        load_policy(even, "qgf_auto", by="agree")


def test_without_a_judge_nothing_agrees(calibrated):
    with pytest.raises(UserError, match="has chosen no weight by agree, which qgf_auto needs"):
        load_policy(calibrated[0], "qgf_auto", by="agree")


def changed(run, **changes):
    """A run with other values in its config, and in its record of spec and data."""
    config = dict(run.config)
    for key in [key for key in changes if "." in key or key in config]:
        section, _, name = key.rpartition(".")
        new = changes.pop(key)
        config |= {section: config[section] | {name: new}} if section else {name: new}
    spec = run.spec | changes.pop("spec", {})
    return run._replace(config=config, spec=spec, dataset=run.dataset | changes)


UNFIT = {
    "another task": ({"env": "pointmaze-medium-stitch-singletask-task2-v0"}, "env is .*task2"),
    "other returns": ({"data.discount": 0.5}, "data.discount is 0.5 there and 0.99 here"),
    "other chunks": ({"data.chunk": 2}, "data.chunk is 2 there and 3 here"),
    "other widths": ({"spec": {"action": 3}}, "the shape of actions is 3 there and 2 here"),
    "other parts": ({"observations": [["x", 2]]}, "the order of an observation's parts"),
    "no Q": ({"critic": "ivl"}, "its critic 'ivl' has no Q of actions"),
    "three seeds": ({"seeds": 3}, "has 3 seeds and .* has 2: train a judge with as many, or with"),
    "all": ({"data.part": "all"}, r"data.part is all and even of the same data.*data.part=even"),
    "the same half": ({"data.part": "even"}, "data.part is even and even of the same data"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_who_cannot_judge_is_told_so_in_one_line(case, run_folder):
    """What differs otherwise, as normalisation and units of actions, is no matter."""
    run = changed(Run.open(run_folder), **{"data.part": "even"})
    fit = changed(run, **{"data.part": "odd", "seeds": 1, "spec": {"state_mean": (0.0, 0.0)}})
    check_judge(run, fit)
    check_judge(run, changed(fit, seeds=2))
    changes, hint = UNFIT[case]
    with pytest.raises(UserError, match=hint) as error:
        check_judge(run, changed(fit, **changes))
    assert "\n" not in str(error.value)


def test_q_that_is_no_return_is_refused_in_one_line(run_folder):
    run = Run.open(run_folder)
    check_can_be_evaluated(run)
    with pytest.raises(UserError, match="critic 'qrl' is no return.*leave --evaluate out") as error:
        check_can_be_evaluated(run._replace(config={**run.config, "critic": "qrl"}))
    assert "\n" not in str(error.value)


def test_another_files_data_are_taken_with_a_warning(run_folder, capsys):
    run = Run.open(run_folder)
    check_judge(run, changed(run, sha256="0" * 64))
    assert "was trained on another file" in capsys.readouterr().err


def test_a_judge_of_the_same_trajectories_leaves_nothing_behind(run_folder, capsys):
    assert command("calibrate", str(run_folder), f"--judge={run_folder}") == 2
    error = capsys.readouterr().err
    assert error.startswith("qgf: error: ") and len(error.splitlines()) == 1
    assert not (run_folder / "weights.json").exists()


def test_qgf_auto_is_qgf_under_the_weight_of_its_seed(calibrated):
    folder, said = calibrated
    obs, key = np.array([1.0, 2.0], np.float32), jax.random.key(0)
    load_policy(folder, "qgf_auto", by="evaluated")
    for seed in (0, 1):
        weight = said["weights"]["relative"][seed]
        for factor in (1.0, 3.0):
            auto = load_policy(folder, "qgf_auto", factor, seed=seed, by="relative")(obs, key)
            plain = load_policy(folder, "qgf", factor * weight, seed=seed)(obs, key)
            np.testing.assert_allclose(auto, plain, atol=1e-5)
    assert said["weights"]["relative"][0] != said["weights"]["relative"][1]


def test_a_run_without_weights_says_how_to_choose_them(run_folder, capsys):
    with pytest.raises(UserError, match="no weight that was chosen from its data: give `qgf calib"):
        load_policy(run_folder, "qgf_auto")
    with pytest.raises(UserError, match="no weight .* its data: give `qgf calibrate --evaluate`"):
        load_policy(run_folder, "qgf_auto", by="evaluated")
    words = [f"--workdir={run_folder}", "--methods=qgf_auto", "--episodes=1"]
    assert command("evaluate", *words) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("qgf: error: ") and "give `qgf calibrate`" in error
    assert "Traceback" not in error and not (run_folder / "episodes.jsonl").exists()


@pytest.mark.parametrize("slip", ["weight", "curve", "gone", "nonsense", "step", "state"])
def test_what_was_altered_is_refused_and_no_other_method_minds(calibrated, tmp_path, slip, capsys):
    folder = shutil.copytree(calibrated[0], tmp_path / "run")
    record, arrays = folder / "weights.json", folder / "weights.npz"
    if slip == "curve":
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    elif slip == "gone":
        arrays.unlink()
    elif slip == "nonsense":
        record.write_text("[")
    elif slip == "weight":
        content = json.loads(record.read_text())
        content["criteria"]["distance"]["weights"] = [9.0, 9.0]
        record.write_text(json.dumps(content))
    else:
        read = ChosenWeights.read(folder)
        assert read is not None
        read._replace(**{slip: {"step": 3, "state": "another"}[slip]}).write(folder, {})
    hint = "another checkpoint" if slip in ("step", "state") else "was altered"
    with pytest.raises(UserError, match=f"{hint}.*give `qgf calibrate` again"):
        load_policy(folder, "qgf_auto")
    load_policy(folder, "qgf")
    assert command("verify", str(folder)) == (0 if hint == "another checkpoint" else 2)
    shown = capsys.readouterr()
    assert '"current": false' in shown.out if hint == "another checkpoint" else hint in shown.err


def test_a_criterion_that_could_not_choose_is_named(calibrated, tmp_path):
    folder = shutil.copytree(calibrated[0], tmp_path / "run")
    read = ChosenWeights.read(folder)
    assert read is not None
    criteria = {**read.criteria, "trust": {**read.criteria["trust"], "weights": [None, 1.0]}}
    read._replace(criteria=criteria).write(folder, {})
    with pytest.raises(UserError, match="has chosen no weight by trust, which qgf_auto needs"):
        load_policy(folder, "qgf_auto", by="trust")
    load_policy(folder, "qgf_auto", by="distance")


def test_other_data_are_refused(calibrated, tmp_path, monkeypatch):
    folder = shutil.copytree(calibrated[0], tmp_path / "run")
    content = json.loads((folder / "config.json").read_text())
    content["dataset"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was trained on other data"):
        Loaded.of_run(LoadedRun.open(calibrated[0]).run._replace(workdir=folder))


def test_training_chooses_at_its_end_if_asked_and_once(maze_data, tmp_path, monkeypatch, capsys):
    config = tiny(**{"data.dir": str(maze_data), "train.steps": 2, "train.calibrate": True})
    calls = []

    def choose(workdir, data):
        calls.append(data.take())  # not taken by training
        if len(calls) == 1:
            raise UserError("the critic is flat")
        ChosenWeights(2, Checkpoints(workdir).digest(2), {}, [[1.0]]).write(workdir, {})

    monkeypatch.setattr("qgf_jax.training.weights.choose_weights", choose)
    for expected in (1, 2, 2):
        pretrain(config, tmp_path / "run")
        assert len(calls) == expected
    error = capsys.readouterr().err
    assert error.count("warning: train.calibrate: no weight was chosen: the critic is flat\n") == 1
