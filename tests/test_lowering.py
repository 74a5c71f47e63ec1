"""Programs lowered for platforms that are not here: nothing in them that those cannot do, products as
precise as the config says. With libtpu installed `make reliability` compiles them for a TPU too.
"""

import functools
import importlib.util
import re

import jax
import numpy as np
import pytest
from conftest import LONG, at, tiny
from test_learners import loss_of, make_batch

from qgf_jax.envs.jax_pointmaze import PointMaze
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import METHODS
from qgf_jax.runtime import backend
from qgf_jax.training import calibration as calibrate
from qgf_jax.training import dry_run, parallel
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

PLATFORMS = ("cuda", "tpu")
LIBRARIES = {
    "cuda": r"cusolver_\w+",
    "tpu": "Eigh|Qr|ProductOfElementaryHouseholderReflectors",
}
"""What programs call besides XLA's own operations: for `qgf_ortho`'s singular values, and the
calibration's eigenvalues."""
DEVICES = 4
NO_NORMS = {"networks.policy_layer_norm": False, "networks.critic_layer_norm": False}
TRAINED = ("qgf", "cfgrl", "hiql", "crl", "dsrl")  # the others in `make reliability`
ACTING = {row.sampler: name for name, row in METHODS.items() if row.acts}
ALL = [name for name, row in METHODS.items() if row.acts]
ACTING |= {"guided": "qgf", "turned": "qgf_ortho", "calibrated": "qgf_relative"}


def spec_of(config):
    """Widths as the config's environment has them, made up."""
    goal = 0 if "singletask" in config["env"] else 2
    return Spec((2,), 2, 3, goal=(goal,) if goal else None, n_step=config["data"]["n_step"])


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, np.float32)


def training(config, devices=(), form="pmap"):
    """(the program of two updates, its arguments without values)."""
    spec = spec_of(config)
    learner = Builder(config, spec).learner()
    layout = parallel.DeviceLayout(tuple(devices or jax.devices()[:1]), form)
    trainer = layout.make_trainer(learner, config, spec)
    program = trainer.run
    if not hasattr(program, "trace"):  # JAX lowers a pmap for what is here alone
        program = jax.jit(program, static_argnums=2)
    state = jax.eval_shape(trainer.init, trainer.seeds)
    data = dry_run._dataset_shapes(spec)
    if devices:
        data = jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(devices), *x.shape), x.dtype), data)
    return program, (state, data, 2)


def acting(config, method):
    """(the program that gives 16 actions, its arguments without values)."""
    spec = spec_of(config)
    learner = Builder(config, spec).learner()
    sample = Builder(config, spec).sample(method, METHODS[method].best_of[0])
    params = jax.eval_shape(learner.init, jax.random.key(0), spec.example(), shape(6))
    names = {"q_std": (), "logit_std": (), "values": (6,), "vectors": (6, 6)}
    target = {name: params[name] for name in learner.targets}
    target["calibration"] = {name: shape(*sizes) for name, sizes in names.items()}
    target["calibration"]["weights"] = {"near": shape()}

    def act(params, target, obs, keys, weights):
        one = functools.partial(sample, algorithms.acting_params(params, target))
        return jax.vmap(one)(obs, keys, weights)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 16))
    obs = jax.eval_shape(spec.observation, shape(16, spec.width))
    return jax.jit(act), (params, target, obs, keys, shape(16))


def check(text, platform):
    """No 64 bits, no way to the host, no library but the known ones, every product in full."""
    assert "f64" not in text
    assert not re.findall(r"stablehlo\.(?:infeed|outfeed|send|recv)|callback", text)
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert all(re.fullmatch(LIBRARIES[platform], name) for name in called), called
    assert precisions(text) <= {"HIGHEST, HIGHEST"}


def precisions(text):
    """Those that the products of a program have."""
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    found = [re.search(r"precision = \[([A-Z, ]+)\]", line) for line in products]
    return {match[1] if match else "" for match in found}


def exported(program, arguments, platform):
    with backend._standard():
        return jax.export.export(program, platforms=[platform])(*arguments)


@pytest.mark.whole(but_every=5)
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    ("method", "critic"),
    [
        (name, critic)
        for name, row in METHODS.items()
        for i, critic in enumerate(row.critics)
        if LONG or (name in TRAINED and i == 0)
    ],
)
def test_training_is_lowered(method, critic, platform):
    found = exported(*training(tiny(method, critic=critic)), platform)
    check(found.mlir_module(), platform)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("method", ALL if LONG else ACTING.values())
def test_acting_is_lowered(method, platform):
    program, arguments = acting(tiny(method, **NO_NORMS), method)
    with jax.default_matmul_precision("bfloat16"):  # the precision is the program's own
        found = jax.export.export(program, platforms=[platform])(*arguments)
    check(found.mlir_module(), platform)


