"""Curves and points as SVG inside a page: colours of the page's theme, points that lead somewhere."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

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
    ticks: Mapping[Any, str]
    scale: Callable[[float], float] = float
    """What makes of a number its place, as `low`, `high` and `ticks` are."""

    @classmethod
    def places(cls, label: str, numbers: Sequence[float]) -> "Axis":
        """0, 1, 2 … stand for `numbers`, evenly spread."""
        names = (f"{number:g}" for number in numbers)
        return cls(label, -0.4, len(numbers) - 0.6, dict(enumerate(names)))

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
    def decades(cls, label: str, values: Iterable[float]) -> "Axis":
        """Logarithmic: whole powers of ten over all `values`, which are positive."""
        known = list(map(math.log10, values))
        first = math.floor(min(known))
        last = max(math.ceil(max(known)), first + 1)
        ticks = {k: f"{10.0**k:g}" for k in range(first, last + 1)}
        return cls(label, first, last, ticks, math.log10)

    @classmethod
    def nats(cls, label: str, values: Iterable[float]) -> "Axis":
        """Of numbers from 0 on: linear up to 0.1, logarithmic from there."""
        last = max(math.ceil(_linear_then_log(max(values))), 1)
        ticks = {k: f"{10.0 ** (k - 2):g}" for k in range(1, last + 1)}
        return cls(label, -0.1, last, {0.0: "0"} | ticks, _linear_then_log)

    @classmethod
    def measure(cls, name: str, series: Iterable[Series]) -> "Axis":
        """Of success from 0 to 1, of anything else over all points with their intervals."""
        if name == "success":
            return cls(name, -0.03, 1.03, {k / 5: f"{k / 5:.1f}" for k in range(6)})
        heights = [y for one in series for p in one.points for y in (p.y, p.low, p.high)]
        return cls.of(name, [y for y in heights if y is not None])

    def at(self, value: float) -> float:
        """From 0 at its beginning to 1 at its end."""
        return self._share(self.scale(value))

    def marks(self) -> list[tuple[float, str]]:
        """Where the ticks are, as `at` has it, and their names."""
        return [(self._share(place), name) for place, name in self.ticks.items()]

    def _share(self, place: float) -> float:
        return (place - self.low) / (self.high - self.low)


def _linear_then_log(value: float) -> float:
    """10 x up to x = 0.1, and then two more than the logarithm to base ten."""
    return 10 * value if value <= 0.1 else 2 + math.log10(value)


class Chart(NamedTuple):
    """Series over their axes."""

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis

    def _figures(self) -> str:
        """With legends; several where there are more series than colours."""
        parts = [self.series[i : i + _MOST] for i in range(0, len(self.series), _MOST)]
        of = f", {{}} of {len(parts)}" if len(parts) > 1 else ""
        return "".join(
            self._replace(title=self.title + of.format(i), series=some)._figure()
            for i, some in enumerate(parts, 1)
        )

    def _figure(self) -> str:
        drawn = "".join(_series(one, i, self.x, self.y) for i, one in enumerate(self.series))
        legend = "".join(
            f'<li><svg class="key s{i}" viewBox="0 0 12 12" aria-hidden="true">'
            f'<path class="mark" d="{_MARKS[i % 4].format(x=6, y=6)}"/></svg> {text(one.name)}</li>'
            for i, one in enumerate(self.series)
        )
        title = text(self.title)
        return (
            f'<figure class="chart"><figcaption>{title}</figcaption>'
            f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
            f'{_frame(self.x, self.y)}{drawn}</svg><ul class="legend">{legend}</ul></figure>'
        )


def charts(several: Iterable[Chart]) -> str:
    """Charts beside each other; nothing without any."""
    figures = "".join(chart._figures() for chart in several)
    return figures and f'<div class="charts">{figures}</div>'


def _x(share: float) -> str:
    return f"{_LEFT + share * (_WIDTH - _LEFT - _RIGHT):.1f}"


def _y(share: float) -> str:
    return f"{_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM):.1f}"


def _frame(x: Axis, y: Axis) -> str:
    """Ticks, lines across, and what the axes are."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
    for share, name in y.marks():
        at = _y(share)
        parts.append(f'<path class="rule" d="M{_LEFT} {at}H{right}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{text(name)}</text>'
        )
    every = max(1, len(x.ticks) // 10)
    for share, name in x.marks()[::every]:
        parts.append(
            f'<text x="{_x(share)}" y="{bottom + 15}" text-anchor="middle">{text(name)}</text>'
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
    line = "M" + "L".join(f"{_x(x.at(p.x))} {_y(y.at(p.y))}" for p in points)
    parts = [f'<path class="line" d="{line}"/>'] * (one.has_line and len(points) > 1)
    if one.has_marks:
        parts += [_mark(point, _MARKS[place % 4], x, y) for point in points]
    return f'<g class="s{place}">{"".join(parts)}</g>'


def _mark(point: Point, shape: str, x: Axis, y: Axis) -> str:
    """A point with its interval, which leads where the point does."""
    at, bar = _x(x.at(point.x)), ""
    if point.low is not None and point.high is not None:
        bar = f'<path class="bar" d="M{at} {_y(y.at(point.low))}V{_y(y.at(point.high))}"/>'
    path = shape.format(x=at, y=_y(y.at(point.y)))
    mark = f'<path class="mark" d="{path}"><title>{text(point.title)}</title></path>'
    # Tables have the same links, so that the Tab key need not stop at each point.
    link = f'<a href="{text(point.href)}" tabindex="-1">{mark}</a>' if point.href else mark
    return bar + link
