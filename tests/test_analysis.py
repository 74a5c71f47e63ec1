"""What guidance does to actions: linear flows, quadratic Q and mixtures of Gaussians, in closed form."""

import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import command
from PIL import Image

from qgf_guide import flow
from qgf_jax.analysis import distance, kl, noise, reach, sensitivity, toy
from qgf_jax.analysis.subject import Subject, interval, mean_of_best
from qgf_jax.analysis.table import ANALYSES, MEASURES
from qgf_jax.evaluation.arms import Arm
from qgf_jax.runtime import flops
from qgf_jax.training.weighing import State

N, SEEDS, STATES = 4, 2, 3
A = np.array([[0.3, -0.8], [0.5, 0.1]], np.float32)
C = np.array([[2.0, 0.3], [0.3, 0.7]], np.float32)
BEST = np.array([0.7, -0.4], np.float32)


def parabola(a):
    """Its slope is C (BEST - a)."""
    return -0.5 * (a - BEST) @ C @ (a - BEST)


class Made:
    """A subject with a velocity and a critic that are given, in place of a trained run."""

    num_steps = N
    rows = ()
    critic = ()
    other = data = given = None

    def __init__(self, velocity, q, weights=(0.0,), rows=()):
        self.nets = SimpleNamespace(
            velocity=lambda group, obs: velocity, q_of=lambda members, obs: q, chunk_dim=2,
            spec=SimpleNamespace(clip=False), ensemble=1,
        )  # fmt: skip
        self._weights, self.rows = weights, rows
        self.keys = jax.random.split(jax.random.key(0), STATES)

    def arms(self, default):
        return {name: Arm(name, 0.0, 1) for name in default}

    def weights(self):
        return self._weights

    def actions(self, arms, params, state, weights):
        return {name: self.given[: len(weights)] for name in arms}

    def reference(self, params, state):
        return jnp.zeros(2), jnp.stack([jnp.arange(32.0), jnp.zeros(32)], axis=1)

    def measure(self, one, extra=None):
        params = {"policy": None, "critic": self.critic}
        state = lambda key: one(params, State(self.nets, params, N, None, self.data, key))
        found = jax.jit(lambda keys: jax.lax.map(state, keys))(self.keys)
        return {k: np.stack([np.asarray(x)] * SEEDS) for k, x in found.items()}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_estimators_of_a_linear_flow_turn_as_their_matrices_say():
    """With v = A a, at the action, one step's end and the flow's end, and through their Jacobians."""
    record = MEASURES[noise.__name__](Made(lambda a, t: A @ a, parabola))
    expected = np.zeros((5, N, 5))
    for key in jax.random.split(jax.random.key(0), STATES):
        action = np.asarray(jax.random.normal(key, (2,)))
        shifts = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), (4, 2)))
        for k in range(N):
            eye, one = np.eye(2), np.eye(2) + (1 - k / N) * A
            whole = np.linalg.matrix_power(eye + A / N, N - k)
            ends = [one, one, whole, whole, eye]
            backs = [eye, one, eye, whole, eye]
            for i, (end, back) in enumerate(zip(ends, backs, strict=True)):
                slope = lambda a, end=end, back=back: back.T @ C @ (BEST - end @ a)
                for j, sigma in enumerate(noise.SIGMAS):
                    for shift in shifts:
                        turned = cosine(slope(action), slope(action + sigma * shift))
                        expected[i, k, j] += turned / STATES / len(shifts)
            action = action + A @ action / N
    np.testing.assert_allclose(record["cosine"], expected, atol=1e-4)
    np.testing.assert_allclose(record["cosine_by_seed"][1], expected, atol=1e-4)
    assert record["times"] == [0, 0.25, 0.5, 0.75] and not np.any(record["undefined"])
    best = np.array(noise.ESTIMATORS)[expected.argmax(axis=0)]
    np.testing.assert_array_equal(record["steadiest"], best)


def test_a_slope_of_nothing_has_no_direction():
    """To a point mass all ends are one: QGF's slope stays, and with the exact Jacobian there is none."""
    record = MEASURES[noise.__name__](Made(lambda a, t: (BEST / 2 - a) / (1 - t), parabola))
    by_name = dict(zip(record["estimators"], record["cosine"], strict=True))
    lost = dict(zip(record["estimators"], record["undefined"], strict=True))
    np.testing.assert_allclose(by_name["qgf"], 1.0, atol=1e-5)
    np.testing.assert_allclose(by_name["qgf_chain"], 1.0, atol=1e-5)
    assert np.max(by_name["qfql"]) < 1.0
    np.testing.assert_array_equal(lost["qgf"], 0)
    np.testing.assert_array_equal([lost["qgf_jacobian"], lost["bptt"]], 1)


