"""Pages say what the code is: pictures, lists, links, citations, and examples that run."""

import ast
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny
from PIL import Image

import qgf_jax
from qgf_jax import cli
from qgf_jax.methods.table import Method
from qgf_jax.training.loop import pretrain

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
SOURCES = [
    p
    for folder in ("qgf_guide", "qgf_jax", "experiments", "benchmarks")
    for p in (ROOT / folder).rglob("*.py")
    if "build" not in p.parts
]


WAITS_FOR = [
    "qgf_jax/methods/rows.py", "qgf_jax/envs/families.py", "qgf_jax/core/encoders/__init__.py",
    "qgf_jax/runs/loaded.py", "docs/methods.md",
]  # fmt: skip
landed = pytest.mark.skipif(
    not all((ROOT / name).exists() for name in WAITS_FOR),
    reason="the pages are written for files that are not here yet: " + ", ".join(WAITS_FOR),
)


def tool(name):
    """A script of docs/tools, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


architecture = tool("architecture")


# The picture.


def test_the_picture_shows_the_code_of_today():
    """Rooms, files and arrows exactly; lines of code to a fifth, so that not each edit counts."""
    drawn, today = json.loads(architecture.DATA.read_text()), architecture.read()

    def exactly(rooms):
        return {name: room | {"lines": None} for name, room in rooms.items()}

    assert exactly(drawn) == exactly(today), "run `make docs`"
    for name, room in today.items():
        assert abs(drawn[name]["lines"] - room["lines"]) <= 20 + room["lines"] / 5, name
    with Image.open(architecture.PICTURE) as picture:
        assert picture.info["Description"] == architecture.digest(drawn), "run `make docs`"
    text = architecture.PAGE.read_text()
    assert architecture.page(text, drawn) == text, "run `make docs`"


def test_layers_stand_above_what_they_import():
    rooms = {
        "top": {"imports": {"middle": 2, "low": 1}},
        "middle": {"imports": {"low": 1}},
        "low": {"imports": {"middle": 3}},
    }
    assert architecture.order_of(rooms, list(rooms)) == ["top", "low", "middle"]  # 3 weighs more
    del rooms["low"]["imports"]["middle"]
    order = architecture.order_of(rooms, list(rooms))
    down, up = architecture.arrows_of(rooms, order)
    assert (down, up) == ([("middle", "low"), ("top", "middle")], [])
    assert architecture.layers_of(order, down) == {"low": 0, "middle": 1, "top": 2}


# Lists.


@landed
def test_the_api_page_is_made_of_the_docstrings_of_today():
    api = tool("api")
    assert sorted(api.public()) == sorted(qgf_jax.__all__)
    assert api.page() == api.PAGE.read_text(), "run `make docs`"


def test_readme_counts_the_test_time_methods():
    counted = {16: "sixteen", 17: "seventeen", 18: "eighteen"}[len(Method.named("qgf").serves)]
    assert f"{counted} test-time methods" in (ROOT / "README.md").read_text()


# Citations.

_NAME = r"[A-Z][A-Za-zé]+(?:-[A-Z][a-z]+)?"
_YEAR = r"(?:19|20)\d\d[a-z]?"
CITED = re.compile(
    rf"({_NAME}(?: et al\.|(?:, {_NAME})* (?:and|&) {_NAME})?)(?:'s)?(?:,? \(|, )({_YEAR})\b"
    r"(?:, arXiv (\d{4}\.\d{4,5}))?"
)
NO_AUTHORS = re.compile(r"ICLR|ICML|NeurIPS|CoRL|Python|JAX|Science|November")


def citations(path):
    """(key, arXiv number or "") of each citation in comments, texts and docstrings of a file."""
    text = re.sub(r"\s*\n\s*(?:#\s*)?", " ", path.read_text(encoding="utf-8"))
    for found in CITED.finditer(text):
        if not NO_AUTHORS.search(found[1]):
            yield f"{found[1].replace('&', 'and')}, {found[2]}", found[3] or ""


def bibliography():
    """By key the arXiv number, or "". A key that is there twice is an error."""
    lines = re.findall(r"^\* \*\*(.+?)\*\*: (.+)$", (DOCS / "bibliography.md").read_text(), re.M)
    assert len(dict(lines)) == len(lines)
    numbers = {key: re.search(r"arXiv (\d+\.\d+)", text) for key, text in lines}
    return {key: number[1] if number else "" for key, number in numbers.items()}


@landed
@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_each_citation_is_a_key_of_the_bibliography(path):
    known = bibliography()
    if path.name == "bibliography.md":
        return
    for key, number in citations(path):
        assert key in known, f"{path}: {key} is no key of docs/bibliography.md"
        assert number in ("", known[key]), f"{path}: {key} is arXiv {known[key]}, not {number}"


def test_citations_are_found_and_keys_are_unambiguous(tmp_path):
    path = tmp_path / "cited.py"
    path.write_text(
        "As Park et al.,\n    2025a, arXiv 2410.20092; Li and\n    Levine, 2026, and Fujimoto & Gu, "
        "2021\n(Wilson, 1927); Satterthwaite's (1946); Cameron, Gelbach and\n# Miller, 2011; Nov. 2026"
    )
    assert list(citations(path)) == [
        ("Park et al., 2025a", "2410.20092"), ("Li and Levine, 2026", ""),
        ("Fujimoto and Gu, 2021", ""), ("Wilson, 1927", ""), ("Satterthwaite, 1946", ""),
        ("Cameron, Gelbach and Miller, 2011", ""),
    ]  # fmt: skip
    keys = set(bibliography())
    plain = {key for key in keys if key[-1].isdigit()}
    assert not plain & {key[:-1] for key in keys - plain}, "a key without its letter"


@landed
def test_each_key_is_cited():
    cited = {key for path in [*SOURCES, *PAGES] if path.name != "bibliography.md"
             for key, _ in citations(path)}  # fmt: skip
    assert set(bibliography()) <= cited


# Links and names of files.


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@landed
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:", target):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
    for name in re.findall(
        r"`((?:qgf_guide|qgf_jax|tests|benchmarks|docs|experiments)/[\w/.]+)", text
    ):
        assert (ROOT / name.rstrip(".")).exists(), name


@landed
@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_named_in_sources_exist(path):
    for name in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text()
    assert [p.name for p in DOCS.glob("*.md") if f"({p.name}" not in index] == ["index.md"]


ENTRY_POINTS = {"parts", "environments", "encoders", "engines", "formats"}


def test_modules_named_in_sources_and_pages_exist():
    """`qgf_jax.x.y` in texts; the last words may be names in the module."""
    for path in [*SOURCES, *PAGES]:
        for name in re.findall(r"`qgf_jax\.([a-z_.]+)`", path.read_text(encoding="utf-8")):
            parts = name.split(".")
            if name in ENTRY_POINTS:
                continue
            exists = (ROOT / "qgf_jax" / parts[0]).exists()
            exists = exists or (ROOT / "qgf_jax" / f"{parts[0]}.py").exists()
            assert exists or parts[0] in qgf_jax.__all__, f"{path}: {name}"


# Commands.


def commands(page):
    """Words of each `qgf` command in an indented line of a page."""
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^    (?:\S+=\S+\n    )?qgf +(.*)$", text, re.M):
        yield re.sub(r"\s#.*", "", line).split()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_flags_exist(page, capsys):
    for words in commands(page):
        with pytest.raises(SystemExit):
            cli.main([words[0], "--help"])
        known = re.findall(r"--[a-z_]+", capsys.readouterr().out)
        for word in words[1:]:
            flag = re.match(r"--[a-z_]+(?=[=\s]|$)", word)
            assert not flag or flag[0] in known, " ".join(words)


def test_commands_in_files_for_clouds_are_read_as_if_typed(monkeypatch):
    """Each `qgf train` and `qgf sweep` of a YAML file of experiments/launch, as a plan only."""
    monkeypatch.chdir(ROOT)
    files = sorted((ROOT / "experiments" / "launch").glob("*.yaml"))
    lines = [re.findall(r"^ *(qgf .*)$", file.read_text(), re.M) for file in files]
    assert files and all(lines)
    for line in itertools.chain(*lines):
        _, command, *words = shlex.split(line)
        cli.main([command, *words, "--show" if command == "train" else "--dry_run"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_config_keys_exist(page):
    """`data.chunk` in backquotes and --config.data.chunk=…; docs/config.md lists the keys."""
    keys = set(re.findall(r"^\| `([a-z_.]+)`", (DOCS / "config.md").read_text(), re.M))
    sections = {key.split(".")[0] for key in keys if "." in key}
    text = page.read_text()
    named = set(re.findall(r"--config\.([a-z_.]+)", text)) - {"a.b"}
    named |= set(re.findall(rf"`((?:{'|'.join(sorted(sections))})\.[a-z_.]+)`", text))
    own = {"extending.md": {"critics.myopic.delta"}, "reliability.md": {"wandb.json"}}
    assert page.name == "config.md" or named - keys - own.get(page.name, set()) == set()


# Examples.


def blocks(page):
    """(what stands behind ```python, code) of each Python block of a page."""
    return re.findall(r"^```python([^\n]*)\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def goal_run(maze_data, tmp_path_factory):
    config = tiny(
        "qgf", critic="dqc", **{"data.dir": str(maze_data), "networks.policy_goal": False}
    )
    return pretrain(config, tmp_path_factory.mktemp("goals") / "run")


def given(page):
    """The names that a page's examples leave open."""
    names = {"jax": jax, "jnp": jnp, "np": np, "qgf_jax": qgf_jax}
    flows = {
        "velocity": lambda a, t: -a + t, "q": lambda a: -(a**2).sum(), "noise": jnp.ones(2),
        "my_flow": lambda params, obs, a, t: params * obs - a + t,
        "my_critic": lambda params, obs, a: -((a - obs) ** 2).sum(),
        "their_flow": lambda params, obs, a, t: -(params * obs - a + (1 - t)),
        "action_dim": 2, "action_low": -3.0, "action_high": 3.0,
    }  # fmt: skip
    return names | {"obs": jnp.ones(2), "goal": jnp.zeros(2)} | flows


@pytest.mark.whole
@pytest.mark.parametrize("name", ["README.md", "docs/goals.md"])
def test_examples_with_a_run_run(name, run_folder, goal_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/cube").symlink_to(run_folder)
    Path("runs/goals").symlink_to(goal_run)
    names = given(name)
    for mark, code in blocks(ROOT / name):
        assert not mark
        exec(code, names)  # noqa: S102 - a page of ours
    assert names["chunk"].shape == (3, 2)
    assert name != "README.md" or names["action"].shape == (2,)


def test_guidance_of_a_flow_of_ones_own_runs():
    """The blocks of docs/extending.md that are no files, with a flow and a critic for what is open."""
    own = [code for _, code in blocks(DOCS / "extending.md") if not code.startswith("# ")]
    names, obs = given("extending.md"), np.ones((4, 2), np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    exec(own[0], names)  # noqa: S102
    expected = names["batch"](1.0, obs, keys, 0.5)
    for code in own[1:]:
        exec(code, names)  # noqa: S102
    for name, inside in (("act", 1.0), ("act_in_a_range", 3.0), ("act_without_a_range", 9.0)):
        actions = jax.vmap(names[name], in_axes=(None, 0, 0, None))(1.0, obs, keys, 0.5)
        assert actions.shape == (4, 2) and np.abs(actions).max() <= inside
        if name == "act":  # with the last block's flow, which is the first one's, reversed
            np.testing.assert_allclose(actions, expected, atol=1e-6)


DRIVER = """
import importlib, json, runpy, sys
from pathlib import Path
from qgf_jax import cli
sys.path.insert(0, ".")
runpy.run_path("collect.py")
for words in json.loads(sys.argv[1]):
    cli.main(words)
for path in sorted(Path("tests").glob("*.py")):
    for name, test in runpy.run_path(str(path)).items():
        if name.startswith("test_"):
            test()
            print("passed", name)
"""


def installed(text, folder):
    """Writes the files of a page to `folder`, with the metadata that `pip install -e` would make."""
    for code in re.findall(r"^```python\n(# \S+\.py\n.*?)^```", text, re.M | re.S):
        path = folder / code.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    project = tomllib.loads(re.search(r"^```toml\n(.*?)^```", text, re.M | re.S)[1])["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, named in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in named.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


@landed
def test_the_newcomers_five_tasks(tmp_path):
    """docs/extending.md as one package: it trains, evaluates and reports, and its tests pass."""
    text = (DOCS / "extending.md").read_text()
    installed(text, tmp_path)
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).splitlines()
    commands = sorted(
        (shlex.split(line)[1:] for line in lines if line),
        key=lambda words: ["train", "evaluate", "report"].index(words[0]),
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(commands)], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": path, "QGF_CACHE": "off", "XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tests = re.findall(r"^def (test_\w+)", text, re.M)
    assert sorted(re.findall(r"^passed (\w+)$", done.stdout, re.M)) == sorted(tests) != []
    rows = json.loads((tmp_path / "runs/line/report/summary.json").read_text())["rows"]
    assert {row["method"].split(":")[0] for row in rows} >= {"qgf_bounded", "qgf", "soft_best_of"}
    played = (tmp_path / "runs/mimic/episodes.jsonl").read_text().splitlines()
    assert {json.loads(line)["method"] for line in played} == {"mimic"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_go_on_in_the_next_line_as_a_shell_reads_it(page):
    lines = page.read_text().splitlines()
    assert not [line for line in lines if line.endswith("\\\\")]


RUN_ELSEWHERE = {"README.md", "goals.md", "extending.md", "launching.md", "your_data.md",
                 "restore_elsewhere.md"}  # fmt: skip
RUN_ELSEWHERE |= {"your_own_policy.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_python_block_runs_or_says_why_not(page):
    for mark, code in blocks(page):
        ast.parse(code)
        assert page.name in RUN_ELSEWHERE or mark.startswith(" not run: "), code
