"""The command for a machine with an accelerator, on a CPU: its file's form, and what it calls wrong."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, ROOT

from qgf_jax.runtime import flops

sys.path.append(str(ROOT / "benchmarks"))
import accelerator
from stages import compared, fast, limits, public, record, right, trace
from stages.record import Deadline, Results

AGENT = """
import flax
import jax
import jax.numpy as jnp
import ml_collections

class Agent(flax.struct.PyTreeNode):
    weight: jax.Array

    @classmethod
    def create(cls, seed, observations, actions, config):
        assert actions.shape == (config.batch_size, config.horizon_length, 5)
        return cls(jnp.zeros((observations.shape[-1], config.actor_hidden_dims[0])))

    @jax.jit
    def update(self, batch):
        loss = (batch["observations"] @ self.weight).mean() + batch["valid"].sum()
        return self.replace(weight=self.weight + 1.0), {"loss": loss}

def get_config():
    return ml_collections.ConfigDict(
        dict(agent_name="qgf", batch_size=1, horizon_length=1, actor_hidden_dims=(1,))
    ).lock()
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the public code's checkout looks like from outside."""
    agents = tmp_path_factory.mktemp("public") / "agents"
    agents.mkdir()
    (agents / "qgf.py").write_text(AGENT)
    (agents / "__init__.py").write_text("from agents.qgf import Agent\nagents = {'qgf': Agent}\n")
    return agents.parent