SLOPE = np.array([1.0, -0.5], np.float32)


def row_of(method, weight, best_of=1, **more):
    known = {
        "task": 1,
        "options": {},
        "split": "report",
        "selected": True,
        "episodes": 4,
        "seeds": 2,
    }
    success = {"mean": 0.5, "low": 0.4, "high": 0.6}
    return (
        known | {"method": method, "weight": weight, "best_of": best_of, "success": success} | more
    )


def test_divergence_of_a_shifted_gaussian():
    """Where the reference stays at its noise z, a = z + w g: the log ratio is w z.g + w^2 |g|^2 / 2."""
    rows = [row_of("best_of", 0.0, n) for n in (4, 16)] + [
        row_of("qgf", 2.0),
        row_of("qgf", 9.0),
        row_of("dsrl", 0.0),
    ]
    rows += [
        row_of("reference", 0.0),
        row_of("qgf", 2.0, 4),
        row_of("qgf", 0.5, options={"cap": 1}),
    ]
    still = Made(lambda a, t: 0 * a, lambda a: SLOPE @ a, (0.0, 0.5, 2.0), rows)
    record = MEASURES[kl.__name__](still)
    z = np.stack([jax.random.normal(key, (2,)) for key in still.keys])
    for w, found in zip((0.0, 0.5, 2.0), record["curves"][:3], strict=True):
        expected = (w * z @ SLOPE + w**2 * SLOPE @ SLOPE / 2).mean()
        assert (found["method"], found["weight"], found["not_found"]) == ("qgf", w, 0.0)
        np.testing.assert_allclose([found["kl"]["mean"], *found["by_seed"]], expected, rtol=1e-4)
    assert {c["method"] for c in record["curves"]} == {"qgf", "qgf_jacobian"}
    shown = {(p["method"], p["best_of"]): p["kl"] for p in record["points"]}
    assert shown.keys() == {("best_of", 4), ("best_of", 16), ("qgf", 1), ("reference", 1)}
    u = (np.arange(200_000) + 0.5) / 200_000
    for n in (4, 16):  # the best of N has density N u^(N - 1) over the rank u
        density = n * u ** (n - 1)
        by_quadrature = (density * np.log(density)).mean()
        np.testing.assert_allclose(shown["best_of", n], by_quadrature, atol=1e-4)
    assert shown["reference", 1] == 0 and shown["qgf", 1] == record["curves"][2]["kl"]["mean"]


def test_mean_of_the_best_over_all_choices():
    ranks, values = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), np.array([7.0, -1.0, 2.0, 0.5, 9.0])
    for n in range(1, 6):
        best = [max(c, key=lambda i: ranks[i]) for c in itertools.combinations(range(5), n)]
        found = mean_of_best(jnp.array(ranks), jnp.array(values), n)
        np.testing.assert_allclose(found, values[best].mean(), rtol=1e-6)


def test_gains_are_by_the_judge_and_candidates_are_ranked_by_the_guide():
    """Q is c a_0, with c = 1 of the members that guide and c = -2 of the one that judges."""
    made = Made(None, None, (1.0, 2.0))
    made.nets.q_of = lambda members, obs: lambda a: members.mean() * a[0]
    made.nets.ensemble, made.critic = 2, jnp.array([1.0, -2.0])
    made.given = jnp.array([[1.0, 0.0], [4.0, 0.0]])
    record = MEASURES[reach.__name__](made)
    found = {(r["judge"], r["method"], r["weight"]): r["mean"] for r in record["rows"]}
    best = np.mean([max(c) for c in itertools.combinations(range(32), 4)])
    for judge, factor in {"critic": -0.5, "guiding members": 1, "held-out member": -2}.items():
        np.testing.assert_allclose([found[judge, "qgf", w] for w in (1, 2)], [factor, 4 * factor])
        chosen = (31 - best if judge == "critic" else best) - 15.5  # by all, the smallest is best
        np.testing.assert_allclose(found[judge, "best of 4", None], factor * chosen, rtol=1e-5)


def test_distances_and_edges_by_hand():
    made = Made(None, lambda a: a[0], (1.0,))
    made.data, made.given = (
        jnp.array([[0.0, 1.0], [3.0, 5.0], [0.0, 1.0]]),
        jnp.array([[-1.0, 0.999]]),
    )
    record = MEASURES[distance.__name__](made)
    far, clipped = (
        {r["method"]: r["mean"] for r in record[name]} for name in ("distance", "clipped")
    )
    np.testing.assert_allclose([far["qgf"], far["data"]], [np.hypot(1, 0.001), 5.0], rtol=1e-5)
    np.testing.assert_allclose([clipped["qgf"], clipped["data"]], [0.5, 2 / 3], rtol=1e-5)


