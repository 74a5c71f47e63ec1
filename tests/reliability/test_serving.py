"""`qgf serve` as a process: episodes as in an evaluation, load, cut connections, hostile frames."""

import json
import subprocess
import sys

import pytest
from conftest import LONG, ROOT, tiny

SERVE = ["--seconds=300", "--clients=64", "--cut=1000", "--frames=10000"]


@pytest.fixture(scope="module")
def run(maze_data, tmp_path_factory):
    from qgf_jax.training.loop import pretrain

    config = tiny(**{"data.dir": str(maze_data), "eval.envs": 2})
    return pretrain(config, tmp_path_factory.mktemp("runs") / "served")


def printed(script, *words):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(not LONG, reason="starts two processes and plays episodes: `make reliability`")
def test_episodes_are_those_of_an_evaluation(run):
    methods = "qgf,best_of,qgf:execute=2:delay=1:rtc=5.0"
    words = ["--episodes=2", f"--methods={methods}", "--weights=2.0", "--tasks=1"]
    found = printed("serve_episodes.py", run, *words)
    assert found["episodes"] == 12 and found["differing"] == []


@pytest.mark.skipif(not LONG, reason="starts a process and takes minutes: `make reliability`")
def test_a_server_bears_load_and_malice(run):
    found = printed("serve.py", run, *SERVE)
    assert found["exit_code"] == 0 and found["cut"]["left"] == 0
    assert found["hostile"]["one_line"] + found["hostile"]["actions"] == found["hostile"]["frames"]
    assert all(line.startswith("1009") for line in found["hostile"]["claims"].values())
    for name in ("load", "cut", "hostile"):
        before, after = found[name]["resident_mb"]
        assert after < 1.05 * before, (name, before, after)
