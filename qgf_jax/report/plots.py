"""The pictures of a report. Matplotlib, no screen needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.summary import ALL_TASKS, Row
from qgf_jax.report import losses
from qgf_jax.report.maze import Maze
from qgf_jax.report.page import printable
from qgf_jax.report.tables import Panel
from qgf_jax.runs.run import Run
from qgf_jax.types import Spec

Line = Mapping[str, Any]
_COLORS = {"reference": "#7f7f7f", "best_of": "#e6862e", "qgf": "#1f6fb4"}
_MORE_COLORS = ("#2a9d5c", "#b5438f", "#8c6d31", "#c0392b", "#5e4fa2", "#17a2b8", "#94a114")
_LEGIBLE = 8
"""Methods that one panel of curves can hold."""


class _Subject(NamedTuple):
    """What pictures are made of."""

    run: Run
    rows: Sequence[Row]
    episodes: Sequence[Line]
    metrics: Sequence[Line]
    by_step: Sequence[Row]
    """Of the checkpoints before too: selected report rows."""


class _Figure(NamedTuple):
    """A picture of a report."""

    name: str
    caption: str
    draw: Callable[[_Subject], Any]
    """Gives Matplotlib's figure, or `None` where there is nothing to draw."""


def draw(
    run: Run,
    rows: Sequence[Row],
    folder: Path,
    episodes: Sequence[Line],
    metrics: Sequence[Line],
    by_step: Sequence[Row] = (),
) -> list[tuple[str, Path]]:
    """Draws what the run has data for: (caption, PNG) of each picture, in reading order.

    `episodes`, each of them once, and `metrics` are the run's lines, of which `rows` are made.
    `by_step` are the rows of a learning curve, if several checkpoints were evaluated.
    """
    subject, drawn = _Subject(run, rows, episodes, metrics, by_step), []
    for figure in _figures(Spec.of(run.spec), _measures(rows)):
        path, fig = folder / figure.name, figure.draw(subject)
        if fig is None:
            path.unlink(missing_ok=True)  # of an earlier report
        else:
            fig.savefig(path, dpi=130, bbox_inches="tight")
            plt.close(fig)
            drawn.append((figure.caption, path))
    return drawn


def _measures(rows: Sequence[Row]) -> tuple[str, ...]:
    """What pictures show: success first, where the environment says such."""
    return ("success", "return") if any(row["success"] for row in rows) else ("return",)


def _figures(spec: Spec, measures: Sequence[str]) -> Iterator[_Figure]:
    """The pictures that a run of this spec can have."""
    yield _Figure(
        "sweep.png",
        f"{' and '.join(measures).capitalize()} against guidance weight: report episodes, 95 % "
        "intervals.",
        _sweep,
    )
    yield _Figure(
        "methods.png",
        "Every method at its selected weight: report episodes, 95 % intervals.",
        _methods,
    )
    yield _Figure(
        "steps.png",
        f"{' and '.join(measures).capitalize()} against training steps, each method at the weight that "
        "the selection episodes of the step select: report episodes, 95 % intervals.",
        _steps,
    )
    yield _Figure("training.png", "Training curves.", lambda subject: losses.draw(subject.metrics))
    if spec.state == (2,):
        yield _Figure(
            "trajectories.png",
            "Ways through the maze, report episodes, a colour a task where there are several.",
            _trajectories,
        )
    if spec.width == 2:
        yield _Figure(
            "field.png",
            "The policy's mean displacement over one chunk, without guidance and with it, over "
            "the learned value.",
            _field,
        )


def _label(row: Row) -> str:
    return plain(Arm.of(row).sampler.label)


def plain(name: str) -> str:
    """A name as it is: Matplotlib takes what stands between two dollar signs for a formula."""
    return printable(name).replace("$", r"\$")


def _own_color(label: str) -> str | None:
    return _COLORS.get(label.split(" of ")[0].replace("best", "best_of"))


def color_of(label: str, place: int) -> str:
    """The colour of a label; `place` tells those apart that have none of their own."""
    return _own_color(label) or _MORE_COLORS[place % len(_MORE_COLORS)]


def _selected(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["selected"] and row["split"] == "report"]


