"""The benchmark's point mazes in numbers: walls, tasks, rewards, experts. No JAX, and no simulator.

They are those of its version 1.2 (Park et al., 2025a, arXiv 2410.20092); a test compares them with the
installed environments. What needs no physics, such as rewards of data or the way to a goal, is
computed from them alone.
"""

from typing import NamedTuple

import numpy as np

Cell = tuple[int, int]
"""Row and column of a square."""

VERSION = "v0"
UNIT = 4.0
"""Length of a square's side."""
OFFSET = np.array([4, 4])
"""Square (0, 0) is centred at minus this [x, y]."""
RADIUS = 0.7
"""Of the ball that moves."""
SPEED = 0.2
"""What an action is multiplied with to be a step."""
TOLERANCE = 1.0
"""Distance from the goal at which it is reached."""
SPREAD = 1.0
"""A start is uniform within this of a square's centre, along each axis; a goal too, if not of a single
task."""
LIMIT = 1000
"""Steps of an episode at most."""
TELEPORT_RADIUS = 1
REACH = 1.5
"""Distance from an entrance at which it takes the ball in, in radii of a teleport."""
WIDTHS = (2, 2)
"""Numbers in an observation, without a goal, and in an action."""

EXPERT_KINDS = ("navigate", "stitch", "explore")
"""What an expert does: go to one goal after another, to one near by, or anywhere."""
EXPERT_NOISE = 0.5
"""Standard deviation of what is added to an expert's action."""
EXPERT_STRAIGHT = 10
"""Steps in one direction, of kind explore."""

_STEPS = ((-1, 0), (0, -1), (1, 0), (0, 1))


class Maze(NamedTuple):
    """One maze and its five tasks."""

    rows: tuple[str, ...]
    """`#` is a wall"""
    tasks: tuple[tuple[Cell, Cell], ...]
    """the squares of start and goal"""
    entrances: tuple[Cell, ...] = ()
    exits: tuple[Cell, ...] = ()
    """of teleports"""
    expert_rows: int = 1001
    """Rows of an expert's episode, but for those of kind stitch."""

    @staticmethod
    def centre(cell: Cell | np.ndarray) -> np.ndarray:
        """[..., 2] x and y of the middle of squares [..., 2], which all mazes share."""
        return np.asarray(cell)[..., ::-1] * UNIT - OFFSET

    @property
    def free(self) -> np.ndarray:
        """[rows, columns] bool, where no wall is."""
        return np.array([[square == "." for square in row] for row in self.rows])

    @property
    def cells(self) -> list[Cell]:
        """The free squares."""
        return [(int(i), int(j)) for i, j in np.argwhere(self.free)]

    @property
    def vertices(self) -> list[Cell]:
        """Free squares that are not in the middle of a straight corridor."""
        free = self.free

        def straight(i: int, j: int) -> bool:
            rows, columns = free[i - 1, j] + free[i + 1, j] * 2, free[i, j - 1] + free[i, j + 1] * 2
            return (rows, columns) in ((3, 0), (0, 3))

        return [cell for cell in self.cells if not straight(*cell)]

    def label(self, qpos: np.ndarray, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and masks [R] of a single task in states `qpos` [R, 2]: -1 and 1, at the goal 0."""
        away = np.linalg.norm(qpos - self.centre(self.tasks[task - 1][1]), axis=-1)
        success = (away <= TOLERANCE).astype(np.float32)
        return success - 1.0, 1.0 - success

    def distances(self, goal: Cell) -> np.ndarray:
        """[rows, columns] int: steps from square to square to `goal`; -1 where no way leads there."""
        free = self.free
        steps = np.full(free.shape, -1)
        steps[goal], frontier = 0, [goal]
        for i, j in frontier:
            for di, dj in _STEPS:
                beside = i + di, j + dj
                if free[beside] and steps[beside] < 0:
                    steps[beside] = steps[i, j] + 1
                    frontier.append(beside)
        return steps

    def subgoals(self, goal: Cell) -> np.ndarray:
        """[rows, columns, 2] x and y: where the benchmark's expert heads for in a square, for `goal`.

        The middle of the next square on a shortest way, and its own at the goal; of ways alike the
        first of up, left, down, right. Walls, and squares without a way, are their own.
        """
        free, away = self.free, self.distances(goal)
        heads_for = self.centre(np.moveaxis(np.indices(free.shape), 0, -1))
        for cell in self.cells:
            beside = [(cell[0] + di, cell[1] + dj) for di, dj in _STEPS]
            following = min((c for c in beside if free[c]), key=away.__getitem__, default=cell)
            if away[following] < away[cell]:
                heads_for[cell] = self.centre(following)
        return heads_for

    def expert_goals(self, kind: str, start: Cell) -> list[Cell]:
        """The squares that an expert's episode which begins in `start` may head for first.

        Vertices; in an episode of kind stitch those four steps away, or where there are none, `start`.
        """
        if kind != "stitch":
            return self.vertices
        away = self.distances(start)
        return [cell for cell in self.cells if away[cell] == 4] or [start]

    def expert_length(self, kind: str) -> int:
        """Rows of an expert's episode."""
        return 201 if kind == "stitch" else self.expert_rows


MAZES = {
    "pointmaze-medium": Maze(
        (
            "########",
            "#..##..#",
            "#..#...#",
            "##...###",
            "#..#...#",
            "#.#..#.#",
            "#...#..#",
            "########",
        ),
        (
            ((1, 1), (6, 6)),
            ((6, 1), (1, 6)),
            ((5, 3), (4, 2)),
            ((6, 5), (6, 1)),
            ((2, 6), (1, 1)),
        ),
    ),
    "pointmaze-large": Maze(
        (
            "############",
            "#....#.....#",
            "#.##.#.#.#.#",
            "#......#...#",
            "#.####.###.#",
            "#..#.#.....#",
            "##.#.#.#.###",
            "#..#...#...#",
            "############",
        ),
        (
            ((1, 1), (7, 10)),
            ((5, 4), (7, 1)),
            ((7, 4), (1, 10)),
            ((3, 8), (5, 4)),
            ((1, 1), (5, 4)),
        ),
    ),
    "pointmaze-giant": Maze(
        (
            "################",
            "#.#......##....#",
            "#.#.##.#.#..##.#",
            "#...#..#...#...#",
            "#.###.######.#.#",
            "#...#...#....#.#",
            "###.#.#..#.#.###",
            "#...#..#...#...#",
            "#.#.#.######.#.#",
            "#.###...#...##.#",
            "#.....#...#....#",
            "################",
        ),
        (
            ((1, 1), (10, 14)),
            ((1, 14), (10, 1)),
            ((8, 14), (1, 1)),
            ((8, 3), (5, 12)),
            ((5, 9), (3, 8)),
        ),
        expert_rows=2001,
    ),
    "pointmaze-teleport": Maze(
        (
            "############",
            "#.....#.#..#",
            "##.#...#..##",
            "##.###.....#",
            "#....#.#.#.#",
            "#.##.#.#.#.#",
            "#.##.#.#.#.#",
            "#....#...#.#",
            "############",
        ),
        (
            ((1, 10), (7, 1)),
            ((1, 1), (7, 10)),
            ((5, 6), (7, 10)),
            ((7, 1), (7, 10)),
            ((5, 6), (7, 1)),
        ),
        entrances=((4, 6), (5, 1)),
        exits=((1, 7), (6, 1), (6, 10)),
    ),
}
