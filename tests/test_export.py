"""Exported checkpoints: they act as `load_policy` does, in a process that cannot import this package."""

import hashlib
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, command, tiny

import qgf_jax
from qgf_jax.interop.export import table
from qgf_jax.interop.export.chosen import Chosen
from qgf_jax.training.loop import pretrain
from qgf_jax.types import Spec

OBS = np.array([[1.0, 2.0], [-3.0, 0.5], [8.0, 9.0]], np.float32)
KEYS = jax.random.split(jax.random.key(0), len(OBS))
FILES = {"jax.export": "policy.jax", "onnx": "policy.onnx", "safetensors": "policy.safetensors"}

ELSEWHERE = """
import json, re, sys
from pathlib import Path
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("qgf_jax", "flax"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
given = np.load("given.npz")
names = {"obs": given["obs"]}
found = {}
for code in json.loads(Path("blocks.json").read_text()):
    exec(code, names)
    if "policy.jax" in code:
        found["jax"] = names["actions"]
    if "policy.onnx" in code:
        inputs = {**names["inputs"], "noise": given["noises"]}
        found["onnx"] = names["session"].run(["actions"], inputs)[0]
pairs = list(zip(given["obs"], given["noise"]))
found["reference"] = np.stack([names["reference"](*pair) for pair in pairs])
found["qgf"] = np.stack([names["qgf"](*pair, 0.5) for pair in pairs])
assert "qgf_jax" not in sys.modules
np.savez("found.npz", **found)
"""


def noise(keys):
    """What a flow starts at, for a key each."""
    return np.asarray(jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys))


@pytest.fixture(scope="module")
def run_folder(maze_data, tmp_path_factory):
    """Two seeds of networks with two hidden layers: only between such is a policy's layer norm."""
    deep = {f"networks.{name}_hidden": (8, 8) for name in ("policy", "critic")}
    config = tiny(**{"data.dir": str(maze_data), "seeds": 2, **deep})
    return pretrain(config, tmp_path_factory.mktemp("runs") / "deep")


@pytest.fixture(scope="module")
def folder(run_folder, tmp_path_factory):
    """The three files, as the command line makes them; the policies are QGF's best of two."""
    folder = tmp_path_factory.mktemp("exported")
    for to, name in FILES.items():
        method = () if to == "safetensors" else ("--method=qgf", "--best_of=2")
        words = (str(run_folder), f"--to={to}", f"--out={folder / name}", "--seed=1", *method)
        assert command("export", *words) == 0
    return folder


@pytest.mark.whole
def test_each_recipe_acts_as_load_policy_without_this_package(folder, run_folder):
    page = (ROOT / "docs" / "restore_elsewhere.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (folder / "blocks.json").write_text(json.dumps(blocks))
    two = jax.vmap(lambda key: jax.random.split(key, 2))(KEYS).reshape(-1)
    noises = noise(two).reshape(3, 2, 6)
    np.savez(folder / "given.npz", obs=OBS, noise=noise(KEYS), noises=noises)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def act(method, **options):
        policy = qgf_jax.load_policy(run_folder, method, 0.5, seed=1, **options)
        return np.asarray(policy(OBS, jax.random.key(0)))

    one, best = act("qgf"), act("qgf", best_of=2)
    assert np.abs(one - act("reference")).max() > 1e-3 and not np.allclose(one, best)
    wanted = {"jax": best, "onnx": best, "qgf": one, "reference": act("reference")}
    with np.load(folder / "found.npz") as found:
        for name, actions in wanted.items():
            np.testing.assert_allclose(found[name], actions, rtol=0, atol=1e-6, err_msg=name)


def test_the_record_says_what_the_file_is(folder, run_folder):
    records = {to: json.loads((folder / f"{name}.json").read_text()) for to, name in FILES.items()}
    for to, record in records.items():
        content = (folder / FILES[to]).read_bytes()
        assert record["sha256"] == hashlib.sha256(content).hexdigest()
        assert (record["format"], record["chunk"], record["action_dim"]) == (to, 3, 2)
        seal = json.loads((run_folder / "checkpoints" / "seals" / "4.json").read_text())
        assert record["checkpoint"] == {"step": 4, "seed": 1, "sha256": seal["state"]}
        method = None if to == "safetensors" else {"name": "qgf", "options": {}, "best_of": 2}
        assert record.get("method") == method
    program, graph = records["jax.export"], records["onnx"]
    assert program["platforms"] == ["cpu", "cuda", "tpu"]
    assert program["inputs"]["observation"] == "float32[batch, 2]"
    assert program["inputs"]["key"] == "uint32[2]"
    assert graph["inputs"]["noise"] == "float32[batch, 2, 6]"
    assert records["safetensors"]["tensors"]["policy/Dense_0/kernel"] == "float32[8, 6]"


def test_a_goal_is_an_argument_of_its_own():
    spec = Spec(state=(3,), action=1, chunk=1, goal=(2,))
    loaded = SimpleNamespace(
        spec=spec, seeds=1, params_of=lambda seed: {},
        acting=lambda *_: lambda params, obs, key, weight: weight * obs,
    )  # fmt: skip
    chosen = Chosen(loaded, batch=4)  # ty: ignore[invalid-argument-type]
    shapes = {name: x.shape for name, x in chosen.inputs().items()}
    assert shapes == {"observation": (4, 3), "goal": (4, 2), "key": (2,), "weight": ()}
    key = jax.random.key_data(jax.random.key(0))
    seen = chosen.program()(jnp.zeros((4, 3)), jnp.ones((4, 2)), key, 2.0)
    np.testing.assert_array_equal(seen, np.tile([0.0, 0.0, 0.0, 2.0, 2.0], (4, 1)))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--to=onxx"], "did you mean 'onnx'"),
        (["--to=safetensors", "--method=qgf"], "--to=safetensors has no use for --method"),
        (["--to=onnx", "--platforms=cpu"], "--to=onnx has no use for --platforms"),
        (["--to=jax", "--platforms=gpu"], "unknown platform 'gpu'"),
        (["--to=jax", "--method=qgf:delay=1"], "qgf:delay goes on from the chunk before"),
        (["--to=jax", "--method=fql"], "unknown method for a run of 'qgf'"),
        (["--to=safetensors", "--seed=2"], "has seeds 0 to 1, not 2"),
        (["--to=onnx", "--method=particles"], "use --to=jax.export"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(run_folder, tmp_path, capfd, words, hint):
    assert command("export", str(run_folder), f"--out={tmp_path / 'new' / 'file'}", *words) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("qgf: error: ") and hint in last
    assert not [*tmp_path.iterdir()]


def test_a_file_that_is_there_stays(folder, run_folder, capfd):
    before = (folder / "policy.jax").read_bytes()
    words = (str(run_folder), "--to=jax", f"--out={folder / 'policy.jax'}")
    assert command("export", *words) == 2
    assert "policy.jax is there already" in capfd.readouterr().err
    assert (folder / "policy.jax").read_bytes() == before


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs onnx, which is not installed: run `pip install"):
        table.Format.check("onnx", {})
