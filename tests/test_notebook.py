"""The notebook's cells in order, with a tiny run in place of the reader's."""

import json

import matplotlib
import numpy as np
import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "examples" / "restored_checkpoint.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def names(run_folder):
    """What the cells leave."""
    first = CODE[0]
    for text, instead in {
        '"runs/quickstart"': repr(str(run_folder)),
        "EPISODES, STEPS = 16, 300": "EPISODES, STEPS = 3, 5",
        "WEIGHTS = (0.0, 1.0, 3.0)": "WEIGHTS = (0.0, 300.0)",
    }.items():
        assert first.count(text) == 1
        first = first.replace(text, instead)
    matplotlib.use("agg")
    found: dict = {}
    for number, code in enumerate([first, *CODE[1:]], 1):
        exec(compile(code, f"code cell {number}", "exec"), found)  # noqa: S102 - a notebook of ours
    yield found
    found["plt"].close("all")


def test_the_cells_restore_compare_and_roll_out(names):
    assert names["moved"][0.0] == 0.0 and names["moved"][300.0] > 1e-3
    for path, reached in names["rollouts"].values():
        assert path.shape == (7, 3, 2) and reached.shape == (3,)  # two chunks of three
        np.testing.assert_array_equal(path[0], names["observations"][:, :2])
        assert (np.abs(np.diff(path, axis=0)).max(axis=0) > 0).all() or reached.any()
    drawn = [
        axis for figure in names["plt"].get_fignums() for axis in names["plt"].figure(figure).axes
    ]
    assert len(drawn) == 4 and len(drawn[-1].lines) == 3 + 1


def test_walls_are_drawn_where_the_maze_has_them(names):
    image, maze = names["axes"][0].images[0], names["maze"]
    left, right, bottom, top = image.get_extent()
    walls = ~np.asarray(image.get_array(), bool)
    for start in names["starts"]:  # each begins, and its goal lies, in a square that is drawn free
        for x, y in (start.xy, start.goal):
            column = int((x - left) / (right - left) * walls.shape[1])
            row = int((y - bottom) / (top - bottom) * walls.shape[0])
            assert not walls[row, column]
    assert image.origin == "lower" and maze.maze.free.shape == walls.shape


def test_no_output_is_stored():
    for cell in CELLS:
        assert not cell.get("outputs") and cell.get("execution_count") is None
