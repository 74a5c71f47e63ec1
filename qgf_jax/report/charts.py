"""Curves and points as SVG inside a page: colours of the page's theme, points that lead somewhere."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qgf_jax.report.page import text

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 12, 42
_MOST = 8
"""Series in one chart, which is how many colours the style has."""
_MARKS = (
    "M{x} {y}m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M{x} {y}m-4 -4h8v8h-8z",
    "M{x} {y}m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "M{x} {y}m0 -5l5 9h-10z",
)


class Point(NamedTuple):
    """Of a series."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""
    href: str = ""


class Series(NamedTuple):
    """Points of one name."""

    name: str
    points: Sequence[Point]
    has_line: bool = True
    has_marks: bool = True


class Axis(NamedTuple):
    """Where numbers are on an axis."""

    label: str
    low: float
    high: float
    ticks: Mapping[float, str]

    @classmethod
    def places(cls, label: str, names: Sequence[str]) -> "Axis":
        """0, 1, 2 … stand for `names`, evenly spread."""
        return cls(label, -0.4, len(names) - 0.6, dict(enumerate(names)))

    @classmethod
    def of(cls, label: str, values: Iterable[float]) -> "Axis":
        """A linear axis over all `values`, about five round ticks."""
        known = list(values)
        low, high = min(known), max(known)
        spread = high - low or abs(high) or 1.0
        step = 10.0 ** math.floor(math.log10(spread / 4))
        step *= next(k for k in (1, 2, 5, 10) if spread / (k * step) <= 5)
        first, last = math.floor(low / step), math.ceil(high / step)
        ticks = {k * step: f"{k * step:.6g}" for k in range(first, last + 1)}
        return cls(label, first * step, max(last, first + 1) * step, ticks)

    @classmethod
    def decades(cls, label: str, logarithms: Iterable[float]) -> "Axis":
        """Whole powers of ten over all numbers of which these are the logarithms to base ten."""
        known = list(logarithms)
        first = math.floor(min(known))
        last = max(math.ceil(max(known)), first + 1)
        return cls(label, first, last, {k: f"{10.0**k:g}" for k in range(first, last + 1)})

    @classmethod
    def nats(cls, label: str, values: Iterable[float]) -> "Axis":
        """Of numbers from 0 on, put through `linear_then_log`."""
        last = max(math.ceil(linear_then_log(max(values))), 1)
        return cls(
            label, -0.1, last, {0.0: "0"} | {k: f"{10.0 ** (k - 2):g}" for k in range(1, last + 1)}
        )

    @classmethod
    def share(cls, label: str) -> "Axis":
        """From 0 to 1."""
        return cls(label, -0.03, 1.03, {k / 5: f"{k / 5:.1f}" for k in range(6)})

    def at(self, value: float) -> float:
        """From 0 at its beginning to 1 at its end."""
        return (value - self.low) / (self.high - self.low)


def linear_then_log(value: float) -> float:
    """10 x up to x = 0.1, and then two more than the logarithm to base ten."""
    return 10 * value if value <= 0.1 else 2 + math.log10(value)


def charts(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    """A figure with its legend; several where there are more series than colours."""
    parts = [series[i : i + _MOST] for i in range(0, len(series), _MOST)]
    of = f", {{}} of {len(parts)}" if len(parts) > 1 else ""
    return "".join(_chart(title + of.format(i), some, x, y) for i, some in enumerate(parts, 1))


def _chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> str:
    drawn = "".join(_series(one, i, x, y) for i, one in enumerate(series))
    legend = "".join(
        f'<li><svg class="key s{i}" viewBox="0 0 12 12" aria-hidden="true">'
        f'<path class="mark" d="{_MARKS[i % 4].format(x=6, y=6)}"/></svg> {text(one.name)}</li>'
        for i, one in enumerate(series)
    )
    return (
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)}">'
        f'{_frame(x, y)}{drawn}</svg><ul class="legend">{legend}</ul></figure>'
    )


def _x(axis: Axis, value: float) -> str:
    return f"{_LEFT + axis.at(value) * (_WIDTH - _LEFT - _RIGHT):.1f}"


def _y(axis: Axis, value: float) -> str:
    return f"{_HEIGHT - _BOTTOM - axis.at(value) * (_HEIGHT - _TOP - _BOTTOM):.1f}"


def _frame(x: Axis, y: Axis) -> str:
    """Ticks, lines across, and what the axes are."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
    for value, name in y.ticks.items():
        at = _y(y, value)
        parts.append(f'<path class="rule" d="M{_LEFT} {at}H{right}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{text(name)}</text>'
        )
    every = max(1, len(x.ticks) // 10)
    for value, name in list(x.ticks.items())[::every]:
        parts.append(
            f'<text x="{_x(x, value)}" y="{bottom + 15}" text-anchor="middle">{text(name)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{text(x.label)}</text>'
    )
    parts.append(
        f'<text transform="translate(11 {(_TOP + bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{text(y.label)}</text>'
    )
    return "".join(parts)


def _series(one: Series, place: int, x: Axis, y: Axis) -> str:
    points = [point for point in one.points if math.isfinite(point.y)]
    line = "M" + "L".join(f"{_x(x, p.x)} {_y(y, p.y)}" for p in points)
    parts = [f'<path class="line" d="{line}"/>'] if one.has_line and len(points) > 1 else []
    for point in points if one.has_marks else ():
        at = _x(x, point.x)
        if point.low is not None and point.high is not None:
            ends = f"M{at} {_y(y, point.low)}V{_y(y, point.high)}"
            parts.append(f'<path class="bar" d="{ends}"/>')
        mark = _MARKS[place % 4].format(x=at, y=_y(y, point.y))
        shape = f'<path class="mark" d="{mark}"><title>{text(point.title)}</title></path>'
        # Tables have the same links, so that the Tab key need not stop at each point.
        leads = f'<a href="{text(point.href)}" tabindex="-1">{shape}</a>' if point.href else shape
        parts.append(leads)
    return f'<g class="s{place}">{"".join(parts)}</g>'
