"""The picture of training: a panel a loss. Matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

Line = Mapping[str, Any]


def draw(lines: Sequence[Line]) -> Any:
    """One panel a loss, training and validation; `None` where the lines of metrics have no loss."""
    first = lines[0] if lines else {}
    names = [k for k in first if k.endswith("/loss") and "validation" not in k]
    if not names:
        return None
    fig, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 2.8), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        _panel(ax, lines, name)
    axes[0][0].legend(fontsize=8)
    fig.tight_layout()
    return fig


def _panel(ax: Axes, lines: Sequence[Line], name: str) -> None:
    """A loss in training and on validation data, on a logarithmic axis if it is positive.

    Within less than a factor of ten such an axis has no round number, so it is linear.
    """
    seen = []
    for key, kind in ((name, "training"), (f"validation/{name}", "validation")):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            ax.plot(*zip(*points, strict=True), label=kind, lw=1.2)
            seen += [loss for _, loss in points]
    wide = min(seen) > 0 and max(seen) >= 10 * min(seen)
    ax.set(title=name, xlabel="step", yscale="log" if wide else "linear")
    ax.grid(alpha=0.3)
