"""Which way time runs. Inside the package t = 0 is noise and t = 1 is data, everywhere.

With "data_to_noise", as in openpi and LeRobot, t = 1 is noise, a velocity is noise - data, and an
integrator's steps are negative: u(a, t) there is -v(a, 1 - t) here.
"""

from collections.abc import Callable
from typing import Literal, get_args

from qgf_guide.errors import UserError
from qgf_guide.types import Array, Velocity

Time = Literal["noise_to_data", "data_to_noise"]


def turned(velocity: Velocity, time: Time) -> Velocity:
    """A velocity of the convention `time` as one of the package's, and the other way round."""
    if _forward(time):
        return velocity
    return lambda action, t: -velocity(action, 1.0 - t)


def at_time(function: Callable[..., Array], time: Time) -> Callable[..., Array]:
    """A function (action, t, …) of times of the convention `time`, as one of the package's times."""
    if _forward(time):
        return function
    return lambda action, t, *more: function(action, 1.0 - t, *more)


def _forward(time: Time) -> bool:
    if time not in get_args(Time):
        raise UserError(f"time is {time!r}: give 'noise_to_data', or 'data_to_noise' as of openpi")
    return time == "noise_to_data"
