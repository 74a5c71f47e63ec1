"""The pictures of a report. Matplotlib, no screen needed."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from qgf_jax.envs import mazes, ogbench
from qgf_jax.errors import UserError
from qgf_jax.report.tables import ALL_TASKS, label, task_label, unique
from qgf_jax.runs.run import Run

Row = dict[str, Any]
Line = Mapping[str, Any]
_COLORS = {"reference": "#7f7f7f", "best_of": "#e6862e", "qgf": "#1f6fb4"}
_MORE_COLORS = ("#2a9d5c", "#b5438f", "#8c6d31", "#c0392b", "#5e4fa2", "#17a2b8", "#94a114")
_LEGIBLE = 8
"""Methods that one panel of curves can hold."""


def draw(
    run: Run, rows: Sequence[Row], folder: Path, episodes: Sequence[Line], metrics: Sequence[Line]
) -> list[tuple[str, Path]]:
    """Draws what the run has data for: (caption, PNG) of each picture, in reading order.

    `episodes` and `metrics` are the run's lines, of which `rows` are made.
    """
    figures = [
        (
            "Success and return against guidance weight: report episodes, 95 % intervals.",
            "sweep.png",
            _sweep,
        ),
        (
            "Every method at its selected weight: report episodes, 95 % intervals.",
            "methods.png",
            _methods,
        ),
        ("Training curves.", "training.png", functools.partial(_training, metrics)),
    ]
    goal_dim = run.spec.get("goal_dim", 0)
    if run.spec["obs_dim"] - goal_dim == 2:
        ways = "Ways through the maze, report episodes, a colour a task where there are several."
        trajectories = functools.partial(_trajectories, episodes)
        figures.append((ways, "trajectories.png", trajectories))
    if run.spec["obs_dim"] == 2:
        figures += [
            (
                "The policy's mean displacement over one chunk, without guidance and with it, over "
                "the learned value.",
                "field.png",
                _field,
            ),
        ]
    drawn = []
    for caption, name, figure in figures:
        fig = figure(run, rows)
        if fig is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier report
        else:
            fig.savefig(folder / name, dpi=130, bbox_inches="tight")
            plt.close(fig)
            drawn.append((caption, folder / name))
    return drawn


def _color(text: str, place: int) -> Any:
    """The colour of a label; `place` tells those apart that have none of their own."""
    name = text.split(" of ")[0].replace("best", "best_of")
    return _COLORS.get(name, _MORE_COLORS[place % len(_MORE_COLORS)])


def _tasks(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """(environment, task) of each panel: an environment's mean over all tasks alone, if it has one."""
    tasks = sorted({(row["env"], row["task"]) for row in rows})
    pooled = {env for env, task in tasks if task == ALL_TASKS}
    return [t for t in tasks if t[1] == ALL_TASKS or t[0] not in pooled]


def _swept(rows: Sequence[Row]) -> bool:
    """Whether a method was reported at more than one weight."""
    points = {(label(r), r["weight"]) for r in rows if r["split"] == "report"}
    return len(points) > len({text for text, _ in points})


def _methods(run: Run, rows: Sequence[Row]) -> Any:
    """A column a task, a line a method, the best on top; only where the sweep does not say as much."""
    shown = [r for r in rows if r["selected"] and r["split"] == "report"]
    tasks = _tasks(shown)
    if not shown or (len({label(row) for row in shown}) <= _LEGIBLE and _swept(rows)):
        return None
    most = max(sum((r["env"], r["task"]) == task for r in shown) for task in tasks)
    height = max(1.6, 0.6 + 0.27 * most)  # title and axis alone take 1.2 inches
    fig, panels = plt.subplots(1, len(tasks), figsize=(6.4 * len(tasks), height), squeeze=False)
    for ax, task in zip(panels[0], tasks, strict=True):
        here = [r for r in shown if (r["env"], r["task"]) == task]
        here.sort(key=lambda r: (r["success"]["mean"], r["return"]["mean"]))
        for place, row in enumerate(here):
            value = row["success"]
            own = label(row).split(" of ")[0].replace("best", "best_of")
            color = _COLORS.get(own, "#444444")
            ax.plot([value["low"], value["high"]], [place, place], color=color, lw=2)
            ax.plot(value["mean"], place, "o", color=color, ms=6)
        names = [label(r) + (f", weight {r['weight']:g}" if r["weight"] else "") for r in here]
        ax.set_yticks(range(len(here)), names, fontsize=8)
        ax.set(xlim=(-0.02, 1.02), xlabel="success", title=f"{task[0]}, task {task_label(task[1])}")
        ax.grid(alpha=0.3, axis="x")
    fig.tight_layout()
    return fig


