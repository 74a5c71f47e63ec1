"""Episodes as a compact table, which is what a publication holds of a run: episodes.csv.gz. No JAX.

A line an episode; numbers as JSON has them, so that they read back to the same bits. Options are
written as in the label of the arm, `cap=3.0:schedule=linear`. What no table needs is left out: the
wall time, and the way through a maze. record.json beside the file has the SHA-256 of its text.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError, said
from qgf_jax.evaluation.arms import Arm
from qgf_jax.runs.files import Lines

Line = Mapping[str, Any]
COLUMNS = (
    "method", "options", "weight", "best_of", "env", "task", "split", "seed", "episode", "step",
    "success", "return", "length", "failed",
)  # fmt: skip
ABOUT = "record.json"
MOST_BYTES = 64 * 2**20
"""Of the table as text. More is not read, whatever a small file would unpack to."""

_NUMBERS = {*COLUMNS} - {"method", "options", "env", "split", "failed"}
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_AGAIN = "take the folder from its source again"


class _Packed(NamedTuple):
    """The file of a publication, and what record.json says of it."""

    content: bytes
    about: dict[str, Any]


def pack(lines: Iterable[Line]) -> _Packed:
    """The table of `lines`, in an order that the rows of a report are the same from.

    That is the order in which the parts of a report (arm, environment, task, split, step) first come,
    and by seed and episode within a part, however many processes played them. The same lines make the
    same bytes. Raises `UserError` for more than `read` would take.
    """
    parts: dict[Any, int] = {}
    placed = []
    for line in lines:
        part = (Arm.of(line), *(line[name] for name in ("env", "task", "split", "step")))
        place = (parts.setdefault(part, len(parts)), line["seed"], line["episode"])
        placed.append((place, [_written(name, line.get(name)) for name in COLUMNS]))
    placed.sort(key=lambda one: one[0])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(cells for _, cells in placed)])
    content = text.getvalue().encode()
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{len(placed)} episodes take {len(content)} bytes, more than {MOST_BYTES}: record each "
            "evaluation by itself"
        )
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:  # no name and no time in the header
        file.write(content)
    about = {"lines": len(placed), "sha256": hashlib.sha256(content).hexdigest()}
    return _Packed(packed.getvalue(), about)


def read(path: Path, why_invalid: Callable[[Line], str]) -> Lines:
    """The episodes of a file that `pack` made. Raises `UserError` unless all of them are sound.

    `why_invalid` says what is wrong with an episode; "" if nothing is.
    """
    content = _unpacked(path)
    _check_sum(path, content)
    rows = csv.reader(io.StringIO(content.decode(errors="replace"), newline=""))
    lines = Lines(path, [], [])
    try:
        for number, cells in enumerate(rows, 1):
            if number == 1 and tuple(cells) != COLUMNS:
                raise UserError(f"{path}: its columns are not {', '.join(COLUMNS)}: {_AGAIN}")
            if number > 1:
                line = _line(cells)
                if why := why_invalid(line) if line else f"not {len(COLUMNS)} cells":
                    raise UserError(f"{path}: line {number}: {why}: {_AGAIN}")
                lines.records.append(line)
    except csv.Error as error:
        raise UserError(f"{path}: no table ({said(error)}): {_AGAIN}") from None
    return lines


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({said(error)}): {_AGAIN}") from None
    except OSError as error:
        raise UserError.unreadable(path, error) from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} unpacks to more than {MOST_BYTES} bytes, and no record does")
    return content


def _check_sum(path: Path, content: bytes) -> None:
    """Raises `UserError` unless record.json is there and speaks of this text."""
    about = path.with_name(ABOUT)
    try:
        expected = json.loads(about.read_bytes())["episodes"]["sha256"]
    except OSError as error:
        raise UserError.unreadable(about, error) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{about} does not say the SHA-256 of its episodes: {_AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"{path} is not what {about.name} speaks of: {_AGAIN}")


def _line(cells: list[str]) -> dict[str, Any]:
    """An episode of its cells; empty for another number of cells than columns."""
    if len(cells) != len(COLUMNS):
        return {}
    named = zip(COLUMNS, cells, strict=True)
    return {name: _value(name, cell) for name, cell in named if cell or name == "options"}


def _written(name: str, value: Any) -> str:
    """The cell of a value; empty where there is none."""
    if name == "options":
        return _label(value)
    if value is None:
        return ""
    return json.dumps(value) if name in _NUMBERS else _quoted(value)


def _value(name: str, cell: str) -> Any:
    """What `_written` wrote; text that it did not write stays text, for the check of a line to name."""
    try:
        if name == "options":
            return _options(cell)
        if name in _NUMBERS:
            return _number(cell)
        return json.loads(cell) if cell.startswith('"') else cell
    except (ValueError, RecursionError):
        return cell


def _quoted(text: str) -> str:
    """Text as it is, or as JSON where it has line breaks or the like, so that a line stays one."""
    return text if text.isprintable() and not text.startswith('"') else json.dumps(text)


def _label(options: Mapping[str, Any]) -> str:
    """Options as in the label of an arm, or as JSON where that would read back to others."""
    pairs = sorted(options.items())
    label = ":".join(f"{name}={value}" for name, value in pairs)
    if label.isprintable():
        try:
            if repr(sorted(_options(label).items())) == repr(pairs):
                return label
        except ValueError:
            pass
    return json.dumps(dict(pairs))


def _options(cell: str) -> dict[str, Any]:
    """Raises `ValueError` for what is neither a label nor JSON."""
    if cell.startswith("{"):
        return json.loads(cell)
    pairs = [part.partition("=") for part in cell.split(":")] if cell else []
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError
    return {name: _typed(word) for name, _, word in pairs}


def _typed(word: str) -> bool | float | str:
    if word in ("True", "False"):
        return word == "True"
    return _number(word) if _NUMBER.fullmatch(word) else word


def _number(text: str) -> float:
    """An integer stays one. Raises `ValueError`."""
    if not (found := _NUMBER.fullmatch(text)):
        raise ValueError
    return float(text) if any(found.groups()) else int(text)
