"""Options of acting that belong to no sampler: of the critic and of the choice among candidates.

No JAX here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from qgf_guide.bounds import Bound, Field, NonNegative
from qgf_jax.errors import UserError
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.parts import Names, Part

Options = tuple[tuple[str, Any], ...]
"""What a user sets of a sampler, a critic and a selector, sorted by name."""
OF_CRITIC = {
    "rho": Field(
        None,
        Bound.of(NonNegative),
        "the critic acts by its members' mean - rho * standard deviation, 0 being their mean; unless "
        "given, as the run's networks.aggregate says",
    ),
    "critic": Field(
        None, Names("critic"), "which of the run's critics acts; the first unless given"
    ),
}
"""Options of whatever asks a critic in acting: a rule that guides by it, or the best of N."""
_OF_SAMPLERS = {
    "stages": "stops a guided flow half-way",
    "noise": "chooses the noise that a flow policy starts at",
}
"""What selectors do that not every sampler can serve, by what they need of it."""


class Split(NamedTuple):
    """Options by whose they are, but for those of `Pace`."""

    sampler: dict[str, Any]
    critic: dict[str, Any]
    selector: dict[str, Any]

    @classmethod
    def of(cls, options: Options, own: Mapping[str, Field]) -> "Split":
        """`options` of a method whose sampler has the options `own`, which go before."""
        split = cls({}, {}, {})
        of_selector, of_pace = cls.of_selectors(""), Pace.options()
        for option, value in options:
            if option in of_pace:
                continue
            whose = split.sampler
            if option not in own:
                of_any = split.selector if option in of_selector else whose
                whose = split.critic if option in OF_CRITIC else of_any
            whose[option] = value
        return split

    @staticmethod
    def of_selectors(default: str) -> dict[str, Field]:
        """The choice of a selector, `default` unless given, and the options of each."""
        found = {
            "select": Field(default, Names("selector"), "how one of several candidates is chosen")
        }
        for one in Part.all("selector").values():
            found.update(one.fields)
        return found

    def selection(self, method: str, sampler: str, default: str) -> tuple[Part, dict[str, Any]]:
        """The selector that is chosen, `default` unless another is, and its own options.

        `method`, with `sampler`, is whose options these are. Raises `UserError` for an option of a
        selector that is not chosen, and for a selector that the sampler cannot serve.
        """
        given = dict(self.selector)
        chosen = Part.named("selector", given.pop("select", default))
        for option in given:
            if option not in chosen.fields:
                users = [k for k, v in Part.all("selector").items() if option in v.fields]
                raise UserError(
                    f"method {method}: option {option} needs select={' or select='.join(users)}"
                )
        for need, what in _OF_SAMPLERS.items():
            if need in chosen.needs - Part.named("sampler", sampler).provides:
                raise UserError(
                    f"method {method}: select={chosen.name} {what}, and this method has none"
                )
        return chosen, given
