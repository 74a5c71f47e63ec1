"""Selection with few episodes: successive halving over a method's weights. No JAX.

After Karnin et al. (2013) and Jamieson and Talwalkar (2016): weights play a few episodes, the
trailing ones are dropped, the others play more. All that are in play have met the same episodes, those
of earlier rounds among them, so comparisons are paired.
"""

import math
from typing import NamedTuple

from qgf_jax.errors import UserError


class Round(NamedTuple):
    """How many weights are in play, and how many episodes each of them has played at its end."""

    weights: int
    episodes: int

    @staticmethod
    def plan(weights: int, budget: int, whose: str = "a method") -> list["Round"]:
        """The rounds, of at most `budget` episodes in all; a function of these two numbers alone.

        There are as many, up to halving, as leave two episodes for the first one, or one where the
        budget has no two. The last one puts its weights so far ahead in episodes that a table of all
        lines compares no others.
        Raises `UserError`, which names `whose` weights they are, if the budget is too small.
        """
        least = weights + 2
        if budget < least:
            raise UserError(
                f"a budget of {budget} is too small for the {weights} weights of {whose}: each plays "
                f"one, and two of them another one, so give --budget={least} or more, or fewer "
                "--weights"
            )
        most = math.ceil(math.log2(weights))
        possible = [_divide(weights, budget, count) for count in range(most, min(most, 2) - 1, -1)]
        possible = [made for made in possible if _is_decided_by_the_last(made)]
        return max(possible, key=lambda made: min(made[0].episodes, 2))


def _divide(weights: int, budget: int, count: int) -> list[Round]:
    """`count` rounds from all weights down to two, in each of which a weight plays equally many more."""
    last = max(count - 1, 1)
    in_play = [round(weights * (2 / weights) ** (i / last)) for i in range(count)]
    made, episodes = [], 0
    for i, playing in enumerate(in_play):
        more = budget // sum(in_play[i:])  # the rest of the division is shared by later rounds
        episodes, budget = episodes + more, budget - more * playing
        made.append(Round(playing, episodes))
    return made


def _is_decided_by_the_last(made: list[Round]) -> bool:
    """Whether all have played, and a weight that was dropped before the last round cannot join again.

    It would if more numbers could be compared with it than without, see `choice.common`.
    """
    before = made[-2].episodes if len(made) > 1 else 1
    last = made[-1]
    return made[0].episodes > 0 and (last.weights + 1) * before < last.weights * last.episodes
