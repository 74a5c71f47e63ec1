"""A point maze as a picture. Matplotlib."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from qgf_jax.envs.families import EnvName, Family
from qgf_jax.runs.run import Run


class Maze:
    """A point maze as a picture."""

    def __init__(self, free: np.ndarray, unit: float, offset: tuple[float, float]):
        self.free, self.unit, self.offset = free, unit, offset

    @classmethod
    def of(cls, run: Run) -> "Maze | None":
        """That of a run's environment, where it is one."""
        name = EnvName.parse(run.config["env"])
        known = Family.of(name).maze(name)
        return cls(*known) if known else None

    def centre(self, i: int, j: int) -> tuple[float, float]:
        """Where the middle of a cell is."""
        return j * self.unit - self.offset[0], i * self.unit - self.offset[1]

    def draw(self, ax: Axes) -> None:
        """Draws the walls, and fits the axes to them."""
        for i, j in np.argwhere(~self.free):
            x, y = self.centre(i, j)
            half = self.unit / 2
            ax.add_patch(plt.Rectangle((x - half, y - half), self.unit, self.unit, color="#c9ccd1"))
        (x0, y0), (x1, y1) = self.centre(0, 0), self.centre(*np.subtract(self.free.shape, 1))
        ax.set(xlim=(x0, x1), ylim=(y0, y1), aspect="equal", xticks=[], yticks=[])

    def grid(self, per_cell: int) -> Iterator[tuple[float, float]]:
        """Points spread evenly over the free cells."""
        inside = (np.arange(per_cell) + 0.5) / per_cell - 0.5
        for i, j in np.argwhere(self.free):
            x, y = self.centre(i, j)
            for dx in inside * self.unit:
                for dy in inside * self.unit:
                    yield x + dx, y + dy
