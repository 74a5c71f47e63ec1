"""What a program's counts say of its time on a card that is not here: a range, which a card can refute.

With k kernels in command buffers, h launched by the host, b command buffers, F operations and M bytes:

    least = max(k * launch + h * launch_alone + b * buffer, M_least / bandwidth, F / peak)
    most  = the sum of these three, with the upper cost of each launch, a share of bandwidth and peak,
            and all M bytes that kernels read and write, as if no cache held any of them

`launch` is from one kernel of a chain to the next, so it has the shortest kernel's own time in it. The
bandwidth and the peaks are those of `stages/limits.py`: the vendor's data sheets. All other constants
are in `COSTS` and `SHARES`, each with its source; an assumption is called one. No card has fitted them.
"""

from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Seconds, and where they are from."""

    low: float
    high: float
    source: str


COSTS = {
    # The manual has 80 element-wise kernels in 70 µs as a graph and in 260 µs one by one, and four
    # products with four element-wise kernels in 16 µs as a graph, on a card that it does not name.
    "launch": Cost(0.9e-6, 2.0e-6, "CUDA.jl's manual, CUDA graphs: 70 µs / 80 and 16 µs / 8"),
    "launch_alone": Cost(2.0e-6, 3.3e-6, "CUDA.jl's manual: 260 µs / 80; from below an assumption"),
    "buffer": Cost(2.5e-6, 6.0e-6, "CUDA.jl's manual: 3.5 µs of the host; bounds are assumptions"),
    "conditional": Cost(5.0e-6, 20.0e-6, "assumption: the host reads a flag before it goes on"),
    "call": Cost(20e-6, 150e-6, "assumption: Python, one transfer each way, and a wake-up"),
}
"""What a launch costs; "call": once for each call of a program, whatever is in it."""

SHARES = {
    # A product of 256 x 512 is 32 tiles of 64 x 64 on 132 processors, of which 0.6 are kept busy.
    "peak": 0.15,
    "bandwidth": 0.7,  # an assumption
}
"""Least share of a data sheet's figure that programs of this size are taken to reach; most: 1."""


class Counts(NamedTuple):
    """Of one update, or of one call that acts."""

    buffered: float
    """kernels in command buffers"""
    alone: float
    """kernels that the host launches"""
    buffers: float
    conditionals: float
    flops: float
    """2 for a multiply and an add, of matrix products"""
    least_bytes: float
    """that have to come from memory, whatever caches hold"""
    bytes: float
    """that all kernels read and write"""
    calls: float = 0.0


def seconds(counts: Counts, peak: float, bandwidth: float) -> tuple[float, float]:
    """The least and the most; `peak` in FLOP a second, `bandwidth` in bytes a second."""
    launches = {
        "launch": counts.buffered,
        "launch_alone": counts.alone,
        "buffer": counts.buffers,
        "conditional": counts.conditionals,
    }
    low = sum(n * COSTS[kind].low for kind, n in launches.items())
    high = sum(n * COSTS[kind].high for kind, n in launches.items())
    least = max(low, counts.least_bytes / bandwidth, counts.flops / peak)
    slowly = counts.bytes / (SHARES["bandwidth"] * bandwidth)
    most = high + slowly + counts.flops / (SHARES["peak"] * peak)
    call = COSTS["call"]
    return least + counts.calls * call.low, most + counts.calls * call.high


def on_cards(counts: Counts, precision: str, each: float, unit: str) -> dict[str, Any]:
    """By card the range of microseconds, and of `each` / time under the name of `unit`."""
    from stages import limits

    found = {}
    for card in ("H100", "H200"):
        peaks = limits.peaks(card)
        assert peaks is not None
        least, most = seconds(counts, getattr(peaks, precision), peaks.bandwidth)
        found[card] = {
            "us": [_three(1e6 * least), _three(1e6 * most)],
            unit: [_three(each / most), _three(each / least)],
        }
    return found


def _three(x: float) -> float:
    """`x` to three digits."""
    return float(f"{x:.3g}")