def _is_swept(rows: Sequence[Row]) -> bool:
    """Whether a method was reported at more than one weight."""
    points = {(_label(r), r["weight"]) for r in rows if r["split"] == "report"}
    return len(points) > len({text for text, _ in points})


def _methods(subject: _Subject) -> Any:
    """A column a task, a line a method, the best on top; only where the sweep does not say as much."""
    shown = _selected(subject.rows)
    legible = len({_label(row) for row in shown}) <= _LEGIBLE
    if not shown or (legible and _is_swept(subject.rows)):
        return None
    panels = Panel.drawn(shown)
    most = max(len(panel.rows(shown)) for panel in panels)
    height = max(1.6, 0.6 + 0.27 * most)  # title and axis alone take 1.2 inches
    fig, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), height), squeeze=False)
    name = _measures(shown)[0]
    for ax, panel in zip(axes[0], panels, strict=True):
        _methods_panel(ax, panel.rows(shown), name)
        ax.set(
            xlabel=name,
            title=plain(panel.title),
            **({"xlim": (-0.02, 1.02)} if name == "success" else {}),
        )
    fig.tight_layout()
    return fig


def _methods_panel(ax: Axes, rows: Sequence[Row], name: str) -> None:
    """`name` of each row, the best on top."""
    rows = sorted(rows, key=lambda r: (r[name]["mean"], r["return"]["mean"]))
    for place, row in enumerate(rows):
        value, color = row[name], _own_color(_label(row)) or "#444444"
        ax.plot([value["low"], value["high"]], [place, place], color=color, lw=2)
        ax.plot(value["mean"], place, "o", color=color, ms=6)
    ax.set_yticks(range(len(rows)), [plain(Arm.of(r).label) for r in rows], fontsize=8)
    ax.grid(alpha=0.3, axis="x")


def _sweep(subject: _Subject) -> Any:
    """A column a task, success above return: a line a swept method, a band where there is no weight."""
    if not _is_swept(subject.rows):
        return None
    return _by_task(subject.rows, _sweep_panel, "guidance weight")


def _steps(subject: _Subject) -> Any:
    """A column a task, success above return: a line a method; nothing where there is one step alone."""
    if len({row["step"] for row in subject.by_step}) < 2:
        return None
    return _by_task(subject.by_step, _steps_panel, "training step")


def _by_task(
    rows: Sequence[Row], draw_panel: Callable[[Axes, Sequence[Row], str], None], xlabel: str
) -> Any:
    """A column a task, a row of panels a measure, of report rows."""
    panels, names = Panel.drawn(rows), _measures(rows)
    size = (5.4 * len(panels), 3.1 * len(names))
    fig, axes = plt.subplots(len(names), len(panels), figsize=size, squeeze=False, sharex="col")
    for column, panel in zip(axes.T, panels, strict=True):
        here = [row for row in panel.rows(rows) if row["split"] == "report"]
        for ax, name in zip(column, names, strict=True):
            draw_panel(ax, here, name)
        if names[0] == "success":
            column[0].set(ylim=(-0.03, 1.03))
        column[0].set_title(plain(panel.title), fontsize=10)
        if len({_label(row) for row in here}) <= _LEGIBLE:
            column[0].legend(fontsize=8, framealpha=0.9)
        else:
            column[0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.02))
        column[-1].set_xlabel(xlabel)
    fig.tight_layout()
    return fig


def _sweep_panel(ax: Axes, rows: Sequence[Row], name: str) -> None:
    """`name` of each method against the weight."""
    by_label = _legible(rows)
    for place, (label, mine) in enumerate(by_label.items()):
        color = color_of(label, place)
        if len(mine) == 1 and mine[0]["weight"] == 0:
            _band(ax, mine[0][name], color, label)
        else:
            _curve(ax, mine, name, color, label)
    weight_axis(ax, sorted({row["weight"] for mine in by_label.values() for row in mine}))
    ax.set_ylabel(name)
    ax.grid(alpha=0.3)


def _steps_panel(ax: Axes, rows: Sequence[Row], name: str) -> None:
    """`name` of each method against the training step."""
    for place, label in enumerate(dict.fromkeys(map(_label, rows))):
        mine = [row for row in rows if _label(row) == label]
        _error_bars(ax, mine, "step", name, color_of(label, place), label)
    ax.set_ylabel(name)
    ax.grid(alpha=0.3)


