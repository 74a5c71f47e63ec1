"""HTML by parts: text, tables, pictures, a page of them. Whatever comes in is escaped here.

A page needs no network and no other file: its style and its script stand in it, and its policy names
both by their hashes, so that no other script runs even if some text were not escaped.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.evaluation.summary import Row
from qgf_jax.report.tables import Part

GENERATOR = '<meta name="generator" content="qgf report">'
"""What tells a page of ours from other people's."""
_LEADING = frozenset({"trained as", "success", "return", "score", "length", "difference"})
"""The columns whose cells lead somewhere."""
_NUMBER = re.compile(r"([<>]?[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?)( .*)?", re.DOTALL)


class Cell(NamedTuple):
    """Of a table."""

    text: str
    href: str = ""
    also: Sequence["Cell"] = ()
    """What follows after commas."""


class Section(NamedTuple):
    """Of a page."""

    title: str
    body: str
    """HTML."""

    @property
    def anchor(self) -> str:
        """Where links to it go."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def printable(value: object) -> str:
    """A text in which what has no picture, such as half a character, is \\uNNNN; lines may break."""
    shown = (c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in str(value))
    return "".join(shown)


def text(value: object) -> str:
    """HTML of a text, its markup escaped."""
    return html.escape(printable(value))


def _link(words: str, href: str) -> str:
    """A link, or the words alone where there is nothing to lead to."""
    return f'<a href="{text(href)}">{text(words)}</a>' if href else text(words)


def paragraphs(lines: Sequence[str]) -> str:
    """One for each line."""
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def table(
    title: str, head: Sequence[str], lines: Sequence[Sequence[Cell]], marked: Collection[int] = ()
) -> str:
    """A table that sorts and filters; lines whose places are in `marked` stand out."""
    columns = [_kind(list(column)) for column in zip(*lines, strict=True)] or [""] * len(head)
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = []
    for place, line in enumerate(lines):
        cells = (
            f'<td{kind} data-label="{text(name)}">{_written(cell)}</td>'
            for name, kind, cell in zip(head, columns, line, strict=True)
        )
        mark = ' class="selected"' * (place in marked)
        body.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(title)}">'
        f'<table class="grid"><caption>{text(title)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _kind(column: Sequence[Cell]) -> str:
    numbers = all(_NUMBER.fullmatch(cell.text) or cell.text in ("", "-") for cell in column)
    return ' class="n"' * numbers


def _written(cell: Cell) -> str:
    """A number leads to where it comes from; what follows it, as its interval, is small."""
    found = _NUMBER.fullmatch(cell.text)
    if cell.also:
        return ", ".join([_written(cell._replace(also=())), *map(_written, cell.also)])
    if not found:
        return _link(cell.text, cell.href if cell.text != "-" else "")
    more = f" <small>{text(found[2].strip())}</small>" if found[2] else ""
    return _link(found[1], cell.href) + more


def part(
    one: Part, href: Callable[[Row, str], str], more: Mapping[str, Sequence[Cell]] | None = None
) -> str:
    """A table of a report with its notes. `more` are further columns, a cell for each line.

    `href` says where a row leads to from a column of numbers or from what it was trained as.
    """
    extra = more or {}
    names = [name.split(" [")[0] for name in one.head]
    lines = []
    rows = one.rows or [None] * len(one.lines)
    for row, line, *further in zip(rows, one.lines, *extra.values(), strict=True):
        cells = [
            Cell(words, href(row, name) if row and name in _LEADING else "")
            for name, words in zip(names, line, strict=True)
        ]
        lines.append([*cells, *further])
    return table(one.title, [*one.head, *extra], lines, _marked(one)) + paragraphs(one.notes)


def _marked(one: Part) -> set[int]:
    """The places of selected rows; none where all are."""
    marked = {i for i, row in enumerate(one.rows) if row["selected"]}
    return marked if len(marked) < len(one.rows) else set()


def picture(path: Path, caption: str) -> str:
    """A PNG, inside the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def details(summary: str, body: str, *, is_open: bool = False) -> str:
    """What a reader may fold."""
    state = " open" * is_open
    return f"<details{state}><summary>{text(summary)}</summary>{body}</details>"


def page(
    title: str, sections: Sequence[Section], ways: Sequence[Cell] = (), data: Any = None
) -> str:
    """A whole page. `ways` lead to others; `data` is JSON for its script."""
    style, script = (_beside(name) for name in ("site.css", "site.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data: file: 'self'; base-uri 'none'; form-action 'none'"
    )
    shown = [section for section in sections if section.body]
    ways = [*ways, *(Cell(section.title, f"#{section.anchor}") for section in shown)]
    items = "".join(f"<li>{_link(way.text, way.href)}</li>" for way in ways)
    body = "".join(
        f'<section id="{one.anchor}"><h2>{text(one.title)}</h2>{one.body}</section>'
        for one in shown
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{GENERATOR}'
        f"<title>{text(title)}</title><style>{style}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><h1>{text(title)}</h1><nav aria-label="Contents"><ul>{items}</ul></nav></header>'
        f'<main id="main" tabindex="-1">{body}</main>{_data(data)}'
        f"<script>{script}</script></body></html>\n"
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _data(record: Any) -> str:
    """JSON in a page; no text of it ends its element."""
    if record is None:
        return ""
    content = json.dumps(record, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{content}</script>'
