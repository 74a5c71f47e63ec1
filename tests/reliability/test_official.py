"""Checkpoints of the public QGF code come over whole, and a hostile one does nothing."""

import itertools
import os
import pickle
import struct
import time

import jax
import numpy as np
import pytest
from conftest import MAZE, ROOT, tiny

from qgf_jax import cli
from qgf_jax.errors import UserError
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.interop import import_official as official
from qgf_jax.interop import pickled
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun

FILE = ROOT / "tests" / "data" / "parity.npz"
WIDE = {"networks.policy_hidden": (64,) * 3, "networks.critic_hidden": (64,) * 3}


def agent(trees, step=11, leaf=np.asarray):
    """A state dict as the public code saves it: one train state per network."""

    def state(params):
        params = jax.tree.map(leaf, params)
        moments = {"count": leaf(np.int32(step)), "mu": params, "nu": params}
        return {"step": step, "params": params, "opt_state": {"0": moments, "1": {}}}

    networks = {name: state(params) for name, params in trees.items()}
    return {"agent": {"rng": leaf(np.zeros(2, np.uint32)), **networks}}


def nested(arrays, prefix):
    root = {}
    for path, array in arrays.items():
        if path.startswith(f"{prefix}/"):
            *parents, name = path.removeprefix(f"{prefix}/").split("/")
            node = root
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = array
    return root


@pytest.fixture(scope="module")
def arrays():
    with np.load(FILE, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def trees(arrays):
    found = {name: nested(arrays, f"after10/{name}") for name in official.GROUPS[1:]}
    return {"policy": nested(arrays, "act/policy"), **found}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=4))
    return path


def run(path, workdir, *more):
    """`qgf import-official` with the widths of the parity file: its exit code."""
    config = ROOT / "tests" / "tiny_config.py"
    words = [f"--config={config}", "--config.data.chunk=4", "--config.data.standardize=false"]
    words += [f"--config.{key}={value}" for key, value in WIDE.items()]
    words += ["--config.sampler.num_steps=10", f"--workdir={workdir}", *more]
    try:
        cli.main(["import-official", str(path), *words])
    except SystemExit as leave:
        return leave.code
    return 0


@pytest.mark.parametrize("leaf", [np.asarray, jax.numpy.asarray], ids=["numpy", "jax"])
def test_actions_are_those_of_the_public_code(arrays, trees, tmp_path, leaf, parity):
    path = write(tmp_path / "params_10.pkl", agent(trees, leaf=leaf))
    assert run(path, tmp_path / "run") == 0
    restored = LoadedRun.open(tmp_path / "run")
    assert restored.step == 10 and restored.run.config["preset"] == "paper"
    assert not Checkpoints(tmp_path / "run", identity=restored.run.identity).why_invalid(10)
    names = {"critic": "target_critic", "online_critic": "critic"}
    assert restored.params.keys() == {"policy", "value", *names}
    for group, tree in restored.params.items():
        theirs = trees[names.get(group, group)]
        ours = {k.replace("MLP_0", "x"): v for k, v in leaves_of(tree["params"])}
        wanted = {
            k.replace("value_net", "x").replace("MLP_0", "x"): v for k, v in leaves_of(theirs)
        }
        assert ours.keys() == wanted.keys()
        for key, array in wanted.items():
            np.testing.assert_array_equal(ours[key][0], array)
    if leaf is not np.asarray:
        return
    reference = parity.Reference(FILE)
    one = restored.params_of(0)
    online = one | {"critic": one.pop("online_critic")}
    reference.params = lambda prefix: (online, {"critic": one["critic"]})
    with jax.default_matmul_precision("highest"):
        found = parity.actions(reference)
    assert len(found) == 12 and max(found.values()) < parity.TOLERANCES["actions"]


def leaves_of(tree, name=""):
    if not isinstance(tree, dict):
        return [(name, tree)]
    return [leaf for key, value in tree.items() for leaf in leaves_of(value, f"{name}/{key}")]


