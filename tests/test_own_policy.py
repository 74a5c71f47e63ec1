"""A critic without a policy: learned from features, it guides a flow that the run knows nothing of."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, command, tiny

import qgf_jax
from qgf_jax import config as configs
from qgf_jax.analysis.analyze import analyze
from qgf_jax.data.chunks import GoalDataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.goals import GoalSampler
from qgf_jax.data.load import Loaded
from qgf_jax.data.sampling import BatchSampler
from qgf_jax.data.summary import Summary
from qgf_jax.errors import UserError
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import Method
from qgf_jax.runs.frozen import Frozen
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.training.weights import choose_weights
from qgf_jax.types import Spec

NONE = "no policy to act: guide your own with qgf_jax.load_critic"
PAGE = ROOT / "docs" / "your_own_policy.md"
QUICKER = {
    "config.train.update(steps=10_000, batch_size=256)": (
        "config.train.update(steps=400, batch_size=64, steps_per_dispatch=400, log_every=400)\n"
        "config.optimizer.update(learning_rate=1e-2, tau=0.05)\n"
        "config.devices = '1'"
    ),
    "critic_hidden=(64, 64)": "critic_hidden=(32, 32)",
}


def blocks_of(title):
    """The code of one section of the page."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)


@pytest.mark.parametrize(
    ("title", "found"),
    [
        ("A flow in JAX", "actions"),
        ("openpi", "chunks"),
        ("A diffusion policy", "actions"),
        ("Consistency and shortcut models", "of_shortcut"),
    ],
)
def test_each_recipe_gives_actions(title, found):
    (block,) = blocks_of(title)
    names: dict = {}
    exec(block, names)  # noqa: S102 - a page of ours
    assert np.isfinite(names[found]).all() and np.ptp(names[found]) > 0


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's program leaves, with fewer steps, and the folder it ran in."""
    folder = tmp_path_factory.mktemp("own_policy")
    program = "".join(blocks_of("Embeddings of your own model"))
    for text, quicker in QUICKER.items():
        assert program.count(text) == 1
        program = program.replace(text, quicker)
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(program, names)  # noqa: S102 - a page of ours
    return types.SimpleNamespace(**names, run=folder / "runs" / "features")


@pytest.mark.whole
def test_guided_actions_are_nearer_to_the_best(page):
    assert page.far[3.0] < 0.3 * page.far[0.0], page.far
    assert page.batch(page.embed(page.new[:3]), page.keys[:3], 3.0).shape == (3, 2, 2)


def test_the_units_of_the_action_are_the_datas_or_the_networks(page):
    """Values agree, slopes by the scale, and with what the action's change does to Q."""
    inner = qgf_jax.load_critic(page.run, units="networks")
    features = jnp.asarray(page.embed(page.new[:8]))
    rng = np.random.default_rng(1)
    a, step = (rng.uniform(-0.9, 0.9, (8, 4)).astype(np.float32) for _ in range(2))
    a_env = 1 + 2 * a

    @jax.jit  # the critics are arguments: no parameter becomes a constant
    def measure(outer, inner, a, a_env):
        values = [jax.vmap(c)(features, x) for c, x in ((outer, a_env), (inner, a))]
        slopes = [
            jax.vmap(jax.grad(c, argnums=1))(features, x) for c, x in ((outer, a_env), (inner, a))
        ]
        chunks = jax.vmap(outer)(features, a_env.reshape(8, 2, 2))
        ends = [jax.vmap(outer)(features, a_env + h * step) for h in (0.02, -0.02)]
        return values, slopes, chunks, ends

    values, slopes, chunks, ends = measure(page.critic, inner, a, a_env)
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    np.testing.assert_allclose(chunks, values[0], atol=1e-6)
    np.testing.assert_allclose(2 * slopes[0], slopes[1], atol=1e-4)
    differences = (ends[0] - ends[1]) / 0.04
    np.testing.assert_allclose((slopes[0] * step).sum(axis=1), differences, atol=0.02, rtol=0.02)
    assert np.abs(differences).max() > 0.3


def test_q_is_what_acts_in_the_run(page):
    """Of the target network, on observations as the run normalises them; rho = 1 is the least of two."""
    loaded = LoadedRun.open(page.run)
    assert loaded.spec.mean and loaded.spec.action_scale == (2.0, 2.0)
    features, a = page.embed(page.new[:1])[0], np.full(4, 0.3, np.float32)
    nets, params = loaded.networks(), loaded.params_of(0)
    obs = loaded.spec.observation(features.astype(np.float32))
    critics = [page.critic, *(qgf_jax.load_critic(page.run, rho=rho) for rho in (1, 0))]

    @jax.jit
    def measure(critics, params):
        ours = [nets.q_of(params[name], obs)(a) for name in ("critic", "online_critic")]
        return ours, [critic(features, 1 + 2 * a) for critic in critics]

    (slow, online), (q, least, mean) = jax.device_get(measure(critics, params))
    np.testing.assert_allclose([q, least], slow, atol=1e-5)
    assert abs(online - slow) > 1e-3 and mean - slow > 1e-3, (online, slow, mean)


