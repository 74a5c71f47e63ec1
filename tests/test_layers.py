"""The arrows of the design: which module may import which. Parsed, not imported."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qgf_jax"
GUIDE = PACKAGE.parent / "qgf_guide"
GUIDE_FILES = [p for p in sorted(GUIDE.rglob("*.py")) if "build" not in p.parts]
PURE = {"types", "errors"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "renamed": {"errors"},
    "core": PURE | {"core", "runtime"},
    "methods": PURE | {"core", "methods", "runtime"},
    "schema": {"core", "methods", "envs", "errors"},
    "config": {"methods", "envs", "errors", "runtime", "schema"},
    "runtime": {"errors", "runtime"},
    "envs": {"envs", "errors", "runtime"},
    "data": PURE | {"data", "envs", "runs", "runtime"},
    "runs": PURE | {"config", "envs", "methods", "runs", "runtime"},
    "training": PURE | {"config", "core", "data", "envs", "methods", "runs", "runtime", "training"},
    "evaluation": PURE | {"envs", "evaluation", "methods", "runs", "runtime"},
    "report": PURE | {"envs", "evaluation", "methods", "report", "runs", "runtime"},
    "analysis": PURE
    | {
        "analysis",
        "core",
        "data",
        "evaluation",
        "methods",
        "report",
        "runs",
        "runtime",
        "training",
    },
    "sweep": PURE | {"config", "envs", "runs", "runtime", "schema", "sweep", "training"},
    "interop": PURE | {"config", "envs", "interop", "methods", "runs", "runtime", "training"},
    "serving": PURE | {"methods", "runs", "runtime", "serving"},
    "control": {"errors", "methods"},
    "__main__": {"cli"},
}


def imports_of(path):
    """Names of our modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("qgf_jax.")}
    return found


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "cli" and p.parent != PACKAGE]
FILES += [p for p in sorted(PACKAGE.glob("*.py")) if p.stem != "__init__"]


@pytest.mark.parametrize("path", GUIDE_FILES, ids=lambda p: str(p.relative_to(GUIDE)))
def test_the_guide_needs_jax_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        others = {name.split(".")[0] for name in names} - sys.stdlib_module_names
        more = {"torch"} if path.stem in ("torch", "in_torch") else set()
        assert others <= {"jax", "numpy", "qgf_guide"} | more, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    extra = imports_of(path) - MAY_IMPORT[layer]
    assert not extra, f"{layer} must not import {sorted(extra)}"


def test_the_benchmark_is_imported_where_it_is_needed_and_not_before():
    """Training, acting and the point maze on the device do without it."""
    optional = {"ogbench", "mujoco", "gymnasium", "dm_control"}
    for path in PACKAGE.rglob("*.py"):
        nodes: list = [ast.parse(path.read_text())]
        while nodes:
            node = nodes.pop()
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not optional & {name.split(".")[0] for name in names}, path
            if not isinstance(node, ast.FunctionDef):
                nodes += ast.iter_child_nodes(node)


def test_nothing_unpickles_evaluates_or_starts_a_shell():
    for path in [*PACKAGE.rglob("*.py"), *GUIDE_FILES]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name.split(".")[0] for a in node.names}
                names.add((getattr(node, "module", "") or "").split(".")[0])
                assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert name not in {"eval", "exec", "system", "popen"}
                for keyword in node.keywords:
                    risky = keyword.arg in ("shell", "allow_pickle")
                    assert not (risky and getattr(keyword.value, "value", None) is not False), path
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load":
                owner = getattr(node.func.value, "id", "")
                assert owner != "np" or any(k.arg == "allow_pickle" for k in node.keywords), path


def test_the_step_of_training_knows_no_method_and_acting_no_training():
    """`training/` is one room, but what runs on the device learns from losses alone."""
    for name in (
        "state",
        "optimizers",
        "step",
        "global_batch",
        "programs",
        "forms",
        "stacks",
        "trunk",
    ):
        assert "methods" not in imports_of(PACKAGE / "training" / f"{name}.py"), name
    for path in (PACKAGE / "runs").glob("*.py"):
        assert not imports_of(path) & {"training", "data", "evaluation"}, path


def test_nobody_but_the_table_of_families_imports_a_family():
    """A file of `envs/` may know its own family; nobody else names one."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "envs" or path.name == "renamed.py":
            continue
        text = path.read_text()
        assert "envs.ogbench" not in text and "import ogbench" not in text, path