def _legible(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each label by weight.

    Of too many, those alone that were played at several weights, or that have none: the picture of
    methods has the others.
    """
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(_label(row), []).append(row)
    if len(by_label) > _LEGIBLE:
        weights = {label: {row["weight"] for row in mine} for label, mine in by_label.items()}
        kept = [label for label, some in weights.items() if len(some) > 1 or some == {0.0}]
        by_label = {label: by_label[label] for label in kept}
    return {label: sorted(mine, key=lambda r: r["weight"]) for label, mine in by_label.items()}


def _band(ax: Axes, value: Mapping[str, float], color: str, label: str) -> None:
    """A method without a weight."""
    ax.axhline(value["mean"], color=color, ls="--", lw=1.5, label=label)
    ax.axhspan(value["low"], value["high"], color=color, alpha=0.12, lw=0)


def _curve(ax: Axes, rows: Sequence[Row], name: str, color: str, label: str) -> None:
    """A method against its weights, the selected one with a ring."""
    _error_bars(ax, rows, "weight", name, color, label)
    for row in rows:
        if row["selected"]:
            ax.plot(row["weight"], row[name]["mean"], "o", ms=12, mfc="none", color=color)


def _error_bars(ax: Axes, rows: Sequence[Row], x: str, name: str, color: str, label: str) -> None:
    """`name` of rows with its interval against `x`."""
    mean, low, high = (np.array([row[name][k] for row in rows]) for k in ("mean", "low", "high"))
    errors = np.maximum(0.0, [mean - low, high - mean])
    at = [row[x] for row in rows]
    ax.errorbar(at, mean, yerr=errors, color=color, marker="o", ms=5, capsize=3, label=label)


def weight_axis(ax: Axes, weights: Sequence[float]) -> None:
    """A logarithmic axis of the weights, which begins at 0."""
    positive = [weight for weight in weights if weight > 0]
    if positive:
        ax.set_xscale("symlog", linthresh=positive[0])
        tilt = 60 if len(weights) > 6 else 0
        ax.set_xticks(weights, [f"{w:g}" for w in weights], rotation=tilt)
        ax.set_xlim(-0.15 * positive[0], positive[-1] * 1.25)
        ax.minorticks_off()


def _trajectories(subject: _Subject) -> Any:
    """One panel a selected method: where its first report episodes went, a colour a task."""
    selected = _selected(subject.rows)
    drawn = Panel.drawn(selected)
    shown = [row for row in selected if Panel.of(row) in drawn]
    lines = [line for line in subject.episodes if "path" in line]
    maze = Maze.of(subject.run)
    if not shown or not lines or maze is None:
        return None
    fig, axes = _grid(len(shown))
    several = len({panel.env for panel in drawn}) > 1
    for place, (ax, row) in enumerate(zip(axes, shown, strict=True)):
        maze.draw(ax)
        title = plain(Arm.of(row).label + f"\n{row['env']}" * several)
        _trajectories_panel(ax, title, row, _lines_of(row, lines), place)
    return fig


def _grid(count: int) -> tuple[Any, list[Axes]]:
    """A figure with `count` panels, at most five in a row."""
    across = min(count, 5)
    down = -(-count // across)
    fig, axes = plt.subplots(down, across, figsize=(3.6 * across, 3.8 * down), squeeze=False)
    for ax in axes.ravel()[count:]:
        ax.set_axis_off()
    return fig, list(axes.ravel()[:count])


def _trajectories_panel(ax: Axes, title: str, row: Row, lines: Sequence[Line], place: int) -> None:
    """The ways of a row's episodes, and how many arrive."""
    for line in lines:
        _draw_path(ax, line, row, place)
    reached = sum(line["success"] for line in lines)
    ax.set_title(f"{title}\n{reached:.0f} of {len(lines)} shown arrive", fontsize=9)


def _lines_of(row: Row, lines: Sequence[Line]) -> list[Line]:
    """The lines that a row is the mean of."""
    keys = ["env", "method", "options", "best_of", "weight", "split", "step"]
    keys += ["task"] * (row["task"] != ALL_TASKS)
    return [line for line in lines if all(line[k] == row[k] for k in keys)]


def _draw_path(ax: Axes, line: Line, row: Row, place: int) -> None:
    """The way of an episode, its start and its goal."""
    x, y = np.array(line["path"]).T
    color, star = color_of(_label(row), place), "#d62728"
    if row["task"] == ALL_TASKS:
        color = star = _MORE_COLORS[line["task"] % len(_MORE_COLORS)]
    ax.plot(x, y, lw=1.0, alpha=0.75, color=color)
    ax.plot(x[0], y[0], ".", color="black", ms=4)
    ax.plot(*line["goal"], "*", color=star, ms=13, zorder=5)


def _field(subject: _Subject) -> Any:
    """Arrows of the mean action at many places, reference beside guided, over the value.

    `None` where the run has no value or reference policy, and where the evaluated checkpoint is gone.
    """
    from qgf_jax.methods.table import Method
    from qgf_jax.runs.loaded import LoadedRun

    run, guided = subject.run, _guided(subject)
    if not guided or "reference" not in Method.named(run.config["algorithm"]).serves:
        return None
    maze = Maze.of(run)
    if not guided or maze is None:
        return None
    points = np.array(list(maze.grid(3)), np.float32)
    try:
        loaded = LoadedRun.open(run.workdir, subject.rows[0]["step"])
        if "value" not in loaded.params:
            return None
        moves = [_mean_moves(loaded, points, "reference", (), 0.0)]
        for row in guided:
            options = tuple(row["options"].items())
            moves.append(_mean_moves(loaded, points, row["method"], options, row["weight"]))
    except UserError:  # it is gone, or lacks what a method needs
        return None
    titles = ["reference", *(f"{_label(row)}, weight {row['weight']:g}" for row in guided)]
    value = _values(loaded, points)
    fig, axes = plt.subplots(1, len(titles), figsize=(4.4 * len(titles), 4.2))
    for ax, title, move in zip(axes, titles, moves, strict=True):
        maze.draw(ax)
        shade = ax.scatter(*points.T, c=value, s=60, marker="s", cmap="viridis", alpha=0.55)
        ax.quiver(*points.T, *move.T, angles="xy", scale=14, width=0.005, color="black")
        ax.set_title(title, fontsize=10)
    fig.colorbar(shade, ax=axes, shrink=0.8, label="V")
    return fig


def _guided(subject: _Subject) -> list[Row]:
    """Two methods' rows of a positive weight: the selected one, or the least if that is 0."""
    rows = subject.rows
    own = [r for r in rows if r["env"] == EnvName.parse(subject.run.config["env"]).label]
    guided: dict[str, Row] = {}
    for row in sorted(own or rows, key=lambda r: (not r["selected"], r["weight"])):
        if row["split"] == "report" and row["weight"] > 0 and row["best_of"] == 1:
            guided.setdefault(_label(row), row)
    return list(guided.values())[:2]


def _mean_moves(
    loaded: Any, points: np.ndarray, method: str, options: tuple[Any, ...], weight: float
) -> np.ndarray:
    """The mean action [N, 2] of a chunk, over 32 draws, of the first seed at `points` [N, 2]."""
    import jax

    sample, params = loaded.sampler(method, 1, options), loaded.params_of(0)

    def mean_move(obs: Any, key: Any) -> Any:
        keys = jax.random.split(key, 32)
        chunks = jax.vmap(lambda k: sample(params, obs, k, weight))(keys)
        return chunks.reshape(32, loaded.spec.chunk, 2).mean(axis=(0, 1))

    keys = jax.random.split(jax.random.key(0), len(points))
    return np.asarray(jax.jit(jax.vmap(mean_move))(loaded.spec.observation(points), keys))


def _values(loaded: Any, points: np.ndarray) -> np.ndarray:
    """V [N] of the first seed at `points` [N, 2]."""
    import jax

    value, params = loaded.networks().value, loaded.params_of(0)["value"]
    return np.asarray(
        jax.jit(jax.vmap(lambda obs: value.apply(params, obs)))(loaded.spec.observation(points))
    )
