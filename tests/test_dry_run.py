"""What a run would be, said before it is one."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT, tiny

from qgf_jax import cli
from qgf_jax.errors import UserError
from qgf_jax.methods.builder import Builder
from qgf_jax.training import dry_run, kept
from qgf_jax.training.hosts import Hosts

CONFIG = f"--config={ROOT}/tests/tiny_config.py"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setenv("QGF_CACHE", "off")


def test_it_counts_what_would_be_trained_and_touches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["train", CONFIG, "--dry_run", "--config.seeds=2", "--config.devices=4"])
    said = json.loads(capsys.readouterr().out)
    config = tiny(seeds=2, devices="4")
    spec = dry_run._spec_of(config)
    learner = Builder(config, spec).learner()
    params = jax.eval_shape(learner.init, jax.random.key(0), spec.example(), np.zeros(6))
    counts = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in params.items()}
    assert said["parameters"] == counts
    assert (said["observation"], said["action"], said["chunk"]) == (2, 2, 3)
    assert said["devices"]["mesh"] == {"devices": 4} and said["batch_per_device"] == 2
    # Of the policy's last layer alone, forward and backward, both seeds, batch of 8: 3 products.
    assert said["flops_per_update"] > 2 * 3 * 2 * 8 * 8 * 6
    assert list(tmp_path.iterdir()) == []


def test_widths_with_goals_are_those_of_the_data():
    config = tiny(critic="dqc", **{"networks.policy_goal": False})
    spec = dry_run._spec_of(config)
    assert (spec.state, spec.goal, spec.action) == ((2,), (2,), 2)


@pytest.mark.parametrize("hosts", ["here", "127.0.0.1,2,0", "127.0.0.1:80,2,2", "a:1,2"])
def test_hosts_that_cannot_be_read_are_refused_before_anything_waits(hosts):
    with pytest.raises(UserError, match="it must be auto or ADDRESS:PORT,COUNT,INDEX"):
        Hosts.initialize(hosts)


def test_commands_of_the_page_are_understood(monkeypatch, capsys):
    """Each `qgf train` of docs/accelerators.md, as far as it goes without other hosts."""
    monkeypatch.chdir(ROOT)
    asked = []
    monkeypatch.setattr(dry_run, "describe", lambda config: asked.append(config["env"]))
    text = (ROOT / "docs/accelerators.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    commands = [line.split("qgf train", 1)[1].strip('"') for line in lines if "qgf train" in line]
    for command in commands:
        cli.main(["train", *command.split(), "--dry_run"])
    assert len(asked) == 3 and all("cube-triple" in env for env in asked)
    with pytest.raises(SystemExit):
        cli.main(["train", CONFIG, "--dry_run", "--hosts=rubbish"])
    assert "it must be auto or" in capsys.readouterr().err


@pytest.mark.whole
def test_a_device_with_one_example_has_work_too():
    said = dry_run.describe(tiny(**{"train.batch_size": 8, "devices": "8"}))
    assert said["batch_per_device"] == 1 and said["flops_per_update"] > 0


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """A list that grows with each program that is counted, 5 operations each, and a cache of its own."""
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("QGF_CACHE")
    found = {"flops": 5.0, "work": 7}
    monkeypatch.setattr(dry_run, "_compiled", lambda *given: asked.append(given) or found)
    return asked


def test_a_program_is_counted_once(counted):
    said = dry_run.describe(tiny(devices="2"))
    same = dry_run.describe(tiny(devices="2", seed=7, **{"eval.episodes": 3}))
    assert (said["flops_per_update"], said["bytes_per_device"]["work"]) == (10.0, 7)
    assert same == said | {"config": same["config"]} and len(counted) == 1


@pytest.mark.parametrize("change", ["train.batch_size=16", "networks.ensemble=3", "seeds=2"])
def test_another_program_is_counted_anew(counted, change):
    key, value = change.split("=")
    dry_run.describe(tiny())
    dry_run.describe(tiny(**{key: int(value)}))
    assert len(counted) == 2


def test_other_settings_of_the_compiler_and_other_sources_count_anew(counted, monkeypatch):
    dry_run.describe(tiny())
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    dry_run.describe(tiny())
    monkeypatch.setattr(kept, "_sources", lambda rooms: rooms)
    dry_run.describe(tiny())
    monkeypatch.setenv("QGF_CACHE", "off")
    dry_run.describe(tiny())
    assert len(counted) == 4


def test_a_kept_count_that_is_no_count_is_counted_again(counted, tmp_path):
    said = dry_run.describe(tiny())
    (file,) = (tmp_path / ".cache" / "qgf_jax" / "dry_run").iterdir()
    for text in ("", '{"flops": 1', '{"flops": 1.0}', "[]"):
        file.write_text(text)
        assert dry_run.describe(tiny()) == said
    assert len(counted) == 5
    file.write_text('{"flops": 1.0, "work": 2}')
    assert dry_run.describe(tiny())["bytes_per_device"]["work"] == 2


@pytest.mark.whole
def test_what_is_compiled_quickly_counts_alike(monkeypatch):
    config = tiny()
    said = dry_run.describe(config)
    whole = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    monkeypatch.setattr(kept, "QUICKLY", whole)
    assert dry_run.describe(config) == said
