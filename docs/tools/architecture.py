"""Draws the architecture from the code: rooms, their sizes, and which imports which.

    python docs/tools/architecture.py        # docs/architecture.{json,png}, the table of the page

The JSON holds what is drawn; `tests/test_docs.py` compares it with the code. Layers are computed: a room
stands above all rooms that it imports. Arrows that run the other way, if any, are red and dashed.
"""

import ast
import functools
import hashlib
import itertools
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Curve

DOCS = Path(__file__).parent.parent
PACKAGE = DOCS.parent / "qgf_jax"
GUIDE = DOCS.parent / "qgf_guide"
"""The other package, which is drawn as one more room."""
DATA, PICTURE, PAGE = (DOCS / f"architecture.{suffix}" for suffix in ("json", "png", "md"))
BEGIN, END = "<!-- generated: make docs -->", "<!-- end -->"

Rooms = dict[str, dict[str, Any]]
"""By room: `about`, `files` by name, `lines`, and `imports`, how many files import which other room."""


def room_of(path: Path) -> str:
    """The folder of a file of the package, or, of a file at the package's root, its own name."""
    if path.is_relative_to(GUIDE):
        return GUIDE.name
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Other rooms that a file imports, anywhere in it, for type annotations too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    rooms = {name.split(".")[1] for name in names if name.startswith("qgf_jax.")}
    rooms |= {GUIDE.name for name in names if name.startswith(f"{GUIDE.name}.")}
    return rooms - {room_of(path)}


def read() -> Rooms:
    """What the code is today."""
    rooms: Rooms = {}
    for path in [*sorted(GUIDE.rglob("*.py")), *sorted(PACKAGE.rglob("*.py"))]:
        if "build" in path.parts:  # what an installation left there
            continue
        name = room_of(path)
        folder = GUIDE if name == GUIDE.name else PACKAGE / name
        room = rooms.setdefault(name, {"about": "", "files": [], "lines": 0, "imports": {}})
        source = path.read_text(encoding="utf-8")
        if path in (folder / "__init__.py", folder.with_suffix(".py")):
            doc = ast.get_docstring(ast.parse(source)) or ""
            room["about"] = doc.split("\n")[0]
        elif path.parent != PACKAGE:
            within = path.relative_to(folder).with_suffix("")
            room["files"].append(str(within).removesuffix("__init__"))
        room["lines"] += source.count("\n")
        for other in sorted(imports_of(path)):
            room["imports"][other] = room["imports"].get(other, 0) + 1
    return {name: rooms[name] for name in sorted(rooms) if not name.startswith("__")}


def floor_of(rooms: Rooms) -> set[str]:
    """Files at the root that import no room: the vocabulary that all rooms share."""
    floor = {name for name in rooms if (PACKAGE / f"{name}.py").exists()}
    while outside := {name for name in floor if rooms[name]["imports"].keys() - floor}:
        floor -= outside
    return floor


def order_of(rooms: Rooms, names: list[str]) -> list[str]:
    """`names` from top to bottom, with as few imports upwards as there can be."""
    top: list[str] = []
    while free := [n for n in sorted({*names} - {*top}) if _is_free(rooms, n, {*names} - {*top})]:
        top.append(free[0])  # nobody that is left imports it

    @functools.cache
    def best(left: frozenset[str]) -> tuple[int, tuple[str, ...]]:
        if not left:
            return 0, ()
        options = []
        for top in sorted(left):  # what stands below it and imports it goes upwards
            up = sum(rooms[name]["imports"].get(top, 0) for name in left - {top})
            rest, order = best(left - {top})
            options.append((rest + up, (top, *order)))
        return min(options)

    return [*top, *best(frozenset(names) - {*top})[1]]


def _is_free(rooms: Rooms, name: str, among: set[str]) -> bool:
    return not any(name in rooms[other]["imports"] for other in among)


