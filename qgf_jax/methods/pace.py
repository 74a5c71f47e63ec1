"""How chunks are played, one after another: options that every method has. No JAX here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from qgf_guide.bounds import Bound, Count, Field, Index, NonNegative
from qgf_jax.errors import UserError
from qgf_jax.methods.lazy import checks, inpainting, jnp
from qgf_jax.types import Array

if TYPE_CHECKING:
    from qgf_guide.inpainting import Overlap


def _declared(
    *,
    execute: Annotated[Index, "actions of a chunk until a new one is asked for; 0: all"] = 0,
    delay: Annotated[Index, "actions of the old chunk that are played meanwhile"] = 0,
    rtc: Annotated[NonNegative, "bound of real-time chunking's strength; 0: none"] = 0.0,
) -> None:
    """The options of the table."""


_EVERY = Field.declared_in(_declared)


class Pace(NamedTuple):
    """How chunks [H, A] follow one another.

    A chunk is computed from the observation at its first action. The next one is asked for `execute`
    actions later. It comes `delay` actions after that, which are played as the chunk before says; so
    its own are played from number `delay` on. The first of an episode is waited for.
    """

    chunk: int
    """H"""
    execute: int
    delay: int = 0
    rtc: Array | float = 0.0
    """Bound β of real-time chunking, 5 in its paper, may be traced; 0: a chunk knows nothing of the one
    before."""

    @staticmethod
    def options(inpaints: bool = True) -> dict[str, Field]:
        """The options of a method; `inpaints`: of one whose sampler takes an `Overlap`."""
        return {name: field for name, field in _EVERY.items() if inpaints or name != "rtc"}

    @classmethod
    def of(cls, options: Mapping[str, Any], chunk: int) -> "Pace":
        """The pace that `options` set, others among them, for chunks of `chunk` actions.

        Without `execute` a chunk is played to its end. Raises `UserError` for what its length does not
        allow.
        """
        execute, delay, rtc = (options.get(name, field.default) for name, field in _EVERY.items())
        if execute + delay > chunk or delay == chunk:
            most = chunk - delay
            raise UserError(
                f"execute={execute} and delay={delay} with chunks of {chunk} actions: "
                + (f"execute at most {most}" if most > 0 else f"delay by at most {chunk - 1}")
            )
        pace = cls(chunk, execute or chunk - delay, delay, rtc)
        if pace.inpaints and not pace.overlaps:
            raise UserError(
                "rtc without execute or delay: chunks that are played to their end have nothing in "
                "common with the next one: give execute or delay"
            )
        if pace.inpaints:
            pace.check_in_time("rtc with ")
        return pace

    def check_in_time(self, what: str = "") -> None:
        """Raises `UserError`, which begins with `what`, if a chunk comes after the next is asked for."""
        if self.delay > self.execute:
            raise UserError(
                f"{what}execute={self.execute} and delay={self.delay}: the chunk before would not be "
                "there yet: delay by no more than is executed"
            )

    @property
    def overlaps(self) -> bool:
        """Whether a chunk begins before the one before is over."""
        return self.execute < self.chunk

    @property
    def inpaints(self) -> bool:
        """Whether a chunk goes on from the one before."""
        return not checks.is_off(self.rtc)

    def followed(self, previous: Any, chunk: Any, xp: Any = jnp) -> Any:
        """What is played from `chunk`'s observation on [H, A]: first `delay` actions of `previous`.

        Of arrays of `xp`, jax.numpy or NumPy.
        """
        late = previous[self.execute : self.execute + self.delay]
        return xp.concatenate([late, chunk[self.delay :]])

    def overlap(self, previous: Array, begun: Any = True) -> "Overlap":
        """What a new chunk has in common with `previous` [H, A]; nothing where `begun` [] is false."""
        rest = jnp.zeros_like(previous[: self.execute])
        weight = inpainting.Overlap.soft_weights(self.chunk, self.execute, self.delay)
        weight = np.repeat(weight, previous.shape[1])
        return inpainting.Overlap(
            jnp.concatenate([previous[self.execute :], rest]).ravel(),
            jnp.where(begun, weight, jnp.zeros_like(weight)),
            self.rtc,
        )


def overlap(previous: Array, *, execute: int, delay: int = 0, most: float = 5.0) -> "Overlap":
    """What a new chunk has in common with the one that is played, for `guide(…, overlap=…)`.

    `previous` [H, A], of which `execute` actions are over and `delay` more will be when the new chunk is
    ready. Play that from its action number `delay` on. `most` bounds the strength, β (Black et al.,
    2025, arXiv 2506.07339, Eqs. 2 to 5). Raises `UserError` if H is too short for it.
    """
    if jnp.ndim(previous) != 2:
        raise UserError(f"previous has shape {jnp.shape(previous)}: give one chunk, [H, A]")
    Bound.of(Count).check("execute", execute)
    _EVERY["delay"].bound.check("delay", delay)
    _EVERY["rtc"].bound.check("most", most)
    pace = Pace.of({"execute": execute, "delay": delay, "rtc": most}, len(previous))
    return pace.overlap(jnp.asarray(previous))