@pytest.fixture(scope="module")
def content(tmp_path_factory, checkout):
    """Of the file that `--dry` has written."""
    if not LONG:
        pytest.skip("half a minute of two cores, in `make reliability`")
    out = tmp_path_factory.mktemp("out") / "deep" / "accelerator.json"
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    words = ["--dry", "--minutes=30", f"--out={out}", f"--public={checkout}"]
    ran = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "accelerator.py", *words],
        env={**os.environ, "XLA_FLAGS": flags, "NPROC": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("cpu: a done, b done, c done, d done, e done; ")
    return json.loads(out.read_text())


def test_every_stage_and_check_is_there_and_right(content):
    assert list(content["stages"]) == list("abcde")
    for stage in content["stages"].values():
        assert (stage["state"], stage["cause"]) == ("done", "")
        assert not [name for name in stage["results"] if "left_out" in name]
    assert accelerator.wrong(content) == []
    checks = content["stages"]["a"]["results"]
    assert all(check["ok"] is True for check in checks.values()) and len(checks) >= 18
    assert checks["gradient of critic, float32"]["difference"] == 0  # one device, one program
    assert 0 < checks["gradient of critic, bfloat16"]["difference"] < 0.1
    digests = checks["killed and resumed"]["digests"]
    assert digests[0] == digests[1] and checks["killed and resumed"]["resumed_from"] == 4


def test_rates_latencies_and_the_table_are_numbers(content):
    results = {name: stage["results"] for name, stage in content["stages"].items()}
    plans = [value for value in results["b"].values() if "seed_updates_per_second" in value]
    assert [plan["seeds"] for plan in plans] == [1, 2, 1]
    for plan in plans:
        assert plan["updates_per_second"] * plan["us_per_update"] == pytest.approx(1e6)
        assert plan["seed_updates_per_second"] == plan["seeds"] * plan["updates_per_second"]
        assert plan["skipped_updates"] == 0 and plan["operations"]["in_loop"] > 20
        assert plan["profile"]["kernels_per_update"] > 20 and plan["share_of_limit"] is None
    assert plans[1]["gflop_per_update"] == pytest.approx(2 * plans[0]["gflop_per_update"])
    (ratio,) = results["b"]["seeds side by side"].values()
    assert ratio == plans[1]["seed_updates_per_second"] / plans[0]["updates_per_second"]
    acting = results["c"]["qgf, batch 1"]
    assert 0 < acting["p50_ms"] <= acting["p99_ms"] and acting["calls"] == 10
    assert results["c"]["maze with qgf inside"]["steps"] > 0
    table = results["d"]["maze"]["table"]
    assert {row["method"] for row in table} == {"reference", "qgf"}
    assert all("(jax)" in row["env"] and 0 <= row["success"]["low"] <= 1 for row in table)
    paper = results["d"]["paper"]
    assert paper["hours_for_500000"] * 3600 > 0.9 * 500_000 / paper["updates_per_second"] > 0
    assert results["e"]["4x512 batch 256"]["updates_per_second"] > 0


def test_each_key_of_the_file_is_documented(content):
    page = (ROOT / "docs" / "accelerators.md").read_text()
    known, named = set(re.findall(r"`([^`]+)`", page)), set(content) - {"stages"}

    def walk(value):
        for key, inner in value.items() if isinstance(value, dict) else ():
            named.add(key)
            if key not in ("kinds", "success"):
                walk(inner)
        for inner in value if isinstance(value, list) else ():
            walk(inner)

    for stage in content["stages"].values():
        named |= set(stage)
        walk(list(stage["results"].values()))
    walk(content["device"])
    labels = {str(plan) for plan in fast.plans(dry=True)}
    assert named - labels - known == set()


def test_a_difference_beyond_the_tolerance_is_not_ok():
    a = {"x": np.ones((4, 3)), "y": np.full(5, -100.0)}
    near = {**a, "x": a["x"] + 9e-4}
    assert compared.compare(near, a, 1e-5) == {
        "ok": True, "difference": pytest.approx(9e-6), "tolerance": 1e-5, "scale": 100.0,
    }  # fmt: skip
    assert not compared.compare(near, a, 8e-6)["ok"]
    broken = {**a, "y": a["y"] * [1, 1, np.nan, 1, 1]}
    assert compared.compare(broken, a, 1e9) == {
        "ok": False, "difference": None, "tolerance": 1e9, "scale": 100.0,
    }  # fmt: skip
    assert not compared.compare({**a, "x": a["x"][:3]}, a, 1e9)["ok"]
    one_off = np.ones((20, 2))
    one_off[3] = -1.0
    assert compared.compare(one_off, np.ones((20, 2)), 1e-5, share=0.9)["ok"]
    assert not compared.compare(one_off, np.ones((20, 2)), 1e-5)["ok"]


def test_movement_is_measured_by_its_own_length():
    begin, end = {"g": {"w": np.zeros(4)}}, {"g": {"w": np.full(4, 1e-3)}}
    assert compared.movement(end, end, begin)["ok"]
    twice = {"g": {"w": np.full(4, 2e-3)}}  # as with a gradient that is twice too large
    assert compared.movement(twice, end, begin) == {
        "ok": False,
        "difference": 1.0,
        "tolerance": 0.02,
    }
    assert not compared.movement({"g": {"w": np.full(4, np.nan)}}, end, begin)["ok"]


def test_updates_that_do_not_repeat_are_told_with_where_they_began(tmp_path, monkeypatch):
    results = results_of(tmp_path)

    class Compiled:
        def as_text(self):
            return '%a = f32[3] scatter(%b), metadata={op_name="jit(run)/gather_of_rows"}\n'

    digests = iter([["x", "y", "z"], ["x", "other", "another"]])
    monkeypatch.setattr(right, "_updates", lambda dry: (Compiled(), None, 100))
    monkeypatch.setattr(right, "_digests", lambda *_: next(digests))
    monkeypatch.setattr(right, "_deterministic", lambda dry: {"same": True})
    right.twice(results, dry=False)
    verdict = results.read()["stages"]["b"]["results"]["1,000 updates twice"]
    assert verdict["ok"] is False and verdict["differs_within_update"] == 200
    assert verdict["suspects"] == ["jit(run)/gather_of_rows"]
    assert verdict["with --xla_gpu_deterministic_ops=true"] == {"same": True}
    assert any("1,000 updates twice: not ok" in line for line in accelerator.wrong(results.read()))


def results_of(folder, stage="b"):
    """A file that has just been begun."""
    results = Results(folder / "file.json", stage)
    results.write(record.opening([], 8, dry=False))
    results.of_stage(title="fast", state="running", cause="")
    return results


@pytest.mark.parametrize(
    ("code", "state", "cause"),
    [
        ("pass", "done", ""),
        ("raise ValueError('no such card')", "failed", "left with 1: ValueError: no such card"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "ended by SIGKILL: "),
        ("import time; time.sleep(60)", "cut off", "still running after 1 s"),
    ],
)
def test_how_a_stage_ended_is_written_in_one_line(code, state, cause, tmp_path, monkeypatch):
    results = results_of(tmp_path)
    results.put("first", {"updates_per_second": 1.0})
    monkeypatch.setattr(accelerator, "_GRACE", 0.0)
    command = [sys.executable, "-c", code], dict(os.environ)
    monkeypatch.setattr(accelerator, "python", lambda *_, **__: command)
    accelerator.start_stage(results, 20.0 if state != "cut off" else 1.0, accelerator.parse([]))
    stage = results.read()["stages"]["b"]
    assert (stage["state"], stage["cause"]) == (state, cause)
    assert stage["results"] == {"first": {"updates_per_second": 1.0}}  # what there was stays
    assert bool(accelerator.wrong(results.read())) == (state != "done")


def test_a_stage_that_fails_is_no_reason_to_leave_the_next_one_out(tmp_path, monkeypatch, capsys):
    def python(path, *words, env):
        code = "raise SystemExit(int('--stage=a' in " + repr(words) + "))"
        return [sys.executable, "-c", code], dict(os.environ)

    monkeypatch.setattr(accelerator, "python", python)
    out = tmp_path / "file.json"
    assert accelerator.main([f"--out={out}", "--stages=a,c,e"]) == 1
    states = {k: v["state"] for k, v in json.loads(out.read_text())["stages"].items()}
    assert states == {"a": "failed", "c": "done", "e": "not run"}
    assert "a right: failed: left with 1" in capsys.readouterr().err


def test_a_cpu_is_not_measured_unless_asked(tmp_path, monkeypatch, capsys):
    results = results_of(tmp_path)
    with pytest.raises(record.NotAnAcceleratorError):
        record.describe_device(results, dry=False)
    said = [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ)
    monkeypatch.setattr(accelerator, "python", lambda *_, **__: said)
    assert accelerator.main([f"--out={tmp_path}/new.json"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("accelerator.py: error: JAX sees a CPU alone") and "--dry" in last
    assert not (tmp_path / "new.json").exists()


def test_what_there_was_no_time_for_is_not_right():
    stages = {
        "a": {"title": "right", "state": "done", "cause": "", "results": {"left_out": ["x"]}},
        "b": {"title": "fast", "state": "not run", "cause": accelerator._NO_TIME, "results": {}},
        "e": {"title": "public", "state": "not run", "cause": "no --public=FOLDER", "results": {}},
    }
    assert accelerator.wrong({"stages": stages}) == [
        "a right: no time for x",
        "b fast: not run: no time was left",
    ]


def test_a_result_file_may_be_given_relative_to_where_one_is(tmp_path, monkeypatch):
    """Stage e works in the folder of the public code."""
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        accelerator, "start_stage", lambda results, *_: seen.append(results.path) or 0
    )
    accelerator.main(["--out=x.json", "--stages=b"])
    assert seen == [tmp_path / "x.json"]


def test_what_cannot_begin_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for words, hint in (
        ([f"--public={tmp_path}"], "has no agents/qgf.py"),
        (["--stages=e"], "needs --public"),
        (["--out="], "is there already"),
        ([f"--out={tmp_path}/file/out.json"], "could not be written"),
        ([f"--out={tmp_path}/file"], "is there already: choose another --out"),
    ):
        assert accelerator.main(words) == 2
        assert hint in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ml_collections", None)
    assert accelerator.main([]) == 2
    assert "ml_collections missing" in capsys.readouterr().err
    for wrong in ("--stages=a,x", "--minutes=0", "--minutes=nan", "--stages="):
        with pytest.raises(SystemExit):
            accelerator.parse([wrong])


def test_time_goes_to_what_is_still_to_come(tmp_path):
    flags = accelerator.parse(["--stages=a,b,e"])
    a, b = (accelerator.STAGES[name].share for name in "ab")
    assert accelerator.share_of(100, "a", flags) == pytest.approx(100 * a / (a + b))
    assert accelerator.share_of(50, "b", flags) == pytest.approx(50)
    results, now = results_of(tmp_path), [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record.time, "monotonic", lambda: now[0])
        deadline, done = Deadline(10), []
        for plan, seconds in zip(
            deadline.take("xyzw", results, "left_out"), (2, 5, 0), strict=False
        ):
            done.append(plan)
            now[0] += seconds
    assert done == ["x", "y"]  # 3 s are left, and one took 5
    assert results.read()["stages"]["b"]["results"]["left_out"] == ["z", "w"]


def test_a_measurement_that_fails_is_one_line_and_the_next_goes_on(tmp_path):
    results = results_of(tmp_path)
    with results.attempt("too large"):
        raise RuntimeError("RESOURCE_EXHAUSTED:\n out of memory " + 300 * "x")
    failed = results.read()["stages"]["b"]["results"]["too large"]["failed"]
    assert failed.startswith("RuntimeError: RESOURCE_EXHAUSTED: out of memory")
    assert "\n" not in failed and len(failed) == record.LONGEST


def test_limits_of_a_card():
    assert limits.peaks("NVIDIA H100 80GB HBM3").tf32 == 495e12
    assert limits.peaks("NVIDIA H200").bandwidth == 4.8e12
    assert limits.peaks("NVIDIA H100 PCIe").tf32 < 495e12
    assert (
        limits.peaks("TPU v5 lite") is None and limits.roofline(None, "tf32", 1, 1)["limit"] is None
    )
    # The paper's update: 98 GFLOP in 199 µs of TF32; Adam's traffic takes 124 µs.
    least = limits.roofline(limits.peaks("NVIDIA H100 80GB HBM3"), "tf32", 98.4e9, 414e6)
    assert least["limit"] == least["arithmetic"] == pytest.approx(199e-6, rel=0.01)
    assert least["traffic"] == pytest.approx(124e-6, rel=0.01)


def test_flops_are_those_of_the_compiled_program():
    def program(a, b):
        def turn(c, _):
            return jnp.tanh(c @ b) + (c @ jnp.ones((8, 1))), None

        return jax.lax.scan(turn, a, None, 7)[0]

    a, b = np.ones((5, 8), np.float32), np.ones((8, 8), np.float32)
    expected = 7 * 2 * 5 * 8 * 8
    assert limits.flops(jax.make_jaxpr(program)(a, b)) == expected
    assert flops.count(jax.jit(program).lower(a, b).compile()) == expected
    seeds = np.stack([a] * 3), np.stack([b] * 3)
    assert limits.flops(jax.make_jaxpr(jax.vmap(program))(*seeds)) == 3 * expected
    params, slow = {"w": np.zeros((10, 2))}, {"w": np.zeros((5,))}
    assert limits.adam_bytes(params, slow) == 4 * (7 * 20 + 2 * 5)


def test_operations_of_a_loop_are_counted_in_the_text():
    text = """
body.1 (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  %f = f32[2] fusion(%p), kind=kLoop, calls=%g
  %c = (f32[2], s8[0]) custom-call(%f, %p), custom_call_target="__cublas$gemm"
  ROOT %d = f32[2] conditional(%f, %p, %p), branch_computations={%x, %y}
}

ENTRY main (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  ROOT %w = f32[2] while(%p), condition=%cond, body=%body.1
}
"""
    assert trace.operations(text) == {
        "in_loop": 3,
        "kinds": {"conditional": 1, "custom-call": 1, "fusion": 1},
    }
    assert trace._busy([(0, 4), (2, 5), (8, 9)]) == (6, 9)


def test_without_a_checkout_there_is_no_public_code():
    with pytest.raises(ModuleNotFoundError):
        public.measure("4x512 batch 256", dry=True)
