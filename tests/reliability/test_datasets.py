"""Wrong data are refused in one line, before JAX is imported; odd but right data are taken."""

import json
import os
import subprocess
import sys

import pytest
from conftest import MAZE, ROOT


@pytest.fixture(scope="module")
def tried(maze_data, tmp_path_factory):
    """What `qgf train` did with each file of the corpus: one process, started without JAX."""
    command = [sys.executable, str(ROOT / "tests" / "bad_datasets.py")]
    command += [str(maze_data / f"{MAZE}.npz"), str(tmp_path_factory.mktemp("corpus"))]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.whole
def test_every_malformed_file_is_refused_in_one_line(tried):
    cases = [case for case in tried if case["kind"] == "malformed"]
    assert len(cases) >= 80
    for case in cases:
        said = case["said"]
        assert case["code"] == 2, case
        assert said.startswith(f"qgf: error: d/{MAZE}.npz"), case
        assert said.count("\n") == 1 and len(said) <= 201, case
        assert not case["left"], case


def test_it_is_refused_before_jax_is_imported_and_soon(tried):
    for case in tried:
        assert not case["jax"], case
        assert case["seconds"] < 1.0, case


def test_no_memory_is_taken_for_what_a_header_claims(tried):
    for case in tried:
        assert case["kilobytes"] < 100_000, case


def test_the_line_says_what_is_wrong(tried):
    said = {case["name"]: case["said"] for case in tried}
    for name, hint in {
        "NaN in observations": "observations is NaN or infinite in row 7",
        "no actions": "key 'actions' is missing",
        "an action of 50": "actions leave [-1, 1] in row 9",
        "a terminal of 7": "terminals holds 7",
        "actions twice": "two arrays 'actions'",
        "actions one row short": "rows, observations have",
        "observations too wide": "observations are 4 wide",
        "no terminal": "last row does not end a trajectory",
        "only terminals": "there is no transition",
        "more than float32 holds": "larger than",
        "actions as integers": "must be floating point",
        "observations as objects": "plain number",
        "a header that says a terabyte": "says it holds",
        "a thousand times what it is": "it unpacks from",
        "a web page": "not an npz file",
        "qpos too narrow": "qpos",
        "no trajectory as long as a chunk": "no trajectory has 3 transitions in a row; the longest "
        "has 2: set data.chunk=2",
        "timeouts beside terminals": "'timeouts' is of D4RL's layout",
        "timeouts in place of terminals": "'timeouts' is of D4RL's layout",
        "truncations beside terminals": "is of Gymnasium's",
        "Truncations, in another spelling": "is of Gymnasium's",
        "saved from load_dataset": "is of ogbench.utils.load_dataset's regular layout",
        "saved from load_dataset, compact": "'valids' is of ogbench.utils.load_dataset's compact",
        "the same without valids": "a trajectory that ends twice is of ogbench.utils",
        "a column of rewards": "'rewards' would not be read",
        "images for observations": "images of shape (64, 64, 3), which are not supported",
    }.items():
        assert hint in said[name], (name, said[name])


def test_every_legitimate_file_is_taken(tried):
    cases = [case for case in tried if case["kind"] == "legitimate"]
    assert len(cases) >= 15 and all(case["code"] == 0 for case in cases)
