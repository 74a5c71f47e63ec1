"""Does a test notice? Applies each slip of mutants.toml to a copy of the sources and runs its test.

    python tests/mutants.py [--only NAME] [--from N]

Prints a line for each, then JSON; exit code 1 if one survives or no longer applies. First the tests
run on sources without a slip, so that one which fails anyway is not taken for one that notices.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE = 600  # seconds


class Mutant(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    why: str
    test: str
    needs: str = ""
    """A package without which its test is skipped."""

    def applied(self, source: str) -> str | None:
        """The source with the slip; `None` if it is not at exactly one place."""
        return source.replace(self.old, self.new) if source.count(self.old) == 1 else None


def read() -> list[Mutant]:
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    return [Mutant(name, **fields) for name, fields in listed.items()]


def copy(folder: Path) -> None:
    """What the tests need, without what was compiled from it."""
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("qgf_guide", "qgf_jax", "tests", "benchmarks", "experiments", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)


def failed(folder: Path, tests: list[str]) -> str:
    """The first test that fails on the sources of `folder`; empty if none does."""
    cache = os.environ.get("QGF_TEST_CACHE", str(ROOT / ".cache" / "jax"))
    # No bytecode: two slips of one second and one length would pass for each other.
    changes = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "QGF_TEST_CACHE": cache}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", *tests]
    try:
        run = subprocess.run(
            command, cwd=folder, env=os.environ | changes, capture_output=True, text=True,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{_PATIENCE} seconds without an end"
    if run.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    said = " ".join((run.stdout + run.stderr).split())[-200:]
    return found[1] if found else f"pytest's exit code {run.returncode} ({said})"


def kill(mutant: Mutant, folder: Path) -> str:
    """How a mutant fares: "killed by …", "SURVIVED" or "does not apply"."""
    path = folder / mutant.file
    source = path.read_text()
    slipped = mutant.applied(source)
    if slipped is None:
        return "does not apply"
    path.write_text(slipped)
    try:
        by = failed(folder, [mutant.test])
    finally:
        path.write_text(source)
    return f"killed by {by}" if by else "SURVIVED"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="the name of one of them")
    parser.add_argument("--from", type=int, default=1, dest="first", help="its number")
    options = parser.parse_args()
    numbered = list(enumerate(read(), 1))
    chosen = [(i, m) for i, m in numbered if i >= options.first and options.only in ("", m.name)]
    for _, mutant in chosen:
        if mutant.needs and importlib.util.find_spec(mutant.needs) is None:
            print(f"not tried: {mutant.name} needs {mutant.needs}")
    chosen = [(i, m) for i, m in chosen if not m.needs or importlib.util.find_spec(m.needs)]
    if not chosen:
        parser.error("there is no such mutant: see tests/mutants.toml")
    fates = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy(Path(name))
        if by := failed(Path(name), list(dict.fromkeys(m.test for _, m in chosen))):
            print(f"{by} fails without any slip")
            return 2
        for i, mutant in chosen:
            began = time.monotonic()
            fates[mutant.name] = kill(mutant, Path(name))
            took = time.monotonic() - began
            print(
                f"{i}/{len(numbered)} {mutant.name} {fates[mutant.name]} ({took:.0f} s)", flush=True
            )
    left = {name: fate for name, fate in fates.items() if not fate.startswith("killed")}
    print(json.dumps({"killed": len(fates) - len(left), "left": left}))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