def _sweep(run: Run, rows: Sequence[Row]) -> Any:
    """A column a task, success above return: a line a swept method, a band where there is no weight."""
    if not _swept(rows):
        return None
    tasks = _tasks(rows)
    fig, panels = plt.subplots(
        2, len(tasks), figsize=(5.4 * len(tasks), 6.2), squeeze=False, sharex="col"
    )
    for column, (env, task) in zip(panels.T, tasks, strict=True):
        here = [r for r in rows if (r["env"], r["task"], r["split"]) == (env, task, "report")]
        for ax, name in zip(column, ("success", "return"), strict=True):
            _sweep_panel(ax, here, name)
        column[0].set(ylim=(-0.03, 1.03))
        column[0].set_title(f"{env}, task {task_label(task)}", fontsize=10)
        if len({label(row) for row in here}) <= _LEGIBLE:
            column[0].legend(fontsize=8, framealpha=0.9)
        else:
            column[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.02))
        column[1].set_xlabel("guidance weight")
    fig.tight_layout()
    return fig


def _sweep_panel(ax: Axes, here: Sequence[Row], name: str) -> None:
    labels = list(dict.fromkeys(map(label, here)))
    if len(labels) > _LEGIBLE:  # what was played at one weight alone is in the picture of methods
        points = {text: {r["weight"] for r in here if label(r) == text} for text in labels}
        labels = [t for t in labels if len(points[t]) > 1 or points[t] == {0.0}]
        here = [r for r in here if label(r) in labels]
    weights = sorted({r["weight"] for r in here})
    for place, text in enumerate(labels):
        mine = sorted((r for r in here if label(r) == text), key=lambda r: r["weight"])
        color = _color(text, place)
        if len(mine) == 1 and mine[0]["weight"] == 0:
            value = mine[0][name]
            ax.axhline(value["mean"], color=color, ls="--", lw=1.5, label=text)
            ax.axhspan(value["low"], value["high"], color=color, alpha=0.12, lw=0)
            continue
        x = [r["weight"] for r in mine]
        mean, low, high = (np.array([r[name][k] for r in mine]) for k in ("mean", "low", "high"))
        errors = np.maximum(0.0, [mean - low, high - mean])
        ax.errorbar(x, mean, yerr=errors, color=color, marker="o", ms=5, capsize=3, label=text)
        for row in mine:
            if row["selected"]:
                ax.plot(row["weight"], row[name]["mean"], "o", ms=12, mfc="none", color=color)
    positive = [w for w in weights if w > 0]
    if positive:
        ax.set_xscale("symlog", linthresh=positive[0])
        tilt = 60 if len(weights) > 6 else 0
        ax.set_xticks(weights, [f"{w:g}" for w in weights], rotation=tilt)
        ax.set_xlim(-0.15 * positive[0], positive[-1] * 1.25)
        ax.minorticks_off()
    ax.set_ylabel(name)
    ax.grid(alpha=0.3)


