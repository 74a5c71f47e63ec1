"""The arrows of the design: which module may import which. Parsed, not imported."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "qgf_jax"
PURE = {"types", "errors"}
MATHS = {"adjoint", "flow", "diffusion", "guidance", "losses"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "bounds": {"errors"},
    "flow": PURE,
    "diffusion": PURE,
    "adjoint": PURE,
    "guidance": PURE | {"bounds", "flow"},
    "losses": PURE | {"flow"},
    "sums": PURE,
    "global_batch": PURE,
    "networks": PURE | {"bounds", "sums"},
    "critics": PURE | MATHS | {"bounds", "global_batch", "networks", "critics"},
    "policies": PURE | MATHS | {"bounds", "global_batch", "networks", "policies"},
    "samplers": PURE | MATHS | {"bounds", "networks"},
    "algorithms": PURE | {"bounds", "critics", "policies", "samplers", "networks"},
    "schema": {"algorithms", "bounds", "envs", "errors"},
    "config": {"algorithms", "bounds", "envs", "errors", "paths", "schema"},
    # Of checkpoints its seals and atomic writes.
    "data": PURE
    | {"backend", "bounds", "checkpoint", "children", "data", "envs", "faults", "paths"},
    "children": set(),
    "envs": {"children", "envs", "errors"},
    "backend": {"errors"},
    "faults": set(),
    "paths": {"errors"},
    "signals": {"errors"},
    "array_files": set(),
    "checkpoint": {"array_files", "errors", "faults"},
    "tracking": {"checkpoint", "errors"},
    "metrics": {"errors", "faults", "tracking"},
    "statistics": set(),
    "selection": {"statistics"},
    "tables": {"selection", "statistics"},
    "run": {"config", "checkpoint", "errors"},
    "pickled": set(),
    "official": PURE
    | {"algorithms", "backend", "checkpoint", "config", "envs", "pickled", "run", "train"},
    "vectors": PURE,
    "train": PURE | {"backend", "data", "global_batch", "sums", "vectors"},  # never an algorithm
    "parallel": PURE | {"backend", "data", "signals", "train"},
    "flops": set(),
    "costs": {"algorithms", "config", "flops", "types"},
    "calibrate": PURE | {"algorithms", "checkpoint", "data", "train"},
    "dry_run": PURE
    | {"algorithms", "backend", "checkpoint", "data", "envs", "flops", "parallel", "train"},
    "pretrain": PURE
    | {
        "algorithms",
        "backend",
        "calibrate",
        "checkpoint",
        "config",
        "data",
        "faults",
        "metrics",
        "parallel",
        "run",
        "signals",
        "tracking",
        "train",
    },
    "policy": PURE | {"algorithms", "backend", "bounds", "calibrate", "checkpoint", "run", "train"},
    "evaluate_device": PURE | {"algorithms", "envs", "policy", "train"},
    "episodes": {"envs", "metrics", "run"},
    "evaluate": PURE
    | {
        "algorithms",
        "backend",
        "envs",
        "episodes",
        "evaluate_device",
        "parallel",
        "policy",
        "run",
        "tables",
        "train",
    },
    "video": {"checkpoint", "children", "envs", "errors", "evaluate", "policy"},
    "plots": {"algorithms", "envs", "errors", "metrics", "policy", "run", "tables"},
    "page": {"run", "tables"},
    "report": {"checkpoint", "episodes", "errors", "metrics", "page", "plots", "run", "tables"},
    "__main__": {"children", "cli"},
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
    for path in PACKAGE.rglob("*.py"):
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
