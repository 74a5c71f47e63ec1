"""Student's t: chances and quantiles for any number of degrees of freedom, whole or not. No JAX."""

import math

_STEPS = 300  # of the continued fraction; it needs about sqrt(degrees), and 20,000 are normal
_NORMAL_FROM = 20_000.0


def two_sided(t: float, freedom: float) -> float:
    """The chance that |T| exceeds |t|: p of a two-sided test. `freedom` may be infinite."""
    if freedom > _NORMAL_FROM:
        return math.erfc(abs(t) / math.sqrt(2))
    if math.isinf(t):
        return 0.0
    return _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


def quantile(chance: float, freedom: float) -> float:
    """The t that T stays below with `chance`, from .5 to below 1."""
    low, high = 0.0, 1.0
    while 1 - two_sided(high, freedom) / 2 < chance:
        high *= 2
    for _ in range(50):  # to a float's own rounding
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided(middle, freedom) / 2 < chance else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) (DLMF 8.17.22, by Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges faster
        return 1 - _beta_share(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
        + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    tiny = 1e-300
    upper = 1.0
    value = lower = 1 / (1 - (a + b) * x / (a + 1))
    for m in range(1, _STEPS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            lower = 1 / (1 + term * lower or tiny)
            upper = 1 + term / upper or tiny
            value *= lower * upper
        if abs(lower * upper - 1) < 1e-15:
            break
    return front * value / a