def test_weights_and_means_by_hand():
    assert Subject.with_means({0.0, 1.0, 4.0, 100.0}) == (0.0, 1.0, 2.0, 4.0, 20.0, 100.0)
    table = np.array([[1.0, 2.0, np.inf], [3.0, 4.0, 5.0], [np.nan] * 3])
    assert interval(table)["mean"] == 2.5
    assert interval(np.full((2, 2), np.nan)) == {"mean": None, "low": None, "high": None}


def test_the_flow_of_a_mixture_and_its_posterior():
    one = toy._Mixture(jnp.ones(1), jnp.array([[1.5, -0.5]]), 0.4)
    noise_ = jnp.array([0.8, -1.2])
    end = flow.integrate(one.velocity, noise_, num_steps=400)
    np.testing.assert_allclose(end, one.means[0] + 0.4 * noise_, atol=0.02)
    mixed = toy._Mixture(jnp.array([0.5, 0.3, 0.2]), jnp.array([[-2.0], [0.0], [1.0]]), 0.5)
    grid = np.linspace(-8, 8, 4001)[:, None]
    for weight in (0.3, 2.0):
        tilted = mixed.density(grid) * np.exp(-weight * (grid[:, 0] - 2.5) ** 2)
        found = mixed.tilted(jnp.array([2.5]), weight)
        expected = tilted / np.trapezoid(tilted, grid[:, 0])
        np.testing.assert_allclose(found.density(grid), expected, atol=1e-5)
    # Of the mixture the mean velocity at the centre of noise: E[a] at t = 0.
    np.testing.assert_allclose(mixed.velocity(jnp.zeros(1), 0.0), [-0.8], atol=1e-6)
    samples = np.asarray(mixed.sample(jax.random.key(0), 4000))
    np.testing.assert_allclose(samples.mean(), -0.8, atol=0.06)


def test_guidance_of_the_toy_is_the_methods_own():
    """Between two Gaussians QFQL pushes from the first step on, and by its weight."""
    made = toy._Toy(toy._Mixture(jnp.ones(1), jnp.zeros((1, 1)), 1.0), jnp.array([1.0]))
    start = jnp.array([0.5])
    for method, slope in {"qfql": 2 * (1 - 0.5), "qgf": 2 * (1 - 0.0)}.items():
        way = made.act(method, 3.0, start)
        velocity = made.reference.velocity(start, 0.0)  # -0.5: E[a] - z
        np.testing.assert_allclose(way[1], start + (velocity + 3.0 * slope) / 16, rtol=1e-5)
        assert way.shape == (17, 1)


def test_energy_distance():
    x = np.array([[0.0], [2.0]])
    assert toy._energy_distance(x, x) == 0.0
    assert toy._energy_distance(x, x + 3.0) == pytest.approx(2.0)  # 2 * 3 - 1 - 1 = 4


def test_a_plateau_is_around_the_best_and_has_no_gap():
    weights, scores = [0.0, 1.0, 3.0, 10.0, 30.0], [0.95, 0.2, 0.9, 1.0, 0.91]
    means = {"qgf": scores, "qgf_jacobian": [0.1, 0.2, 0.3, 0.4, 1.0]}
    rows = [
        row_of(method, w, split="selection", success={"mean": mean, "low": 0.0, "high": 1.0})
        for method, of in means.items()
        for w, mean in zip(weights, of, strict=True)
    ]
    made = Made(None, lambda a: a[0], (0.0, 1.0), rows)
    made.given = jnp.ones((2, 2))
    found = {row["method"]: row for row in MEASURES[sensitivity.__name__](made)["plateaus"]}
    assert (found["qgf"]["best"], found["qgf"]["within"]) == (10.0, [3.0, 30.0])
    assert found["qgf_jacobian"]["within"] == [30.0, 30.0]


def test_kernels_are_counted_as_often_as_loops_turn():
    """One fusion in a loop of seven turns; what is around the loop does not change with them."""
    w = jnp.ones((16, 16))

    def turning(n):
        step = lambda c, _: (jnp.tanh(c @ w), None)
        f = lambda x: jax.lax.scan(step, x, None, n)[0]
        return flops.launches(jax.jit(f).lower(jnp.ones((8, 16))).compile())

    assert turning(21) - turning(14) == turning(14) - turning(7) > 0
    assert (turning(14) - turning(7)) % 7 == 0
    loop = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: jnp.tanh(c @ w), x)
    with pytest.raises(ValueError, match="unknown number of turns"):
        flops.launches(jax.jit(loop).lower(jnp.ones((8, 16))).compile())