def test_an_imported_run_is_evaluated_and_cannot_be_trained_on(maze_data, tmp_path, capsys):
    rng = np.random.default_rng(0)

    def layers(widths, *lead):
        found = {}
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            kernel = rng.normal(size=(*lead, a, b)).astype(np.float32) / 3
            found[f"Dense_{i}"] = {"kernel": kernel, "bias": np.zeros((*lead, b), np.float32)}
            if i < len(widths) - 2:
                one = np.ones((*lead, b), np.float32)
                found[f"LayerNorm_{i}"] = {"scale": one, "bias": 0 * one}
        return found

    head = layers((8, 6))["Dense_0"]
    trunk = {"Dense_0": layers((2 + 6 + 16, 8))["Dense_0"]}
    critic = {"value_net": layers((8, 8, 1), 2)}
    content = agent({
        "policy": {"MLP_0": trunk, "Dense_0": head}, "critic": critic, "target_critic": critic,
        "value": {"value_net": layers((2, 8, 1))},
    })  # fmt: skip
    path = write(tmp_path / "params_10.pkl", content)
    config = tiny(preset="paper", **{"data.standardize": False, "data.dir": str(maze_data)})
    workdir = official.import_run(path, config, tmp_path / "run")
    sweep = Arm.sweep(["qgf"], [1.0])
    evaluate.evaluate(workdir, sweep, episodes=1, selection_episodes=0, envs=2, workers=1)
    (line,) = Lines.read(workdir / "episodes.jsonl").records
    assert line["step"] == 10 and line["length"] > 0
    from qgf_jax.training.loop import pretrain

    with pytest.raises(UserError, match=f"was trained on other data than {MAZE}.npz is now"):
        pretrain(config, workdir)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--config.algorithm=fql", "only the public qgf agent"),
        ("--config.networks.policy_hidden=(64,64)", "policy is of another network: params/"),
        ("--config.networks.critic_hidden=(64,64,65)", "critic is of another network: params/"),
        ("--config.data.chunk=5", "which are no 5 actions"),
        ("--config.data.standardize=true", "data.standardize is True"),
        ("--config.seeds=2", "seeds is 2"),
        ("--config.env=pointmaze-medium-stitch-v0", "no goals"),
    ],
)
def test_another_config_is_refused_in_one_line(trees, tmp_path, capsys, more, said):
    path = write(tmp_path / "params_10.pkl", agent(trees))
    assert run(path, tmp_path / "run", more) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1 and "Traceback" not in found
    assert not (tmp_path / "run").exists()


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def array_of(dtype="f4", shape=(1,), raw=b"\0\0\0\0", rest=(False, True)):
    """The program of an array, as NumPy writes it, with numbers of our choice."""
    from numpy._core.multiarray import _reconstruct

    class Array:
        def __reduce__(self):
            kind = WithState(np.dtype, (dtype, *rest), (3, "<", None, None, None, -1, -1, 0))
            return _reconstruct, (np.ndarray, (0,), b"b"), (1, shape, kind, False, raw)

    return Array()


class WithState:
    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


def deep(depth):
    return b"\x80\x04" + b")" + b"\x85" * depth + b"."


def endless_text():
    """A tuple of two of the one before, forty times over, where a name should be."""
    return b"\x80\x04)" + b"\x94" + b"".join(b"h%c\x86\x94" % i for i in range(40)) + b"\x93."


def in_agent(what):
    """It stands where the policy's parameters should be."""
    return {"agent": {"policy": {"params": {"Dense_0": what}, "step": 1}}}


def wide_and_empty():
    node = {}
    for _ in range(7):
        node = {f"k{i}": node for i in range(1000)}
    return node


TOUCH = b"(X\x0e\0\0\0touch executed"
RECONSTRUCT = b"\x80\x04cnumpy._core.multiarray\n_reconstruct\n"