def _training(lines: Sequence[Line], run: Run, rows: Sequence[Row]) -> Any:
    """One panel a loss, training and validation."""
    names = [
        k for k in (lines[0] if lines else {}) if k.endswith("/loss") and "validation" not in k
    ]
    if not names:
        return None
    fig, panels = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), squeeze=False)
    for ax, name in zip(panels[0], names, strict=True):
        for key, kind in ((name, "training"), (f"validation/{name}", "validation")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                ax.plot(*zip(*points, strict=True), label=kind, lw=1.2)
        positive = all(line[k] > 0 for line in lines for k in (name,) if k in line)
        ax.set(title=name, xlabel="step", yscale="log" if positive else "linear")
        ax.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    fig.tight_layout()
    return fig


def _trajectories(episodes: Sequence[Line], run: Run, rows: Sequence[Row]) -> Any:
    """One panel a selected method: where its first report episodes went, a colour a task."""
    shown = [r for r in rows if r["selected"] and r["split"] == "report"]
    shown = [r for r in shown if (r["env"], r["task"]) in _tasks(shown)]
    lines = [line for line in unique(episodes) if "path" in line]
    if not shown or not lines:
        return None
    across = min(len(shown), 5)
    down = -(-len(shown) // across)
    fig, panels = plt.subplots(down, across, figsize=(3.6 * across, 3.8 * down), squeeze=False)
    keys = ("env", "method", "options", "best_of", "weight", "split", "step")
    maze = _maze(run)
    for ax in panels.ravel()[len(shown) :]:
        ax.set_axis_off()
    for place, (ax, row) in enumerate(zip(panels.ravel(), shown, strict=False)):
        maze.draw(ax)
        mine = [line for line in lines if all(line[k] == row[k] for k in keys)]
        if row["task"] != ALL_TASKS:
            mine = [line for line in mine if line["task"] == row["task"]]
        for line in mine:
            x, y = np.array(line["path"]).T
            color, star = _color(label(row), place), "#d62728"
            if row["task"] == ALL_TASKS:
                color = star = _MORE_COLORS[line["task"] % len(_MORE_COLORS)]
            ax.plot(x, y, lw=1.0, alpha=0.75, color=color)
            ax.plot(x[0], y[0], ".", color="black", ms=4)
            ax.plot(*line["goal"], "*", color=star, ms=13, zorder=5)
        weight = f", weight {row['weight']:g}" if row["weight"] else ""
        weight += f"\n{row['env']}" if len({r["env"] for r in shown}) > 1 else ""
        reached = sum(line["success"] for line in mine)
        ax.set_title(f"{label(row)}{weight}\n{reached:.0f} of {len(mine)} shown arrive", fontsize=9)
    return fig


class _Maze:
    """A point maze as a picture."""

    def __init__(self, free: np.ndarray, unit: float, offset: tuple[float, float]):
        self.free, self.unit, self.offset = free, unit, offset

    def centre(self, i: int, j: int) -> tuple[float, float]:
        return j * self.unit - self.offset[0], i * self.unit - self.offset[1]

    def draw(self, ax: Axes) -> None:
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


def _maze(run: Run) -> _Maze:
    name = ogbench.parse(run.config["env"])
    if known := mazes.maze(name.scene, name.version):
        return _Maze(known.free, mazes.UNIT, (mazes.OFFSET[0], mazes.OFFSET[1]))
    env = ogbench.make(name.env_id).unwrapped
    return _Maze(env.maze_map == 0, env._maze_unit, (env._offset_x, env._offset_y))


def _field(run: Run, rows: Sequence[Row]) -> Any:
    """Arrows of the mean action at many places, reference beside guided, over the value."""
    import jax

    from qgf_jax.methods import table as algorithms
    from qgf_jax.runs import policy

    guided: dict[str, Row] = {}
    # A method's selected weight; where that is 0, its least positive one.
    own = [row for row in rows if row["env"] == ogbench.parse(run.config["env"]).label]
    for row in sorted(own or rows, key=lambda r: (not r["selected"], r["weight"])):
        if row["split"] == "report" and row["weight"] > 0 and row["best_of"] == 1:
            guided.setdefault(label(row), row)
    if not guided:
        return None
    maze = _maze(run)
    points = np.array(list(maze.grid(3)), np.float32)
    try:
        restored = policy.restore(run.workdir, rows[0]["step"])
    except UserError:  # the evaluated checkpoint is gone
        return None
    params = jax.tree.map(lambda x: x[0], (restored.params, restored.target_params))
    acting = algorithms.acting_params(*params)
    nets = algorithms.build_networks(run.config, restored.spec)
    if "reference" not in algorithms.served_by(run.config["algorithm"]) or "value" not in params[0]:
        return None
    value = jax.jit(jax.vmap(lambda o: nets.value.apply(params[0]["value"], o)))(points)
    panels_of = [("reference", (), 0.0, "reference")]
    panels_of += [
        (
            r["method"],
            tuple(r["options"].items()),
            r["weight"],
            f"{label(r)}, weight {r['weight']:g}",
        )
        for r in list(guided.values())[:2]
    ]
    fig, panels = plt.subplots(1, len(panels_of), figsize=(4.4 * len(panels_of), 4.2))
    for ax, (method, options, weight, title) in zip(panels, panels_of, strict=True):
        try:
            sample = policy.sampler(restored, method, 1, options)
        except UserError:  # it needs what this checkpoint has no more
            return None

        def mean_move(obs: Any, key: Any, sample: Any = sample, weight: float = weight) -> Any:
            keys = jax.random.split(key, 32)
            chunks = jax.vmap(lambda k: sample(acting, obs, k, weight))(keys)
            return chunks.reshape(32, restored.spec.chunk, 2).mean(axis=(0, 1))

        keys = jax.random.split(jax.random.key(0), len(points))
        moves = np.asarray(jax.jit(jax.vmap(mean_move))(points, keys))
        maze.draw(ax)
        shade = ax.scatter(
            *points.T, c=np.asarray(value), s=60, marker="s", cmap="viridis", alpha=0.55
        )
        ax.quiver(*points.T, *moves.T, angles="xy", scale=14, width=0.005, color="black")
        ax.set_title(title, fontsize=10)
    fig.colorbar(shade, ax=panels, shrink=0.8, label="V")
    return fig
