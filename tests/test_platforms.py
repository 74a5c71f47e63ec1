"""Which Pythons and which versions: what setup.cfg promises, and what is said where it does not hold."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import oldest
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qgf_jax.data.collect import collect
from qgf_jax.envs import ogbench
from qgf_jax.errors import UserError
from qgf_jax.runtime import backend

ROOT = Path(__file__).parent.parent
SETUP = (ROOT / "setup.cfg").read_text()
TOOLS = ("bash", "cat", "dirname", "make", "sed", "seq", "sh", "test", "touch")


def asked_for(text):
    return [Requirement(line) for line in text.strip().splitlines() if not line.startswith("#")]


def test_pythons_are_named_alike_everywhere():
    low, high = map(int, re.search(r"python_requires = >=3\.(\d+),<3\.(\d+)\n", SETUP).groups())
    named = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", SETUP)]
    assert named == list(range(low, high))
    assert f"Python 3.{low} to 3.{high - 1}, make" in (ROOT / "README.md").read_text()


def test_each_dependency_has_a_lower_and_an_upper_end():
    for requirement in asked_for("\n".join(oldest.requirements())):
        signs = {specifier.operator for specifier in requirement.specifier}
        assert signs >= {">=", "<"} or signs == {"=="}, requirement


def test_oldest_is_the_lower_end_of_each_range():
    wanted = asked_for("\n".join(oldest.requirements()))
    ranges = {r.name: r.specifier for r in wanted if "==" not in str(r.specifier)}
    pins = {r.name: str(r.specifier) for r in asked_for("\n".join(oldest.constraints()))}
    assert pins.keys() == ranges.keys()
    for name, pin in pins.items():
        version = pin.removeprefix("==")
        assert ranges[name].contains(version), name
        assert f">={version}" in str(ranges[name]).split(","), name


@pytest.mark.parametrize("package", ogbench.PACKAGES)
def test_the_benchmarks_needs_are_here_without_the_wheel_that_is_not(package):
    """On 3.13 and later pip does not look after them."""
    needless = {"labmaze", "setuptools"}
    for line in importlib.metadata.requires(package):
        need = Requirement(line)
        if need.name in needless or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        assert importlib.metadata.version(need.name) in need.specifier, line
        for extra in need.extras:
            for more in map(Requirement, importlib.metadata.requires(need.name)):
                if more.marker and more.marker.evaluate({"extra": extra}):
                    assert importlib.metadata.version(more.name) in more.specifier, more


@pytest.mark.parametrize("package", ogbench.PACKAGES)
def test_without_the_benchmark_one_line_names_the_remedy(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    for call in (
        lambda: ogbench.FAMILY.gym("pointmaze-medium-v0"),
        lambda: ogbench.FAMILY.make("cube-single-play-singletask-v0"),
        lambda: collect("cube-single-play-v0", 1, tmp_path / "data"),
    ):
        with pytest.raises(UserError, match=rf"need {package}, not installed here") as caught:
            call()
        remedy = re.search(r"`pip install --no-deps '(.+)' '(.+)'`$", str(caught.value))
        assert [Requirement(words).name for words in remedy.groups()] == list(ogbench.PACKAGES)
    assert not list(tmp_path.iterdir())


def test_the_remedys_ranges_are_those_of_setup_cfg():
    declared = {r.name: r.specifier for r in asked_for("\n".join(oldest.requirements()))}
    remedy = {r.name: r.specifier for r in map(Requirement, ogbench.FAMILY.requirements())}
    assert remedy == {name: declared[name] for name in ogbench.PACKAGES}
    assert SpecifierSet("") not in remedy.values()


def test_pythons_do_not_share_compiled_programs(monkeypatch, tmp_path):
    """JAX 0.12 compresses with zstd on 3.14 and zlib before, and names both files alike."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = set()
    for version in ((3, 13, 0), (3, 14, 0)):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setattr("sys.version_info", version)
        backend._keep_compiled()
        folders.add(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert len(folders) == 2


@pytest.fixture
def machine(tmp_path):
    """`machine({"python3": "3 10"})`: variables of one that has these Pythons; "3 10-" has no venv."""
    for name in TOOLS:
        (tmp_path / name).symlink_to(shutil.which(name))

    def having(pythons):
        for name, version in pythons.items():
            venv = "exit 1" if version.endswith("-") else "exit 0"
            number = version.removesuffix("-")
            (tmp_path / name).write_text(
                f'#!/bin/sh\ncase "$2" in *version_info*) echo "{number}";; *ensurepip*) {venv};; esac\n'
            )
            (tmp_path / name).chmod(0o755)
        return {"PATH": str(tmp_path), "HOME": str(tmp_path)}

    return having


def run(*words, env, cwd=ROOT):
    return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("pythons", "named", "said"),
    [
        ({"python3": "3 13"}, [], "python3\n"),
        ({"python3": "3 10", "python3.12": "3 12"}, [], "python3.12\n"),
        ({"python3": "3 13-", "python3.11": "3 11"}, [], "python3.11\n"),
        ({"python3": "3 13", "python3.11": "3 11"}, ["3.11"], "python3.11\n"),
        ({"python3": "3 13"}, ["3.11"], "(there is no 3.11): install one"),
        (
            {"python3": "3 10"},
            [],
            "(python3 is 3.10): install one, or name it: make install PYTHON=",
        ),
        ({"python3": "3 15"}, [], "(python3 is 3.15)"),
        (
            {"python3": "3 13-"},
            [],
            "(python3 has no venv (Debian, Ubuntu: apt install python3.13-venv))",
        ),
        ({}, [], "(there is no python3 3.14 3.13 3.12 3.11)"),
    ],
)
def test_a_usable_python_is_found_or_one_line_says_what_to_do(machine, pythons, named, said):
    found = run(".ci/python", *named, env=machine(pythons))
    if said.endswith("\n"):
        assert (found.stdout, found.stderr, found.returncode) == (said, "", 0)
    else:
        assert said in found.stderr
        assert (found.stdout, found.stderr.count("\n"), found.returncode) == ("", 1, 1)


