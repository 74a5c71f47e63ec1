"""What the guidance weight is measured in: docs/guidance.md derives the units.

S below is the covariance of the reference policy's actions [D, D], and `q_std` the standard deviation of
what is climbed, of Q or of its logit, among them.
"""

from collections.abc import Mapping

from qgf_guide.lazy import jnp, norms
from qgf_guide.parts import unit
from qgf_guide.types import Array

Calibration = Mapping[str, Array]
"""`q_std` [], and S by its axes: `values` [D], the variances along the axes, and `vectors` [D, D], the
axes in columns."""


@unit()
def _raw(calibration: Calibration, gradient: Array, t: Array) -> Array:
    """The gradient as it is: the weight carries the units of 1 / Q."""
    del calibration, t
    return gradient


@unit(needs=("calibration",))
def _spread(calibration: Calibration, gradient: Array, t: Array) -> Array:
    """The gradient over `q_std`, so that the weight has no units of reward."""
    del t
    return gradient / calibration["q_std"]


@unit(needs=("calibration",))
def _variance(calibration: Calibration, gradient: Array, t: Array) -> Array:
    """As spread, times the variances of reference actions."""
    del t
    variance = _matmul(calibration["vectors"] ** 2, calibration["values"])
    return variance * gradient / calibration["q_std"]


@unit(needs=("calibration",))
def _covariance(calibration: Calibration, gradient: Array, t: Array) -> Array:
    """As spread, times S: the first-order shift of the mean under exp(weight * Q / q_std)."""
    del t
    return _along_axes(calibration, gradient, calibration["values"])


@unit(needs=("calibration",))
def _posterior(calibration: Calibration, gradient: Array, t: Array) -> Array:
    """As covariance, times (1 - t) / ((1 - t) ** 2 + t ** 2 S).

    What the noisy action still leaves open of the covariance, if actions were Gaussian.
    """
    variances, left = calibration["values"], 1.0 - t
    return _along_axes(calibration, gradient, variances * left / (left**2 + t**2 * variances))


@unit(needs=("velocity",), source="Ruan et al., 2026, arXiv 2606.14801")
def _velocity(calibration: Calibration, gradient: Array, t: Array, velocity: Array) -> Array:
    """|v| / |gradient| times the gradient: the weight is what guidance adds, as a part of the velocity.

    Lengths are of the whole action. How large Q and its gradient are no longer counts, so neither does
    a gradient that is almost zero; one that is zero stays so.
    """
    del calibration, t
    steepness = norms.length(gradient)
    return norms.length(velocity) * (gradient / jnp.where(steepness > 0, steepness, 1.0))


def _along_axes(calibration: Calibration, gradient: Array, factors: Array) -> Array:
    """`gradient` [..., D] over `q_std`, each component along the axes of S times its factor [D]."""
    vectors = calibration["vectors"]
    return _matmul(factors * _matmul(gradient, vectors), vectors.T) / calibration["q_std"]


def _matmul(a: Array, b: Array) -> Array:
    """In full float32, whatever the precision of the networks: these are small."""
    return jnp.matmul(a, b, precision="highest")