def arrows_of(
    rooms: Rooms, order: list[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(arrows down, arrows up). An arrow down is left out where a way over other rooms leads there."""
    place = {name: i for i, name in enumerate(order)}
    both = [(a, b) for a in order for b in rooms[a]["imports"] if b in place]
    down = {(a, b) for a, b in both if place[a] < place[b]}
    reach: dict[str, set[str]] = {}
    for a in reversed(order):
        below = {b for c, b in down if c == a}
        reach[a] = below.union(*(reach[b] for b in below))
    direct = [
        (a, b) for a, b in sorted(down) if not any((a, c) in down and b in reach[c] for c in order)
    ]
    return direct, [(a, b) for a, b in both if place[a] > place[b]]


def layers_of(order: list[str], down: list[tuple[str, str]]) -> dict[str, int]:
    """0 at the bottom; a room stands one above the highest that it imports."""
    layer: dict[str, int] = {}
    for a in reversed(order):
        layer[a] = max((layer[b] + 1 for c, b in down if c == a), default=0)
    return layer


def _ways(layer: dict[str, int], down: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Each arrow as the nodes it goes through: one without a box in each layer between its ends."""
    for a, b in down:
        between = range(layer[a] - 1, layer[b], -1)
        yield [a, *(f"{a}>{b}@{level}" for level in between), b]


def positions(layer: dict[str, int], ways: list[list[str]]) -> dict[str, tuple[float, int]]:
    """(x, layer) of each node, x from 0 to 1; neighbours of a node pull it towards them."""
    level = dict(layer)
    near: dict[str, set[str]] = {name: set() for name in layer}
    for way in ways:
        for a, b in itertools.pairwise(way):
            level.setdefault(b, level[a] - 1)
            near.setdefault(a, set()).add(b)
            near.setdefault(b, set()).add(a)
    rows = [sorted(n for n in level if level[n] == k) for k in range(max(level.values()) + 1)]
    x = {n: (i + 0.5) / len(row) for row in rows for i, n in enumerate(row)}
    for sweep in range(24):
        for row in rows if sweep % 2 else rows[::-1]:
            row.sort(key=lambda n: (sum(x[m] for m in near[n]) / max(len(near[n]), 1), n))
            share = {n: 1.0 if n in layer else 0.35 for n in row}
            total, left = sum(share.values()), 0.0
            for n in row:
                x[n], left = (left + share[n] / 2) / total, left + share[n]
    return {n: (x[n], level[n]) for n in level}


class _Sheet:
    """A picture under way; lengths are inches."""

    wide, high, step = 3.9, 1.22, 1.56
    ink, paper, fill, quiet, alarm = "#1b2a41", "#f4f6fa", "#7ea0cf", "#5b6577", "#c0392b"

    def __init__(self, across: float, top: float):
        self.across = across
        self.figure = Figure(figsize=(across, top + 2.1))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, across), ylim=(-2.1, top))
        self.axes.axis("off")

    def write(self, x: float, y: float, text: str, size: float, **style: Any) -> None:
        look = {"ha": "center", "va": "top", "color": self.ink} | style
        self.axes.text(x, y, text, size=size, **look)

    def frame(self, x: float, y: float, wide: float, high: float, colour: str) -> None:
        style = "round,pad=0,rounding_size=0.07"
        self.axes.add_patch(
            FancyBboxPatch((x, y), wide, high, boxstyle=style, fc=colour, ec=self.ink)
        )

    def room(self, x: float, y: float, name: str, room: dict[str, Any], most: int) -> None:
        """A box around (x, y): name, what it is for, its files, and a bar for its lines."""
        left, low = x - self.wide / 2, y - self.high / 2
        self.frame(left, low, self.wide, self.high, self.paper)
        is_file = not room["files"]
        self.write(x, y + 0.55, name + ".py" * is_file, 11, weight="bold")
        self.write(x, y + 0.33, _lines(room["about"], 52, 2), 7.5)
        self.write(x, y - 0.04, _names(room["files"]), 7, color=self.quiet)
        length = (self.wide - 0.3) * room["lines"] / most
        self.axes.add_patch(Rectangle((left + 0.15, low + 0.06), length, 0.06, color=self.fill))

    def way(self, points: list[tuple[float, float]], files: int) -> None:
        """An arrow down through `points`, the first and last of which are middles of boxes."""
        (x0, y0), *between, (x1, y1) = points
        points = [(x0, y0 - self.high / 2), *between, (x1, y1 + self.high / 2 + 0.03)]
        vertices, codes = [points[0]], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            middle = (y0 + y1) / 2
            vertices += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Curve.CURVE4] * 3
        self._arrow(path=Curve(vertices, codes), color="#8a94a6", lw=0.8 + 0.12 * files)

    def upward(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """An arrow that should not be there, from the right side of a box to that of another."""
        side = self.wide / 2
        (x0, y0), (x1, y1) = start, end
        out = max(x0, x1) + side + 0.5
        vertices = [(x0 + side, y0), (out, y0), (out, y1), (x1 + side, y1)]
        path = Curve(vertices, [Curve.MOVETO, *[Curve.CURVE4] * 3])
        self._arrow(path=path, color=self.alarm, lw=1.1, linestyle=(0, (4, 3)))

    def _arrow(self, **look: Any) -> None:
        self.axes.add_patch(FancyArrowPatch(arrowstyle="-|>", mutation_scale=11, **look))

    def floor(self, rooms: Rooms, names: list[str]) -> None:
        """The lowest box: the files that any room may import."""
        self.frame(0.1, -1.45, self.across - 0.2, 1.1, "#e7ebf2")
        self.write(self.across / 2, -0.42, "any room may import these", 8, color=self.quiet)
        for i, name in enumerate(names):
            x = (i + 0.5) * (self.across - 0.2) / len(names) + 0.1
            self.write(x, -0.64, f"{name}.py", 11, weight="bold")
            self.write(
                x, -0.88, _lines(rooms[name]["about"], int(12 * self.across / len(names)), 3), 7.5
            )


def draw(rooms: Rooms, path: Path = PICTURE) -> None:
    """The picture, with the digest of what is drawn in its metadata."""
    floor = floor_of(rooms)
    order = order_of(rooms, [name for name in rooms if name not in floor])
    down, up = arrows_of(rooms, order)
    layer = layers_of(order, down)
    ways = list(_ways(layer, down))
    widest = max(list(layer.values()).count(k) for k in set(layer.values()))
    across = max(widest * (_Sheet.wide + 0.45), 10.5)
    sheet = _Sheet(across, (max(layer.values()) + 1) * _Sheet.step + 0.2)
    at = {
        name: (x * across, y * _Sheet.step + 0.75)
        for name, (x, y) in positions(layer, ways).items()
    }
    for way in ways:
        sheet.way([at[name] for name in way], rooms[way[0]]["imports"][way[-1]])
    most = max(room["lines"] for room in rooms.values())
    for name in layer:
        sheet.room(*at[name], name, rooms[name], most)
    for start, end in up:
        sheet.upward(at[start], at[end])
    if floor:
        sheet.floor(rooms, sorted(floor))
    legend = (
        "Arrow: files of the upper room import the lower one; the thicker, the more. Not drawn: imports "
        f"that a way over other rooms shows{', and those of the lowest box' * bool(floor)}.\n"
        f"Bar: lines of code, the longest {round(most, -2):,}."
        + " Red: an import upwards."
        * bool(up)
    )
    sheet.write(0.1, -1.6, legend, 8, ha="left")
    sheet.figure.savefig(path, dpi=110, metadata={"Description": digest(rooms)})


def _lines(text: str, width: int, most: int) -> str:
    return "\n".join(textwrap.wrap(text.rstrip("."), width)[:most])


def _names(files: list[str]) -> str:
    """Names of a room's files in at most three lines; of a folder within the room its name alone."""
    names = list(dict.fromkeys(f"{x.split('/')[0]}/" if "/" in x else x for x in files))
    lines = textwrap.wrap(", ".join(names), 58)
    return "\n".join(lines if len(lines) <= 3 else [*lines[:2], lines[2].rsplit(",", 1)[0] + " …"])


def digest(rooms: Rooms) -> str:
    """What a picture says it shows."""
    return hashlib.sha256(json.dumps(rooms, sort_keys=True).encode()).hexdigest()


def table(rooms: Rooms) -> str:
    """All imports, as Markdown: how many files of a row's room import a column's."""
    floor = floor_of(rooms)
    order = [*order_of(rooms, [n for n in rooms if n not in floor]), *sorted(floor)]
    to = [name for name in order if any(name in room["imports"] for room in rooms.values())]
    lines = [f"| files of … import … | {' | '.join(to)} |", "| --- " * (len(to) + 1) + "|"]
    for name in order:
        cells = [str(rooms[name]["imports"].get(other, "")) for other in to]
        lines.append(f"| **{name}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str, rooms: Rooms) -> str:
    """The page with the table of today between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rooms)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Writes data, picture and table."""
    rooms = read()
    DATA.write_text(json.dumps(rooms, indent=1) + "\n", encoding="utf-8")
    draw(rooms)
    if PAGE.exists():
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rooms), encoding="utf-8")


if __name__ == "__main__":
    main()