@pytest.mark.whole
def test_reach_of_a_run_is_written_with_its_picture(run_folder, tmp_path, capsys):
    """The critic judges itself as another run's does; the run has no episodes and stays as it was."""
    before = sorted(run_folder.rglob("*"))
    words = ["reach", str(run_folder), f"--other={run_folder}", "--states=3", "--methods=qgf"]
    assert command("analyze", *words, "--weights=0.5,50", f"--out={tmp_path}") == 0
    paths = [tmp_path / "reach.json", tmp_path / "reach.png"]
    assert capsys.readouterr().out.split() == [*map(str, paths)]
    record = json.loads(paths[0].read_text())
    assert (record["step"], record["seeds"], record["states"]) == (4, 2, 3)
    rows = {(r["judge"], r["method"], r["weight"]): r["mean"] for r in record["rows"]}
    assert {weight for _, method, weight in rows if method == "qgf"} == {0.0, 0.5, 50.0}
    for weight in (0.0, 0.5, 50.0):
        own = rows["critic", "qgf", weight]
        assert own == rows["other run", "qgf", weight]
        assert own > 1e-5 if weight else abs(own) < 1e-6
    assert rows["critic", "best of 16", None] > rows["critic", "best of 4", None] > 0
    with Image.open(paths[1]) as picture:
        assert picture.width > 1000
    assert sorted(run_folder.rglob("*")) == before


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize("name", ["distance", "sensitivity", "compute"])
def test_the_others_are_written_too(name, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "STEPS", (1,))  # each is a program
    words = [name, str(run_folder), "--methods=qgf", f"--out={tmp_path}"]
    assert (
        command("analyze", *words, *(["--states=2", "--weights=1"] if name != "compute" else []))
        == 0
    )
    record = json.loads((tmp_path / f"{name}.json").read_text())
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.width > 500
    if name == "distance":
        found = {(r["method"], r["weight"]): r["mean"] for r in record["distance"]}
        assert {("qgf", 0.0), ("qgf", 1.0), ("data", None), ("best of 4", None)} <= found.keys()
        assert min(found.values()) > 0
    elif name == "sensitivity":
        at_own = {r["method"]: r["mean"] for r in record["steps"] if r["steps"] == 3}
        at_one = next(r["mean"] for r in record["q"] if r["weight"] == 1.0)
        np.testing.assert_allclose(at_own["reference"], 0, atol=1e-5)
        np.testing.assert_allclose(at_own["qgf"], at_one, atol=1e-5)
    else:
        assert record["rows"][0]["flops_relative"] == 1 and record["rows"][0]["flops"] > 0


def test_no_weight_to_measure_is_one_line(run_folder, tmp_path, capsys):
    words = ["kl", str(run_folder), "--weights=0", "--states=2", f"--out={tmp_path}"]
    assert command("analyze", *words) == 2
    assert "no guidance weight above 0 is measured" in capsys.readouterr().err


def test_kl_reads_the_runs_episodes_and_says_what_it_has_no_density_of(
    run_folder, tmp_path, capsys
):
    words = ["kl", str(run_folder), "--states=2", f"--out={tmp_path}"]
    for method in ("bptt", "qgf:schedule=linear", "best_of", "qgf_regularized"):
        assert command("analyze", *words, f"--methods={method}") == 2
        assert (
            f"kl has no density of {method.replace('best_of', 'best of')}"
            in capsys.readouterr().err
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nois", "RUN"], "unknown analysis 'nois': did you mean 'noise'?"),
        (["noise"], "analyze noise needs a run: give its folder"),
        (["toy", "RUN", "--out=x"], "analyze toy is of no run"),
        (["toy"], "analyze toy has no run folder to write to: give --out=FOLDER"),
        (["noise", "RUN", "--weights=1"], "analyze noise has no use for --weights: leave it out"),
        (["kl", "RUN", "--methods=qfg"], "unknown method 'qfg': did you mean 'qgf'?"),
        (["kl", "nowhere"], "nowhere"),
        (["reach", "RUN", "--other=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(words, line, run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("analyze", *(str(run_folder) if w == "RUN" else w for w in words)) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error and not list(tmp_path.iterdir())


def test_each_analysis_has_its_module_and_a_line_of_help(capsys):
    assert command("analyze", "--help") == 0
    text = capsys.readouterr().out
    for name, row in ANALYSES.items():
        assert name in text and row.about in text