def test_an_older_python_is_found_where_that_is_asked_for(machine):
    env = machine({"python3.10": "3 10"}) | {"QGF_PYTHON_FROM": "10"}
    assert run(".ci/python", "3.10", env=env).stdout == "python3.10\n"


def test_make_says_that_no_python_is_usable(machine, tmp_path):
    env = machine({"python3": "3 10"})
    made = run("make", "install", f"VENV={tmp_path}/none", env=env)
    lines = [line for line in made.stderr.splitlines() if not line.startswith("make")]
    assert made.returncode == 2
    assert len(lines) == 1 and "python3 is 3.10" in lines[0]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("pythons", "fails", "tried", "code"),
    [
        ({"python3.11": "3 11", "python3.12": "3 12"}, "never", ["3.11", "3.12"], 0),
        ({"python3.11": "3 11", "python3.12": "3 12"}, "3.11", ["3.11"], 1),
        ({"python3.11": "3 11", "python3.12": "3 12"}, "3.12", ["3.11", "3.12"], 1),
        ({"python3.12": "3 12"}, "never", ["3.12"], 0),
        ({"python3": "3 10"}, "never", [], 1),
    ],
)
def test_what_lands_is_tried_on_each_python(machine, tmp_path, pythons, fails, tried, code):
    env = machine(pythons)
    (tmp_path / "make").unlink()
    (tmp_path / "make").write_text(
        f'#!/bin/sh\necho "$@"\ncase "$2" in *{fails}) exit 1;; esac\necho "9 passed in 1.00s"\n'
    )
    (tmp_path / "make").chmod(0o755)
    ran = run("bash", ".ci/run", env=env)
    lines = ran.stdout.splitlines()
    assert ran.returncode == code
    made = [line for line in lines if line.startswith(("test ", "whole "))]
    words = ["whole", *["test"] * len(tried)]
    assert made == [
        f"{word} PYTHON={version} VENV=.venv-{version}"
        for word, version in zip(words, tried, strict=False)
    ]
    missing = [line for line in lines if line.startswith("not tried: ")]
    absent = [f"3.{n}" for n in range(11, 15) if f"python3.{n}" not in pythons]
    assert [re.search(r"\(there is no (.+)\)", line)[1] for line in missing] == absent
    assert code or lines[-1] == "9 passed in 1.00s"


def test_an_environment_of_another_python_is_not_taken_for_the_one_that_was_asked_for(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho Python 3.99.1\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "installed").touch()
    made = run(
        "make", "install", f"VENV={tmp_path}", f"PYTHON={sys.executable}", env=dict(os.environ)
    )
    assert made.returncode == 2
    assert "made with another Python" in made.stderr
