"""What is chosen by platform: variables before JAX is imported, and numbers that nobody gave."""

import json
import os
import shutil
import sys
import types

import pytest
from conftest import ROOT, tiny

from qgf_jax import cli
from qgf_jax.config import RunConfig
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import fingerprint
from qgf_jax.runs.run import Run
from qgf_jax.runtime import backend
from qgf_jax.training.loop import pretrain

FLAG, WIDE = "--xla_cpu_experimental_ynn_fusion_type=", "--xla_cpu_prefer_vector_width="
KNOWN = [word for flag in backend._FLAGS for word in flag.words]
MEMORY, FRACTION = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"


@pytest.fixture
def before_jax(monkeypatch, tmp_path):
    """`before_jax(a, b)`: JAX is not imported, and its libraries hold the strings `a` and `b`."""
    for name in (MEMORY, FRACTION):
        monkeypatch.delenv(name, raising=False)

    def having(*libraries):
        for i, words in enumerate(libraries):
            (tmp_path / f"{i}.so").write_bytes(b"\0".join([b"\x7fELF", *words, b""]))
        paths = [tmp_path / f"{i}.so" for i in range(len(libraries))]
        monkeypatch.setattr(backend, "_libraries", lambda: paths)
        monkeypatch.delitem(sys.modules, "jax")

    return having


@pytest.mark.parametrize(
    ("libraries", "own", "widest", "expected"),
    [
        ([KNOWN], "--a=1", 128, f"--a=1 {FLAG}individual_dot"),
        ([KNOWN], "", 256, f"{FLAG}individual_dot {WIDE}512"),
        ([KNOWN], FLAG, 8, FLAG),
        ([KNOWN], f"{WIDE}256", 512, f"{WIDE}256 {FLAG}individual_dot"),
        # XLA ends the process at a flag that it does not know, and at a value.
        ([], "--a=1", 256, "--a=1"),
        ([[]], "--a=1", 256, "--a=1"),
        ([[word for word in KNOWN if b"DOT" not in word]], "", 256, f"{WIDE}512"),
        ([[b"xla_cpu_prefer_vector_width_of_old\0"]], "", 256, ""),
        ([KNOWN, KNOWN[:2]], "", 256, f"{FLAG}individual_dot"),  # a plug-in of another version
    ],
)
def test_flags_of_the_compiler_only_where_it_knows_them(
    libraries, own, widest, expected, monkeypatch, before_jax
):
    monkeypatch.setenv("XLA_FLAGS", own)
    before_jax(*libraries)
    for _ in range(2):
        backend.tune(widest=widest)
        assert os.environ["XLA_FLAGS"] == expected


def test_what_is_installed_knows_all_flags():
    """Or they are to be taken out."""
    assert backend._libraries()
    assert all(backend._is_known(flag) for flag in backend._FLAGS)


@pytest.mark.parametrize(
    ("words", "own", "expected"),
    [
        (["train"], {}, None),  # JAX's own: three quarters of a card
        (["evaluate"], {}, "false"),
        (["report"], {MEMORY: "true"}, "true"),
        (["evaluate"], {FRACTION: ".3"}, None),
    ],
)
def test_only_training_takes_a_card_for_itself(words, own, expected, monkeypatch, before_jax):
    before_jax(KNOWN)
    monkeypatch.setenv("XLA_FLAGS", "")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "_run", lambda words: None)
    cli.main(words)
    assert os.environ.get(MEMORY) == expected
    monkeypatch.delenv(MEMORY, raising=False)


CARD = types.SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
CPU = types.SimpleNamespace(platform="cpu", device_kind="cpu")


@pytest.mark.parametrize(
    ("device", "name", "given", "cores", "value"),
    [
        (CARD, "train.steps_per_dispatch", 0, 16, 1000),
        (CARD, "train.steps_per_dispatch", 100, 16, 100),
        (CARD, "eval.envs", 0, 2, 64),
        (CARD, "eval.envs", 0, 64, 64),  # the host is no part of an action's bits
        (CARD, "--envs=jax", 0, 16, 1024),
        (CPU, "train.steps_per_dispatch", 0, 2, 100),
        (CPU, "eval.envs", 0, 2, 10),
        (CPU, "eval.envs", 0, 16, 64),
        (CPU, "eval.envs", 0, 128, 100),
        (CPU, "--envs=jax", 0, 128, 64),
    ],
)
def test_what_nobody_gave_is_chosen_by_platform_and_said_once(
    device, name, given, cores, value, monkeypatch, capsys
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    monkeypatch.setenv(MEMORY, "false")
    monkeypatch.setattr(backend, "devices", lambda: [device])
    assert backend.choose(name, given) == backend.choose(name, given, quiet=True) == value
    more = f" {MEMORY}='false'" * (device is CARD)
    said = (
        f"platform: {device.device_kind}, {cores} cores: {name}={value} XLA_FLAGS='--a=1'{more}\n"
    )
    assert capsys.readouterr().err == said


def test_docs_have_the_numbers():
    text = (ROOT / "docs" / "accelerators.md").read_text()
    for name in ("train.steps_per_dispatch", "--envs=jax"):
        cells = [backend._default(name, platform, 2) for platform in ("cpu", "gpu")]
        assert f"`{name}` | {cells[0]} | {cells[1]} |" in text


@pytest.mark.parametrize("version", ["now", "before"])
def test_a_run_goes_on_with_other_steps_a_dispatch(version, run_folder, maze_data, tmp_path):
    """Begun on a CPU and resumed on a card, or begun when these were a part of the config."""
    work = tmp_path / "run"
    shutil.copytree(run_folder, work)
    shutil.rmtree(work / "checkpoints" / "4")
    (work / "checkpoints" / "seals" / "4.json").unlink()
    path = work / "checkpoints" / "seals" / "2.json"
    if version == "before":
        kept = RunConfig(RunConfig.read_record(work / "config.json")["config"]).identity()
        kept["train.steps_per_dispatch"] = "2"
        seal = json.loads(path.read_text())
        del seal["sha256"]
        seal["identity"]["config"] = fingerprint(kept)
        path.write_text(json.dumps(seal | {"sha256": fingerprint(seal)}))
    sealed = path.read_bytes()
    config = tiny(**{"data.dir": str(maze_data), "seeds": 2, "train.steps_per_dispatch": 0})
    pretrain(config, work)
    checkpoints = Checkpoints(work, identity=Run.open(work).identity)
    assert [checkpoints.why_invalid(step) for step in (2, 4)] == ["", ""]
    assert path.read_bytes() == sealed  # it went on from there
    # Both save every second step, so their dispatches are of one length, and the bits are the same.
    assert checkpoints.digest(4) == Checkpoints(run_folder).digest(4)
