"""Which way time runs. Inside the package t = 0 is noise and t = 1 is data, everywhere.

With "data_to_noise", as in openpi and LeRobot, t = 1 is noise, a velocity is noise - data, and an
integrator's steps are negative: u(a, t) there is -v(a, 1 - t) here.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from qgf_guide.errors import UserError
from qgf_guide.types import Array, Velocity

Time = Literal["noise_to_data", "data_to_noise"]


def turned(velocity: Velocity, time: Time) -> Velocity:
    """A velocity of the convention `time` as one of the package's, and the other way round."""
    if is_forward(time):
        return velocity
    return lambda action, t: -velocity(action, 1.0 - t)


def is_forward(time: Time) -> bool:
    """Whether `time` is the package's own convention. Raises `UserError` for what is none."""
    if time not in get_args(Time):
        raise UserError(f"time is {time!r}: give 'noise_to_data', or 'data_to_noise' as of openpi")
    return time == "noise_to_data"


class Moment(NamedTuple):
    """A time as somebody of the other convention has it, and as the package does."""

    theirs: Any
    ours: Any
    forward: bool
    """Whether theirs is the package's convention too."""

    @classmethod
    def of(cls, t: Any, time: Time) -> "Moment":
        """That of `t` [] of the convention `time`."""
        forward = is_forward(time)
        return cls(t, t if forward else 1.0 - t, forward)

    def velocity(self, velocity: Velocity) -> Velocity:
        """Their velocity as one of the package's."""
        if self.forward:
            return velocity
        return lambda action, t: -velocity(action, self._their(t))

    def asked(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Their function (action, t, …), without a sign, as one of the package's times."""
        if self.forward:
            return function
        return lambda action, t, *more: function(action, self._their(t), *more)

    def _their(self, t: Any) -> Any:
        # 1 - (1 - t) is not t to the last bit, and fast time features see it.
        return self.theirs if t is self.ours else 1.0 - t
