"""Tables of a sweep, for people and as JSON."""

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from qgf_jax.sweep.estimate import Estimate
from qgf_jax.sweep.state import WORDS, State


def _counts(states: Iterable[State]) -> str:
    """How many jobs are in which state, in one line."""
    found = collections.Counter(one.word for one in states)
    parts = [f"{found[word]} {word}" for word in WORDS if found[word]]
    return f"{sum(found.values())} jobs: {', '.join(parts)}"


def states_table(states: Sequence[State], *, begun: bool = False) -> str:
    """A line a job and their counts; if `begun`, lines of those alone that are begun and not done."""
    shown = [one for one in states if not begun or one.word not in ("done", "waiting")]
    return "\n".join([*(_aligned(_HEAD, map(_row, shown)) if shown else ()), _counts(states)])


_HEAD = ("job", "state", "step", "rate", "left", "loss", "host", "")


def _row(one: State) -> tuple[str, ...]:
    word = f"{one.word}: {one.doing}" if one.word == "running" else one.word
    running = one.word == "running"
    left = one.seconds_left if running and one.doing == "train" else None
    losses = " ".join(
        f"{group} {value:.4g}" for group, value in one.losses.items() if "/" not in group
    )
    more = one.line
    if running and one.doing == "evaluate":
        more = f"{one.episodes} episodes"
    rate = f"{one.rate:.3g}/s" if one.rate else ""
    return (
        one.name, word, _steps(one), rate, _time(left), losses, one.host, more,
    )  # fmt: skip


def _steps(one: State) -> str:
    return f"{one.step}/{one.steps}" if one.steps else ""


def estimates_table(found: Sequence[Estimate]) -> str:
    """A line a job, and the sums."""
    rows = [
        (
            one.state.name,
            one.state.word,
            _steps(one.state),
            _scaled(one.flops, "FLOP"),
            "?" if one.hours is None else f"{one.hours:.2f}",
            _scaled(one.checkpoint_bytes, "B"),
        )
        for one in found
    ]
    sums = [
        _counts(one.state for one in found),
        _sum(
            found, "hours", lambda total: f"{total:.2f} hours of training left, one after the other"
        ),
        _sum(found, "flops", lambda total: f"{_scaled(total, 'FLOP')} in all"),
        _sum(found, "checkpoint_bytes", lambda total: f"{_scaled(total, 'B')} of checkpoints"),
    ]
    head = ("job", "state", "step", "work", "hours", "checkpoints")
    return "\n".join([*_aligned(head, rows), *filter(None, sums)])


def _sum(found: Sequence[Estimate], field: str, say: Any) -> str:
    """The sum of a field in words, with the number of jobs that it does not count; "" if all."""
    values = [getattr(one, field) for one in found]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    unknown = len(values) - len(known)
    return say(sum(known)) + (f", without {unknown} jobs of unknown {field}" if unknown else "")


def _scaled(value: float | None, unit: str) -> str:
    """A number with a prefix: "3.2 TFLOP"; "" for none."""
    if value is None:
        return ""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} E{unit}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of columns that stand below each other; empty columns are left out."""
    rows = [*rows]
    columns = [i for i in range(len(head)) if any(row[i] for row in rows)]
    widths = {i: max(len(row[i]) for row in (head, *rows)) for i in columns}
    return ["  ".join(f"{row[i]:{widths[i]}}" for i in columns).rstrip() for row in (head, *rows)]
