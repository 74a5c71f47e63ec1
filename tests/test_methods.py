"""Every row of the table: a new method is tested by being listed.

It starts, each of its losses moves its parameter group, it acts inside the box, alone and in batches,
survives saving, and is evaluated.
"""

import contextlib
import dataclasses
import functools
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, MAZE, ROOT, tiny
from test_learners import make_batch

from qgf_guide.bounds import Field
from qgf_jax import load_policy
from qgf_jax.core.network_options import NetworkOptions
from qgf_jax.data.following import NextChunk
from qgf_jax.envs.pool import EnvPool
from qgf_jax.evaluation import evaluate, worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.methods import parts
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.weights import ChosenWeights
from qgf_jax.training.loop import pretrain
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Spec

METHODS = algorithms.METHODS
QUICKSTART = ROOT / "experiments" / "configs" / "quickstart.py"
# Several methods act with one training; each training is tested once, with each of its critics.
TRAININGS = {}
for _name, _row in METHODS.items():
    for _critic in _row.critics:
        TRAININGS.setdefault((_row.policies, _critic, str(_row.settings)), (_name, _critic))
TRAININGS = sorted(TRAININGS.values())
SPEC = Spec(state=(3,), action=2, chunk=2)
GOALS = Spec(state=(2,), action=2, chunk=2, goal=(2,), n_step=3)


def with_goals(batch):
    """Returns of three steps to goals of two numbers, and subgoals on the way."""
    return batch._replace(
        long_action=jnp.concatenate([batch.action, batch.action[:, :2]], axis=1),
        reward=jnp.abs(jnp.tanh(batch.reward)),
        subgoal=batch.next_obs.state + 1.0,
        subgoal_to_goal=batch.next_obs.state - 1.0,
    )


# Whatever critic it is, these ask it for one number alone, as others that are tested with each.
ONE_CRITIC = set() if LONG else {"agf", "cgql_linex", "qgf_distill", "qpilots_m", "seed_critic"}
NO_POLICY = {
    name for name, row in METHODS.items() if not row.policies
}  # nothing learns beside them
CASES = [
    (name, "default", critic)
    for name, critic in TRAININGS
    if LONG or (critic != METHODS[name].critic and name not in ONE_CRITIC | NO_POLICY)
]
CASES += [(n, "paper", r.critics[0]) for n, r in METHODS.items() if r.paper]


@pytest.mark.whole(but_every=8)
@pytest.mark.parametrize(("name", "preset", "critic"), CASES)
def test_a_step_moves_every_group_and_every_slow_copy(name, preset, critic):
    config = tiny(name, preset, critic)
    spec, batch = SPEC, make_batch()
    if "singletask" not in config["env"]:
        spec, batch = GOALS, with_goals(make_batch(spec=GOALS))
    if NextChunk.wanted(config):
        batch = batch._replace(next_action=batch.action[::-1], next_weight=batch.weight)
    learner = Builder(config, spec).learner()
    # Nothing is jitted as a whole: fifty programs would be compiled, whose operations are the same few.
    # Those of a critic's first choice are, when they are trained below.
    params = learner.init(jax.random.key(0), spec.example(), jnp.zeros(4))
    assert set(learner.losses) == set(params)  # a loss for each group, a group for each loss
    # Apart from the online ones, so that a slow copy has somewhere to go.
    target = jax.tree.map(lambda x: x + 0.1, {group: params[group] for group in learner.targets})
    tx, key = make_optimizer(config), jax.random.key(1)
    state = TrainState(jnp.int32(0), key, params, target, tx.init(params))
    after, metrics = train_step(state, batch, losses=learner.losses, tx=tx, tau=0.1)
    assert all(np.isfinite(v) for v in jax.tree.leaves(metrics))
    check_moved((params, target), (after.params, after.target_params))


def check_moved(before, after):
    """Each group of the trees of groups `before` is another one in `after`."""
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for group in old:
            pairs = zip(*map(jax.tree.leaves, (old[group], new[group])), strict=True)
            assert any(np.any(a != b) for a, b in pairs), group


