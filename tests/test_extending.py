"""Parts and methods from outside the package: a file each, which entry points name."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from test_cli import ONE_DEVICE

TINY = ROOT / "tests" / "tiny_config.py"
FILES = {
    # A guidance rule with an option, and the method that acts by it.
    "one_rule.py": '''
from __future__ import annotations

from typing import Annotated

import jax
import jax.numpy as jnp

from qgf_guide.bounds import Positive
from qgf_jax.methods.parts import rule
from qgf_jax.methods.table import row


@rule(needs=("q",), source="nobody, 2026")
def signed(velocity, q, endpoint, *, stride: Annotated[Positive, "size of each number"] = 1.0):
    """The signs of the gradient at the endpoint."""

    def direct(action, t):
        v = velocity(action, t)
        return v, stride * jnp.sign(jax.grad(q)(endpoint(action, t, v)))

    return direct


row("qgf_signed", "as qgf, by the signs of the gradient", "nobody, 2026", options={"rule": "signed"})
''',
    # A critic.
    "one_critic.py": '''
from typing import Annotated

from qgf_guide.bounds import Positive
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import critic
from qgf_jax.types import Learner, Loss


@critic(provides=("q", "target_q"), source="nobody, 2026")
def monte_carlo(nets, sample, *, scale: Annotated[Positive, "factor of the reward"] = 1.0):
    """Q regresses on the reward alone."""

    def init(key, obs, action):
        return {"critic": nets.init_ensemble(key, obs, action)}

    def loss(params, target_params, x, key):
        q = nets.apply_ensemble(params["critic"], x.obs, x.action)
        return jnp.mean((q - scale * x.reward) ** 2), {}

    return Learner(init, {"critic": Loss(loss)}, targets=("critic",))
''',
    # What else can be chosen: a schedule, a unit, and which candidate is taken.
    "choices.py": '''
from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import schedule, selector, unit
from qgf_jax.methods.table import row


@schedule()
def late(t, cap):
    """Times t."""
    return t


@unit(needs=("calibration",))
def halved(calibration, gradient, t):
    """As spread, times a half."""
    return 0.5 * gradient / calibration["q_std"]


@selector(needs=("q",))
def last_of(nets, sample, n):
    """The last candidate."""

    def last(params, obs, key, weight):
        return sample(params, obs, jax.random.split(key, n)[-1], weight)

    return last


row(
    "last_of_two",
    "the last of two reference actions",
    "nobody, 2026",
    options={"rule": "unguided"},
    selector="last_of",
    best_of=(2,),
)
''',
}


OPTION = """from typing import Annotated
from qgf_guide.bounds import Positive
from qgf_jax.methods.parts import rule
@rule()"""


def install(folder, files):
    """A distribution, as pip would put it on the path."""
    info = folder / "others_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-parts\nVersion: 1.0\n")
    names = [name.removesuffix(".py") for name in files]
    entries = "".join(f"{name} = {name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[qgf_jax.parts]\n{entries}")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def qgf(site, *words, code=""):
    command = ["-c", code] if code else ["-m", "qgf_jax", *map(str, words)]
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=300,
        env=ONE_DEVICE | {"PYTHONPATH": f"{site}:{ROOT}"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("others") / "site", FILES)


@pytest.fixture(scope="module")
def workdir(site, maze_data, tmp_path_factory):
    """A run that was trained, evaluated and reported with what other packages add."""
    workdir = tmp_path_factory.mktemp("extending") / "run"
    commands = [
        (
            "train", f"--config={TINY}", f"--workdir={workdir}", f"--config.data.dir={maze_data}",
            "--config.algorithm=qgf_signed", "--config.critic=monte_carlo",
            "--config.critics.monte_carlo.scale=2.5",
        ),
        (
            "evaluate", f"--workdir={workdir}", "--weights=0,1", "--episodes=1", "--workers=1",
            "--selection_episodes=0",
            "--methods=reference,last_of_two,qgf_signed,qgf_signed:stride=2:schedule=late:units=halved",
        ),
        ("report", f"--workdir={workdir}"),
    ]  # fmt: skip
    for command in commands:
        done = qgf(site, *command)
        assert done.returncode == 0, done.stderr
    return workdir


def test_a_rule_and_a_critic_of_other_packages_train_evaluate_and_report(workdir):
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert config["critics"] == {"monte_carlo": {"scale": 2.5}}
    assert config["sampler"]["stride"] == 1.0
    rows = json.loads((workdir / "report" / "summary.json").read_text())["rows"]
    played = {(r["method"], r["weight"], r["best_of"], *sorted(r["options"])) for r in rows}
    assert played == {
        ("reference", 0.0, 1),
        ("last_of_two", 0.0, 2),
        ("qgf_signed", 0.0, 1),
        ("qgf_signed", 1.0, 1),
        ("qgf_signed", 0.0, 1, "schedule", "stride", "units"),
        ("qgf_signed", 1.0, 1, "schedule", "stride", "units"),
    }


def test_what_others_add_is_listed_with_what_it_costs_and_may_be_trained_with(site):
    done = qgf(
        site,
        code="import json, qgf_jax\n"
        "from qgf_jax.training import costs\n"
        "row = qgf_jax.METHODS['qgf_signed']\n"
        "found = costs.read(['qgf_signed'])['qgf_signed']\n"
        "print(json.dumps([row.critics, found, sorted(qgf_jax.RULES), row.at_zero]))",
    )
    critics, found, rules, at_zero = json.loads(done.stdout)
    assert set(critics) == {"iql", "td", "dqc", "contrastive", "qrl", "monte_carlo"}
    assert found["needs"] == ["critic", "policy"] and found["cost"] == pytest.approx(1.0, abs=0.01)
    assert "signed" in rules and at_zero == "reference"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--methods=qgf_signd",), "did you mean 'qgf_signed'"),
        (("--methods=qgf_signed:strid=2",), "did you mean 'stride'"),
        (("--methods=qgf_signed:stride=0",), "it must be a finite number above 0"),
        (("--methods=qgf:schedule=lat",), "did you mean 'late'"),
    ],
)
def test_a_mistyped_word_is_explained_by_their_names_too(site, workdir, words, hint):
    done = qgf(site, "evaluate", f"--workdir={workdir}", *words)
    assert done.returncode == 2 and hint in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        (
            "from qgf_jax.methods.parts import rule\n@rule()\ndef f(v, q, e, *, x: int = 1): ...",
            "LookupError: option x: <class 'int'> says no bounds",
        ),
        (
            f"{OPTION}\ndef f(v, q, e, *, x: Annotated[Positive, 'm']): ...",
            "option x needs a default",
        ),
        (f"{OPTION}\ndef f(v, q, e, *, x: Annotated[Positive, 'm'] = -1.0): ...", "above 0"),
        ("from qgf_jax.methods.table import row\nrow('qgf', 'mine', 'me')", "two methods 'qgf'"),
    ],
)
def test_a_broken_package_is_named_in_one_line(tmp_path, text, hint):
    site = install(tmp_path / "site", {"broken_part.py": text})
    done = qgf(site, "evaluate", "--workdir=runs/x", "--methods=qgf")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "others-parts adds parts of methods by 'broken_part'" in done.stderr
    assert hint in done.stderr


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ("options={'rule': 'nope'}", "unknown rule 'nope'"),
        ("options={'nope': 1}", "unknown option 'nope'"),
        ("selector='nope'", "unknown selector 'nope'"),
        ("policies=('nope',)", "unknown policy 'nope'"),
        ("critic='nope'", "unknown critic 'nope'"),
    ],
)
def test_a_wrong_row_is_named_whoever_reads_the_table(tmp_path, fields, hint):
    text = f"from qgf_jax.methods.table import row\nrow('mine', 'a method', 'nobody', {fields})"
    done = qgf(install(tmp_path / "site", {"a_row.py": text}), "methods")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"method 'mine': {hint}" in done.stderr and "mend or uninstall" in done.stderr


def test_a_run_whose_package_is_gone_is_not_advised_to_be_removed(workdir, tmp_path):
    for command in (("verify", workdir), ("report", f"--workdir={workdir}")):
        done = qgf(tmp_path, *command)
        assert done.returncode == 2 and "unknown method 'qgf_signed'" in done.stderr
        assert "remove" not in done.stdout + done.stderr


def test_a_run_whose_package_has_renamed_an_option_is_told_the_key(workdir, tmp_path):
    later = {name: text.replace("scale", "factor") for name, text in FILES.items()}
    done = qgf(
        install(tmp_path / "later", later),
        "evaluate", f"--workdir={workdir}", "--methods=reference", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "config key critics.monte_carlo.scale is not known" in done.stderr
