"""The cost of selection as a table, on the page and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_jax.evaluation.arms import Arm
from qgf_jax.report import page
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.tables import Panel, grid, task_name

CAPTION = (
    "What selection costs: the report of the weight that n selection episodes of each weight, task and "
    "seed choose. The mean over subsamples, in brackets their 10th and 90th percentile; n = 0: a weight "
    "by lot. As played: where weights have played unequal numbers, as a bandit's do, all of these."
)
_Curve = Mapping[str, Any]
_DIGITS = {"success": 2, "return": 1}


def markdown(curves: Sequence[_Curve]) -> str:
    """The curves as a Markdown table with what it is; empty without any."""
    return "\n\n".join([grid(_lines(curves)), CAPTION]) if curves else ""


def section(curves: Sequence[_Curve]) -> Section:
    """The same on a page; empty without any."""
    title = "Cost of selection"
    if not curves:
        return Section(title, "")
    head, *lines = _lines(curves)
    cells = [[*map(Cell, line)] for line in lines]
    return Section(title, page.table(title, head, cells) + page.paragraphs([CAPTION]))


def draw(curves: Sequence[_Curve], path: Path) -> list[tuple[str, Path]]:
    """The picture as (caption, PNG); none, and none of an earlier report, where nothing has a curve."""
    shown = [curve for curve in curves if curve["points"]]
    if not shown:
        path.unlink(missing_ok=True)
        return []
    from qgf_jax.report.plots import color_of, plain, plt  # Matplotlib

    panels = sorted({(*Panel.of(one), one["measure"]) for one in shown})
    size = (5.4 * len(panels), 3.4)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (env, task, measure) in zip(axes[0], panels, strict=True):
        panel = Panel(env, task)
        for place, one in enumerate(panel.rows(curves)):
            label = plain(_label(one))
            _draw_curve(ax, one, label, color_of(label, place))
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlabel="selection episodes", ylabel=measure, title=plain(panel.title))
        ax.set_xlim(left=0)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    fig.tight_layout()
    fig.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(fig)
    return [(CAPTION, path)]


def _draw_curve(ax: Any, curve: _Curve, label: str, color: str) -> None:
    """The mean with a band, and a star for what was played unequally."""
    measure = curve["measure"]
    if points := curve["points"]:
        spent = [point["spent"] for point in points]
        mean, low, high = ([p[measure][k] for p in points] for k in ("mean", "low", "high"))
        ax.plot(spent, mean, "o-", ms=4, color=color, label=label)
        ax.fill_between(spent, low, high, color=color, alpha=0.12, lw=0)
    if played := curve["as_played"]:
        text = f"{label}, as played"
        ax.plot(played["spent"], played[measure], "*", ms=13, color=color, label=text)


def _lines(curves: Sequence[_Curve]) -> list[list[str]]:
    """A head, and a line for each curve."""
    sizes = sorted({point["each"] for curve in curves for point in curve["points"]})
    head = ["env", "task", "method", "of", "weights", *(f"n = {each}" for each in sizes)]
    return [[*head, "as played"], *(_line(curve, sizes) for curve in curves)]


def _line(curve: _Curve, sizes: Sequence[int]) -> list[str]:
    measure, digits = curve["measure"], _DIGITS[curve["measure"]]
    at = {point["each"]: point[measure] for point in curve["points"]}
    played = curve["as_played"]
    return [
        curve["env"],
        task_name(curve["task"]),
        _label(curve),
        measure,
        str(curve["weights"] or "-"),
        *(_cell(at.get(each), digits) for each in sizes),
        f"{played[measure]:.{digits}f} after {played['spent']}" if played else "-",
    ]


def _cell(value: Mapping[str, float] | None, digits: int) -> str:
    if value is None:
        return "-"
    mean, low, high = (f"{value[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return mean if low == high == mean else f"{mean} [{low}, {high}]"


def _label(curve: _Curve) -> str:
    return Arm.of({**curve, "weight": 0.0}).sampler.label