@pytest.fixture(scope="module")
def trained(maze_data, tmp_path_factory):
    """A tiny run for each training, and its states in memory, the last and the first; made when it is
    first asked for."""
    folder, states, firsts = tmp_path_factory.mktemp("methods"), {}, {}
    data = folder / "data"  # without the validation file, whose losses would be compiled every time
    data.mkdir()
    shutil.copy(maze_data / f"{MAZE}.npz", data)
    from qgf_jax.training import loop

    real, real_start = loop._calibrate, loop._start

    @functools.cache
    def train(policies, settings):
        name = next(
            n for n, r in METHODS.items() if (r.policies, str(r.settings)) == (policies, settings)
        )
        config = tiny(name, **{"data.dir": str(data), "train.steps": 2})

        def keeping(host, config, spec, state):
            states[name] = jax.device_get((state.params, state.target_params))
            real(host, config, spec, state)

        def starting(*how):
            start = real_start(*how)
            firsts[name] = jax.device_get((start.state.params, start.state.target_params))
            return start

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_calibrate", keeping)
            patch.setattr(loop, "_start", starting)
            made = pretrain(config, folder / name)
        state = Checkpoints(made).digest(2)
        chosen = {"near": {"weights": [1.0], "limit": 0.0, "curves": [[0.0]]}}
        ChosenWeights(2, state, chosen, [[1.0]]).write(made, {})
        return made, states[name], firsts[name]

    return lambda name: train(METHODS[name].policies, str(METHODS[name].settings))


@pytest.mark.whole(but_every=8)
@pytest.mark.parametrize("name", sorted({name for name, _ in TRAININGS}))
def test_training_moves_every_group_and_every_slow_copy(name, trained):
    workdir, last, first = trained(name)
    check_moved(first, last)
    lines = Lines.read(workdir / "metrics.jsonl").records
    losses = {k.removesuffix("/loss"): v for x in lines for k, v in x.items() if "/loss" in k}
    assert losses.keys() == first[0].keys()  # a loss for each group, a group for each loss
    assert np.isfinite([*losses.values()]).all()


FIVE = 5  # observations that act together


def observations(restored):
    """Five of them."""
    width = restored.spec.width
    return np.linspace(-1, 1, FIVE * width, dtype=np.float32).reshape(FIVE, width)


@pytest.fixture(scope="module")
def compiled():
    """`worker_pool._compile_act`, each program once; all runs of one training have equal parameters.

    An action does not depend on how many act (`test_evaluate`), so an evaluation of fewer fills up.
    """
    real = worker_pool._compile_act

    @functools.cache
    def compile_once(training, sampler):
        return real(runs[training], sampler, FIVE)

    runs = {}

    def compile_act(restored, sampler, per_seed):
        training = restored.run.config["algorithm"]
        runs.setdefault(training, restored)
        act = compile_once(training, sampler)

        def fill(x):
            return np.pad(x, [(0, 0), (0, FIVE - per_seed), *((0, 0) for _ in x.shape[2:])])

        return lambda *asked: act(*map(fill, asked))[:, :per_seed]

    return compile_act


@pytest.fixture(scope="module")
def pools():
    """`EnvPool` for `evaluate`, each once: an episode depends on its seed and its actions alone."""
    with contextlib.ExitStack() as stack:
        start = functools.cache(lambda *how, **more: stack.enter_context(EnvPool(*how, **more)))
        yield lambda *how, **more: contextlib.nullcontext(start(*how, **more))


def acting(compile_act, restored, name, n=1):
    """weight -> the actions of method `name` at five observations, by the program of `evaluate`."""
    act = compile_act(restored, Program(name, n, ()), FIVE)
    identity = np.stack([np.array([1, 7, i], np.int32) for i in range(FIVE)])[None]

    def actions(weight):
        weights = np.full((1, FIVE), weight, np.float32)
        return act(observations(restored)[None], identity, weights)[0].reshape(FIVE, -1)

    return actions


def key_of(place):
    """What the noise at observation `place` is made of."""
    key = jax.random.key(0)
    for part in (1, 7, place):
        key = jax.random.fold_in(key, part)
    return key


# The first of each sampler and training chooses among candidates in earnest.
CHOOSING = {(r.policies, r.sampler, str(r.settings)): n for n, r in reversed([*METHODS.items()])}


def of_each_kind():
    """The methods, or of those that differ in a rule or its options alone the first and the last."""
    kinds = {}
    for name, row in METHODS.items():
        if row.acts:
            kinds.setdefault((row.policies, str(row.settings), row.sampler), []).append(name)
    return [name for names in kinds.values() for name in (names if LONG else {names[0], names[-1]})]


