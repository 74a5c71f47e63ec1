"""Draws the architecture from the code: rooms, their sizes, and which imports which.

    python docs/tools/architecture.py        # docs/architecture.{json,png}, the table in docs/architecture.md

The JSON holds what is drawn; `tests/test_docs.py` compares it with the code. Layers are computed: a room
stands above all rooms that it imports. Arrows that run the other way, if any, are red and dashed.
"""

import ast
import functools
import hashlib
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent
PACKAGE = DOCS.parent / "qgf_jax"
DATA, PICTURE, PAGE = (DOCS / f"architecture.{suffix}" for suffix in ("json", "png", "md"))
BEGIN, END = "<!-- generated: make docs -->", "<!-- end -->"

Rooms = dict[str, dict[str, Any]]
"""By room: `about`, `files` by name, `lines`, and `imports`, how many files import which other room."""


def room_of(path: Path) -> str:
    """The folder of a file of the package, or, of a file at the package's root, its own name."""
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
    return rooms - {room_of(path)}


def read() -> Rooms:
    """What the code is today."""
    rooms: Rooms = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = rooms.setdefault(room_of(path), {"about": "", "files": [], "lines": 0, "imports": {}})
        source = path.read_text(encoding="utf-8")
        if path.name == "__init__.py" or path.parent == PACKAGE:
            doc = ast.get_docstring(ast.parse(source)) or ""
            if path.parent in (PACKAGE, PACKAGE / room_of(path)):
                room["about"] = doc.split("\n")[0]
        if path.name != "__init__.py" and path.parent != PACKAGE:
            room["files"].append(str(path.relative_to(PACKAGE / room_of(path)).with_suffix("")))
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

    return list(best(frozenset(names))[1])


def arrows_of(rooms: Rooms, order: list[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(arrows down, arrows up). An arrow down is left out where a way over other rooms leads there."""
    place = {name: i for i, name in enumerate(order)}
    both = [(a, b) for a in order for b in rooms[a]["imports"] if b in place]
    down = {(a, b) for a, b in both if place[a] < place[b]}
    reach: dict[str, set[str]] = {}
    for a in reversed(order):
        below = {b for c, b in down if c == a}
        reach[a] = below.union(*(reach[b] for b in below))
    direct = [(a, b) for a, b in sorted(down) if not any((a, c) in down and b in reach[c] for c in order)]
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
        for a, b in zip(way, way[1:]):
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


def draw(rooms: Rooms, path: Path = PICTURE) -> None:
    """The picture, with the digest of what is drawn in its metadata."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Curve

    floor = floor_of(rooms)
    order = order_of(rooms, [name for name in rooms if name not in floor])
    down, up = arrows_of(rooms, order)
    layer = layers_of(order, down)
    ways = list(_ways(layer, down))
    place = positions(layer, ways)
    wide, high, step = 3.9, 1.22, 1.66
    widest = max(list(layer.values()).count(k) for k in range(max(layer.values()) + 1))
    across = max(widest * (wide + 0.45), 10.5)
    top = (max(layer.values()) + 1) * step + 1.45
    figure, axes = plt.subplots(figsize=(across, top))
    axes.set(xlim=(0, across), ylim=(-1.55, top - 1.55))
    axes.axis("off")
    at = {name: (x * across, y * step + 0.75) for name, (x, y) in place.items()}
    ink, paper, fill = "#1b2a41", "#f4f6fa", "#7ea0cf"

    for way in ways:
        weight = rooms[way[0]]["imports"][way[-1]]
        points = [at[name] for name in way]
        points[0] = (points[0][0], points[0][1] - high / 2)
        points[-1] = (points[-1][0], points[-1][1] + high / 2 + 0.03)
        vertices, codes = [points[0]], [Curve.MOVETO]
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            middle = (y0 + y1) / 2
            vertices += [(x0, middle), (x1, middle), (x1, y1)]
            codes += [Curve.CURVE4] * 3
        line = Curve(vertices, codes)
        axes.add_patch(
            FancyArrowPatch(
                path=line, arrowstyle="-|>", mutation_scale=11, color="#8a94a6", lw=0.8 + 0.12 * weight
            )
        )
    for a, b in up:
        axes.add_patch(
            FancyArrowPatch(
                at[a], at[b], connectionstyle="arc3,rad=0.25", arrowstyle="-|>", shrinkA=34, shrinkB=34,
                mutation_scale=11, color="#c0392b", lw=1.1, linestyle=(0, (4, 3)),
            )
        )  # fmt: skip
    most = max(room["lines"] for room in rooms.values())
    for name in layer:
        x, y = at[name]
        room = rooms[name]
        corner = (x - wide / 2, y - high / 2)
        axes.add_patch(
            FancyBboxPatch(corner, wide, high, boxstyle="round,pad=0,rounding_size=0.07", fc=paper, ec=ink)
        )
        length = (wide - 0.3) * room["lines"] / most
        axes.add_patch(plt.Rectangle((corner[0] + 0.15, corner[1] + 0.05), length, 0.06, color=fill))
        is_file = (PACKAGE / f"{name}.py").exists()
        axes.text(x, y + 0.47, name + ".py" * is_file, ha="center", va="center", weight="bold", color=ink)
        about = "\n".join(textwrap.wrap(room["about"].rstrip("."), 52)[:2])
        axes.text(x, y + 0.35, about, ha="center", va="top", size=7, color=ink)
        names = "" if is_file else "\n".join(_names(room["files"]))
        axes.text(x, y - 0.03, names, ha="center", va="top", size=6.5, color="#5b6577")
    _floor(axes, rooms, sorted(floor), across, ink)
    axes.text(
        0.1, -1.6,
        "Arrow: the upper room imports the lower one; thicker: more files do. Not drawn: what a way over "
        "other rooms shows already, and imports of the floor."
        + " Red: an import upwards." * bool(up)
        + f"\nBar: lines of code; the longest stands for {round(most, -2):,}.",
        ha="left", va="top", size=8, color=ink,
    )  # fmt: skip
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Description": digest(rooms)})
    plt.close(figure)


def _names(files: list[str]) -> list[str]:
    """Names of a room's files in at most three lines; of a folder within the room its name alone."""
    names = list(dict.fromkeys(f"{x.split('/')[0]}/" if "/" in x else x for x in files))
    lines = textwrap.wrap(", ".join(names), 58)
    return lines if len(lines) <= 3 else [*lines[:2], lines[2].rsplit(",", 1)[0] + " …"]


def _floor(axes: Any, rooms: Rooms, floor: list[str], across: float, ink: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (0.1, -1.45), across - 0.2, 1.0, boxstyle="round,pad=0,rounding_size=0.07", fc="#e7ebf2", ec=ink
        )
    )
    axes.text(across / 2, -0.6, "the floor: any room may import these", ha="center", size=8, color=ink)
    for i, name in enumerate(floor):
        x = (i + 0.5) * (across - 0.2) / len(floor) + 0.1
        axes.text(x, -0.82, f"{name}.py", ha="center", va="center", weight="bold", color=ink)
        width = int(130 / len(floor))
        about = "\n".join(textwrap.wrap(rooms[name]["about"].rstrip("."), width)[:3])
        axes.text(x, -1.16, about, ha="center", va="center", size=7, color=ink)


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
