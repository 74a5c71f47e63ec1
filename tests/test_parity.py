"""The `paper` preset computes what the public QGF code (commit bc44a67) computed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from qgf_jax import config as configs

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "data" / "parity.npz"


@pytest.fixture(scope="module")
def report(parity):
    return parity.compare(FILE)


@pytest.mark.parametrize(
    "group",
    ["batches", "velocities", "values", "losses", "actions", "parameters_after_10_updates"],
)
def test_group_is_within_its_tolerance(report, group):
    assert report["groups"][group]["within"], report["groups"][group]


def test_everything_in_the_file_was_compared(report):
    parts = report["groups"]
    assert len(parts["actions"]["parts"]) == 12 and len(parts["velocities"]["parts"]) == 3
    assert set(parts["parameters_after_10_updates"]["parts"]) == {
        "critic",
        "value",
        "target_critic",
    }


def test_the_page_lists_what_the_presets_differ_in():
    """Its first table of options, and nothing that it says is left out is in the preset."""
    page = (ROOT / "docs" / "parity.md").read_text()
    table = page.split("## What the two presets differ in")[1].split("Further, by method")[0]
    listed = re.findall(r"^\| `([a-z_.]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(configs.PRESETS["paper"])
    missing = page.split("Not in the `paper` preset:")[1].split("##")[0]
    assert not [key for key in configs.PRESETS["paper"] if key.split(".")[1] in missing]


def test_altered_file_fails(parity, tmp_path, monkeypatch, capsys):
    with np.load(FILE, allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    arrays["act/qgf_w1.0"] = arrays["act/qgf_w1.0"] + np.float32(1e-3)
    np.savez(tmp_path / "altered.npz", **arrays)
    monkeypatch.setattr("sys.argv", ["parity.py", str(tmp_path / "altered.npz")])
    with pytest.raises(SystemExit) as leave:
        parity.main()
    printed = json.loads(capsys.readouterr().out)
    assert leave.value.code == 1 and not printed["groups"]["actions"]["within"]
    assert printed["groups"]["values"]["within"]