@pytest.mark.whole(but_every=8)
@pytest.mark.parametrize("name", sorted(of_each_kind()))
def test_every_method_acts_survives_saving_and_is_evaluated(
    name, trained, compiled, pools, tmp_path, monkeypatch
):
    workdir, in_memory, _ = trained(name)
    folder = shutil.copytree(workdir, tmp_path / "run")
    restored = LoadedRun.open(folder)
    row, spec = METHODS[name], restored.spec
    learned = {k: v for k, v in restored.params.items() if k != "calibration"}
    jax.tree.map(np.testing.assert_array_equal, learned, algorithms.acting_params(*in_memory))
    n = row.best_of[0]
    act = acting(compiled, restored, name, n)
    actions = act(0.5)
    check_actions(actions, spec)
    if row.weighted:
        assert not np.allclose(act(50.0), actions, atol=1e-6)
    if row.at_zero:
        free = acting(compiled, restored, row.at_zero, n)
        np.testing.assert_allclose(act(0.0), free(0.0), atol=5e-3)
    if not row.fixed_best_of and n == 1:
        if name in CHOOSING.values():
            check_actions(acting(compiled, restored, name, 4)(0.5), spec)
        else:
            sample = restored.sampler(name, 4)
            params = restored.params_of(0)
            shape = jax.eval_shape(sample, params, spec.example(), key_of(0), 0.5)
            assert shape.shape == (spec.chunk_dim,)
    if LONG or name in CHOOSING.values():
        alone = load_policy(folder, name, 0.5, best_of=n)(observations(restored)[1], key_of(1))
        assert alone.shape == (spec.chunk, spec.action)
        np.testing.assert_allclose(alone.ravel(), actions[1], atol=5e-3)  # fast time features
    assert name in algorithms.Method.named(restored.run.config["algorithm"]).serves
    sweep = Arm.sweep([name], [0.5])
    monkeypatch.setattr(worker_pool, "_compile_act", compiled)
    monkeypatch.setattr(worker_pool, "EnvPool", pools)
    evaluate.evaluate(
        folder, sweep, episodes=1, selection_episodes=0, tasks=(1,), envs=FIVE, workers=1
    )
    (line,) = Lines.read(folder / "episodes.jsonl").records
    assert (line["method"], line["best_of"]) == (name, row.best_of[0]) and line["length"] > 0


def check_actions(actions, spec):
    assert actions.shape == (FIVE, spec.chunk_dim)
    assert np.isfinite(actions).all() and np.abs(actions).max() <= 1.0


def test_one_run_of_a_flow_and_a_critic_serves_all_test_time_methods():
    served = set(algorithms.Method.named("qgf").serves)
    expected = {n for n, r in METHODS.items() if r.policies == ("flow_bc",)}
    assert served == expected and {"bptt", "grad_step", "qgf_ortho", "ifql"} <= served
    assert served < set(algorithms.Method.named("qam").serves)  # "QGF with QAM's critic"
    assert set(algorithms.Method.named("qsm").serves) == {"qsm"}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("qgf", ()),
        ("qgf:schedule=linear:cap=3", (("cap", 3.0), ("schedule", "linear"))),
        ("qgf_smooth:samples=4:sigma=0.2", (("samples", 4), ("sigma", 0.2))),
        ("grad_step:sign=true", (("sign", True),)),
    ],
)
def test_methods_are_written_with_their_options(text, options):
    assert algorithms.Method.parse(text) == (text.split(":")[0], options)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("qgff", "did you mean 'qgf'"),
        ("qgf:shedule=linear", "did you mean 'schedule'"),
        ("qgf:rule=noisy", "option of qgf"),  # what makes the row what it is
        ("qgf:group=actor", "option of qgf"),
        ("qgf:endpoint=strait", "did you mean 'straight'"),
        ("qgf:units=zzz", "units of qgf is 'zzz': it must be one of covariance, posterior"),
        ("qgf:num_steps=0", "from 1 to"),
        ("qgf_smooth:samples=0", "from 1 to"),
        ("reference:schedule=linear", "option of reference"),  # it would change nothing
        ("qfql:endpoint=learned", "option of qfql"),
        ("edp:units=variance", "option of edp"),
        ("qgf_smooth:samples=x", "is 'x'; it must be a whole number"),
        ("qgf:schedule", "not of the form option=value"),
        ("grad_step:sign=perhaps", "it must be true or false"),
    ],
)
def test_wrong_methods_and_options_are_explained(text, hint):
    from qgf_jax.errors import UserError

    with pytest.raises(UserError, match=hint):
        algorithms.Method.parse(text)