@pytest.mark.parametrize("critic", ["iql", "td"])
def test_members_of_an_ensemble_are_one_batched_product(critic):
    """Ten members have the products of two, each with ten matrices."""

    def products(ensemble):
        config = tiny(critic=critic, **{"networks.ensemble": ensemble})
        text = exported(*training(config), "cuda").mlir_module()
        lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        return len(lines), sum(f"tensor<{ensemble}x" in line for line in lines)

    assert products(10) == products(3)
    total, batched = products(10)
    assert batched == 7 and total > batched  # two layers: forward twice, and three of the gradient


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("form", parallel.FORMS)
def test_training_on_several_devices_is_lowered(form, platform):
    found = exported(*training(tiny(), jax.devices()[:DEVICES], form), platform)
    check(re.sub(r"custom_call @Sharding", "", found.mlir_module()), platform)
    assert found.nr_devices == DEVICES


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_around_training_is_lowered(platform):
    """The first state, the losses on other data, the calibration, and the maze on the device."""
    config, maze = tiny(), PointMaze(tiny()["env"])
    spec = spec_of(config)
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    _, (state, data, _) = training(config)
    start = maze.start(maze.name.tasks[0], 0)
    measure = functools.partial(calibrate.measure, config, spec)
    for program, arguments in (
        (trainer.init, [trainer.seeds]),
        (trainer.evaluate, [state, data]),
        (jax.jit(measure), [state, data]),
        (jax.jit(lambda start, action: maze.step(maze.reset(start)[0], action)), [start, shape(2)]),
    ):
        check(exported(program, arguments, platform).mlir_module(), platform)


@pytest.mark.parametrize("surroundings", [None, "bfloat16", "highest"])
@pytest.mark.parametrize(
    ("precision", "stands"),
    [("float32", "HIGHEST"), ("tf32", "DEFAULT"), ("bfloat16", "DEFAULT")],
)
def test_products_are_as_precise_as_the_config_says(precision, stands, surroundings):
    """Those of losses, of a critic's slope, and of gradients, whatever JAX was told."""
    # It has products outside layers, and no layer norm, whose sums are products on a CPU alone.
    config = tiny("crl", precision=precision, **NO_NORMS)
    spec = Spec((2,), 2, 2, goal=(2,))
    batch = make_batch(spec=spec)
    learner = Builder(config, spec).learner()
    nets = Builder(config, spec).networks()
    params = jax.eval_shape(learner.init, jax.random.key(0), at(batch.obs, 0), batch.action[0])

    def loss(params):
        value = loss_of(learner, "critic", params, {}, batch)
        return value + nets.q_of(params["critic"], at(batch.obs, 0))(batch.action[0])

    with jax.default_matmul_precision(surroundings):
        traced = jax.jit(jax.grad(loss)).trace(params)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert precisions(text) == {f"{stands}, {stands}"}
    assert ("bf16" in text) == (precision == "bfloat16")


# The whole of XLA for a TPU comes as a wheel and needs no TPU to compile for one.
needs_compiler = pytest.mark.skipif(
    not (LONG and importlib.util.find_spec("libtpu")), reason="make reliability, and libtpu"
)


@pytest.fixture(scope="module")
def tpu():
    """Four chips of a TPU v5e, to compile for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        from jax.experimental import topologies

        # What was compiled for a TPU cannot be read again without one.
        jax.config.update("jax_enable_compilation_cache", False)
        yield tuple(topologies.get_topology_desc("v5e:2x2", "tpu").devices)
        jax.config.update("jax_enable_compilation_cache", True)


def compiled(program, arguments, *shardings):
    """The text of the compiled program; `shardings` are of its leading arguments."""

    def put(tree, place):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    placed = list(map(put, arguments, shardings))
    with backend._standard():
        return program.lower(*placed, *arguments[len(placed) :]).compile().as_text()


@needs_compiler
@pytest.mark.parametrize("method", METHODS)
def test_programs_are_compiled_for_a_tpu(method, tpu):
    place = jax.sharding.SingleDeviceSharding(tpu[0])
    acts = [acting(tiny(method), method)] if METHODS[method].acts else []
    for program, arguments in (training(tiny(method)), *acts):
        leading = [place for one in arguments if not isinstance(one, int)]
        assert compiled(program, arguments, *leading)


@needs_compiler
@pytest.mark.parametrize("form", parallel.FORMS)
def test_training_on_several_devices_is_compiled_for_a_tpu(form, tpu):
    layout = parallel.DeviceLayout(tpu, form)
    program, arguments = training(tiny(), tpu, form)
    text = compiled(program, arguments, layout._sharding(), layout._sharding("devices"))
    assert "all-reduce" in text