def test_what_does_not_fit_is_one_line(page):
    features, a = np.zeros((3, 64), np.float32), np.zeros((3, 4), np.float32)
    for call, words in (
        (lambda: page.critic(features, a[0]), r"features of shape \(3, 64\).*jax.vmap"),
        (lambda: page.critic(features[0, 1:], a[0]), r"takes \(64,\)"),
        (
            lambda: page.critic(features[0], a),
            r"shape \(3, 4\): the critic takes \(4,\) or \(2, 2\)",
        ),
        (lambda: qgf_jax.load_critic(page.run, units="network"), "did you mean 'networks'"),
        (lambda: qgf_jax.load_critic(page.run, rho=-1), "rho is -1"),
        (lambda: qgf_jax.load_critic(page.run, seed=1), "has seeds 0 to 0, not 1"),
        (lambda: qgf_jax.load_critic(page.run, critic="td"), "critic of the run 'td'"),
        (lambda: Builder(tiny("gcbc"), None).acting_critic(), "'none' has no Q of actions"),
        (lambda: qgf_jax.load_policy(page.run), NONE),
        (lambda: choose_weights(page.run), NONE),
        (lambda: analyze("noise", page.run, page.run / "analysis"), NONE),
        (lambda: EpisodeLog.require(Run.open(page.run)), NONE),
    ):
        with pytest.raises(UserError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_commands_verify_such_a_run_and_say_that_it_has_no_policy(page, capsys, tmp_path):
    assert command("verify", str(page.run)) == 0
    made = sorted(page.run.iterdir())
    sweep = [
        "sweep",
        f"--config={ROOT}/experiments/configs/gymnasium.py",
        "--grid=algorithm=critic_only",
    ]
    for words in (
        ["evaluate", f"--workdir={page.run}"],
        ["evaluate", f"--workdir={page.run}", "--methods=qgf", "--envs=jax"],
        ["report", str(page.run)],
        ["analyze", "compute", str(page.run)],
        [*sweep, "--evaluate=--methods=qgf", f"--out={tmp_path / 'sweep'}"],
    ):
        capsys.readouterr()
        assert command(*words) == 2, words
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert re.search(NONE, last), last
    assert sorted(page.run.iterdir()) == made and not (tmp_path / "sweep").exists()
    assert command(*sweep, f"--out={tmp_path / 'sweep'}", "--dry_run") == 0


def test_a_policy_can_be_added_and_serves_the_test_time_methods(page):
    row = Method.named("critic_only")
    assert row.serves == [] and not row.acts and "critic_only" not in Method.named("qam").serves
    config = Frozen.further(page.run, "flow_bc", {})
    assert (config.algorithm, config.critic, config.data.chunk) == ("reference", "iql", 2)
    assert "qgf" in Method.named(config.algorithm).serves
    more = Frozen.further(page.run, "td", {})
    assert (more.algorithm, more.critic, more.critics.td.next) == ("critic_only", "iql,td", "data")


def test_td_learns_from_the_datas_next_action_or_not_at_all():
    assert configs.make("critic_only", critic="td").critics.td.next == "data"
    for whose in ("policy", "reference"):
        config = tiny("critic_only", critic="td", **{"critics.td.next": whose})
        with pytest.raises(
            UserError, match=f"next is {whose}, .* trains no policy: set it to data"
        ):
            configs.check(config)


# float16.


def test_float16_stays_float16_until_a_batch_is_drawn(page, tmp_path):
    """In memory and converted; all numbers are those of the same data as float32."""
    half = page.data
    wide = {**half, "observations": half["observations"].astype(np.float32)}
    np.savez(tmp_path / "features.npz", **half)
    assert command("convert", f"npz:{tmp_path / 'features.npz'}", f"--out={tmp_path}/data") == 0
    config = configs.plain(page.config)
    config = {**config, "data": {**config["data"], "dir": str(tmp_path / "data")}}
    arrays = (qgf_jax.Dataset.from_arrays(**x, bounds=(-1, 3)) for x in (half, wide))
    loaded = [Loaded.of(config, given=given) for given in arrays]
    loaded.append(Loaded.of({**config, "data": {**config["data"], "action_scale": "quantile"}}))
    kept, full, file = (x.take() for x in loaded)
    assert [x.obs.dtype for x in (kept, full, file)] == [np.float16, np.float32, np.float16]
    assert kept.obs.nbytes * 2 == full.obs.nbytes
    np.testing.assert_array_equal(kept.obs, full.obs)
    np.testing.assert_array_equal(kept.obs, file.obs)
    assert [x.spec["state_mean"] for x in loaded[1:]] == [loaded[0].spec["state_mean"]] * 2
    sampler = BatchSampler.of(config, Spec.of(loaded[0].spec))
    shapes = jax.eval_shape(lambda d: sampler.gather(d, sampler.draw(d, jax.random.key(0))), kept)
    assert {shapes.obs.state.dtype, shapes.next_obs.state.dtype} == {np.dtype(np.float32)}
    goals = GoalDataset(kept.obs, kept.action, kept.row, kept.next_row)
    how = GoalSampler.of(tiny("gciql"), Spec((64,), 2, 1, goal=(64,)), 4, 1)
    shapes = jax.eval_shape(lambda d: how.gather(d, how.draw(d, jax.random.key(0))), goals)
    assert {x.dtype for x in jax.tree.leaves((shapes.obs, shapes.actor.obs))} == {
        np.dtype("float32")
    }


def test_a_float16_that_has_overflowed_is_refused(page, tmp_path):
    """As are NaN; a range that float16 cannot hold is none."""
    for number in (1e6, np.nan):
        with np.errstate(over="ignore"):
            bad = page.data["observations"].copy()
            bad[7, 3] = number
        with pytest.raises(UserError, match="observations is NaN or infinite in row 1"):
            qgf_jax.Dataset.from_arrays(**{**page.data, "observations": bad}).source()
    ends = np.float16([[-6e4], [6e4]])
    with np.errstate(over="raise"):
        Summary.of(ends, ends).check_alike(ends, tmp_path)
    rows = {"observations": ends, "actions": ends / 6e4, "terminals": np.array([0, 1])}
    np.savez(tmp_path / "raw.npz", **rows)
    assert Rows.read(tmp_path / "raw.npz").observations.dtype == np.float16