def test_choices_are_the_declared_parts():
    from qgf_guide.aggregates import AGGREGATES
    from qgf_jax.core.layers import ACTIVATIONS

    found = Part.named("sampler", "guided").fields
    options = {"rule": "rule", "endpoint": "endpoint", "schedule": "schedule", "units": "unit"}
    for option, kind in options.items():
        assert found[option].bound.words == tuple(Part.all(kind)), option
    networks = Field.declared_in(NetworkOptions)
    assert networks["activation"].bound.words == tuple(ACTIVATIONS)
    assert networks["aggregate"].bound.words == tuple(AGGREGATES)


def test_every_option_of_a_part_says_what_it_is():
    for kind in ("sampler", "rule", "unit", "schedule", "endpoint", "selector"):
        for part in Part.all(kind).values():
            assert part.about.endswith("."), part.name
            assert all(field.help for field in part.fields.values()), part.name
    assert all(field.help for field in Field.declared_in(NetworkOptions).values())


ALL = {"iql", "td", "dqc", "contrastive", "qrl"}


@pytest.mark.parametrize(
    ("name", "critics"),
    [
        ("reference", ALL),
        ("qgf", ALL),
        ("qgf_distill", ALL),
        ("robust_q", {"iql", "td", "dqc"}),  # regresses on a target critic
        ("agf", {"iql", "td", "dqc"}),  # so does this one
        ("cgql_linex", {"iql", "td", "dqc"}),
        ("seed_critic", {"iql", "td", "dqc"}),
        ("qpilots_m", ALL),  # its learner asks no critic
        ("cfgrl", {"iql"}),  # asks for a V in the units of Q
        ("iql", {"iql"}),
        ("fql", {"iql", "td"}),  # weighs Q against cloning, so Q must be a return
        ("qam", {"iql", "td"}),
        ("fawac", {"td", "iql"}),
        ("rebrac", {"td", "iql"}),
        ("critic_only", ALL),
        ("gcbc", {"none"}),
        ("gciql", {"iql"}),
        ("crl", {"contrastive"}),
        ("qrl", {"qrl"}),
        ("gcivl", {"ivl"}),
        ("hiql", {"ivl"}),
    ],
)
def test_critics_follow_from_what_parts_need_and_provide(name, critics):
    assert set(METHODS[name].critics) == critics
    assert METHODS[name].critics[0] == METHODS[name].critic


def test_needs_follow_from_the_parts_that_are_chosen():
    assert METHODS["qgf"].needs() == {"q"}
    assert METHODS["qgf"].needs({"endpoint": "learned"}) == {"q", "endpoint"}
    assert METHODS["qgf_distill"].needs() == {"q"}
    assert METHODS["seed_critic"].needs() == {"target_q"}  # to train; nobody asks Q in acting
    assert "seed_q" in METHODS["qgf"].acting_needs({}, 4, (("select", "seed"),))
    assert "noisy_q" not in METHODS["robust_q"].needs()  # its own learner provides it
    assert {name for name, row in METHODS.items() if row.goals} == {
        "gcbc", "gciql", "gcivl", "crl", "qrl", "hiql",
    }  # fmt: skip
    weighted = {name for name, row in METHODS.items() if row.weighted}
    assert {n for n in weighted if not METHODS[n].at_zero} == {"cfgrl"}
    unweighted = {"reference", "best_of", "ifql", "edp", "fql", "dsrl", "iql", "hiql"}
    assert not weighted & (unweighted | {"seed_critic"})


def test_a_part_or_row_of_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="two methods 'qgf'"):
        algorithms.row("qgf", "another", "nobody")
    with pytest.raises(ValueError, match="letters, digits"):
        algorithms.row("qgf:2", "another", "nobody")

    def one_step(velocity, q, endpoint):
        return None

    with pytest.raises(ValueError, match="'one_step' is declared in"):
        parts.rule()(one_step)
    assert Part.named("rule", "one_step").make is not one_step


