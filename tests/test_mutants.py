"""The list of mutants applies to the sources of today; `make mutants` runs it."""

import pytest
from mutants import ROOT, read

LISTED = read()


@pytest.mark.parametrize("mutant", LISTED, ids=lambda mutant: mutant.name)
def test_slip_applies_at_one_place_and_its_test_is_there(mutant):
    slipped = mutant.applied((ROOT / mutant.file).read_text())
    assert slipped is not None, "old must occur exactly once"
    compile(slipped, mutant.file, "exec")
    path, test = mutant.test.split("::")
    assert f"def {test}(" in (ROOT / path).read_text()