def hostile():
    touch = (open, "executed", "w")
    return {
        "os.system": Calls(os.system, "touch executed"),
        "os.system inside": in_agent(Calls(os.system, "touch executed")),
        "eval": Calls(eval, "open('executed', 'w')"),
        "exec": Calls(exec, "open('executed', 'w')"),
        "open": Calls(*touch),
        "getattr of a module": Calls(getattr, Calls(__import__, "os"), "system"),
        "getattr chain": b"cbuiltins\ngetattr\n(cnumpy\nos\nX\x06\0\0\0systemtR" + TOUCH + b"tR.",
        "import": Calls(__import__, "antigravity"),
        "old protocol": b"cos\nsystem\n(S'touch executed'\ntR.",
        "an instance": b"(S'touch executed'\nios\nsystem\n.",
        "an object": b"\x80\x02(cos\nsystem\n" + TOUCH[1:] + b"o.",
        "a class of ours": Calls(np.load, "executed"),
        "objects in an array": np.array([Calls(*touch)], object),
        "a type of objects": in_agent(array_of("O8", raw=[Calls(*touch)])),
        "an array of another class": RECONSTRUCT + b"(cnumpy\ndtype\nK\0\x85C\x01btR.",
        "an array of a class that is not ours": RECONSTRUCT + b"(cos\nPathLike\nK\0\x85C\x01btR.",
        "dtype of text": b"\x80\x04cnumpy\ndtype\n(X\x0e\x00\x00\x00(f4,(1000000,))\x89\x88tR.",
        "an array that claims a terabyte": in_agent(array_of(shape=(2**38,))),
        "an array of endless shape": in_agent(array_of(shape=(2**200,))),
        "an array of negative shape": in_agent(array_of(shape=(-1,))),
        "an array with nothing": in_agent(array_of(raw=b"")),
        "an array of shape text": in_agent(array_of(shape=("a",))),
        "deep": deep(100_000),
        "endless name": endless_text(),
        "a note far away": b"\x80\x04Nr\xff\xff\xff\xff.",
        "a note nobody made": b"\x80\x04h\x07.",
        "a text that claims four gigabytes": b"\x80\x04X\xff\xff\xff\xffa.",
        "bytes that claim an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        "a number of a gigabyte": b"\x80\x04\x8b\xff\xff\xff\x3f.",
        "nothing": b"",
        "no end": b"\x80\x04N",
        "no instruction": b"\xff\xfe.",
        "too many ends": b"\x80\x04(((.",
        "takes what is not there": b"\x80\x04\x86.",
        "a persistent id": b"\x80\x04Pfoo\n.",
        "an extension": b"\x80\x02\x82\x01.",
        "keys of tuples": b"\x80\x04}(K\x01K\x02u.",
        "an array in itself": b"\x80\x04}\x94(X\x05\x00\x00\x00agenth\x00u.",
        "wide and empty": in_agent(wide_and_empty()),
        "a list": [1, 2, 3],
        "no agent": {"policy": {}},
        "a web page": b"<!DOCTYPE html><html></html>",
        "a zip file": b"PK\x03\x04" + bytes(100),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile())
def test_hostile_file_is_one_line_and_runs_nothing(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    content = hostile()[name]
    path = write(tmp_path / "params_1.pkl", content)
    started = time.process_time()
    assert run(path, tmp_path / "run") == 2
    assert time.process_time() - started < 2.0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 200 + 2 * len(str(path)), said
    assert said.startswith(f"qgf: error: {path} is no checkpoint of the public QGF code: ")
    assert {p.name for p in tmp_path.iterdir()} == {"params_1.pkl"}


def test_a_file_that_is_cut_is_refused_wherever(trees, tmp_path):
    whole = pickle.dumps(agent(trees), protocol=4)
    rng = np.random.default_rng(0)
    path = tmp_path / "params_10.pkl"
    for length in (0, 1, 2, 11, len(whole) - 1, *rng.integers(len(whole), size=20)):
        with pytest.raises(UserError, match="no checkpoint of the public"):
            official.Official.read(write(path, whole[:length]))


def test_bits_turned_are_never_more_than_an_error(trees, tmp_path):
    """Some fall into numbers, which nothing in such a file guards."""
    small = {name: {"Dense_0": {"kernel": np.ones((2, 2), np.float32)}} for name in trees}
    whole = bytearray(pickle.dumps(agent(small), protocol=4))
    refused = 0
    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        try:
            official.Official.read(write(tmp_path / "p.pkl", bytes(whole)))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        whole[at] ^= 1 << at % 8
    assert refused > len(whole) / 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(trees, tmp_path, bad):
    head = dict(trees["policy"]["Dense_0"], bias=np.full(12, bad, np.float32))
    path = write(
        tmp_path / "p.pkl", agent(trees | {"policy": {**trees["policy"], "Dense_0": head}})
    )
    with pytest.raises(UserError, match="policy/Dense_0/bias holds numbers"):
        official.Official.read(path)


def test_the_machine_reads_what_pickle_writes():
    content = {
        "a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": 3, "d": None, "e": True},
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    for protocol in (3, 4, 5):
        found = pickled.load(pickle.dumps(content, protocol=protocol))
        np.testing.assert_array_equal(found["a"]["b"].value, content["a"]["b"])
        np.testing.assert_array_equal(found["f"].value, content["f"])
        assert (found["a"]["c"], found["a"]["d"], found["a"]["e"]) == (3, None, True)