def test_parameters_to_act_with_are_the_target_copies():
    merged = algorithms.acting_params({"policy": 1, "critic": 2}, {"critic": 3}, {"q_std": 4})
    assert merged == {"policy": 1, "critic": 3, "online_critic": 2, "calibration": {"q_std": 4}}
    assert algorithms.acting_params({"actor": 1}, {"calibration": 5}) == {
        "actor": 1,
        "calibration": 5,
    }


@pytest.mark.parametrize(
    "words",
    [
        ["methods", "--jsn"],
        ["evaluate", "--workdir=WORKDIR", "--methods=qgf:shedule=linear"],
        ["evaluate", "--workdir=WORKDIR", "--methods=qgff"],
        ["train", "--config=quickstart.py", "--workdir=x", "--config.policy.tme_grid=1"],
        ["train", "--config=quickstart.py", "--workdir=x", "--config.algorithm=qgff"],
    ],
    ids=lambda words: words[-1],
)
def test_a_mistyped_word_is_answered_at_once_and_without_jax(words, run_folder):
    """Within half a second on a machine of its own; here, three times that in CPU time passes."""
    words = [word.replace("WORKDIR", str(run_folder)) for word in words]
    words = [word.replace("quickstart.py", str(QUICKSTART)) for word in words]
    code = (
        "import os, sys, time\n"
        "from qgf_jax import cli\n"
        "try:\n"
        f"    cli.main({words!r})\n"
        "finally:\n"
        "    times = os.times()\n"
        "    print(times.user + times.system, *{'jax', 'flax', 'optax'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean" in done.stderr + " did you mean" * (
        words[0] == "methods"
    )
    seconds, *loaded = done.stdout.split()
    assert not loaded and float(seconds) < 1.5


def test_a_runs_own_options_are_not_those_of_other_methods():
    config = tiny("qgf", **{"sampler.schedule": "linear", "sampler.units": "variance"})
    own = Builder(config, None).settings("qgf")
    assert (own["schedule"], own["units"], own["num_steps"]) == ("linear", "variance", 3)
    other = Builder(config, None).settings("qgf_jacobian", (("cap", 2.0),))
    assert other == {"num_steps": 3, "rule": "one_step_jacobian", "cap": 2.0}
    assert "units" not in Builder(config, None).settings("reference")


def test_what_a_checkpoint_lacks_is_named(trained):
    from qgf_jax.errors import UserError

    folder, *_ = trained("qgf")
    restored = LoadedRun.open(folder)
    with pytest.raises(UserError, match="qgf_distill"):
        restored.sampler("qgf", 1, (("endpoint", "learned"),))
    params = dict(restored.params)
    constants = params.pop("calibration")
    bare = dataclasses.replace(restored, params=params)
    with pytest.raises(UserError, match="no calibration for step 2"):
        bare.sampler("qgf_relative")
    bare.sampler("qpilots_u")  # units without constants
    constants = {k: v for k, v in constants.items() if k != "logit_std"}
    old = dataclasses.replace(restored, params=params | {"calibration": constants})
    old.sampler("qgf_relative")  # a file of an earlier version serves what it holds
    with pytest.raises(UserError, match="no spread of logits: remove it"):
        old.sampler("qgf_relative", 1, (("scale", "logit"),))
    with pytest.raises(UserError, match="whole number from 1"):
        load_policy(folder, "qgf", best_of=0)


def test_paper_preset_of_the_ancestors_is_theirs():
    """Continuous t and weighted losses there, a grid and none in QGF's own family."""
    for name in ("fql", "qam", "fawac", "fbrac"):
        config = tiny(name, "paper")
        assert config["policy"]["time_grid"] == 0 and config["policy"].get("weighted", True)
        assert config["networks"]["time_feature"] == "raw"
    assert tiny("edp", "paper")["policy"]["time_grid"] == 10
    assert not tiny("robust_q", "paper")["policy"]["weighted"]
    clips = {n: tiny(n, "paper")["data"]["action_clip"] for n in ("fql", "cfgrl", "qgf")}
    assert clips == {"fql": 0.0, "cfgrl": 0.0, "qgf": 1e-5}
    assert tiny("dac", "paper")["networks"]["diffusion_field"] == "fourier"
