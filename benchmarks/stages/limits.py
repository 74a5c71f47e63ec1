"""What a device can do at most, and what an update asks of it."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np


class Peaks(NamedTuple):
    """Dense products in FLOP a second by precision, and bytes a second of memory."""

    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float


_PEAKS = {  # by what the device's kind contains, the first that fits; vendors' data sheets
    "H200": Peaks(67e12, 495e12, 989e12, 4.8e12),
    "H100 PCIe": Peaks(51e12, 378e12, 756e12, 2.0e12),
    "H100": Peaks(67e12, 495e12, 989e12, 3.35e12),
    "A100-SXM4-40GB": Peaks(19.5e12, 156e12, 312e12, 1.555e12),
    "A100-PCIE-40GB": Peaks(19.5e12, 156e12, 312e12, 1.555e12),
    "A100 80GB PCIe": Peaks(19.5e12, 156e12, 312e12, 1.935e12),
    "A100": Peaks(19.5e12, 156e12, 312e12, 2.039e12),
}


def peaks(kind: str) -> Peaks | None:
    """Of a device's kind; `None` if it is in no table here."""
    return next((found for name, found in _PEAKS.items() if name in kind), None)


def roofline(
    limits: Peaks | None, precision: str, flops: float, bytes_moved: float
) -> dict[str, Any]:
    """Seconds that arithmetic and memory traffic need at least, and the larger of the two."""
    if limits is None:
        return {"arithmetic": None, "traffic": None, "limit": None}
    arithmetic = flops / getattr(limits, precision)
    traffic = bytes_moved / limits.bandwidth
    return {"arithmetic": arithmetic, "traffic": traffic, "limit": max(arithmetic, traffic)}


def adam_bytes(params: Any, targets: Any) -> int:
    """That an update moves at least, 4 bytes a number.

    Of a parameter: itself and two moments read and written, the gradient read. Of a slow copy: read
    and written.
    """
    count, slow = (
        sum(int(np.prod(x.shape)) for x in jax.tree.leaves(t)) for t in (params, targets)
    )
    return 4 * (7 * count + 2 * slow)


def flops(traced: Any) -> float:
    """Of all matrix products of a `ClosedJaxpr`; 2 for a multiply and an add.

    Counted before compilation, so that it is known on any device; `qgf_jax.runtime.flops` counts in
    a program that is compiled for a CPU. Loops count once a turn, branches their mean, and products with
    one column nothing, which are sums.
    """
    return _of_jaxpr(traced.jaxpr)


def _of_jaxpr(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), (batch, _) = equation.params["dimension_numbers"]
        left, right = (v.aval.shape for v in equation.invars)
        inner = math.prod(left[i] for i in contracted)
        columns = math.prod(right) // (inner * math.prod(left[i] for i in batch))
        return 2.0 * inner * math.prod(equation.outvars[0].aval.shape) if columns > 1 else 0.0
    branches = equation.params.get("branches")
    if branches:  # of a platform's choice all compute the same
        return sum(map(_of_jaxpr, (b.jaxpr for b in branches))) / len(branches)
    turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    inside = [getattr(x, "jaxpr", x) for x in equation.params.values()]
    return turns * sum(_of_jaxpr(j) for j in inside if hasattr(j, "eqns"))
